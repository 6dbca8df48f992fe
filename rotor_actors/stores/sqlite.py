"""The default store: one process, one SQLite file, through apsw (which brings its own current SQLite).

One connection writes and checkpoints, in WAL mode with `synchronous=FULL`: what was acknowledged survives a power cut.
Reads go through a second, read-only connection that never checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import apsw

from rotor_actors.errors import StoreCorruptedError, StoreError
from rotor_actors.records import Entry
from rotor_actors.stores import sqlite_files, sqlite_writing
from rotor_actors.stores.batch import RowBatch, crc
from rotor_actors.stores.files import Files, RealFiles
from rotor_actors.stores.sqlite_connection import Connection, close, connect
from rotor_actors.stores.sqlite_errors import translated
from rotor_actors.stores.sqlite_reader import SQLiteReader
from rotor_actors.stores.transaction import GuardedConnection, TransactionCall, run_work

_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 4_000
_BUSY_MILLISECONDS = 5_000
_LARGEST_WAL = 256 * 2**20
_COMMITS_PER_LOOK = 50


_FIND_TRANSACTION = "SELECT payload, crc FROM rotor_transactions WHERE n = ? AND step_key = ?"
_KEEP_TRANSACTION = "INSERT INTO rotor_transactions VALUES (?, ?, ?, ?)"


class SQLiteStore(SQLiteReader):
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
        super().__init__(self._files.resolve(path))
        self._synchronous = synchronous
        self._lock = self._files.lock(self._path)
        self._writer: Connection | None = None
        self._commits = 0

    @property
    def is_on_disk(self) -> bool:
        """The file is the operating system's, not one of a simulated disk."""
        return isinstance(self._files, RealFiles)

    # Opening and closing

    def open(self) -> None:
        sqlite_files.check_place(self._path, self._files)
        self._lock.acquire()
        try:
            with translated("open", self._path):
                sqlite_files.make_durable(self._path, self._files)
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
        if not connection.pragma("page_count"):  # of an older file it would change nothing, and yet write something
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
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

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        with self._writing("transaction in") as connection:
            known = connection.execute(_FIND_TRANSACTION, (n, key)).get
            if known is not None:
                return self._intact(call.where, *known)
            connection.execute("BEGIN IMMEDIATE")
            try:
                payload = run_work(cast(GuardedConnection, connection), call)
                connection.execute(_KEEP_TRANSACTION, (n, key, payload, crc(payload)))
                connection.execute("COMMIT")
            except BaseException:
                if not connection.get_autocommit():
                    connection.execute("ROLLBACK")
                raise
            return payload

    def _intact(self, where: str, payload: bytes, expected: int) -> bytes:
        if crc(payload) != expected:
            raise StoreCorruptedError(
                f"{self._path}: the memo of the transaction of {where} does not match its checksum"
            )
        return payload

    def backup(self, path: str | os.PathLike[str]) -> None:
        with self._writing("backup") as connection:
            sqlite_files.backup(connection, Path(path), self._files)

    def free(self, pages: int) -> int:
        with self._writing("free space of") as connection:
            connection.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
            left: int = connection.pragma("freelist_count")
            if not left:  # the file is cut short when its log has been written back
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            return left

    def compact(self) -> None:
        with self._writing("compact") as connection, self._reading:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # for a file made before there was `free`
            connection.execute("VACUUM")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextmanager
    def _writing(self, doing: str) -> Generator[Connection]:
        if self._writer is None:
            raise StoreError(f"{self._path} is closed")
        with translated(doing, self._path):
            yield self._writer
