"""One owner process for a file: a lock that the system gives up when its holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rotor_actors.errors import StoreError, StoreLockedError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        # Beyond the pid, which others shall be able to read.
        os.lseek(fd, 1024, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """A lock file beside the store's file, holding its owner's pid.

    Args:
        path: the store's file.
    """

    def __init__(self, path: Path) -> None:
        self._store = path
        self._path = path.with_name(path.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            StoreLockedError: somebody else is; the message names the pid.
            StoreError: the lock file cannot be written.
        """
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot open {self._store}: its lock file {self._path} cannot be written ({error.strerror}); a "
                f"runtime must be able to write to the directory of its store"
            ) from error
        try:
            _try_lock(fd)
        except OSError as error:
            owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StoreLockedError(
                f"{self._store} is in use by process {owner}{_hint(owner)} (lock file {self._path}). One process owns "
                f"a store at a time: stop that one, or give this one another file."
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def release(self) -> None:
        """Give it up. The file stays: removing it would let two processes lock two different files of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _hint(owner: str) -> str:
    return ", which is this one" if owner == str(os.getpid()) else ""
