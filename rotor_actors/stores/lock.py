"""One owner process for a file: a lock that the system gives up when its holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rotor_actors.errors import StoreLockedError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        # Beyond the pid, which others shall be able to read.
        os.lseek(fd, 1024, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """A lock file beside the store's file, holding its owner's pid."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            StoreLockedError: somebody else is; the message names the pid.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _try_lock(fd)
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
            os.close(fd)
            raise StoreLockedError(
                f"{self._path.with_suffix('')} is in use by process {owner or 'unknown'} (lock file {self._path}). "
                f"One process owns a store at a time: stop that one, or give this one another file."
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def release(self) -> None:
        """Give it up. The file stays: removing it would let two processes lock two different files of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
