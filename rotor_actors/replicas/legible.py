"""Rows that are read for how runs hang together, where one that is damaged must not end this replica, and each after it."""

from __future__ import annotations

import logging

from rotor_actors.errors import StoreCorruptedError
from rotor_actors.records import ItemRow, RunRow
from rotor_actors.stores.base import ItemQuery, StoreReader

_logger = logging.getLogger("rotor_actors")


def legible_rows(store: StoreReader, ns: list[int]) -> list[RunRow]:
    """The rows of these runs, save for those that are damaged: the log names them, and who owns one sets it aside.

    Raises StoreError for whatever else goes wrong.
    """
    try:
        return store.rows(ns)
    except StoreCorruptedError:
        pass  # which of them, the reads that follow tell
    found: list[RunRow] = []
    for n in ns:
        try:
            found += store.rows([n])
        except StoreCorruptedError as error:
            _logger.error("run %d is passed over: %s", n, error)
    return found


def legible_items(store: StoreReader, space: str) -> list[ItemRow]:
    """The items of a space, save for those that are damaged: the log names them."""
    items = store.items(ItemQuery(space))
    for item in items:
        if item.is_damaged:
            _logger.error(
                "item %r of %r is passed over: it does not match its checksum, the database was damaged; restore a backup",
                item.key, space,
            )  # fmt: skip
    return [item for item in items if not item.is_damaged]
