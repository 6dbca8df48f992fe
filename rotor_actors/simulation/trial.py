"""A trial: random trees of runs that act a plan, callers that start, cancel and await them, and all that they see."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from rotor_actors.context import Context
from rotor_actors.define import workflow
from rotor_actors.errors import (
    RunNotFoundError,
    StepRefusedError,
    StoreCorruptedError,
    StoreFullError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.retry import RetryPolicy
from rotor_actors.runtime import Runtime
from rotor_actors.simulation.ledger import digest
from rotor_actors.simulation.plan import Act, AtOnce, Child, Op, Race, RootPlan, RunPlan, Sleep
from rotor_actors.simulation.ports import EPOCH
from rotor_actors.simulation.trace import Asked, Event
from rotor_actors.workflows import Workflow

RETRIES = RetryPolicy(2, initial=0.05, factor=1.0, maximum=0.05, jitter=False)


class ActFailed(Exception):
    """What a failing step raises."""


class BadAttempt(Exception):
    """What ends an attempt that shall fail."""


class Executing(Event):
    """The body of a step begins; its run's body had seen so much when it asked for it. `execution` counts over all
    lives."""

    run_id: str
    name: str
    step_id: str
    execution: int
    attempt: int
    seen: int


class Executed(Event):
    """The body of a step has ended: "" for a result, or the name of what it raised."""

    run_id: str
    name: str
    execution: int
    error: str


class Saw(Event):
    """The body of a run came to know something; `due` is when, at the earliest, it could."""

    run_id: str
    attempt: int
    text: str
    due: float = 0.0


class BodyBegun(Event):
    """The body of a run is executed from its top; `body` counts executions over all lives."""

    run_id: str
    attempt: int
    body: int


class CleanedUp(Event):
    """A body was cancelled and has cleaned up. `late_step` is what became of a step that it asked for then."""

    run_id: str
    body: int
    late_step: str


class Place(Protocol):
    """Where it happens: as much of a universe as a trial needs."""

    @property
    def incarnation(self) -> int: ...

    def now(self) -> float: ...

    def record(self, event: Any) -> None: ...


class Trial:
    """Acts the plans of some roots.

    Args:
        place: the universe.
        roots: what is to be done.
        runtime: one that outlives crashes.
    """

    def __init__(self, place: Place, roots: list[RootPlan]) -> None:
        self.place = place
        self.roots = roots
        self.plans: dict[str, RunPlan] = {}
        for root in roots:
            self._index(root.run)
        self.executions: Counter[str] = Counter()
        self.bodies = itertools.count(1)
        self.workflows: dict[str, Workflow[str, list[str]]] = {name: self._workflow(name) for name in ("alpha", "beta")}
        self.ids: dict[str, None] = {}

    def _index(self, plan: RunPlan) -> None:
        todo: list[RunPlan] = [plan]
        while todo:
            run = todo.pop()
            self.plans[run.name] = run
            todo.extend(op.run for op in every_op(run.ops) if isinstance(op, Child))

    def _workflow(self, name: str) -> Workflow[str, list[str]]:
        @workflow(id=name, retries=RETRIES)
        async def act_plan(ctx: Context, plan: str) -> list[str]:
            self.ids[ctx.run_id] = None
            return await Play(self, ctx, self.plans[plan]).act_all()

        return act_plan

    # Callers

    async def run(self, runtime: Runtime) -> None:
        """Start all roots and wait until each caller has been told how its run ended."""
        await asyncio.gather(*(self._call(runtime, root) for root in self.roots))

    async def _call(self, runtime: Runtime, root: RootPlan) -> None:
        await asyncio.sleep(root.starts_at)
        jobs = [self._start_and_await(runtime, root) for _ in range(1 + root.is_started_twice)]
        if root.cancel_at is not None:
            jobs.append(self._cancel(runtime, root, root.cancel_at))
        await asyncio.gather(*jobs)

    async def _start_and_await(self, runtime: Runtime, root: RootPlan) -> None:
        name, plan = root.run.name, root.run
        self.place.record(Asked(self.place.now(), 0, "start", name))
        try:
            handle = await _when_there_is_room(lambda: runtime.start(self.workflows[plan.workflow], name, run_id=name))
            await handle.result()
        except (WorkflowFailedError, WorkflowCancelledError, StoreCorruptedError):
            pass  # the oracle has been told

    async def _cancel(self, runtime: Runtime, root: RootPlan, after: float) -> None:
        await asyncio.sleep(after)
        known = list(self.ids)
        place = int(after * 1_000) % len(known) if known else 0
        run_id = known[place] if root.cancels_any and known else root.run.name
        self.place.record(Asked(self.place.now(), 0, "cancel", run_id))
        try:
            await runtime.cancel(run_id, "the caller wants it")
        except (RunNotFoundError, StoreCorruptedError):
            pass  # what is not there yet cannot be cancelled: said by name


async def _when_there_is_room(ask: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await ask()
        except StoreFullError:
            await asyncio.sleep(0.2)


def every_op(ops: list[Op]) -> list[Op]:
    """These, and those within them; not those of children."""
    found: list[Op] = []
    for op in ops:
        found.append(op)
        match op:
            case AtOnce():
                found.extend(inner for branch in op.branches for inner in every_op(branch))
            case Race():
                found.extend(every_op(op.ops))
            case _:
                pass
    return found


class Play:
    """One execution of the body of one run."""

    def __init__(self, trial: Trial, ctx: Context, plan: RunPlan) -> None:
        self._trial = trial
        self._place = trial.place
        self._life = trial.place.incarnation
        self._ctx = ctx
        self._plan = plan
        self._body = next(trial.bodies)
        self._seen: list[str] = []
        self._record(BodyBegun(self._place.now(), self._life, ctx.run_id, ctx.attempt, self._body))

    def _record(self, event: Event) -> None:
        self._place.record(event)

    def saw(self, text: str, due: float = 0.0) -> None:
        self._seen.append(text)
        self._record(Saw(self._place.now(), self._life, self._ctx.run_id, self._ctx.attempt, text, due))

    async def act_all(self) -> list[str]:
        """What the run does; its result is what it saw."""
        try:
            await self._do_all(self._plan.ops)
            if self._ctx.attempt <= self._plan.bad_attempts:
                raise BadAttempt(f"attempt {self._ctx.attempt}")
        except asyncio.CancelledError:
            await self._clean_up()
            raise
        return self._seen

    async def _clean_up(self) -> None:
        late_step = "none"
        try:
            if self._plan.cleans_up:
                await asyncio.sleep(self._plan.cleans_up)
            await self._ctx.step.run("late", self._act, f"{self._plan.name}/late", "late", 0.0, False, 0, 0)
            late_step = "executed"
        except StepRefusedError:
            late_step = "refused"
        finally:
            self._record(CleanedUp(self._place.now(), self._life, self._ctx.run_id, self._body, late_step))

    async def _do_all(self, ops: list[Op]) -> None:
        for op in ops:
            await self._do(op)

    async def _do(self, op: Op) -> None:
        match op:
            case Act():
                await self._step(op)
            case Sleep():
                await self._sleep(op)
            case Child():
                await self._invoke(op)
            case AtOnce():
                await asyncio.gather(*(self._do_all(branch) for branch in op.branches))
                self.saw(f"{op.name} all")
            case Race():
                await self._race(op)

    async def _step(self, op: Act) -> None:
        retries = RETRIES if op.flaky else 0
        try:
            token = await self._ctx.step.run(
                op.step_id, self._act, op.name, op.step_id, op.takes, op.fails, op.flaky, len(self._seen),
                retries=retries,
            )  # fmt: skip
        except ActFailed as error:
            self.saw(f"{op.name} failed {error}")
            if not op.is_caught:
                raise
        else:
            self.saw(f"{op.name}={token}")

    async def _act(self, name: str, step_id: str, takes: float, fails: bool, flaky: int, seen: int) -> str:
        """The body of a step: what the world sees."""
        trial, place, run_id = self._trial, self._place, self._ctx.run_id
        trial.executions[name] += 1
        execution = trial.executions[name]
        life = self._life
        place.record(Executing(place.now(), life, run_id, name, step_id, execution, self._ctx.attempt, seen))
        error = "gone"
        try:
            if takes:
                await asyncio.sleep(takes)
            if fails or execution <= flaky:
                error = "ActFailed"
                raise ActFailed(f"{name}#{execution}")
            error = ""
        except asyncio.CancelledError:
            error = "CancelledError"
            raise
        finally:
            if error != "gone":
                place.record(Executed(place.now(), life, run_id, name, execution, error))
        return f"{name}#{execution}"

    async def _sleep(self, op: Sleep) -> None:
        due = self._ctx.now().timestamp() - EPOCH + op.seconds
        if op.is_plain:
            await asyncio.sleep(op.seconds)
        else:
            await self._ctx.step.sleep(op.name, max(op.seconds, 0.001))
        # One that an earlier attempt began goes on, or is over.
        self.saw(f"{op.name} slept", due if op.is_plain or self._ctx.attempt == 1 else 0.0)

    async def _invoke(self, op: Child) -> None:
        target = self._trial.workflows[op.run.workflow]
        close: Literal["abandon", "cancel"] = "abandon" if op.is_abandoned else "cancel"
        try:
            ended = await self._ctx.step.invoke(
                op.name, workflow=target, data=op.run.name, timeout=op.timeout, on_parent_close=close
            )
        except WorkflowTimeoutError:
            self.saw(f"{op.name} timed out")
        except WorkflowFailedError:
            self.saw(f"{op.name} failed")
            if not op.is_caught:
                raise
        except WorkflowCancelledError:
            self.saw(f"{op.name} cancelled")
        else:
            self.saw(f"{op.name} completed {digest(ended.result)}")

    async def _race(self, op: Race) -> None:
        try:
            async with asyncio.timeout(op.seconds):
                await self._do_all(op.ops)
        except TimeoutError:
            self.saw(f"{op.name} too late")
        else:
            self.saw(f"{op.name} in time")
