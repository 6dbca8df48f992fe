"""Crash a run at every journal position, let it recover, and see whether anyone can tell the difference.

A `World` is what is outside of the runtime and outlives its crashes: virtual time, and how often each effect happened.
A `Play` is what a body under test is given beside its context: it acts by steps and children, and notes what it saw.
What a body saw is its result, so two executions that took the same branches end equal.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
from kit import STRIDE

from rotor_actors import Context, MemoryStore, RetryPolicy, RunStatus, Runtime, Workflow, workflow
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError, WorkflowCancelledError, WorkflowFailedError
from rotor_actors.places import SPACE as PLACES
from rotor_actors.records import Entry, ItemPut, Kind, OutcomeStatus, RunRow, StepRow

ROOT = "root"
_IDLE_PASSES = 8


class CrashingStore(MemoryStore):
    """Commits the first `limit` entries that are ever appended; then the process is as good as dead.

    A commit's entries are taken one by one, so that a crash may fall between any two of them, as it may on a disk
    with smaller commits. A `Together` is one entry.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.committed = 0

    def commit(self, entries: list[Entry]) -> None:
        hints: list[Entry] = [entry for entry in entries if isinstance(entry, ItemPut) and entry.item.space == PLACES]
        if hints:
            super().commit(hints)  # written when the runtime is closed: no position of the runs' journal
        counted = [entry for entry in entries if not any(entry is hint for hint in hints)]
        kept = counted if self.limit is None else counted[: max(self.limit - self.committed, 0)]
        if kept:
            super().commit(kept)
            self.committed += len(kept)
        if len(kept) < len(counted):
            raise StoreError("the process has died")

    def left_behind(self) -> CrashingStore:
        """What the next process finds."""
        found = copy.deepcopy(self)
        found.limit, found.committed = None, 0
        return found

    @property
    def runs(self) -> dict[int, RunRow]:
        return self._runs

    def completed_steps(self) -> set[tuple[str, str]]:
        """Run id and step id of each `step.run` whose success is committed."""
        rows = (row for rows in self._steps.values() for row in rows)
        return {(self._runs[row.n].run_id, row.step_id) for row in rows if _is_success(row)}


def _is_success(row: StepRow) -> bool:
    return row.kind is Kind.RUN and row.status is OutcomeStatus.COMPLETED


class VirtualClock:
    """Time that moves from timer to timer, when told to.

    Args:
        looks: after so many looks at `monotonic` a slice of the run queue is over; None: never.
    """

    def __init__(self, looks: int | None = None) -> None:
        self.time = 1_700_000_000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._looks = looks
        self._monotonic = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        if self._looks is not None:
            self._monotonic += 1.0 / self._looks
        return self._monotonic

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def move_on(self) -> bool:
        """Go to the next timer and let it ring; False when there is none."""
        while self._timers:
            when, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self.time = max(self.time, when)
                timer.callback()
                return True
        return False

    def forget_timers(self) -> None:
        """A dead process has none."""
        self._timers.clear()

    async def sleep_until(self, when: float) -> None:
        if when > self.time:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            timer = self.call_at(when, partial(_wake, woken))
            try:
                await woken
            finally:
                timer.cancel()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ActError(Exception):
    """What a failing act raises."""


class ChildPlan(msgspec.Struct):
    """What a child does: acts one after the other, each taking so long, and then fails or not."""

    takes: list[float]
    fails: bool = False


class World:
    """What outlives a crash. Effects end at the same time whether they are executed once or again after a crash."""

    def __init__(self, looks: int | None = None) -> None:
        self.clock = VirtualClock(looks)
        self.effects: Counter[tuple[str, str]] = Counter()
        self.seen: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        """By run id and attempt: what the newest execution of that body saw."""
        self.executions: Counter[str] = Counter()
        self.child = self._make_child()
        self._dues: dict[tuple[str, int, str], float] = {}

    async def act(self, run_id: str, attempt: int, name: str, takes: float, error: str) -> str:
        self.effects[run_id, name] += 1
        due = self._dues.setdefault((run_id, attempt, name), self.clock.time + takes)
        await self.clock.sleep_until(due)
        if error:
            raise ActError(error)
        return f"did {name}"

    def _make_child(self) -> Workflow[ChildPlan, str]:
        @workflow(id="child", retries=0)
        async def child(ctx: Context, plan: ChildPlan) -> str:
            play = Play(self, ctx)
            for number, takes in enumerate(plan.takes):
                await play.act(f"part-{number}", takes)
            if plan.fails:
                raise ActError("the child failed")
            return f"child did {len(plan.takes)}"

        return child


class Play:
    """A body's hands and its notebook."""

    def __init__(self, world: World, ctx: Context) -> None:
        self.world = world
        self.ctx = ctx
        self.step = ctx.step
        world.executions[ctx.run_id] += 1
        self.seen: list[str] = []
        world.seen[ctx.run_id, ctx.attempt] = self.seen
        self._began = ctx.now()

    def saw(self, what: object) -> None:
        passed = (self.ctx.now() - self._began).total_seconds()
        self.seen.append(f"{passed:.4f} {what}")

    async def act(self, name: str, takes: float = 0.0, *, error: str = "", retries: RetryPolicy | None = None) -> str:
        """A step, called by its name once in this run."""
        ctx = self.ctx
        return await ctx.step.run(name, self.world.act, ctx.run_id, ctx.attempt, name, takes, error, retries=retries)

    async def child(self, name: str, *takes: float, fails: bool = False, timeout: float = 10_000.0) -> str:
        plan = ChildPlan(list(takes), fails)
        ended = await self.ctx.step.invoke(name, workflow=self.world.child, data=plan, timeout=timeout)
        return ended.result


