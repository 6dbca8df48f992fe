"""How a commit reaches SQLite: as one statement, whatever its size.

Each step of a statement gives up the interpreter's lock, and getting it back from a busy event loop takes up to a
switch interval (5 ms). Rows bound one by one, or a few statements for each table, are slowed down by that many times
over. So a commit is one INSERT of one row into a view: the row holds the rows of each table as JSON, and all payloads
in one blob; a trigger unpacks them, inside SQLite, where no lock is held. It commits by itself, all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from rotor_actors.records import ItemRow, RunFlag, RunRow, RunsCancelled, RunStatus, StepRow
from rotor_actors.stores.batch import ItemBatch, RowBatch, crc
from rotor_actors.stores.packing import Layout, Packer, backwards, expressions
from rotor_actors.stores.schema import (
    AMEND_COLUMNS,
    CHANGE_COLUMNS,
    ITEM_COLUMNS,
    PROGRESS_SPACE,
    RUN_COLUMNS,
    SPENT_SPACE,
    STEP_COLUMNS,
)
from rotor_actors.stores.sqlite_connection import Connection

_CANCEL_COLUMNS = ("n", "status", "ended_at", "end_seq", "error", "result_crc", "flags")
_REST_COLUMNS = ("n", "rest_seq", "wake_at")

_AMEND_BLOBS = backwards(AMEND_COLUMNS)
_ITEM_BLOBS = backwards(ITEM_COLUMNS)
_CANCEL_BLOBS = backwards(_CANCEL_COLUMNS)


def _run_checks(row: RunRow) -> tuple[int, int]:
    return crc(row.input, row.headers, row.retries, row.event), crc(row.result, row.error)


def _change_checks(row: RunRow) -> tuple[int]:
    return (crc(row.result, row.error),)


def _step_checks(row: StepRow) -> tuple[int]:
    return (crc(row.payload),)


_CREATED = Layout(
    RUN_COLUMNS,
    ("n", "run_id", "created_at", "parent_key", "parent_step_id", "input", "attempt_at", "end_seq", "result", "deadline",
     "input_crc", "result_crc"),
    _run_checks,
)  # fmt: skip
_CHANGED = Layout(
    CHANGE_COLUMNS, ("n", "attempt_at", "ended_at", "end_seq", "result", "deadline", "result_crc"), _change_checks
)
_STEPS = Layout(STEP_COLUMNS, ("n", "at", "key", "payload", "began_at", "seq", "crc"), _step_checks)

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
            {_insert("runs", RUN_COLUMNS, "created", _CREATED)};
            {_update(AMEND_COLUMNS, "amended")};
            {_update(CHANGE_COLUMNS, "changed", _CHANGED)};
            {_insert("steps", STEP_COLUMNS, "steps", _STEPS)};
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
    packer = Packer()
    items = _item_bindings(batch.items, packer)  # before `data` is joined, as all that has payloads
    amended = packer.rows(batch.amended.values(), _amended_values, _AMEND_BLOBS) if batch.amended else None
    return (
        _CREATED.pack(batch.created.values(), packer),
        _CHANGED.pack(batch.changed.values(), packer),
        _STEPS.pack(batch.steps, packer),
        packer.rows(batch.rested.values(), lambda rest: (rest.n, rest.rest_seq, rest.wake_at), ()),
        packer.rows(batch.cancelled.items(), _cancelled_values, _CANCEL_BLOBS),
        b"".join(packer.data),
        batch.last_n,
        batch.last_seq,
        *items,
        amended,
        _some(list(batch.deleted)),
    )


def _item_bindings(batch: ItemBatch, packer: Packer) -> Sequence[Any]:
    return (
        _some(list(batch.owners)),
        _some(batch.expired),
        _some(list(batch.dropped)),
        packer.rows(batch.put.values(), _item_values, _ITEM_BLOBS) if batch.put else None,
    )


def _some(value: list[Any] | dict[str, float]) -> str | None:
    """Most commits have none of it."""
    return _to_json(value).decode() if value else None


def _amended_values(row: RunRow) -> tuple[Any, ...]:
    return (row.n, row.input, row.headers, row.event, crc(row.input, row.headers, row.retries, row.event))


def _item_values(row: ItemRow) -> tuple[Any, ...]:
    return (*astuple(row)[:-1], crc(row.body))


def _cancelled_values(item: tuple[int, RunsCancelled]) -> tuple[Any, ...]:
    n, entry = item
    flags = RunFlag.WITHDRAWN if n == entry.withdrawn else RunFlag.NONE
    return (n, RunStatus.CANCELLED, entry.at, entry.seq, entry.error, crc(entry.error), flags)


def _insert(table: str, columns: tuple[str, ...], source: str, layout: Layout | None = None) -> str:
    return f"INSERT INTO {table}({', '.join(columns)}) {_select(columns, source, layout)}"


def _select(columns: tuple[str, ...], source: str, layout: Layout | None) -> str:
    if layout is not None:
        return layout.select(f"NEW.{source}")
    values = zip(expressions(columns, "value"), columns, strict=True)
    return f"SELECT {', '.join(f'{value} AS {column}' for value, column in values)} FROM jsonb_each(NEW.{source})"


def _delete(table: str, column: str, also: str = "") -> str:
    return f"DELETE FROM {table} WHERE {also} {column} IN (SELECT value FROM json_each(NEW.deleted))"


def _update(columns: tuple[str, ...], source: str, layout: Layout | None = None) -> str:
    rows = _select(columns, source, layout)
    changes = ", ".join(f"{column} = v.{column}" for column in columns[1:])
    # The unary plus leaves SQLite one plan only: each of the new rows looks up its run.
    return f"UPDATE runs SET {changes} FROM ({rows}) AS v WHERE runs.n = +v.n"
