"""What the runs of a trial do, as data: drawn from a tape, acted by one workflow, foretold by a model."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec


class PlanTape(Protocol):
    """Where choices come from; 0 is the dullest."""

    def choose(self, n: int) -> int: ...

    def chance(self, probability: float) -> bool: ...

    def between(self, low: float, high: float) -> float: ...


class Act(msgspec.Struct, tag=True):
    """A step. `fails` always; or `flaky` so many times, which its retries make up for; `count` of its uses of its id."""

    name: str
    step_id: str
    takes: float
    fails: bool = False
    flaky: int = 0
    is_caught: bool = True


class Sleep(msgspec.Struct, tag=True):
    """A durable sleep; with `is_plain` asyncio's."""

    name: str
    seconds: float
    is_plain: bool = False


class Child(msgspec.Struct, tag=True):
    """An invoke, whose failure is caught or not."""

    name: str
    run: RunPlan
    timeout: float
    is_abandoned: bool = False
    is_caught: bool = True


class AtOnce(msgspec.Struct, tag=True):
    """Branches at the same time."""

    name: str
    branches: list[list[Op]]


class Race(msgspec.Struct, tag=True):
    """Something under `asyncio.timeout`: what is not done by then is withdrawn."""

    name: str
    seconds: float
    ops: list[Op]


Op: TypeAlias = Act | Sleep | Child | AtOnce | Race


class RunPlan(msgspec.Struct):
    """A run. Its first `bad_attempts` attempts fail at their end, for which it has the retries.

    `cleans_up` is how long it takes to clean up when it is cancelled.
    """

    name: str
    workflow: Literal["alpha", "beta"]
    ops: list[Op]
    bad_attempts: int = 0
    cleans_up: float = 0.0


class RootPlan(msgspec.Struct):
    """A run that a caller starts, and what the caller does with it. Times are seconds after the beginning."""

    run: RunPlan
    starts_at: float
    is_started_twice: bool = False
    cancel_at: float | None = None
    cancels_any: bool = False
    """Not the run itself, but any of those that have been created so far."""


class Size(msgspec.Struct, frozen=True):
    """How much there is of it: roots, operations of a run, children of a tree, how deep they go. `naps`: of its sleeps so
    many are of more than a minute, for which replicas park a run."""

    roots: int = 3
    ops: int = 4
    children: int = 5
    depth: int = 3
    naps: float = 0.0


def draw_plan(tape: PlanTape, size: Size) -> list[RootPlan]:
    """The roots of one universe."""
    return [_Drawing(tape, size, f"r{number}").root() for number in range(1 + tape.choose(size.roots))]


class _Drawing:
    """One tree."""

    def __init__(self, tape: PlanTape, size: Size, root: str) -> None:
        self._tape = tape
        self._size = size
        self._root = root
        self._children_left = size.children
        self._count = 0

    def root(self) -> RootPlan:
        tape = self._tape
        run = self._run(self._root, 0)
        # Early ones meet runs that are being spawned.
        cancel_at = tape.between(0.0, 0.04 if tape.chance(0.5) else 4.0) if tape.chance(0.3) else None
        return RootPlan(run, tape.between(0.0, 1.0), tape.chance(0.15), cancel_at, tape.chance(0.4))

    def _run(self, name: str, depth: int) -> RunPlan:
        tape = self._tape
        ops = self._ops(name, 1 + tape.choose(self._size.ops), depth, 0)
        bad_attempts = 1 + tape.choose(2) if tape.chance(0.12) else 0
        cleans_up = tape.between(0.0, 0.5) if tape.chance(0.3) else 0.0
        return RunPlan(name, "beta" if tape.chance(0.3) else "alpha", ops, bad_attempts, cleans_up)

    def _ops(self, run: str, count: int, depth: int, nesting: int) -> list[Op]:
        return [self._op(run, depth, nesting) for _ in range(count)]

    def _op(self, run: str, depth: int, nesting: int) -> Op:
        tape = self._tape
        self._count += 1
        number = self._count
        match tape.choose(10):
            case 0 | 1 | 2 | 3:
                return self._act(run, number, nesting)
            case 4:
                if self._size.naps and tape.chance(self._size.naps):
                    return Sleep(f"sleep{number}", tape.between(62.0, 75.0), tape.chance(0.5))
                longest = 30.0 if tape.chance(0.3) else 2.0
                return Sleep(f"sleep{number}", tape.between(0.0, longest), tape.chance(0.5))
            case 5 | 6 | 7 if self._children_left and depth < self._size.depth:
                return self._child(run, number, depth)
            case 8 if nesting < 2:
                branches = [self._ops(run, 1 + tape.choose(2), depth, nesting + 1) for _ in range(2 + tape.choose(2))]
                return AtOnce(f"together{number}", branches)
            case 9 if nesting < 2:
                return Race(
                    f"race{number}", tape.between(0.01, 1.0), self._ops(run, 1 + tape.choose(2), depth, nesting + 1)
                )
            case _:
                return self._act(run, number, nesting)

    def _act(self, run: str, number: int, nesting: int) -> Act:
        tape = self._tape
        takes = tape.between(0.0, 0.4) if tape.chance(0.6) else 0.0
        # Several of one id: their keys differ by the count of uses only. In turn: at the same time, which of them is
        # the first would be another question in a later attempt, whose recorded outcomes answer at once.
        step_id = "again" if not nesting and tape.chance(0.3) else f"act{number}"
        act = Act(f"{run}/act{number}", step_id, takes)
        match tape.choose(10):
            case 7:
                act.fails = True
            case 8:
                act.flaky = 1 + tape.choose(2)
            case 9:
                act.fails, act.is_caught = True, not tape.chance(0.3)
            case _:
                pass
        return act

    def _child(self, run: str, number: int, depth: int) -> Child:
        tape = self._tape
        self._children_left -= 1
        timeout = tape.between(0.05, 2.0) if tape.chance(0.15) else 80_000.0
        plan = self._run(f"{run}.{number}", depth + 1)
        return Child(f"child{number}", plan, timeout, tape.chance(0.1), not tape.chance(0.1))
