"""A budget holds wherever its runs go on: its tree stays together, and what is spent comes with it."""

from __future__ import annotations

import asyncio

import pytest
from dying import over_each_commit
from fleet import Fleet

from rotor_actors import Budget, Context, Runtime, workflow
from rotor_actors.errors import BudgetExceededError, RotorError, WorkflowFailedError

pytestmark = pytest.mark.asyncio


@workflow(id="spender")
async def spender(ctx: Context, amount: int) -> int:
    await ctx.step.sleep("a while", "10s")
    await ctx.charge("tokens", amount)
    await ctx.step.sleep("a while more", "10s")
    return amount


@workflow(id="spenders", budget=Budget(units={"tokens": 100}, runs=10))
async def spenders(ctx: Context, amounts: list[int]) -> int:
    calls = [
        ctx.step.invoke(f"call {n}", workflow=spender, data=amount, timeout="1h") for n, amount in enumerate(amounts)
    ]
    return sum([each.result for each in await asyncio.gather(*calls)])


async def test_what_is_spent_counts_on_with_the_next_owner() -> None:
    async with Fleet(spender, spenders) as fleet:
        first, second = [await fleet.open(spill_above=1) for _ in range(2)]
        handle = await first.start(spenders, [40, 40, 40])
        within = await first.start(spenders, [30, 30])
        await fleet.clock.advance("5s")
        owners = {fleet.owner_of(each.run_id) for each in await first.runs()}
        assert owners == {fleet.store_of(first).replica}
        await fleet.kill(first)
        owners = {fleet.owner_of(each.run_id) for each in await second.runs()}
        assert owners == {fleet.store_of(second).replica}
        with pytest.raises(WorkflowFailedError, match=BudgetExceededError.__name__):
            await fleet.clock.until(second.run(handle.run_id).result())
        assert await fleet.clock.until(second.run(within.run_id).result()) == 60


async def test_what_is_spent_is_counted_once_at_whichever_commit_the_owner_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        first, second = runtimes
        try:
            handle = await second.start(spenders, [30, 30, 40])
        except RotorError:
            return
        assert await fleet.clock.until(first.run(handle.run_id).result()) == 100
        budget = (await first.info(handle.run_id)).budget
        assert budget is not None
        assert budget.spent_units["tokens"] == 100

    await over_each_commit(lambda: Fleet(spender, spenders), scenario, dies=1, most=12)
