"""One process's way to the database: where statements and their answers are lost, late, or refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from rotor_actors.errors import StoreError, StoreUnavailableError
from rotor_actors.records import Entry
from rotor_actors.simulation.crashes import Place
from rotor_actors.simulation.replicas.database import SimDatabase
from rotor_actors.simulation.replicas.outages import Outages
from rotor_actors.simulation.replicas.process import ReplicaProcess
from rotor_actors.stores.shared import Claim, ClaimQuery, SharedStore
from rotor_actors.stores.shared_memory import SharedMemoryStore

T = TypeVar("T")

# It says by itself that the database's time is a little older than it is by now.
_STALEST_TIME = 0.2


class Watcher(Protocol):
    """Who is told, and decides."""

    outages: Outages

    def commit_begins(self, entries: list[Entry]) -> Place | None: ...

    def commit_lost(self, process: ReplicaProcess, entries: list[Entry], error: StoreError) -> None: ...

    def store_called(self, verb: str) -> None: ...

    def is_reachable(self, process: ReplicaProcess) -> bool: ...

    def registered(self, process: ReplicaProcess, number: int) -> None: ...

    def forgotten(self, process: ReplicaProcess, number: int) -> None: ...

    def hinted(self, process: ReplicaProcess, hint: Callable[[], None]) -> None: ...

    def later(self, seconds: float, act: Callable[[], object]) -> None: ...

    def die(self, life: Any, place: str) -> None: ...

    def refused(self, life: Any, verb: str) -> None: ...


class Link:
    """A `SharedStore` whose statements have to get to the database first."""

    is_inline = True

    def __init__(self, database: SimDatabase, process: ReplicaProcess, watcher: Watcher, lease: float) -> None:
        self._database = database
        self._store = SharedMemoryStore(database, lease=lease)
        self._process = process
        self._watcher = watcher
        self._outages = watcher.outages
        self.lease = lease

    @property
    def replica(self) -> int:
        return self._store.replica

    def again(self) -> Link:
        """What the lost life has under way comes by this one, under its number."""
        return Link(self._database, self._process, self._watcher, self.lease)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        verb = getattr(self._store, name)
        return partial(self._call, name, verb) if callable(verb) else verb

    def _call(self, name: str, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._begin(name)
        return self._sent(name, partial(verb, *args, **kwargs), None)

    def _begin(self, name: str) -> None:
        process = self._process
        if process.is_dead:
            self._watcher.refused(process, name)
            raise StoreError("the process that this store belongs to has died")
        self._watcher.store_called(name)
        if process.is_dead:
            raise StoreError("the process has died")

    def _sent(self, name: str, statement: Callable[[], T], late: Callable[[], object] | None) -> T:
        """What may happen on the way there and back. `late` does it without its sender."""
        outages = self._outages
        if not self._watcher.is_reachable(self._process):
            raise StoreUnavailableError(f"the database cannot be reached: {name} was not sent")
        if outages.happens("lost_statement"):
            raise StoreUnavailableError(f"the connection was lost: {name} was not done, and nobody knows")
        if late is not None and outages.happens("late_statement"):
            self._watcher.later(outages.seconds("late_statement"), late)
            raise StoreUnavailableError(f"the connection was lost: {name} will be done, and nobody knows")
        result = statement()
        if outages.happens("lost_reply"):
            raise StoreUnavailableError(f"the connection was lost: {name} was done, and nobody knows")
        return result

    # Opening

    def open(self) -> None:
        self._begin("open")
        self._sent("open", self._open, None)

    def _open(self) -> None:
        self._forget()
        self._store.open()
        number = self._store.replica
        self._watcher.registered(self._process, number)

    def _forget(self) -> int | None:
        """Whoever it was is somebody else from here on."""
        number = self._store.number
        if number is not None:
            self._database.hints.pop(number, None)
            self._watcher.forgotten(self._process, number)
        return number

    def close(self) -> None:
        """Where the database cannot be told, the lease runs out by itself."""
        number = self._forget()
        if number is None or self._process.is_dead:
            return
        try:
            self._begin("close")
            self._sent("close", self._store.close, partial(self._database.leave, number))
        except StoreError:
            self._store.number = None

    def listen(self, hint: Callable[[], None]) -> None:
        self._store.listen(partial(self._watcher.hinted, self._process, hint))

    # Statements that change something

    def beat(self) -> float | None:
        self._begin("beat")
        now = self._sent("beat", self._beat, None)
        return now

    def _beat(self) -> float | None:
        number = self._store.replica
        now = self._store.beat()
        if now is not None:
            self._database.renewed(number)
        return now

    def commit(self, entries: list[Entry]) -> None:
        number = self._store.replica
        self._commit(entries, partial(self._store.commit, entries), partial(self._database.apply, number, entries))

    def try_commit(self, entries: list[Entry]) -> bool:
        number = self._store.replica
        late = partial(self._database.try_apply, number, entries)
        return self._commit(entries, partial(self._store.try_commit, entries), late)

    def _commit(self, entries: list[Entry], statement: Callable[[], T], late: Callable[[], object]) -> T:
        self._begin("commit")
        place = self._watcher.commit_begins(entries)
        if place == "before":
            self._die("before", entries)
        try:
            result = self._sent("commit", statement, late)
        except StoreError as error:
            self._watcher.commit_lost(self._process, entries, error)
            raise
        if place is not None:
            self._die("after", entries)
        return result

    def _die(self, place: str, entries: list[Entry]) -> None:
        self._watcher.die(self._process, f"{place} a commit of {len(entries)}")
        raise StoreError("the process has died")

    def claim(self, query: ClaimQuery) -> Claim:
        number = self._store.replica
        self._begin("claim")
        return self._sent("claim", partial(self._store.claim, query), partial(self._database.claim_for, number, query))

    def reap(self) -> int:
        """Two statements: between them the connection may be lost."""
        self._begin("reap")
        self._sent("reap", self._database.expire_replicas, None)
        return self._sent("reap", self._database.free_runs, None)


def linked(database: SimDatabase, process: ReplicaProcess, watcher: Watcher, lease: float) -> SharedStore:
    """The store of one process."""
    return cast(SharedStore, Link(database, process, watcher, lease))
