"""The default store: one process, one SQLite file, through apsw (which brings its own current SQLite).

One connection writes and checkpoints, in WAL mode with `synchronous=FULL`: what was acknowledged survives a power cut.
Reads go through a second, read-only connection that never checkpoints.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw

from rotor_actors.errors import (
    StoreCorruptedError,
    StoreError,
    StoreFullError,
    StoreVersionError,
)
from rotor_actors.records import ChildRow, Entry, History, Kind, OutcomeStatus, RunFlag, RunRow, RunStatus, StepRow
from rotor_actors.stores import schema
from rotor_actors.stores.base import LiveRun, RunQuery
from rotor_actors.stores.batch import RowBatch, change_values, crc, rest_values, run_values, step_values
from rotor_actors.stores.lock import FileLock

T = TypeVar("T")

_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 4_000
_BUSY_MILLISECONDS = 5_000


class SQLiteStore:
    """A store in one SQLite file.

    Args:
        path: the file; it is created when missing, its directory is not. Beside it live `-wal`, `-shm` and `.lock`.
        synchronous: `"FULL"`, or `"NORMAL"`, which loses the newest acknowledged commits in a power cut (in a third
            of the simulated cuts), though never more than a suffix.
        vfs: name of the apsw VFS to go through, for tests with a faulty disk.
    """

    is_inline = False

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "FULL", vfs: str | None = None) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous must be 'FULL' or 'NORMAL', got {synchronous!r}")
        self._path = Path(path).resolve()
        self._synchronous = synchronous
        self._vfs = vfs
        self._lock = FileLock(self._path.with_name(self._path.name + ".lock"))
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._reading = threading.Lock()

    @property
    def path(self) -> Path:
        return self._path

    # Opening and closing

    def open(self) -> None:
        try:
            self._lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot open {self._path}: {error}; does its directory exist?") from error
        try:
            with self._translated("open"):
                self._writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
                self._check_format(self._writer)
                self._set_durability(self._writer)
                self._create(self._writer)
                self._reader = self._connect(apsw.SQLITE_OPEN_READONLY)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._reading:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    # Closing checkpoints; a disk that fails here has nothing left to lose: the WAL stays.
                    connection.close(True)
            self._reader = self._writer = None
        self._lock.release()

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=flags, vfs=self._vfs)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return connection

    def _check_format(self, connection: apsw.Connection) -> None:
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        if application_id != schema.APPLICATION_ID and (tables or version):
            raise StoreCorruptedError(
                f"{self._path} is a database of another program (application id {application_id:#x}, expected "
                f"{schema.APPLICATION_ID:#x}); nothing was changed. Give the runtime a file of its own."
            )
        if version > schema.SCHEMA_VERSION:
            raise StoreVersionError(
                f"{self._path} has schema version {version}, this program knows {schema.SCHEMA_VERSION}; nothing was "
                f"changed. Install a newer rotor-actors."
            )

    def _set_durability(self, connection: apsw.Connection) -> None:
        # EXTRA while the file may still have a rollback journal, FULL once it is WAL: closes a window in which a
        # stale journal can undo the file on a strict POSIX disk.
        connection.execute("PRAGMA synchronous = EXTRA")
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise StoreError(f"{self._path}: this file system does not allow WAL mode (got {mode!r}); use a local disk")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.wal_autocheckpoint(_CHECKPOINT_PAGES)

    def _create(self, connection: apsw.Connection) -> None:
        if connection.pragma("user_version") == 0:
            with connection:
                connection.execute(schema.CREATE)
                connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")

    # Writing

    def commit(self, entries: list[Entry]) -> None:
        batch = RowBatch(entries)
        connection = self._writer
        if connection is None:
            raise StoreError(f"{self._path} is closed")
        with self._translated("commit"):
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._write(connection, batch)
                connection.execute("COMMIT")
            except BaseException:
                if not connection.get_autocommit():
                    connection.execute("ROLLBACK")
                raise

    def _write(self, connection: apsw.Connection, batch: RowBatch) -> None:
        """One statement for each table: every step of a statement gives up the interpreter lock and has to get it
        back from a busy event loop."""
        self._in_chunks(
            connection, schema.insert_runs, schema.INSERT_RUN_ROWS, list(batch.created.values()), run_values
        )
        self._in_chunks(
            connection, schema.update_runs, schema.UPDATE_RUN_ROWS, list(batch.changed.values()), change_values
        )
        self._in_chunks(connection, schema.insert_steps, schema.INSERT_STEP_ROWS, batch.steps, step_values)
        self._in_chunks(connection, schema.update_rests, schema.REST_ROWS, batch.rested, rest_values)
        # A row of its own, so that opening does not have to look at all that is stored.
        connection.execute(
            "UPDATE numbers SET last_n = max(last_n, ?), last_seq = max(last_seq, ?)", (max(batch.created, default=0), batch.last_seq)
        )
        for entry in batch.cancelled:
            connection.execute(
                "UPDATE runs SET status = ?, ended_at = ?, end_seq = ?, error = ?, result_crc = ?, "
                f"flags = flags | (n IS ?) * {int(RunFlag.WITHDRAWN)} "
                "WHERE n IN (SELECT value FROM json_each(?))",
                (RunStatus.CANCELLED.value, entry.at, entry.seq, entry.error, crc(entry.error), entry.withdrawn,
                 json.dumps(entry.ns)),
            )  # fmt: skip

    def _in_chunks(
        self,
        connection: apsw.Connection,
        statement: Callable[[int], str],
        size: int,
        rows: Sequence[T],
        values: Callable[[T], list[Any]],
    ) -> None:
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            bindings: list[Any] = []
            for row in chunk:
                bindings.extend(values(row))
            connection.execute(statement(len(chunk)), bindings)

    def backup(self, path: str | os.PathLike[str]) -> None:
        target = Path(path)
        if target.exists():
            raise StoreError(f"backup to {target}: the file exists; name a new one")
        with self._translated("backup"):
            copy = apsw.Connection(str(target))
            try:
                with copy.backup("main", self._open_writer(), "main") as backup:
                    while not backup.done:
                        backup.step(1_000)
            finally:
                copy.close()

    def compact(self) -> None:
        with self._translated("compact"):
            self._open_writer().execute("VACUUM")

    def _open_writer(self) -> apsw.Connection:
        if self._writer is None:
            raise StoreError(f"{self._path} is closed")
        return self._writer

    # Reading

    def last_numbers(self) -> tuple[int, int]:
        last_n, last_seq = self._rows("SELECT last_n, last_seq FROM numbers")[0]
        return last_n, last_seq

    def live_runs(self) -> list[LiveRun]:
        rows = self._rows(
            f"{schema.SELECT_RUN} WHERE ended_at IS NULL ORDER BY n".replace(
                " FROM runs",
                ", max(coalesce((SELECT max(seq) FROM steps WHERE steps.n = runs.n), 0), "
                "coalesce((SELECT max(c.end_seq) FROM runs AS c WHERE c.parent_n = runs.n), 0)) FROM runs",
            )
        )
        return [LiveRun(self._run(row[:-1]), row[-1]) for row in rows]

    def histories(self, ns: list[int]) -> dict[int, History]:
        found = {n: History([], []) for n in ns}
        chosen = (json.dumps(ns),)
        within = "IN (SELECT value FROM json_each(?))"
        for row in self._rows(f"{schema.SELECT_STEP} WHERE n {within} ORDER BY n, seq", chosen):
            step = self._step(row)
            found[step.n].steps.append(step)
        for row in self._rows(f"{schema.SELECT_CHILD} WHERE parent_n {within} ORDER BY n", chosen):
            child = self._child(row)
            found[child.parent_n].children.append(child)
        return found

    def find(self, run_id: str) -> RunRow | None:
        rows = self._rows(f"{schema.SELECT_RUN} WHERE run_id = ?", (run_id,))
        return self._run(rows[0]) if rows else None

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        conditions = {
            "workflow_id = ?": query.workflow_id,
            "parent_n = ?": query.parent_n,
            "root_n = ?": query.root_n,
            "n < ?": query.before_n,
        }
        chosen = {condition: value for condition, value in conditions.items() if value is not None}
        if query.statuses:
            chosen["status IN (SELECT value FROM json_each(?))"] = json.dumps(query.statuses)
        if query.statuses and not any(status.is_terminal for status in query.statuses):
            chosen["ended_at IS NULL AND ?"] = 1
        where = " AND ".join(chosen) or "1"
        rows = self._rows(
            f"{schema.SELECT_RUN} WHERE {where} ORDER BY n DESC LIMIT ?", (*chosen.values(), query.limit)
        )
        return [self._run(row) for row in rows]

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        where = "" if root_n is None else "WHERE root_n = ?"
        bindings = () if root_n is None else (root_n,)
        rows = self._rows(f"SELECT status, count(*) FROM runs {where} GROUP BY status", bindings)
        return {RunStatus(status): count for status, count in rows}

    def steps(self, n: int) -> list[StepRow]:
        return [self._step(row) for row in self._rows(f"{schema.SELECT_STEP} WHERE n = ? ORDER BY seq", (n,))]

    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        with self._reading, self._translated("read"):
            if self._reader is None:
                raise StoreError(f"{self._path} is closed")
            return self._reader.execute(sql, bindings).fetchall()

    def _run(self, row: Sequence[Any]) -> RunRow:
        *fields, input_crc, result_crc = row
        run = RunRow(*fields)
        run.status = RunStatus(run.status)
        self._verify(input_crc == crc(run.input, run.headers, run.retries), f"the input of run {run.run_id}")
        self._verify(result_crc == crc(run.result, run.error), f"the result of run {run.run_id}")
        return run

    def _step(self, row: Sequence[Any]) -> StepRow:
        *fields, expected = row
        step = StepRow(*fields)
        step.kind, step.status = Kind(step.kind), OutcomeStatus(step.status)
        self._verify(expected == crc(step.payload), f"the memo of step {step.step_id!r} of run number {step.n}")
        return step

    def _child(self, row: Sequence[Any]) -> ChildRow:
        *fields, expected = row
        child = ChildRow(*fields)
        child.status = RunStatus(child.status)
        self._verify(expected == crc(child.result, child.error), f"the result of run {child.run_id}")
        return child

    def _verify(self, is_intact: bool, what: str) -> None:
        if not is_intact:
            raise StoreCorruptedError(
                f"{self._path}: {what} does not match its checksum: the file was damaged. Restore a backup; nothing "
                f"was replayed from it."
            )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except apsw.FullError as error:
            raise StoreFullError(f"{doing} {self._path}: the disk is full; make room, it goes on by itself") from error
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise StoreCorruptedError(
                f"{doing} {self._path}: not a database of ours, or damaged ({error}); restore a backup, or give "
                f"another file"
            ) from error
        except apsw.CantOpenError as error:
            raise StoreError(f"{doing} {self._path}: cannot be opened; check that its directory exists") from error
        except apsw.Error as error:
            raise StoreError(f"{doing} {self._path} failed: {type(error).__name__}: {error}") from error


