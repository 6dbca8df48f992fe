"""Runtimes that share one database in memory, and what may happen to them.

    async with Fleet(parent, child) as fleet:
        a, b = await fleet.open(), await fleet.open(spill_above=10)
        handle = await a.start(parent)
        await fleet.kill(a)                       # gone without a word; its lease has run out, and b sees it
        assert await fleet.clock.until(b.run(handle.run_id).result()) == 7

Time is moved by hand and is the database's, too. Leases last for ever, save for those of `expire` and `kill`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Self, TypeVar

from rotor_actors import ManualClock, Runtime, Workflow
from rotor_actors.errors import StoreError, StoreUnavailableError
from rotor_actors.records import Entry, Fact, RunRow, flatten
from rotor_actors.replicas.replica import Replica
from rotor_actors.service import Service
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

T = TypeVar("T")

FOR_EVER = 1e9


class MortalStore(SharedMemoryStore):
    """The store of one runtime, which may lose its database, and notes what it commits."""

    def __init__(self, database: SharedDatabase, lease: float) -> None:
        super().__init__(database, lease=lease)
        self.is_cut_off = False
        self.facts: list[Fact] = []
        self.before_commit: Callable[[list[Entry]], None] = lambda entries: None
        self.entries_left: int | None = None
        """How many more entries it keeps, as a crash in the middle of a commit does; None for any number."""
        self.entries_committed = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in _ASKING and self.is_cut_off:
            raise StoreUnavailableError("the database is away")
        return found

    def open(self) -> None:
        if self.is_cut_off:
            raise StoreUnavailableError("the database is away")
        super().open()

    def close(self) -> None:
        if not self.is_cut_off:
            super().close()

    def commit(self, entries: list[Entry]) -> None:
        self.before_commit(entries)
        kept = entries if self.entries_left is None else entries[: self.entries_left]
        if kept:
            super().commit(kept)
            self.entries_committed += len(kept)
            self.facts.extend(flatten(kept))
        if self.entries_left is not None:
            self.entries_left -= len(kept)
            if len(kept) < len(entries):
                self.is_cut_off = True
                raise StoreError("the power is gone")

    def try_commit(self, entries: list[Entry]) -> bool:
        self.before_commit(entries)
        is_written = super().try_commit(entries)
        if is_written:
            self.facts.extend(flatten(entries))
        return is_written

    def committed(self, kind: type[T]) -> list[T]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


_ASKING = frozenset(
    ("beat", "claim", "commit", "declare", "drain", "find", "histories", "items_of", "mail", "reap", "remote_children",
     "replicas", "rows", "take", "try_commit", "list_runs", "items", "item", "steps", "owners")
)  # fmt: skip


class Fleet:
    """See the module.

    Args:
        workflows: known to each runtime. options: further arguments for each `Runtime`.
    """

    def __init__(self, *workflows: Workflow[Any, Any], lease: float = FOR_EVER, **options: Any) -> None:
        self.clock = ManualClock()
        self.database = SharedDatabase(self.clock.now)
        self.runtimes: list[Runtime] = []
        self._stores: dict[Runtime, MortalStore] = {}
        self._workflows = workflows
        self._options: dict[str, Any] = {"drain_timeout": 0, **options}
        self._lease = lease
        self._opened = 0
        self.clock.attach(self._beat)

    async def _beat(self) -> bool:
        """However far time was moved: no heart was late, save for those that a test stops."""
        for runtime in self.runtimes:
            if self.service_of(runtime).failure is None:
                self.replica_of(runtime).heart.beat()
        return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for runtime in tuple(self.runtimes):
            await self.close(runtime)

    async def open(self, *workflows: Workflow[Any, Any], **options: Any) -> Runtime:
        """One more replica; `workflows` are in place of the fleet's own."""
        self._opened += 1
        store = MortalStore(self.database, self._lease)
        runtime = Runtime(
            store,
            workflows=workflows or self._workflows,
            clock=self.clock,
            rng=random.Random(self._opened),
            **{**self._options, **options},
        )
        await runtime.__aenter__()
        self.runtimes.append(runtime)
        self._stores[runtime] = store
        await self.settle()
        return runtime

    def store_of(self, runtime: Runtime) -> MortalStore:
        return self._stores[runtime]

    async def close(self, runtime: Runtime) -> None:
        """Leave in good order: without draining."""
        self.runtimes.remove(runtime)
        await runtime.__aexit__(None, None, None)

    async def kill(self, runtime: Runtime) -> None:
        """It is gone, with all that was not committed; the others find that its lease has run out."""
        store = self._stores[runtime]
        number = store.replica
        store.is_cut_off = True
        await self.close(runtime)
        self.database.hints.pop(number, None)
        await self.expire(number)

    def replica_of(self, runtime: Runtime) -> Replica:
        replica = self.service_of(runtime)._replica  # pyright: ignore[reportPrivateUsage]
        assert replica is not None
        return replica

    def pause(self, runtime: Runtime) -> None:
        """Its heart does not beat any more; all else goes on, as after a pause that nobody has noticed."""
        self.replica_of(runtime).heart.is_stopped = True

    def cut_off(self, runtime: Runtime) -> None:
        """From now on it cannot reach the database; `come_back` ends that."""
        self._stores[runtime].is_cut_off = True

    def come_back(self, runtime: Runtime) -> None:
        self._stores[runtime].is_cut_off = False

    async def until_anew(self, runtime: Runtime, number: int) -> None:
        """Until it is another replica than this; takes real time: it pauses a little before it tries again."""
        while self.service_of(runtime).replica in (None, number):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self.settle()

    async def expire(self, number: int) -> None:
        """The lease of this replica has run out, and the others look around."""
        for runtime in self.runtimes:
            if self.service_of(runtime).replica == number:
                self.pause(runtime)
        row = self.database.replica_rows.get(number)
        if row is not None:
            row.lease_until = float("-inf")
        await self.settle()

    async def settle(self) -> None:
        """Let all come to rest."""
        await self.clock.advance(0)

    def service_of(self, runtime: Runtime) -> Service:
        service = runtime._service  # pyright: ignore[reportPrivateUsage]
        assert service is not None
        return service

    @property
    def all_rows(self) -> list[RunRow]:
        """All that the database holds."""
        return list(self.database._runs.values())  # pyright: ignore[reportPrivateUsage]

    def owner_of(self, run_id: str) -> int | None:
        row = self.database.find(run_id)
        assert row is not None
        return self.database.owners([row.n])[row.n]
