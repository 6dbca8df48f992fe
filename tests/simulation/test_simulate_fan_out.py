"""Maps, joins, undos and budgets in universes that crash around each of their commits."""

from __future__ import annotations

import asyncio

import pytest

from rotor_actors import Budget, Context, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import BudgetExceededError, NonRetriableError, WorkflowFailedError
from rotor_actors.simulation import Simulation, simulate


def noted(text: str) -> str:
    return text


def take_back(text: str, result: str) -> None:
    assert text == result


@workflow(id="leaf", retries=0)
async def leaf(ctx: Context, number: int) -> int:
    await ctx.step.sleep("work", 1 + number * 7 % 5)
    if number == 3:
        raise NonRetriableError("three")
    await ctx.step.run("note", noted, str(number))
    return number


@workflow(id="mapping", retries=RetryPolicy(1, initial="5s", jitter=False))
async def mapping(ctx: Context) -> list[int]:
    """What it sees has an order: that of its first attempt."""
    seen: list[int] = []
    ends = ctx.step.map("leaves", workflow=leaf, items=range(6), timeout="1h", concurrency=3, on_error="collect")
    async for outcome in ends:
        assert outcome.index is not None
        seen.append(outcome.index)
        if ctx.attempt == 1 and len(seen) == 4:
            raise OSError("again")
    won = await ctx.step.first("race", workflow=leaf, items=[4, 0, 2], timeout="1h")
    return [*seen, won.body if won.body is not None else -1]


@workflow(id="joining")
async def joining(ctx: Context) -> list[int]:
    one = await ctx.step.start("one", workflow=leaf, data=1)
    two = await ctx.step.start("two", workflow=leaf, data=2, run_id="two")
    ends = [ctx.step.join(each, run_id=each, timeout="1h", returns=int) for each in (one, two, one)]
    return [end.result for end in await asyncio.gather(*ends)]


@workflow(id="undoing", retries=0, budget=Budget(runs=2, units={"tokens": 10}))
async def undoing(ctx: Context) -> None:
    for number in range(3):
        await ctx.step.run(f"do {number}", noted, f"do {number}", undo=take_back)
        await ctx.charge("tokens", 3)
        try:
            await ctx.step.invoke("leaf", workflow=leaf, data=number, timeout="1h")
        except BudgetExceededError:
            await ctx.charge("tokens", 5)


@simulate(seeds=1, crash="every-commit")
async def test_a_map_gives_the_order_of_its_first_attempt(sim: Simulation) -> None:
    handle = await sim.runtime.start(mapping, run_id="one")
    *seen, won = await handle.result()
    assert sorted(seen) == list(range(6))
    assert won in (4, 0, 2)
    children = await sim.runtime.runs(parent="one", limit=100)
    assert len([child for child in children if (child.parent_step_id or "").startswith("leaves[")]) == 6


@simulate(seeds=1, crash="every-commit")
async def test_started_runs_are_started_once_and_joined(sim: Simulation) -> None:
    assert await (await sim.runtime.start(joining, run_id="one")).result() == [1, 2, 1]
    assert len(await sim.runtime.runs(workflow=leaf)) == 2


@simulate(seeds=1, crash="every-commit")
async def test_what_was_done_is_undone_and_what_was_spent_counts_once(sim: Simulation) -> None:
    handle = await sim.runtime.start(undoing, run_id="one")
    with pytest.raises(WorkflowFailedError, match="tokens"):
        await handle.result()
    (undone,) = await sim.runtime.runs(workflow="undoing.undo")
    assert await sim.runtime.run(undone.run_id).result() == ["do 2", "do 1", "do 0"]
    budget = (await sim.runtime.info("one")).budget
    assert budget is not None
    assert (budget.spent_runs, dict(budget.spent_units)) == (2, {"tokens": 14.0})
    assert (await sim.runtime.info("one")).status is RunStatus.FAILED
