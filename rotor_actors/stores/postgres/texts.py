"""Texts as PostgreSQL can hold them: it has no character 0, which an id may well contain.

Characters 0 and 1 are written as two, so that order and prefixes stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from rotor_actors.stores.schema import BLOBS

_TEXTS = frozenset({
    "run_id", "workflow_id", "root_run_id", "parent_run_id", "parent_step_id", "version", "origin_run_id", "step_id",
    "target", "space", "item_key", "once",
}) - BLOBS  # fmt: skip


def escaped(text: str) -> str:
    """As it is written."""
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def unescaped(text: str) -> str:
    """As it was."""
    if "\1" in text:
        return text.replace("\1\1", "\0").replace("\1\2", "\1")
    return text


class TextColumns:
    """Which values of a row are texts of others."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._positions = [position for position, column in enumerate(columns) if column in _TEXTS]
        self._texts: Any = itemgetter(*self._positions, *self._positions[:1])  # never of one: that gives no tuple

    def escape(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows as they are written. Hardly any row has something to escape: one look at all of them."""
        texts = self._texts
        look = "".join([text for row in rows for text in texts(row) if text])
        if "\0" not in look and "\1" not in look:
            return rows
        return [self._each(row, escaped) for row in rows]

    def unescape(self, row: Any) -> Sequence[Any]:
        """The row as it was."""
        if "\1" in "".join(filter(None, self._texts(row))):
            return self._each(row, unescaped)
        values: Sequence[Any] = row
        return values

    def _each(self, row: Iterable[Any], change: Any) -> tuple[Any, ...]:
        values = list(row)
        for position in self._positions:
            if values[position] is not None:
                values[position] = change(values[position])
        return tuple(values)
