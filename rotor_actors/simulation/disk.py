"""The disk of a universe: power cuts, failing calls, no space, flipped bits, all chosen from its tape.

Under it is a `Volume`, over it the real SQLite store, one for each life of the simulated process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol, cast

import apsw

from rotor_actors.errors import StoreError, StoreLockedError
from rotor_actors.records import Entry
from rotor_actors.simulation.vfs import FileFault, Operation, SimVfs
from rotor_actors.simulation.volume import Volume
from rotor_actors.stores.base import Store
from rotor_actors.stores.sqlite import SQLiteStore
from rotor_actors.stores.sqlite_connection import Connection, connect

PATH = "/simulated/rotor.db"
# Writes and syncs of one commit of a few rows; where a fault in the middle of it falls is chosen among so many.
_PLACES = 16
_LONGEST_FULL = 6
# Small universes would never see a checkpoint under the real store's limit.
_CHECKPOINT_PAGES = (4_000, 5, 20, 80)
_SHORTEST_PAYLOAD = 8
_WRITE_FAULTS: tuple[FileFault, ...] = ("error", "short")
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
_PAYLOADS = """
    SELECT payload FROM steps WHERE length(payload) >= ?1 UNION ALL SELECT result FROM runs WHERE length(result) >= ?1
"""


class DiskTape(Protocol):
    """Where choices come from; 0, or False, is the mildest."""

    def choose(self, n: int) -> int: ...

    def chance(self, probability: float) -> bool: ...


class DiskFaults(Protocol):
    """Probabilities for each commit."""

    @property
    def failed_fsync(self) -> float: ...

    @property
    def failed_write(self) -> float: ...

    @property
    def disk_full(self) -> float: ...

    @property
    def bit_flip(self) -> float:
        """For each life of the process: before it opens the store, a bit of some recorded payload is flipped."""
        ...


class SimDisk:
    """A disk in memory, deterministic given its tape.

    Args:
        tape: all its choices.
        faults: how often what fails.
        synchronous: what its stores are told; `"OFF"` is for tests that must see data lost.

    Attributes:
        fired: how often each fault happened: "power_cut", "lost_write" (power cuts by which something was lost),
            "kill", "failed_fsync", "failed_write", "disk_full", "short_write", "bit_flip".
    """

    def __init__(self, tape: DiskTape, faults: DiskFaults | None = None, *, synchronous: str = "FULL") -> None:
        self.volume = Volume()
        self.fired: Counter[str] = Counter()
        self.damaged: set[bytes] = set()
        """Payloads in which a bit was flipped, as they were."""
        self.is_full = False
        self.on_open: Callable[[Store], None] = lambda store: None
        """Called with each store when it has been opened."""
        self._tape = tape
        self._faults = faults
        self._synchronous = synchronous
        self._vfs = SimVfs(self.volume, tape, self._decide)
        self._files = SimFiles(self.volume, self._vfs.name)
        self._stores: list[SimStore] = []
        self._planned: FileFault = ""
        self._planned_for: Operation = "write"
        self._cut_in = 0
        self._is_cut = False
        self._is_ordered = False
        self._refusals_left = 0

    # What the universe asks

    def new_store(self) -> SimStore:
        """A store for the next life of the process, to be opened by it."""
        self._is_cut = False
        if self._faults is not None and self._faults.bit_flip and self._tape.chance(self._faults.bit_flip):
            self._flip_a_payload()
        store = SimStore(self, self._files, self._synchronous, _CHECKPOINT_PAGES[self._tape.choose(4)])
        self._stores.append(store)
        return store

    def arm_cut(self) -> None:
        """Cut the power at a write or sync of the next commit, if it has as many as the tape chooses."""
        self._cut_in = self._tape.choose(_PLACES)

    def power_cut(self) -> None:
        """The machine dies now, if it did not in the middle of the last commit; its stores are dead."""
        if not self._is_cut:
            self._cut()
        self._release()

    def die(self) -> None:
        """The process dies, by `kill -9`: all that was written stays, synced or not."""
        if not self._is_cut:
            self.volume.kill()
            self.fired["kill"] += 1
        self._release()

    def heal(self) -> None:
        """From now on nothing fails."""
        self._faults = None
        self.is_full = False
        self._planned, self._cut_in, self._refusals_left, self._is_ordered = "", 0, 0, False

    def fail_next(self, operation: Operation) -> None:
        """Have the next write, or sync, fail."""
        self._planned, self._planned_for = "error", operation
        self._is_ordered = True

    def digest(self) -> str:
        """A hash of all rows, the same in every process. No store may be open."""
        rows = hashlib.sha256()
        with self._looking_in() as connection:
            for (table,) in connection.execute(_TABLES).fetchall():
                columns = connection.execute(f"SELECT count(*) FROM pragma_table_info('{table}')").get
                order = ", ".join(str(place + 1) for place in range(columns))
                for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall():
                    rows.update(repr(row).encode())
        return rows.hexdigest()

    @contextlib.contextmanager
    def _looking_in(self) -> Generator[Connection]:
        connection = connect(Path(PATH), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, self._vfs.name)
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Give everything back."""
        self.volume.kill()
        self._release()
        self._vfs.close()

    # What fails

    def _decide(self, operation: Operation, path: str, grows: bool) -> FileFault:
        if operation not in ("write", "sync"):
            return ""
        if self._cut_in:
            self._cut_in -= 1
            if not self._cut_in:
                self._cut()
                return ""
        if self._planned and operation == self._planned_for:
            fault, self._planned, self._is_ordered = self._planned, "", False
            self.fired[
                {"sync": "failed_fsync"}.get(operation, "short_write" if fault == "short" else "failed_write")
            ] += 1
            return fault
        if self.is_full and grows:
            self._refusals_left -= 1
            if self._refusals_left <= 0 and self._faults is not None:
                self.is_full = False
            self.fired["disk_full"] += 1
            return "full"
        return ""

    def _cut(self) -> None:
        self._is_cut = True
        self._cut_in = 0
        self.fired["power_cut"] += 1
        if self.volume.cut(self._tape):
            self.fired["lost_write"] += 1

    def plan(self) -> None:
        """What befalls the commit that comes now."""
        faults, tape = self._faults, self._tape
        if faults is None:
            return
        if self._is_ordered:
            return
        self._planned = ""
        if faults.failed_fsync and tape.chance(faults.failed_fsync):
            self._planned, self._planned_for = "error", "sync"
        elif faults.failed_write and tape.chance(faults.failed_write):
            self._planned, self._planned_for = _WRITE_FAULTS[tape.choose(2)], "write"
        if faults.disk_full and not self.is_full and tape.chance(faults.disk_full):
            self.is_full, self._refusals_left = True, 1 + tape.choose(_LONGEST_FULL)

    def _flip_a_payload(self) -> None:
        """Of what is in the file proper, not in the WAL, which has checksums of its own and drops what is damaged."""
        if self.volume.find(PATH) is None:
            return
        with self._looking_in() as connection:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            payloads = [payload for (payload,) in connection.execute(_PAYLOADS, (_SHORTEST_PAYLOAD,)).fetchall()]
        if not payloads:
            return
        payload: bytes = payloads[self._tape.choose(len(payloads))]
        inode = self.volume.find(PATH)
        assert inode is not None
        place = inode.content.find(payload)
        if place >= 0:
            inode.flip(8 * place + self._tape.choose(8 * len(payload)))
            self.damaged.add(payload)
            self.fired["bit_flip"] += 1

    def check_alive(self) -> None:
        """Nothing is acknowledged by a machine that has died meanwhile."""
        if self._is_cut:
            raise StoreError("the power failed")

    def _release(self) -> None:
        self._files.unlock()
        for store in self._stores:
            store.die()
        self._stores.clear()


