"""How a commit reaches SQLite: as one statement, whatever its size.

Each step of a statement gives up the interpreter's lock, and getting it back from a busy event loop takes up to a
switch interval (5 ms). Rows bound one by one, or a few statements for each table, are slowed down by that many times
over. So a commit is one INSERT of one row into a view: the row holds the rows of each table as JSON, and all payloads
in one blob; a trigger unpacks them, inside SQLite, where no lock is held. It commits by itself, all or nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from rotor_actors.records import ItemRow, RunFlag, RunRow, RunsCancelled, RunStatus, StepRow
from rotor_actors.stores.batch import ItemBatch, RowBatch, crc
from rotor_actors.stores.schema import (
    AMEND_COLUMNS,
    CHANGE_COLUMNS,
    ITEM_COLUMNS,
    MUTABLE_FIELDS,
    PROGRESS_SPACE,
    RUN_COLUMNS,
    SPENT_SPACE,
    STEP_COLUMNS,
    blob_positions,
)
from rotor_actors.stores.sqlite_connection import Connection

_CANCEL_COLUMNS = ("n", "status", "ended_at", "end_seq", "error", "result_crc", "flags")
_REST_COLUMNS = ("n", "rest_seq", "wake_at")

_RUN_BLOBS = blob_positions(RUN_COLUMNS)
_AMEND_BLOBS = blob_positions(AMEND_COLUMNS)
_CHANGE_BLOBS = blob_positions(CHANGE_COLUMNS)
_STEP_BLOBS = blob_positions(STEP_COLUMNS)
_ITEM_BLOBS = blob_positions(ITEM_COLUMNS)
_CANCEL_BLOBS = blob_positions(_CANCEL_COLUMNS)

_mutable_values = operator.attrgetter("n", *MUTABLE_FIELDS)
_to_json = msgspec.json.Encoder().encode

COMMIT = "INSERT INTO temp.commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def prepare(connection: Connection) -> None:
    """Give the connection its view and trigger; they are its own and no part of the file."""
    connection.execute(
        f"""
        CREATE TEMP VIEW commits(created, changed, steps, rested, cancelled, data, last_n, last_seq,
                                     owners, expired, dropped, put, amended, deleted)
            AS SELECT 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0;
        CREATE TEMP TRIGGER commit_all INSTEAD OF INSERT ON commits BEGIN
            {_delete("steps", "n")};
            {_delete("rotor_transactions", "n")};
            {_delete("items", "ord", f"space IN ('{PROGRESS_SPACE}', '{SPENT_SPACE}') AND")};
            {_delete("runs", "n")};
            {_insert("runs", RUN_COLUMNS, "created")};
            {_update(AMEND_COLUMNS, "amended")};
            {_update(CHANGE_COLUMNS, "changed")};
            {_insert("steps", STEP_COLUMNS, "steps")};
            {_update(_REST_COLUMNS, "rested")};
            {_update(_CANCEL_COLUMNS, "cancelled").replace("flags = v.flags", "flags = runs.flags | v.flags")};
            DELETE FROM items WHERE n IN (SELECT value FROM json_each(NEW.owners));
            DELETE FROM items WHERE (space, item_key) IN (
                SELECT i.space, i.item_key FROM json_each(NEW.expired) AS e CROSS JOIN items AS i
                WHERE i.space = e.key AND i.due <= e.value);
            DELETE FROM items WHERE (space, item_key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(NEW.dropped));
            {_insert("items", ITEM_COLUMNS, "put").replace("INSERT", "INSERT OR REPLACE")};
            UPDATE numbers SET last_n = max(last_n, NEW.last_n), last_seq = max(last_seq, NEW.last_seq);
        END;
        """
    )


def bindings_of(batch: RowBatch) -> Sequence[Any]:
    """What `COMMIT` takes."""
    packer = _Packer()
    items = _item_bindings(batch.items, packer)  # before `data` is joined, as all that has payloads
    amended = packer.rows(batch.amended.values(), _amended_values, _AMEND_BLOBS) if batch.amended else None
    return (
        packer.rows(batch.created.values(), _created_values, _RUN_BLOBS),
        packer.rows(batch.changed.values(), _changed_values, _CHANGE_BLOBS),
        packer.rows(batch.steps, _step_values, _STEP_BLOBS),
        packer.rows(batch.rested.values(), lambda rest: (rest.n, rest.rest_seq, rest.wake_at), ()),
        packer.rows(batch.cancelled.items(), _cancelled_values, _CANCEL_BLOBS),
        b"".join(packer.data),
        batch.last_n,
        batch.last_seq,
        *items,
        amended,
        _some(list(batch.deleted)),
    )


def _item_bindings(batch: ItemBatch, packer: _Packer) -> Sequence[Any]:
    return (
        _some(list(batch.owners)),
        _some(batch.expired),
        _some(list(batch.dropped)),
        packer.rows(batch.put.values(), _item_values, _ITEM_BLOBS) if batch.put else None,
    )


def _some(value: list[Any] | dict[str, float]) -> str | None:
    """Most commits have none of it."""
    return _to_json(value).decode() if value else None


def _created_values(row: RunRow) -> tuple[Any, ...]:
    return (*astuple(row), crc(row.input, row.headers, row.retries, row.event), crc(row.result, row.error))


def _amended_values(row: RunRow) -> tuple[Any, ...]:
    return (row.n, row.input, row.headers, row.event, crc(row.input, row.headers, row.retries, row.event))


def _changed_values(row: RunRow) -> tuple[Any, ...]:
    return (*_mutable_values(row), crc(row.result, row.error))


def _step_values(row: StepRow) -> tuple[Any, ...]:
    return (*astuple(row), crc(row.payload))


def _item_values(row: ItemRow) -> tuple[Any, ...]:
    return (*astuple(row)[:-1], crc(row.body))


def _cancelled_values(item: tuple[int, RunsCancelled]) -> tuple[Any, ...]:
    n, entry = item
    flags = RunFlag.WITHDRAWN if n == entry.withdrawn else RunFlag.NONE
    return (n, RunStatus.CANCELLED, entry.at, entry.seq, entry.error, crc(entry.error), flags)


class _Packer:
    """Rows to JSON; a payload becomes its place and its length in `data`."""

    def __init__(self) -> None:
        self.data = [b"\0"]  # SQLite reads an empty blob as NULL
        self._next = 2  # substr counts from 1

    def rows(self, rows: Iterable[Any], values_of: Callable[[Any], tuple[Any, ...]], blobs: tuple[int, ...]) -> str:
        data, place = self.data, self._next
        backwards = blobs[::-1]  # so that what is put in does not move what comes next
        packed: list[list[Any]] = []
        for row in rows:
            values = list(values_of(row))
            for position in backwards:
                payload = values[position]
                if payload is None:
                    values.insert(position, None)
                else:
                    length = len(payload)
                    values[position] = place
                    values.insert(position + 1, length)
                    data.append(payload)
                    place += length
            packed.append(values)
        self._next = place
        return _to_json(packed).decode()


def _expressions(columns: tuple[str, ...]) -> list[str]:
    """How to get each column out of a packed row."""
    expressions: list[str] = []
    place = 0
    blobs = blob_positions(columns)
    for position in range(len(columns)):
        if position in blobs:
            expressions.append(f"substr(NEW.data, value ->> {place}, value ->> {place + 1})")
            place += 2
        else:
            expressions.append(f"value ->> {place}")
            place += 1
    return expressions


def _insert(table: str, columns: tuple[str, ...], source: str) -> str:
    values = ", ".join(_expressions(columns))
    return f"INSERT INTO {table}({', '.join(columns)}) SELECT {values} FROM jsonb_each(NEW.{source})"


def _delete(table: str, column: str, also: str = "") -> str:
    return f"DELETE FROM {table} WHERE {also} {column} IN (SELECT value FROM json_each(NEW.deleted))"


def _update(columns: tuple[str, ...], source: str) -> str:
    rows = ", ".join(f"{value} AS {column}" for column, value in zip(columns, _expressions(columns), strict=True))
    changes = ", ".join(f"{column} = v.{column}" for column in columns[1:])
    # The unary plus leaves SQLite one plan only: each of the new rows looks up its run.
    return f"UPDATE runs SET {changes} FROM (SELECT {rows} FROM jsonb_each(NEW.{source})) AS v WHERE runs.n = +v.n"
