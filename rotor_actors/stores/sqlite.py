"""The default store: one process, one SQLite file, through apsw (which brings its own current SQLite).

One connection writes and checkpoints, in WAL mode with `synchronous=FULL`: what was acknowledged survives a power cut.
Reads go through a second, read-only connection that never checkpoints.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from rotor_actors.errors import StoreError
from rotor_actors.records import Entry, History, ItemRow, RunRow, RunStatus, StepRow
from rotor_actors.stores import schema, sqlite_files, sqlite_writing
from rotor_actors.stores.base import ItemQuery, LiveRun, RunQuery
from rotor_actors.stores.batch import RowBatch
from rotor_actors.stores.files import Files, RealFiles
from rotor_actors.stores.sqlite_connection import Connection, close, connect
from rotor_actors.stores.sqlite_errors import translated
from rotor_actors.stores.sqlite_reading import ROWS_PER_PAGE, Bindings, Decoder, Pages

_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 4_000
_BUSY_MILLISECONDS = 5_000
_LARGEST_WAL = 256 * 2**20
_COMMITS_PER_LOOK = 50

_NEWEST_SEQ = """max(
    coalesce((SELECT max(seq) FROM steps WHERE steps.n = runs.n), 0),
    coalesce((SELECT max(end_seq) FROM runs AS c WHERE c.parent_n = runs.n AND c.end_seq IS NOT NULL), 0))"""

_RUNS = Pages("runs", schema.RUN_COLUMNS, ("n",))
_LIVE_RUNS = Pages("runs", schema.RUN_COLUMNS, ("n",), (_NEWEST_SEQ,))
_CHILDREN = Pages("runs", schema.CHILD_COLUMNS, ("n",))
_STEPS = Pages("steps", schema.STEP_COLUMNS, ("n", "seq"))
_ITEMS = Pages("items", schema.ITEM_COLUMNS, ("space", "item_key"))


class SQLiteStore:
    """A store in one SQLite file.

    Args:
        path: the file; it is created when missing, its directory is not. Beside it live `-wal`, `-shm` and `.lock`.
        synchronous: `"FULL"`, or `"NORMAL"`, which loses the newest acknowledged commits in a power cut (in a third
            of the simulated cuts), though never more than a suffix.
        vfs: name of the apsw VFS to go through, for tests with a faulty disk.
        files: where the file is, for simulation; the operating system's if not given.
    """

    is_inline = False

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "FULL", vfs: str | None = None,
                 files: Files | None = None) -> None:  # fmt: skip
        if synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous must be 'FULL' or 'NORMAL', got {synchronous!r}")
        self._files = files or RealFiles(vfs)
        self._path = self._files.resolve(path)
        self._synchronous = synchronous
        self._lock = self._files.lock(self._path)
        self._decoder = Decoder(self._path)
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._reading = threading.Lock()
        self._commits = 0

    @property
    def path(self) -> Path:
        return self._path

    # Opening and closing

    def open(self) -> None:
        sqlite_files.check_place(self._path, self._files)
        self._lock.acquire()
        try:
            with translated("open", self._path):
                sqlite_files.check_format(self._path, self._files)
                self._writer = writer = self._connect(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
                if writer.readonly("main"):
                    raise StoreError(f"{self._path} is read-only: a runtime must be able to write to its store")
                self._set_durability(writer)
                sqlite_files.create(writer)
                sqlite_writing.prepare(writer)
                self._reader = self._connect(apsw.SQLITE_OPEN_READONLY)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._reading:
            connections = (self._reader, self._writer)
            self._reader = self._writer = None
        try:
            for connection in connections:
                if connection is not None:
                    close(connection)
        finally:
            self._lock.release()

    def _connect(self, flags: int) -> Connection:
        connection = connect(self._path, flags, self._files.vfs)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return connection

    def _set_durability(self, connection: Connection) -> None:
        # EXTRA while the file may still have a rollback journal, FULL once it is WAL: closes a window in which a
        # stale journal can undo the file on a strict POSIX disk.
        connection.execute("PRAGMA synchronous = EXTRA")
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise StoreError(f"{self._path}: this file system does not allow WAL mode (got {mode!r}); use a local disk")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.wal_autocheckpoint(_CHECKPOINT_PAGES)

    # Writing

    def commit(self, entries: list[Entry]) -> None:
        bindings = sqlite_writing.bindings_of(RowBatch(entries))
        with self._writing("commit") as connection:
            connection.execute(sqlite_writing.COMMIT, bindings)
        self._commits += 1
        if self._commits % _COMMITS_PER_LOOK == 0:
            self._bound_wal()

    def _bound_wal(self) -> None:
        """A WAL that some reader has kept from being used again from its start is emptied between two reads."""
        wal = self._path.with_name(self._path.name + "-wal")
        if self._writer is None or (self._files.size(wal) or 0) < _LARGEST_WAL:
            return
        with self._reading:
            self._writer.set_busy_timeout(0)
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error:
                pass  # what is committed is committed; somebody else's long read, or a full disk: looked at again
            finally:
                self._writer.set_busy_timeout(_BUSY_MILLISECONDS)

    def backup(self, path: str | os.PathLike[str]) -> None:
        with self._writing("backup") as connection:
            sqlite_files.backup(connection, Path(path), self._files)

    def compact(self) -> None:
        with self._writing("compact") as connection, self._reading:
            connection.execute("VACUUM")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextmanager
    def _writing(self, doing: str) -> Generator[Connection]:
        if self._writer is None:
            raise StoreError(f"{self._path} is closed")
        with translated(doing, self._path):
            yield self._writer

    # Reading

    def last_numbers(self) -> tuple[int, int]:
        with self._snapshot() as reader:
            last_n, last_seq = reader.execute("SELECT last_n, last_seq FROM numbers").get
            return last_n, last_seq

    def live_runs(self) -> list[LiveRun]:
        with self._snapshot() as reader:
            rows = _LIVE_RUNS.along(reader, "ended_at IS NULL AND n > :after ORDER BY n", {}, "n", -1)
            return [LiveRun(self._decoder.run_or_mark(row[:-1]), row[-1]) for row in rows]

    def histories(self, ns: list[int]) -> dict[int, History]:
        found = {n: History([], []) for n in ns}
        with self._snapshot() as reader:
            for step in map(self._decoder.step, _STEPS.of_groups(reader, "n", ns, "seq")):
                found[step.n].steps.append(step)
            for child in map(self._decoder.child, _CHILDREN.of_groups(reader, "parent_n", ns, "n")):
                found[child.parent_n].children.append(child)
        return found

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        sql = "SELECT n, parent_n FROM runs WHERE n IN (SELECT value FROM json_each(?))"
        with self._snapshot() as reader:
            return dict(reader.execute(sql, (json.dumps(ns),)).fetchall())

    def steps(self, n: int) -> list[StepRow]:
        with self._snapshot() as reader:
            return list(map(self._decoder.step, _STEPS.of_groups(reader, "n", (n,), "seq")))

    def find(self, run_id: str) -> RunRow | None:
        with self._snapshot() as reader:
            rows = _RUNS.page(reader, "run_id = :run_id", {"run_id": run_id}, 1)
            return self._decoder.run(rows[0]) if rows else None

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        where, bindings = _chosen(query)
        before_n = 2**62 if query.before_n is None else query.before_n
        with self._snapshot() as reader:
            rows = _RUNS.along(reader, f"{where} ORDER BY n DESC", bindings, "n", before_n, query.limit)
            return [self._decoder.run_or_mark(row) for row in rows]

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        where = "" if root_n is None else "WHERE root_n = ?"
        bindings = () if root_n is None else (root_n,)
        with self._snapshot() as reader:
            rows = reader.execute(f"SELECT status, count(*) FROM runs {where} GROUP BY status", bindings).fetchall()
            return {RunStatus(status): count for status, count in rows}

    def items(self, query: ItemQuery) -> list[ItemRow]:
        where = "space = :space AND (ord, item_key) > (:ord, :key) ORDER BY ord, item_key"
        found: list[ItemRow] = []
        left = 2**62 if query.limit is None else query.limit
        ord_, key = query.after or (-(2**63), "")
        with self._snapshot() as reader:
            while left > 0:
                size = min(left, ROWS_PER_PAGE)
                rows = _ITEMS.page(reader, where, {"space": query.space, "ord": ord_, "key": key}, size)
                found.extend(map(self._decoder.item, rows))
                if len(rows) < size:
                    break
                ord_, key, left = found[-1].ord, found[-1].key, left - size
        return found

    def item(self, space: str, key: str) -> ItemRow | None:
        with self._snapshot() as reader:
            rows = _ITEMS.page(reader, "space = :space AND item_key = :key", {"space": space, "key": key}, 1)
            return self._decoder.item(rows[0]) if rows else None

    @contextmanager
    def _snapshot(self) -> Generator[Connection]:
        """All that is read within it is of one moment."""
        with self._reading, translated("read", self._path):
            reader = self._reader
            if reader is None:
                raise StoreError(f"{self._path} is closed")
            reader.execute("BEGIN")
            try:
                yield reader
            finally:
                if not reader.get_autocommit():
                    reader.execute("COMMIT")


def _chosen(query: RunQuery) -> tuple[str, Bindings]:
    conditions = ["n < :after"]
    bindings: Bindings = {}
    for column in ("workflow_id", "parent_n", "root_n"):
        value = getattr(query, column)
        if value is not None:
            conditions.append(f"{column} = :{column}")
            bindings[column] = value
    if query.statuses:
        conditions.append("status IN (SELECT value FROM json_each(:statuses))")
        bindings["statuses"] = json.dumps(query.statuses)
        if not any(status.is_terminal for status in query.statuses):
            conditions.append("ended_at IS NULL")  # said again in the words of the index of live runs
    return " AND ".join(conditions), bindings
