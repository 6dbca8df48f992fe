"""A SQLite store's file as seen by somebody who does not own it."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from rotor_actors.errors import StoreError
from rotor_actors.stores import sqlite_files
from rotor_actors.stores.files import RealFiles
from rotor_actors.stores.sqlite_connection import close, connect
from rotor_actors.stores.sqlite_errors import translated
from rotor_actors.stores.sqlite_reader import SQLiteReader

_CACHE_KIB = 16 * 1024
_BUSY_MILLISECONDS = 5_000


class SQLiteView(SQLiteReader):
    """Reads a store's file beside the process that owns it, or with no owner at all.

    Its one connection is read-only: it takes no lock of the store's, never checkpoints, and cannot be in the way of a
    commit. Each verb sees what was committed when it began, and lets go of it when it returns.

    Args:
        path: the file, which must exist.
    """

    is_inline = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Path(path).resolve())

    def open(self) -> None:
        """Look whether it is one of ours, and connect.

        Raises:
            StoreError: there is no such file, or it is of an older version and no owner has opened it since.
            StoreVersionError, StoreCorruptedError: a newer program wrote it; it is not one of ours.
        """
        if not self._path.is_file() or not self._path.stat().st_size:
            raise StoreError(f"{self._path}: there is no store to look at; name the file that a runtime has opened")
        with translated("look at", self._path):
            sqlite_files.check_magic(self._path, RealFiles(None))
            reader = connect(self._path, apsw.SQLITE_OPEN_READONLY)
            try:
                reader.set_busy_timeout(_BUSY_MILLISECONDS)
                reader.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                sqlite_files.check_readable(reader, self._path)
            except BaseException:
                close(reader)
                raise
            self._reader = reader

    def close(self) -> None:
        """Closing twice is fine."""
        with self._reading:
            reader, self._reader = self._reader, None
        if reader is not None:
            close(reader)