Body = Callable[[Play], Awaitable[None]]


def as_workflow(world: World, body: Body, *, retries: int | RetryPolicy = 0) -> Workflow[None, list[str]]:
    """A workflow whose result is what the body saw."""

    @workflow(id="under-test", retries=retries)
    async def under_test(ctx: Context) -> list[str]:
        play = Play(world, ctx)
        await body(play)
        return play.seen

    return under_test


@dataclass
class Report:
    """How it ended, and what the store and the world looked like then."""

    end: object
    store: CrashingStore
    world: World
    crashes: int = 0
    problems: list[str] = field(default_factory=lambda: list[str]())


async def settle(engine: Engine) -> None:
    """Let everything happen that needs no time."""
    idle = 0
    while idle < _IDLE_PASSES and engine.journal.failure is None:
        await asyncio.sleep(0)
        idle = idle + 1 if engine.is_idle else 0


async def open_and_run(
    world: World, store: CrashingStore, main: Workflow[None, list[str]], *, strict: bool = True
) -> object:
    """One life of a process: it goes on with what it finds, until all runs have ended or the store has failed."""
    runtime = Runtime(
        store, workflows=[main, world.child], clock=world.clock, rng=random.Random(0), strict_replay=strict,
        cancel_grace=0.5, drain_timeout=0,
    )  # fmt: skip
    try:
        async with runtime:
            engine = runtime._engine  # pyright: ignore[reportPrivateUsage]
            waiter = asyncio.ensure_future(_end_of(runtime, main))
            await settle(engine)
            while (len(engine.tree) or not waiter.done()) and engine.journal.failure is None:
                if not world.clock.move_on():
                    raise AssertionError("a run is stuck: nothing is due, and it has not ended")
                await settle(engine)
            end = await waiter
            return engine.journal.failure or end
    except StoreError as error:
        return error
    finally:
        world.clock.forget_timers()


async def _end_of(runtime: Runtime, main: Workflow[None, list[str]]) -> object:
    try:
        return await runtime.execute(main, run_id=ROOT)
    except (WorkflowFailedError, WorkflowCancelledError) as error:
        return str(error)


async def run_once(body: Body, *, retries: int | RetryPolicy = 0, looks: int | None = None) -> Report:
    """To the end, without a crash."""
    world, store = World(looks), CrashingStore()
    end = await open_and_run(world, store, as_workflow(world, body, retries=retries))
    return Report(end, store, world)


async def crash_at(
    body: Body, position: int, *, retries: int | RetryPolicy = 0, looks: int | None = None, crashes: int = 1
) -> Report:
    """Let the process die when it would commit entry `position`, and again after as many more, then run to the end."""
    world, store = World(looks), CrashingStore(position)
    main = as_workflow(world, body, retries=retries)
    report = Report(None, store, world)
    for life in range(crashes + 1):
        if life:
            store = store.left_behind()
            store.limit = position if life < crashes else None
        finished, effects = store.completed_steps(), world.effects.copy()
        report.end = await open_and_run(world, store, main)
        report.problems += [
            f"{step} was executed again, though its outcome was committed"
            for step in finished
            if world.effects[step] != effects[step]
        ]
        if not isinstance(report.end, StoreError):
            break
        report.crashes += 1
    report.store = store
    return report


def differences(reference: Report, crashed: Report) -> list[str]:
    """What tells a run that crashed from one that did not."""
    problems = list(crashed.problems)
    if crashed.end != reference.end:
        problems.append(f"ended otherwise:\n  {reference.end}\n  {crashed.end}")
    ended = {row.run_id: row.status for row in crashed.store.runs.values()}
    expected = {row.run_id: row.status for row in reference.store.runs.values()}
    # A child that was spawned and withdrawn before its parent came to rest need not be spawned at all on replay.
    none = RunStatus.CANCELLED
    if any(expected.get(run_id, none) is not ended.get(run_id, none) for run_id in {**expected, **ended}):
        problems.append(f"other runs, or other ends:\n  {expected}\n  {ended}")
    for (run_id, attempt), seen in reference.world.seen.items():
        again = crashed.world.seen[run_id, attempt]
        if expected[run_id] is not RunStatus.CANCELLED and again and again != seen:
            problems.append(f"{run_id}, attempt {attempt}, took other branches:\n  {seen}\n  {again}")
    for step in crashed.store.completed_steps():
        if not crashed.world.effects[step]:
            problems.append(f"{step} has an outcome, but never happened")
    places = Counter((row.parent_n, row.parent_key, row.generation) for row in crashed.store.runs.values())
    problems += [f"{count} children at {place}" for place, count in places.items() if place[0] and count > 1]
    return problems


async def survives_every_crash(body: Body, *, retries: int | RetryPolicy = 0, crashes: int = 1) -> Report:
    """Run it once, then once for each journal position at which it can crash; any difference is an AssertionError."""
    reference = await run_once(body, retries=retries)
    for position in range(0, reference.store.committed, STRIDE):
        crashed = await crash_at(body, position, retries=retries, crashes=crashes)
        problems = differences(reference, crashed)
        assert not problems, f"crashed at entry {position} of {reference.store.committed}:\n" + "\n".join(problems)
        reference.crashes += crashed.crashes
    return reference
