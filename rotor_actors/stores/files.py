"""The files that a SQLite store lives on, as a port: the operating system's, or those of a simulated disk.

What SQLite itself does with its files goes through its VFS; here is what the store does beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from rotor_actors.stores.lock import FileLock

_CHUNK = 2**20


class OwnerLock(Protocol):
    """One owner for a file. See `FileLock`."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...


class Files(Protocol):
    """Where a store's file is. Errors are OSErrors."""

    vfs: str | None
    """The name of the VFS that SQLite goes through; None for its own."""

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """The absolute path."""
        ...

    def is_directory(self, path: Path) -> bool: ...

    def size(self, path: Path) -> int | None:
        """In bytes; None when there is no such file."""
        ...

    def head(self, path: Path, amount: int) -> bytes:
        """The first bytes of a file."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        ...

    def rewrite(self, path: Path) -> None:
        """Write a file's bytes once more where they are, and make them and its name durable."""
        ...

    def link(self, path: Path, target: Path) -> None:
        """Give a file a second name, durably; FileExistsError when that is taken."""
        ...

    def lock(self, path: Path) -> OwnerLock:
        """The lock of the owner of a store's file."""
        ...


class RealFiles:
    """The operating system's.

    Args:
        vfs: the name of a VFS of SQLite's over them.
    """

    def __init__(self, vfs: str | None = None) -> None:
        self.vfs = vfs

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        return Path(path).resolve()

    def is_directory(self, path: Path) -> bool:
        return path.is_dir()

    def size(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def head(self, path: Path, amount: int) -> bytes:
        with path.open("rb") as file:
            return file.read(amount)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rewrite(self, path: Path) -> None:
        with path.open("r+b") as file:
            while chunk := file.read(_CHUNK):
                file.seek(-len(chunk), os.SEEK_CUR)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(path.parent)

    def link(self, path: Path, target: Path) -> None:
        os.link(path, target)
        _sync_directory(target.parent)

    def lock(self, path: Path) -> OwnerLock:
        return FileLock(path)


def _sync_directory(directory: Path) -> None:
    if os.name != "nt":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
