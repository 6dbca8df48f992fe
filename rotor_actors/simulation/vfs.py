"""A volume under the real SQLite: an apsw VFS that behaves as SQLite's own for POSIX does, WAL included.

Shared memory is the one thing that apsw cannot be given from Python. It is inherited, with the locks of the database
file, from a VFS that keeps it on the heap (`unix-excl`), for which each life of a process has one empty file, in
memory where there is `/dev/shm`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import apsw

from rotor_actors.simulation.volume import Chooser, Inode, Volume

Operation: TypeAlias = Literal["read", "write", "sync", "open", "remove"]
FileFault: TypeAlias = Literal["", "error", "full", "short"]
Decide: TypeAlias = Callable[[Operation, str, bool], FileFault]
"""Is asked before each operation on a path, and told whether it makes the file longer."""

_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_ANCHORED = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_MAIN_DB
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
_SHARED_MEMORY_FROM = "unix-excl" if "unix-excl" in apsw.vfs_names() else ""


class _IOFailure(apsw.IOError):
    """What the operating system would call EIO."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.extendedresult = code


class SimVfs(apsw.VFS):
    """See the module. `close` it when it is no longer needed: it is registered with SQLite until then.

    Args:
        volume: the files.
        tape: what a failed sync leaves is chosen from it.
        decide: "" lets an operation happen; "error" is EIO (of a sync: what was written since the last one is on the
            platter or not); of a write "full" is no space, and "short" a part of it, then no space.

    Attributes:
        name: what SQLite knows it by.
        late_calls: how often a dead process tried to read or write.
    """

    def __init__(self, volume: Volume, tape: Chooser, decide: Decide) -> None:
        self.volume = volume
        self.tape = tape
        self.decide = decide
        self.late_calls = 0
        self._anchored: dict[str, int] = {}
        self._anchors: set[str] = set()
        self.name = f"rotor-simulated-{os.getpid()}-{id(self):x}"
        super().__init__(self.name, "")

    def close(self) -> None:
        """Forget it. Twice is fine."""
        self.unregister()
        for path in self._anchors:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._anchors.clear()

    def anchor(self, path: str) -> str:
        """The real file that the locks and the shared memory of a file belong to, in this life."""
        number = self._anchored.setdefault(path, len(self._anchored))
        anchor = os.path.join(_MEMORY, f"{self.name}-{self.volume.epoch}-{number}")
        self._anchors.add(anchor)
        return anchor

    def xOpen(self, name: Any, flags: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if name is None:
            return _File(self, "", Inode(), False)
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        volume = self.volume
        if self.decide("open", path, False):
            raise apsw.CantOpenError(f"cannot open {path}")
        inode = volume.find(path)
        if inode is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"there is no file {path}")
            inode = volume.create(path)
        flags[1] = flags[0]
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _MainFile(self, path, inode, bool(flags[0] & apsw.SQLITE_OPEN_READONLY))
        return _File(self, path, inode, bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and bool(flags[0] & _JOURNALS))

    def xDelete(self, filename: str, syncdir: bool) -> None:
        volume = self.volume
        if volume.find(filename) is None:
            raise _IOFailure(apsw.SQLITE_IOERR_DELETE_NOENT, f"there is no file {filename}")
        if self.decide("remove", filename, False):
            raise _IOFailure(apsw.SQLITE_IOERR_DELETE, "removing failed")
        volume.remove(filename)
        if syncdir:
            volume.sync_names()

    def xAccess(self, pathname: str, flags: int) -> bool:
        inode = self.volume.find(pathname)
        # As SQLite does: a file of no bytes does not exist.
        return inode is not None and (flags != apsw.SQLITE_ACCESS_EXISTS or bool(inode.content))

    def xFullPathname(self, name: str) -> str:
        return os.path.abspath(name)

    def xSleep(self, microseconds: int) -> int:
        return microseconds

    def xRandomness(self, numbytes: int) -> bytes:
        return bytes(numbytes)

    def xCurrentTime(self) -> float:
        return 2_460_000.5

    def xCurrentTimeInt64(self) -> int:
        return int(2_460_000.5 * 86_400_000)


class _Content:
    """What a process does with a file that it has open. Once it is dead it does nothing any more."""

    _vfs: SimVfs
    _path: str
    _inode: Inode
    _epoch: int
    _has_new_name: bool
    _is_read_only: bool

    def _of(self, vfs: SimVfs, path: str, inode: Inode, has_new_name: bool) -> None:
        self._vfs = vfs
        self._path = path
        self._inode = inode
        self._epoch = vfs.volume.epoch
        self._has_new_name = has_new_name
        self._is_read_only = False

    def _fence(self) -> None:
        if self._epoch != self._vfs.volume.epoch:
            self._vfs.late_calls += 1
            raise _IOFailure(apsw.SQLITE_IOERR, "the process is dead")

    def _decide(self, operation: Operation, grows: bool = False) -> FileFault:
        self._fence()
        fault = self._vfs.decide(operation, self._path, grows)
        self._fence()  # that was when the power failed
        return fault

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._decide("read"):
            raise _IOFailure(apsw.SQLITE_IOERR_READ, "read failed")
        return self._inode.read(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        written = bytes(data)
        if self._is_read_only:
            # SQLite tries, when it closes a reader that is the last connection: to no avail on a real file, too.
            raise _IOFailure(apsw.SQLITE_IOERR_WRITE, "the file was opened for reading")
        match self._decide("write", offset + len(written) > len(self._inode.content)):
            case "":
                self._inode.write(written, offset)
            case "error":
                raise _IOFailure(apsw.SQLITE_IOERR_WRITE, "write failed")
            case "short":
                self._inode.write(written[: len(written) // 2], offset)
                raise apsw.FullError("no space left on device")
            case "full":
                raise apsw.FullError("no space left on device")

    def xTruncate(self, newsize: int) -> None:
        self._fence()
        self._inode.truncate(newsize)

    def xSync(self, flags: int) -> None:
        if self._decide("sync"):
            self._inode.lose(self._vfs.tape)
            raise _IOFailure(apsw.SQLITE_IOERR_FSYNC, "sync failed")
        self._inode.sync()
        if self._has_new_name:
            # As SQLite's own VFS does, with the first sync of a journal that it may have created.
            self._vfs.volume.sync_names()
            self._has_new_name = False

    def xFileSize(self) -> int:
        return len(self._inode.content)

    def xSectorSize(self) -> int:
        return 4096

    def xDeviceCharacteristics(self) -> int:
        # As SQLite takes a POSIX disk to be: a torn write harms nothing beside the bytes that were being written.
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


class _File(_Content):
    """A journal, a WAL, or a temporary file: nobody else has it open."""

    def __init__(self, vfs: SimVfs, path: str, inode: Inode, has_new_name: bool) -> None:
        self._of(vfs, path, inode, has_new_name)

    def xClose(self) -> None: ...

    def xLock(self, level: int) -> None: ...

    def xUnlock(self, level: int) -> None: ...

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False


class _MainFile(_Content, apsw.VFSFile):
    """The database."""

    def __init__(self, vfs: SimVfs, path: str, inode: Inode, is_read_only: bool) -> None:
        apsw.VFSFile.__init__(self, _SHARED_MEMORY_FROM, vfs.anchor(path), [_ANCHORED, 0])
        self._of(vfs, path, inode, False)
        self._is_read_only = is_read_only
