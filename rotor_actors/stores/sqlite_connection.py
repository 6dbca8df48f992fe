"""What we use of an apsw connection, typed: its own stubs name types that only newer Pythons have."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import apsw

_logger = logging.getLogger("rotor_actors")


class Cursor(Protocol):
    """The rows of a statement."""

    @property
    def get(self) -> Any:
        """The first row, or its only column."""
        ...

    def fetchall(self) -> list[Any]: ...


class Backup(Protocol):
    """A copy under way."""

    done: bool

    def step(self, npages: int) -> bool: ...


class Connection(AbstractContextManager[Any], Protocol):
    """One connection to a SQLite file."""

    def execute(self, statements: str, bindings: Sequence[Any] | Mapping[str, Any] | None = None) -> Cursor: ...

    def pragma(self, name: str, value: Any = None) -> Any: ...

    def readonly(self, name: str) -> bool: ...

    def set_busy_timeout(self, milliseconds: int) -> None: ...

    def wal_autocheckpoint(self, n: int) -> None: ...

    def wal_checkpoint(self, dbname: str | None = None, mode: int = 0) -> tuple[int, int]: ...

    def get_autocommit(self) -> bool: ...

    def backup(
        self, databasename: str, sourceconnection: Connection, sourcedatabasename: str
    ) -> AbstractContextManager[Backup]: ...

    def close(self, force: bool = False) -> None: ...


def connect(path: Path, flags: int, vfs: str | None = None) -> Connection:
    """Open a connection; see `apsw.Connection`."""
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
    if flags & apsw.SQLITE_OPEN_READONLY:
        # It would try when it is the last to close, though it cannot write.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return cast(Connection, connection)


def close(connection: Connection) -> None:
    """Close it, whatever the disk says: closing checkpoints, and where that fails the WAL stays and is read next time."""
    try:
        connection.close(True)
    except apsw.Error as error:
        _logger.warning("closing the store: %s: %s", type(error).__name__, error)
