"""Random work for the engine: trees of runs that do everything runs can do, drawn from a tape, with what must come out.

A plan is data, and one workflow carries out any plan. So what a run must return can be computed beside it: where a
plan has no race, its result is a function of the plan alone, whatever crashes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from rotor_actors.context import Context
from rotor_actors.define import workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.retry import RetryPolicy
from rotor_actors.simulation.tape import Tape
from rotor_actors.workflows import Workflow

_QUICK_RETRY = RetryPolicy(max_retries=2, initial="1s", maximum="5s")


class Act(msgspec.Struct, tag=True):
    """A step that takes a while, and fails so often before it succeeds."""

    id: str
    takes: float
    failures: int = 0


class Nap(msgspec.Struct, tag=True):
    """A durable sleep: a step, or `asyncio.sleep` in the body."""

    id: str
    seconds: float
    is_step: bool = True


class Call(msgspec.Struct, tag=True):
    """A child."""

    id: str
    plan: Plan
    timeout: float
    abandon: bool = False


class Together(msgspec.Struct, tag=True):
    """Several at once: `gather`, a task group, the first of them (the others are withdrawn), or all within a time."""

    how: str
    ops: list[Act | Nap | Call | Together]
    within: float = 0.0


class Plan(msgspec.Struct):
    """What one run does. It fails in its first `failing_attempts` attempts, after all else."""

    name: str
    ops: list[Act | Nap | Call | Together]
    failing_attempts: int = 0


Op = Act | Nap | Call | Together

_MOST_ATTEMPTS = 3
_RACES = ("first", "within")


class PlannedError(Exception):
    """What a plan raises."""


class World:
    """What outlives crashes: how often each step was executed, and the workflow that carries out plans."""

    def __init__(self) -> None:
        self.executions: Counter[tuple[str, str]] = Counter()
        self.workflow = self._make()

    def _make(self) -> Workflow[Plan, list[str]]:
        act = self.act

        @workflow(id="planned", retries=_QUICK_RETRY)
        async def planned(ctx: Context, plan: Plan) -> list[str]:
            seen: list[str] = []
            for op in plan.ops:
                seen.append(await _do(ctx, op, planned, act))
            if ctx.attempt <= plan.failing_attempts:
                raise PlannedError(plan.name)
            return seen

        return planned

    async def act(self, run_id: str, step_id: str, takes: float, failures: int) -> str:
        self.executions[run_id, step_id] += 1
        times = self.executions[run_id, step_id]
        if takes:
            await asyncio.sleep(takes)
        if times <= failures:
            raise PlannedError(step_id)
        return f"did {step_id}"


Actor = Callable[[str, str, float, int], Awaitable[str]]


async def _do(ctx: Context, op: Op, planned: Workflow[Plan, list[str]], act: Actor) -> str:
    match op:
        case Act():
            return await ctx.step.run(op.id, act, ctx.run_id, op.id, op.takes, op.failures, retries=_QUICK_RETRY)
        case Nap(is_step=True):
            await ctx.step.sleep(op.id, op.seconds)
            return f"slept {op.id}"
        case Nap():
            await asyncio.sleep(op.seconds)
            return f"slept {op.id}"
        case Call():
            return await _call(ctx, op, planned)
        case Together():
            return await _together(ctx, op, planned, act)


async def _call(ctx: Context, op: Call, planned: Workflow[Plan, list[str]]) -> str:
    close = "abandon" if op.abandon else "cancel"
    try:
        got = await ctx.step.invoke(
            op.id,
            workflow=planned,
            data=op.plan,
            timeout=op.timeout,
            on_parent_close="abandon" if op.abandon else "cancel",
        )
    except WorkflowTimeoutError:
        return f"{op.id} timed out"
    except WorkflowFailedError as error:
        return f"{op.id} failed: {error.error.message}"
    except WorkflowCancelledError:
        return f"{op.id} was cancelled"
    return f"{op.id}({close}): {', '.join(got.result)}"


async def _together(ctx: Context, op: Together, planned: Workflow[Plan, list[str]], act: Actor) -> str:
    doing = [_do(ctx, each, planned, act) for each in op.ops]
    match op.how:
        case "gather":
            return " & ".join(await asyncio.gather(*doing))
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in doing]
            return " & ".join(task.result() for task in tasks)
        case "first":
            return await _first_of([asyncio.ensure_future(each) for each in doing])
        case _:
            try:
                async with asyncio.timeout(op.within):
                    return " & ".join(await asyncio.gather(*doing))
            except TimeoutError:
                return "too late"


async def _first_of(tasks: list[asyncio.Future[str]]) -> str:
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return " or ".join(task.result() for task in tasks if task in done)


# What must come out


def has_race(op: Op | Plan) -> bool:
    """Its outcome depends on who is first."""
    match op:
        case Together():
            return op.how in _RACES or any(map(has_race, op.ops))
        case Call():
            return has_race(op.plan) or op.timeout < _LONG
        case Plan():
            return any(map(has_race, op.ops))
        case _:
            return False


def expected(plan: Plan) -> list[str] | str:
    """The result of a plan without a race, or the message it fails with."""
    if plan.failing_attempts >= _MOST_ATTEMPTS:
        return plan.name
    return [_expected(op) for op in plan.ops]


def _expected(op: Op) -> str:
    match op:
        case Act():
            return f"did {op.id}"
        case Nap():
            return f"slept {op.id}"
        case Together():
            return " & ".join(map(_expected, op.ops))
        case Call():
            inner = expected(op.plan)
            if isinstance(inner, str):
                return f"{op.id} failed: {inner}"
            return f"{op.id}({'abandon' if op.abandon else 'cancel'}): {', '.join(inner)}"


# Drawing it

_LONG = 3600.0 * 20
_GROUPS = ("gather", "gather", "group", "first", "within")


class Drawing:
    """Draws plans of a size.

    Args:
        tape: chance; zeros give the dullest plan.
        width: how many things a run does, most of them children at the top.
    """

    def __init__(self, tape: Tape, width: int, *, depth: int = 2) -> None:
        self._tape = tape
        self._width = width
        self._depth = depth
        self._number = 0

    def plan(self, name: str, depth: int = 0) -> Plan:
        tape = self._tape
        failing = max(0, tape.choose(24) - 20)  # mostly none; the last one fails for good
        if depth == 0:
            return Plan(name, self._fan_out(depth), 0 if failing == _MOST_ATTEMPTS else failing)
        count = 1 + tape.choose(4) // 3
        return Plan(name, [self._op(depth) for _ in range(count)], failing)

    def _fan_out(self, depth: int) -> list[Op]:
        """`width` children, in groups and one by one."""
        left, ops = self._width, list[Op]()
        while left > 0:
            size = min(left, (left, 1, 2, 3, 5)[self._tape.choose(5)])
            calls: list[Op] = [self._call(depth) for _ in range(size)]
            ops.append(calls[0] if size == 1 else self._group(calls))
            left -= size
            if self._tape.chance(0.2):
                ops.append(self._leaf())
        return ops

    def _op(self, depth: int) -> Op:
        kind = self._tape.choose(10)
        if kind < 7 or depth >= self._depth:
            return self._leaf()
        if kind < 9:
            return self._group([self._leaf() for _ in range(2)])
        return self._call(depth)

    def _group(self, ops: list[Op]) -> Together:
        how = _GROUPS[self._tape.choose(len(_GROUPS))]
        return Together(how, ops, self._tape.between(1.0, 20.0) if how == "within" else 0.0)

    def _leaf(self) -> Op:
        tape = self._tape
        kind = tape.choose(10)
        if kind < 8:
            takes = (0.0, 0.0, 0.0, 0.0, 0.01, 1.0, 5.0)[tape.choose(7)]
            return Act(self._name("act"), takes, tape.choose(10) // 9)
        return Nap(self._name("nap"), (0.001, 0.5, 3.0, 60.0)[tape.choose(4)], kind < 9)

    def _call(self, depth: int) -> Call:
        tape, name = self._tape, self._name("run")
        timeout = (_LONG, _LONG, _LONG, _LONG, _LONG, _LONG, 2.0, 30.0)[tape.choose(8)]
        return Call(name, self.plan(name, depth + 1), timeout, tape.chance(0.1))

    def _name(self, what: str) -> str:
        self._number += 1
        return f"{what}-{self._number}"
