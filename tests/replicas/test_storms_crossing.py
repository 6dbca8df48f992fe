"""Random trees over several replicas, with cancellations, losses and late mail at random moments."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from crossing import Crossing

from rotor_actors import CancelReport, Context, Runtime, workflow
from rotor_actors.errors import RotorError, WorkflowTimeoutError
from rotor_actors.records import RunChanged, RunFlag, RunRow, RunsCancelled

pytestmark = pytest.mark.asyncio

_ABANDON = RunFlag.ABANDON | RunFlag.RELEASED


class Plan(msgspec.Struct):
    """One run of a tree: what its children do, each with how it is awaited."""

    sleep: float
    children: list[Plan] = []
    how: str = "await"
    fails: bool = False


def a_plan(rng: random.Random, depth: int = 0) -> Plan:
    breadth = rng.randint(1, 3) if depth == 0 else rng.randint(0, 3 - depth)
    how = rng.choice(["await", "await", "await", "timeout", "abandon", "withdraw"])
    children = [a_plan(rng, depth + 1) for _ in range(breadth)]
    return Plan(rng.uniform(1, 100), children, how, rng.random() < 0.1)


@workflow(id="node", retries=0)
async def node(ctx: Context, plan: Plan) -> int:
    async def call(number: int, below: Plan) -> int:
        name, more = f"call {number}", dict[str, Any](placement="any")
        try:
            match below.how:
                case "timeout":
                    ended = await ctx.step.invoke(name, workflow=node, data=below, timeout="20s", **more)
                case "abandon":
                    ended = await ctx.step.invoke(
                        name, workflow=node, data=below, timeout="5h", on_parent_close="abandon", **more
                    )
                case "withdraw":
                    async with asyncio.timeout(15):
                        ended = await ctx.step.invoke(name, workflow=node, data=below, timeout="5h", **more)
                case _:
                    ended = await ctx.step.invoke(name, workflow=node, data=below, timeout="5h", **more)
        except (WorkflowTimeoutError, TimeoutError):
            return 0
        return ended.result

    async def act() -> int:
        return 1

    called = [call(number, below) for number, below in enumerate(plan.children)]
    found = await asyncio.gather(*called)
    await ctx.step.sleep("work", plan.sleep)
    if plan.fails:
        raise ValueError("as planned")
    return sum(found) + await ctx.step.run("act", act)


class Storm:
    """One database, three replicas at a time, and what happens to them by chance."""

    def __init__(self, fleet: Crossing, seed: int) -> None:
        self.fleet = fleet
        self.rng = random.Random(seed)
        self.asked: list[tuple[str, asyncio.Future[CancelReport]]] = []
        self.acked_at: dict[asyncio.Future[CancelReport], float] = {}
        self.facts: Counter[int] = Counter()
        self.problems: list[str] = []

    @property
    def any(self) -> Runtime:
        return self.rng.choice(self.fleet.runtimes)

    async def rage(self, runs: int = 3, events: int = 14) -> None:
        fleet, rng = self.fleet, self.rng
        for _ in range(3):
            await fleet.open()
        for number in range(runs):
            await self.any.start(node, a_plan(rng), run_id=f"top {number}")
        for _ in range(events):
            await fleet.clock.advance(rng.uniform(0, 12))
            match rng.choice(["cancel", "cancel", "kill", "late mail", "fence", "nothing", "crash"]):
                case "cancel":
                    self._cancel()
                case "kill":
                    await self._bury(self.any)
                case "fence":
                    await fleet.expire(fleet.store_of(self.any).replica)
                case "crash":
                    fleet.crash_after(self.any, rng.randint(0, 8))
                case "late mail":
                    fleet.hold_mail(self.any, rng.random() < 0.7)
                case _:
                    pass
            await self._bury_all()
            self._check_acked()
        for runtime in fleet.runtimes:
            fleet.hold_mail(runtime, False)
            fleet.store_of(runtime).entries_left = None
        await self._bury_all()
        await self._calm_down()

    def _cancel(self) -> None:
        living = sorted((live.row for live in self.fleet.database.live_runs()), key=lambda row: row.n)
        if living:
            row = self.rng.choice(living)
            asked = asyncio.ensure_future(self.any.cancel(row.run_id, "a storm"))
            asked.add_done_callback(lambda each: self.acked_at.setdefault(each, self.fleet.clock.now()))
            self.asked.append((row.run_id, asked))

    async def _bury_all(self) -> None:
        for runtime in tuple(self.fleet.runtimes):
            if self.fleet.store_of(runtime).is_cut_off:
                await self._bury(runtime)

    async def _bury(self, runtime: Runtime) -> None:
        self._count(runtime)
        await self.fleet.kill(runtime)
        await self.fleet.open()

    def _count(self, runtime: Runtime) -> None:
        for fact in self.fleet.store_of(runtime).facts:
            if isinstance(fact, RunsCancelled):
                self.facts.update(fact.ns)
            elif isinstance(fact, RunChanged) and fact.run.status.is_terminal:
                self.facts[fact.run.n] += 1

    def _check_acked(self) -> None:
        """After a cancellation that was acknowledged, nothing below it lives."""
        rows = {row.n: row for row in self.fleet.rows()}
        for run_id, asked in self.asked:
            if not asked.done() or asked.exception() is not None or run_id not in asked.result().cancelled:
                continue
            if asked.result().stuck:
                continue
            top = next(row for row in rows.values() if row.run_id == run_id)
            for row in rows.values():
                if not row.status.is_terminal and _is_below(row, top, rows):
                    self.problems.append(f"{row.run_id} lives below {run_id}, whose cancellation was acknowledged")

    async def _calm_down(self) -> None:
        fleet = self.fleet
        for _ in range(200):
            await fleet.settle()
            if not fleet.living and not fleet.database.office.letters and all(each.done() for _, each in self.asked):
                break
            due = fleet.clock.next_due()
            await fleet.clock.advance(2.0 if due is None else min(60.0, max(due - fleet.clock.now(), 0.5)))
        else:
            letters = fleet.database.office.letters
            self.problems.append(f"living: {fleet.living}, mail: {letters}, asked: {self.asked}")
        for runtime in fleet.runtimes:
            self._count(runtime)
            tree = fleet.engine_of(runtime).tree
            self.problems += [f"replica {fleet.store_of(runtime).replica} still holds {run}" for run in tree]
        self._check_acked()
        self._check_ends()

    def _check_ends(self) -> None:
        rows = {row.n: row for row in self.fleet.rows()}
        self.problems += [f"run {n} has ended {times} times" for n, times in self.facts.items() if times > 1]
        places = Counter((row.parent_n, row.parent_key, row.generation) for row in rows.values() if row.parent_n)
        self.problems += [f"{count} children at {place}" for place, count in places.items() if count > 1]
        for row in rows.values():
            parent = rows.get(row.parent_n or 0)
            if parent is None or row.flags & _ABANDON:
                continue
            if row.flags & RunFlag.UNSEEN and parent.status == "completed" and not row.flags & RunFlag.WITHDRAWN:
                self.problems.append(f"{parent.run_id} has completed without the end of {row.run_id}")
        for run_id, asked in self.asked:
            acked_at = self.acked_at.get(asked)
            if acked_at is None or asked.exception() is not None or run_id not in asked.result().cancelled:
                continue
            top = next(row for row in rows.values() if row.run_id == run_id)
            for row in rows.values():
                if row.status != "cancelled" and (row.ended_at or 0.0) > acked_at and _is_below(row, top, rows):
                    self.problems.append(f"{row.run_id} ended {row.status} after the cancellation of {run_id} above it")


def _is_below(row: RunRow, top: RunRow, rows: dict[int, RunRow]) -> bool:
    each: RunRow | None = row
    while each is not None and each.n != top.n:
        each = rows.get(each.parent_n or 0)
    return each is not None


async def storm(seed: int) -> list[str]:
    async with Crossing(node, strict_replay=True) as fleet:
        raging = Storm(fleet, seed)
        await raging.rage()
        for run_id, asked in raging.asked:
            if asked.done() and (error := asked.exception()) is not None and not isinstance(error, RotorError):
                raging.problems.append(f"cancelling {run_id}: {error!r}")
        return raging.problems


@pytest.mark.parametrize("first", range(0, 16, 8))
async def test_nothing_escapes_is_lost_or_ends_twice(first: int) -> None:
    seeds = range(first, first + 8)
    found = await asyncio.gather(*map(storm, seeds))
    assert not any(found), "\n".join(
        f"seed {seed}: {each}" for seed, all_ in zip(seeds, found, strict=True) for each in all_
    )
