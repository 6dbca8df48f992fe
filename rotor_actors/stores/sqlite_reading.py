"""How rows are read from SQLite: by the page, not one by one.

As in writing, each row that is fetched by itself gives up the interpreter's lock and waits for a busy event loop to
let go of it. So SQLite puts thousands of rows into one JSON text. Payloads come as hex, large ones are fetched singly.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rotor_actors.errors import StoreCorruptedError
from rotor_actors.records import ChildRow, ItemRow, Kind, OutcomeStatus, RunFlag, RunRow, RunStatus, StepRow
from rotor_actors.stores.batch import crc
from rotor_actors.stores.schema import BLOBS, blob_positions
from rotor_actors.stores.sqlite_connection import Connection

ROWS_PER_PAGE = 5_000
LARGEST_INLINE = 4_096

_from_json = msgspec.json.Decoder(list[list[Any]]).decode

Bindings = dict[str, Any]


class Pages:
    """Reads the rows of one table, page after page.

    Args:
        table: where from. columns: which.
        key: the columns of the table's key. extra: expressions that come after the columns.
        without: columns that are given as None, and not read.
    """

    def __init__(
        self, table: str, columns: tuple[str, ...], key: tuple[str, ...], extra: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._blobs = blob_positions(columns)
        self._columns = columns
        self._key = tuple(columns.index(column) for column in key)
        self._table = table
        self._by_key = " AND ".join(f"{column} = ?" for column in key)
        selected = [
            *(f"NULL AS {column}" if column in without else _text_of(column) for column in columns),
            *(f"{each} AS x{i}" for i, each in enumerate(extra)),
        ]
        names = [*columns, *(f"x{i}" for i in range(len(extra)))]
        self._outer = f"SELECT json_group_array(json_array({', '.join(names)}))"
        self._inner = f"SELECT {', '.join(selected)} FROM {table}"

    def page(self, connection: Connection, where: str, bindings: Bindings, size: int) -> list[list[Any]]:
        """The first `size` rows of those that `where` chooses, which says their order."""
        sql = f"{self._outer} FROM ({self._inner} WHERE {where} LIMIT :size)"
        rows = _from_json(connection.execute(sql, {**bindings, "size": size}).get)
        for row in rows:
            self._restore(connection, row)
        return rows

    def along(
        self, connection: Connection, where: str, bindings: Bindings, column: str, after: int, limit: int | None = None
    ) -> Iterator[list[Any]]:
        """All rows that `where` chooses, up to a limit; they are in the order of `column`.

        `where` takes up behind the value `:after` of that column, which is where the first page begins.
        """
        position = self._columns.index(column)
        left = 2**62 if limit is None else limit
        while left > 0:
            size = min(left, ROWS_PER_PAGE)
            rows = self.page(connection, where, {**bindings, "after": after}, size)
            yield from rows
            if len(rows) < size:
                return
            after, left = rows[-1][position], left - size

    def of_groups(
        self, connection: Connection, group: str, ns: Iterable[int], column: str, only: str = "true"
    ) -> Iterator[list[Any]]:
        """All rows whose column `group` is among `ns`, by that and then by `column`; a group may be of any size.

        `only` chooses further among them.
        """
        wanted = sorted(ns)
        several = f"{group} IN (SELECT value FROM json_each(:ns)) AND {only} ORDER BY {group}, {column}"
        rest_of_one = f"{group} = :n AND {column} > :after AND {only} ORDER BY {column}"
        while wanted:
            rows = self.page(connection, several, {"ns": json.dumps(wanted)}, ROWS_PER_PAGE)
            yield from rows
            if len(rows) < ROWS_PER_PAGE:
                return
            n, after = rows[-1][self._columns.index(group)], rows[-1][self._columns.index(column)]
            yield from self.along(connection, rest_of_one, {"n": n}, column, after)
            wanted = wanted[bisect_right(wanted, n) :]

    def _restore(self, connection: Connection, row: list[Any]) -> None:
        """Hex to bytes."""
        for position in self._blobs:
            value = row[position]
            if type(value) is str:
                row[position] = bytes.fromhex(value)
            elif value is not None:
                key = [row[each] for each in self._key]
                sql = f"SELECT {self._columns[position]} FROM {self._table} WHERE {self._by_key}"
                row[position] = connection.execute(sql, key).get


def _text_of(column: str) -> str:
    if column not in BLOBS:
        return column
    # hex(NULL) is an empty text. A number stands for what is to be fetched singly.
    return (
        f"CASE WHEN {column} IS NULL THEN NULL WHEN length({column}) <= {LARGEST_INLINE} THEN hex({column}) ELSE 1 END"
        f" AS {column}"
    )


class Decoder:
    """Rows to records, checksums compared. `path` is the file, or the database, for messages."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def run(self, values: Sequence[Any]) -> RunRow:
        """The run, or StoreCorruptedError; one that was set aside for its damaged input is given without it."""
        run, is_input_intact, is_result_intact = self._run(values)
        if not is_result_intact:
            raise self._damaged(f"the result of run {run.run_id}")
        if not is_input_intact:
            if not run.flags & RunFlag.DAMAGED:
                raise self._damaged(f"the input of run {run.run_id}")
            run.input = run.headers = run.retries = run.event = None
        return run

    def run_or_mark(self, values: Sequence[Any]) -> RunRow:
        """The run; payloads that do not match their checksum are left out, and the run is marked as damaged."""
        run, is_input_intact, is_result_intact = self._run(values)
        if not is_input_intact:
            run.input = run.headers = run.retries = run.event = None
        if not is_result_intact:
            run.result = run.error = None
        if not (is_input_intact and is_result_intact):
            run.flags |= RunFlag.DAMAGED
        return run

    def lean_run(self, values: Sequence[Any]) -> RunRow:
        """The run without its input and its result, and so without a look at the checksums."""
        run = RunRow(*values[:-2])
        run.status = RunStatus(run.status)
        return run

    def _run(self, values: Sequence[Any]) -> tuple[RunRow, bool, bool]:
        *fields, input_crc, result_crc = values
        run = RunRow(*fields)
        run.status = RunStatus(run.status)
        is_input_intact = input_crc == crc(run.input, run.headers, run.retries, run.event)
        return run, is_input_intact, result_crc == crc(run.result, run.error)

    def step(self, values: Sequence[Any]) -> StepRow:
        *fields, expected = values
        step = StepRow(*fields)
        step.kind, step.status = Kind(step.kind), OutcomeStatus(step.status)
        if expected != crc(step.payload):
            raise self._damaged(f"the memo of step {step.step_id!r} of run number {step.n}")
        return step

    def child(self, values: Sequence[Any]) -> ChildRow:
        *fields, expected = values
        child = ChildRow(*fields)
        child.status = RunStatus(child.status)
        if expected != crc(child.result, child.error):
            raise self._damaged(f"the result of run {child.run_id}")
        return child

    def item(self, values: Sequence[Any]) -> ItemRow:
        *fields, expected = values
        item = ItemRow(*fields)
        if expected != crc(item.body):
            item.body, item.is_damaged = None, True
        return item

    def _damaged(self, what: str) -> StoreCorruptedError:
        return StoreCorruptedError(
            f"{self._path}: {what} does not match its checksum: the file was damaged. Restore a backup; nothing was "
            f"replayed from it."
        )
