"""Engines on one shared store, by hand: no loop claims, no heartbeat beats; a test says what happens next.

async with Sea(parent, child) as sea:
    a, b = await sea.replica(), await sea.replica()
    a.spills = {"child"}                   # children of this workflow are released as they are spawned
    await a.start(parent, run_id="p")
    await sea.settle()                     # all of them come to rest; mail is delivered
    await b.take_in()                      # b claims what nobody owns
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.child_ends import decode_error
from rotor_actors.clock import ManualClock
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.executor import InlineExecutor
from rotor_actors.flow.ticket import Ticket
from rotor_actors.ids import RandomIds
from rotor_actors.loader import Loader
from rotor_actors.messages import AttemptDue
from rotor_actors.observing import Observer, Observers
from rotor_actors.ports import Options, Ports
from rotor_actors.records import Entry, RunFlag, RunRow, RunsReleased, RunStatus, flatten
from rotor_actors.roots import start_root
from rotor_actors.run import Phase, Run
from rotor_actors.run_input import encode_data
from rotor_actors.stores.shared import Claimed, ClaimQuery, Declared
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore
from rotor_actors.workflows import Workflow

_IDLE_PASSES = 30


class MortalStore(SharedMemoryStore):
    """Loses its power after so many entries: those up to there are kept, and then the replica is gone.

    Attributes:
        entries_left: how many more entries it commits; None for any number.
    """

    def __init__(self, database: SharedDatabase) -> None:
        super().__init__(database)
        self.entries_left: int | None = None
        self.committed = 0
        self.before_commit: Callable[[list[Entry]], None] = lambda entries: None

    def commit(self, entries: list[Entry]) -> None:
        self.before_commit(entries)
        kept = entries if self.entries_left is None else entries[: self.entries_left]
        if kept:
            super().commit(kept)
            self.committed += len(kept)
        if self.entries_left is not None:
            self.entries_left -= len(kept)
            if len(kept) < len(entries):
                raise StoreError("the power is gone")


class Replica(Engine):
    """One engine. Its children of the workflows in `spills` belong to nobody when they are spawned."""

    def __init__(self, sea: Sea, store: MortalStore, observers: tuple[Observer, ...] = ()) -> None:
        rng = random.Random(store.replica)
        ports = Ports(
            sea.clock, RandomIds(rng), rng, store, InlineExecutor(), InlineExecutor(), Observers(observers)
        )  # fmt: skip
        self.sea, self.store = sea, store
        self.spills: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        options = Options(cancel_grace=0.5)
        super().__init__(ports, options, last_numbers=store.last_numbers(), on_store_failure=self._fail)
        for workflow in sea.workflows:
            self.register(workflow)
        store.declare(f"replica-{store.replica}", [Declared(workflow.id) for workflow in sea.workflows])

    def __hash__(self) -> int:
        return id(self)

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.journal.serve()), loop.create_task(Loader(self).serve())]

    def _fail(self, error: StoreError) -> None:
        self.timers.stop()
        for run in self.tree:
            if run.actor is not None:
                run.actor.shut_down()  # type: ignore[attr-defined]
        self.queue_of_runs.stop()

    @property
    def is_dead(self) -> bool:
        return self.journal.failure is not None

    @property
    def mailroom(self) -> Any:
        assert self.borders is not None
        return self.borders.mailroom

    @property
    def remote(self) -> Any:
        assert self.finishing.remote is not None
        return self.finishing.remote

    def create(
        self, row: RunRow, workflow: Workflow[Any, Any], parent: Run | None, context: contextvars.Context | None,
        ticket: Ticket | None = None,
    ) -> Run:  # fmt: skip
        if parent is None or workflow.id not in self.spills:
            return super().create(row, workflow, parent, context, ticket)
        self.journal.append(RunsReleased([row.n]))
        stub: Run = self.remote.stub(row.copy(), parent)
        return stub

    async def start(self, workflow: Workflow[Any, Any], data: Any = None, *, run_id: str = "p") -> str:
        blob = encode_data(workflow, self.registry.data_codec(workflow), data)
        started = start_root(self, workflow, blob, run_id)
        await self.journal.durable(started.seq)
        return started.run_id

    # Taking in, in one go

    async def take_in(self, limit: int = 500, *, coordinates: bool = True) -> list[str]:
        """Claim what nobody owns; gives the run ids."""
        assert self.sharing is not None
        claim = self.store.claim(ClaimQuery(limit, coordinates))
        self.sharing.is_coordinator = claim.is_coordinator
        runs = [self._place(each) for each in claim.runs]
        ns = [run.row.n for run in runs]
        for child in self.store.remote_children(ns):
            known, parent = self.tree.get(child.row.n), self.tree.get(child.row.parent_n or 0)
            assert parent is not None
            if known is not None:
                known.parent = parent
                parent.add_child(child.row.parent_key or b"", known)
            elif not child.row.flags & RunFlag.WITHDRAWN:
                self.remote.stub(child.row, parent)
        items = self.store.items_of(ns)
        for run in runs:
            run.owns_items = any(item.n == run.row.n for item in items)
        self.features.taken_in(runs, {space: [i for i in items if i.space == space] for space in self.features.spaces})
        for run, claimed in zip(runs, claim.runs, strict=True):
            self.features.run_known(run)
            self._go_on(run, claimed)
        return [run.row.run_id for run in runs]

    def _place(self, claimed: Claimed) -> Run:
        row = claimed.live.row
        self.journal.witness(claimed.live.newest_seq)
        stub = self.tree.get(row.n)
        if stub is not None:
            assert stub.phase is Phase.REMOTE
            run, stub.row, stub.phase = stub, row, Phase.STORED
        else:
            parent = None if row.parent_n is None else self.tree.get(row.parent_n)
            run = Run(self, row, None if parent is None or parent.phase is Phase.REMOTE else parent, Phase.STORED)
            self.tree.add(run)
        run.workflow = self.registry.get(row.workflow_id)
        run.seen_seq = self.journal.last_seq
        return run

    def _go_on(self, run: Run, claimed: Claimed) -> None:
        run.post(AttemptDue(0.0))

    # Ends

    async def kill(self) -> None:
        """As kill -9 does: nothing more is committed. Its row, and what it owned, is taken away as if its lease was over."""
        self.store.entries_left = 0
        self.journal.fail(StoreError("killed"))
        await self.stop()

    async def stop(self) -> None:
        self._fail(StoreError("stopped"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stop_background()
        number = self.store.replica
        self.sea.database.hints.pop(number, None)
        self.sea.database.leave(number)
        self.sea.replicas.remove(self)


class Sea:
    """One database, one clock, and the replicas that share it."""

    def __init__(self, *workflows: Workflow[Any, Any]) -> None:
        self.workflows = workflows
        self.clock = ManualClock()
        self.database = SharedDatabase(self.clock.now)
        self.replicas: list[Replica] = []
        self.delivers = True
        self.clock.attach(self._settle_for_clock)

    async def __aenter__(self) -> Sea:
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in tuple(self.replicas):
            await replica.stop()

    async def replica(self, *observers: Observer) -> Replica:
        store = MortalStore(self.database)
        store.open()
        replica = Replica(self, store, observers)
        replica.begin()
        self.replicas.append(replica)
        return replica

    async def settle(self) -> None:
        """Let all come to rest, mail included."""
        idle = 0
        while idle < _IDLE_PASSES:
            await asyncio.sleep(0)
            idle = idle + 1 if all(each.is_idle or each.is_dead for each in self.replicas) else 0
            if idle == _IDLE_PASSES and self.delivers and await self._deliver():
                idle = 0

    async def _deliver(self) -> bool:
        alive = [each for each in self.replicas if not each.is_dead]
        return any([await each.mailroom.collect() for each in alive])

    async def advance(self, duration: str | float) -> None:
        """Move the clock, stopping at each timer on the way."""
        await self.settle()
        await self.clock.advance(duration)

    async def _settle_for_clock(self) -> bool:
        await self.settle()
        return False

    # What is durable

    def row(self, run_id: str) -> RunRow:
        row = self.database.find(run_id)
        assert row is not None, f"no run {run_id}"
        return row

    def status(self, run_id: str) -> RunStatus:
        return self.row(run_id).status

    def result(self, run_id: str) -> Any:
        row = self.row(run_id)
        if row.status is RunStatus.COMPLETED:
            return msgspec.msgpack.decode(row.result or b"\xc0")
        return f"{row.status.value}: {decode_error(row.error).message}" if row.error else row.status.value

    def child_of(self, run_id: str, step_id: str, generation: int = 1) -> RunRow:
        n = self.row(run_id).n
        found = [row for row in self.database.list_runs(_all()) if row.parent_n == n and row.parent_step_id == step_id]
        return next(row for row in found if row.generation == generation)

    def living(self) -> list[str]:
        return [live.row.run_id for live in self.database.live_runs()]


def _all() -> Any:
    from rotor_actors.stores.base import RunQuery

    return RunQuery(limit=10**9)


def committed(entries: list[Entry], kind: type[Any]) -> list[Any]:
    return [fact for fact in flatten(entries) if isinstance(fact, kind)]
