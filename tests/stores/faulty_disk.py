"""A disk under the real SQLite store that fails when told to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import apsw

_numbers = itertools.count()


class FaultyDisk(apsw.VFS):
    """A VFS whose writes and syncs fail while `fault` says so.

    Attributes:
        fault: "" for none, "full", "write" or "sync".
        name: what to give `SQLiteStore(vfs=…)`.
        on_sync: called before each sync.
    """

    def __init__(self) -> None:
        self.fault = ""
        self.on_sync: Callable[[], None] = lambda: None
        self.name = f"faulty-{next(_numbers)}"
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: Any) -> None:
        super().__init__("", name, flags)
        self._disk = disk

    def xWrite(self, data: Any, offset: int) -> None:
        if self._disk.fault == "full":
            raise apsw.FullError("no space left on device")
        if self._disk.fault == "write":
            raise apsw.IOError("write failed")
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType]

    def xSync(self, flags: int) -> None:
        self._disk.on_sync()
        if self._disk.fault == "sync":
            raise apsw.IOError("sync failed")
        super().xSync(flags)


@contextmanager
def faulty_disk() -> Generator[FaultyDisk]:
    """A disk, registered with SQLite for as long as it is needed."""
    disk = FaultyDisk()
    yield disk
    disk.unregister()
