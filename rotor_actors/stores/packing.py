"""How the rows of a commit are packed: as JSON, with every payload in one blob, and how SQL gets them out again. Pure.

Rows of one commit are much alike: a fan-out's children have one parent, one workflow, and mostly the same defaults. So
what they have in common is written once for all of them, and read once; each row brings only what is its own. It halves
what SQLite has to do for a child.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from rotor_actors.stores.schema import blob_positions

_to_json = msgspec.json.Encoder().encode


class Packer:
    """Rows to JSON; a payload becomes its place and its length in `data`."""

    def __init__(self) -> None:
        self.data = [b"\0"]  # SQLite reads an empty blob as NULL
        self._next = 2  # substr counts from 1

    def rows(self, rows: Iterable[Any], values_of: Callable[[Any], tuple[Any, ...]], blobs: tuple[int, ...]) -> str:
        packed = [list(values_of(row)) for row in rows]
        self.take_blobs(packed, blobs)
        return _to_json(packed).decode()

    def take_blobs(self, rows: list[list[Any]], blobs: tuple[int, ...]) -> None:
        """Put payloads into `data`; each of a row's `blobs`, the last first, makes two values of one."""
        place, data = self._next, self.data
        for values in rows:
            for position in blobs:
                payload = values[position]
                if payload is None:
                    values.insert(position, None)
                else:
                    length = len(payload)
                    values[position] = place
                    values.insert(position + 1, length)
                    data.append(payload)
                    place += length
        self._next = place


class Layout:
    """How rows of one kind are packed as groups of those that have the rest of their columns in common.

    Args:
        columns: all that is written.
        own: those that differ from row to row; the others are in common.
        checks: gives the last of `own` that are no fields of the row: its checksums.
    """

    def __init__(
        self, columns: tuple[str, ...], own: tuple[str, ...], checks: Callable[[Any], tuple[int, ...]]
    ) -> None:
        common = tuple(column for column in columns if column not in own)
        fields = tuple(column for column in own if not column.endswith("crc"))
        self._columns = columns
        self._own_columns, self._common_columns = own, common
        self._own_blobs, self._common_blobs = backwards(own), backwards(common)
        self._own = operator.attrgetter(*fields)
        self._common = operator.attrgetter(*common)
        self._checks = checks

    def pack(self, rows: Iterable[Any], packer: Packer) -> str:
        groups: dict[Any, list[Any]] = {}
        own, common, checks = self._own, self._common, self._checks
        for row in rows:
            values = [*own(row), *checks(row)]
            key = common(row)
            if key in groups:
                groups[key].append(values)
            else:
                groups[key] = [values]
        for group in groups.values():
            packer.take_blobs(group, self._own_blobs)
        packed: list[list[Any]] = []
        for key, group in groups.items():
            values = list(key)
            packer.take_blobs([values], self._common_blobs)
            values.append(group)
            packed.append(values)
        return _to_json(packed).decode()

    def select(self, source: str) -> str:
        """SQL that gives the rows again, column by column, out of the JSON text `source`.

        The LIMIT keeps SQLite from putting both levels into one, which would read what is in common anew for each row.
        """
        common = expressions(self._common_columns, "value")
        named = ", ".join(f"{each} AS {column}" for each, column in zip(common, self._common_columns, strict=True))
        last = len(common) + len(self._common_blobs)
        groups = f"SELECT {named}, jsonb_extract(value, '$[{last}]') AS own FROM jsonb_each({source}) LIMIT -1"
        own = dict(zip(self._own_columns, expressions(self._own_columns, "each.value"), strict=True))
        given = ", ".join(f"{own.get(column, f'common.{column}')} AS {column}" for column in self._columns)
        return f"SELECT {given} FROM ({groups}) AS common, jsonb_each(common.own) AS each"


def backwards(columns: tuple[str, ...]) -> tuple[int, ...]:
    """Where the payloads are, the last first: what one puts in does not move those before it."""
    return blob_positions(columns)[::-1]


def expressions(columns: tuple[str, ...], value: str) -> list[str]:
    """How to get each column out of a packed row."""
    found: list[str] = []
    place = 0
    blobs = blob_positions(columns)
    for position in range(len(columns)):
        if position in blobs:
            found.append(f"substr(NEW.data, {value} ->> {place}, {value} ->> {place + 1})")
            place += 2
        else:
            found.append(f"{value} ->> {place}")
            place += 1
    return found