class SimStore(SQLiteStore):
    """The real store, on a simulated disk."""

    def __init__(self, disk: SimDisk, files: SimFiles, synchronous: str, checkpoint_pages: int) -> None:
        super().__init__(PATH, files=files)
        self._synchronous = synchronous
        self._disk = disk
        self._checkpoint_pages = checkpoint_pages
        self._pages = 0

    def open(self) -> None:
        super().open()
        cast(apsw.Connection, self._writer).set_wal_hook(self._count_pages)
        self._disk.on_open(self)

    def commit(self, entries: list[Entry]) -> None:
        self._disk.plan()
        super().commit(entries)
        if self._pages >= self._checkpoint_pages:
            self._checkpoint()
        self._disk.check_alive()

    def _count_pages(self, connection: object, name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """As SQLite does by itself after a commit, and as there an error is none of the commit's.

        It would be, were it raised by a file written in Python within that commit: apsw does not let go of it.
        """
        assert self._writer is not None
        with contextlib.suppress(apsw.Error):
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def die(self) -> None:
        """Let go of what SQLite holds in memory; the disk has been told that the process is dead."""
        connections = (self._reader, self._writer)
        self._reader = self._writer = None
        for connection in connections:
            if connection is not None:
                with contextlib.suppress(apsw.Error):
                    connection.close(True)


class SimFiles:
    """The `Files` of a simulated disk: every directory is there."""

    def __init__(self, volume: Volume, vfs: str) -> None:
        self.vfs: str | None = vfs
        self._volume = volume
        self._locked: set[Path] = set()

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        return Path(os.path.abspath(path))

    def is_directory(self, path: Path) -> bool:
        return not path.suffix

    def size(self, path: Path) -> int | None:
        inode = self._volume.find(str(path))
        return None if inode is None else len(inode.content)

    def head(self, path: Path, amount: int) -> bytes:
        inode = self._volume.find(str(path))
        return b"" if inode is None else inode.read(amount, 0)

    def remove(self, path: Path) -> None:
        if self._volume.find(str(path)) is not None:
            self._volume.remove(str(path))

    def rewrite(self, path: Path) -> None:
        inode = self._volume.find(str(path))
        if inode is None:
            raise FileNotFoundError(path)
        inode.write(bytes(inode.content), 0)
        inode.sync()
        self._volume.sync_names()

    def link(self, path: Path, target: Path) -> None:
        self._volume.link(str(path), str(target))
        self._volume.sync_names()

    def lock(self, path: Path) -> SimLock:
        return SimLock(self._locked, path)

    def unlock(self) -> None:
        """The processes that held locks are dead."""
        self._locked.clear()


class SimLock:
    """A lock that goes with its process."""

    def __init__(self, locked: set[Path], path: Path) -> None:
        self._locked = locked
        self._path = path
        self._is_mine = False

    def acquire(self) -> None:
        if self._path in self._locked:
            raise StoreLockedError(f"{self._path} is in use by another runtime of this universe")
        self._locked.add(self._path)
        self._is_mine = True

    def release(self) -> None:
        if self._is_mine:
            self._locked.discard(self._path)
            self._is_mine = False
