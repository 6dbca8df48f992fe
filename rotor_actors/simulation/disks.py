"""What a universe asks of its disk, and the disk that never fails."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from rotor_actors.errors import StoreError
from rotor_actors.records import Entry
from rotor_actors.simulation.tape import Tape
from rotor_actors.stores.base import RunQuery, Store
from rotor_actors.stores.memory import MemoryStore

_ALL = 2**62


class Disk(Protocol):
    """Outlives the lives of the simulated process. `disk.SimDisk` has SQLite on it, `MemoryDisk` a store in memory."""

    fired: Counter[str]
    on_open: Callable[[Store], None]
    """Called with each store once it is open."""

    def new_store(self) -> Store:
        """A store for the next life of the process."""
        ...

    def arm_cut(self) -> None:
        """Cut the power in the middle of the next commit."""
        ...

    def power_cut(self) -> None:
        """The machine dies now: what was not synced may be lost."""
        ...

    def die(self) -> None:
        """The process dies now: what was written stays."""
        ...

    def heal(self) -> None:
        """From now on nothing fails."""
        ...

    def digest(self) -> str:
        """A hash of what it holds."""
        ...

    def close(self) -> None: ...


class MemoryDisk:
    """Several times as fast as SQLite: for what does not depend on the disk. A commit is kept as a whole or in part."""

    def __init__(self, tape: Tape) -> None:
        self.fired: Counter[str] = Counter()
        self._tape = tape
        self.on_open: Callable[[Store], None] = lambda store: None
        self._store = _PartialStore(tape, lambda store: self.on_open(store))

    def new_store(self) -> Store:
        return self._store

    def arm_cut(self) -> None:
        self._store.is_armed = True

    def power_cut(self) -> None:
        self._store.is_armed = False
        self.fired["power_cut"] += 1

    def die(self) -> None:
        self.fired["kill"] += 1

    def heal(self) -> None:
        self._store.is_armed = False

    def digest(self) -> str:
        rows = self._store.list_runs(RunQuery(limit=_ALL))
        held = [(row, self._store.steps(row.n)) for row in rows]
        return hashlib.sha256(msgspec.msgpack.encode(held)).hexdigest()

    def close(self) -> None: ...


class _PartialStore(MemoryStore):
    """Keeps a prefix of a commit in the middle of which the power fails, as a disk with smaller commits might."""

    def __init__(self, tape: Tape, on_open: Callable[[Store], None]) -> None:
        super().__init__()
        self._tape = tape
        self._on_open = on_open
        self.is_armed = False

    def open(self) -> None:
        super().open()
        self._on_open(self)

    def commit(self, entries: list[Entry]) -> None:
        if not self.is_armed:
            super().commit(entries)
            return
        kept = self._tape.choose(len(entries) + 1)
        if kept:
            super().commit(entries[:kept])
        raise StoreError("the power failed in the middle of a commit")
