"""Lines under whatever comes: replicas come and die, runs are started anywhere and cancelled; the key's limit holds."""

from __future__ import annotations

import random

import pytest
from fleet import Fleet
from flow_kit import Watch

from rotor_actors import Context, FlowControl, RunStatus, Singleton, workflow
from rotor_actors.stores.base import ItemQuery

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("seed", range(5))
async def test_a_limit_holds_and_nobody_waits_for_ever(seed: int) -> None:
    watch, alone, rng = Watch(), Watch(), random.Random(seed)

    @workflow(id="guarded", flow_control=FlowControl("scarce", parallelism=2), priority="data.rank")
    async def guarded(ctx: Context, data: dict[str, int]) -> int:
        name = str(data["number"])
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("hold", "3s")
        await ctx.step.run("exit", watch.exit, name)
        return data["number"]

    @workflow(id="caller")
    async def caller(ctx: Context, number: int) -> int:
        data = {"number": number, "rank": 0}
        return (await ctx.step.invoke("call", workflow=guarded, data=data, timeout="1h", placement="any")).result

    @workflow(id="only", singleton=Singleton(mode="skip"))
    async def only(ctx: Context, number: int) -> int:
        await ctx.step.run("enter", alone.enter, ctx.run_id)
        await ctx.step.sleep("hold", "3s")
        await ctx.step.run("exit", alone.exit, ctx.run_id)
        return number

    async with Fleet(guarded, caller, only) as fleet:
        for _ in range(3):
            await fleet.open()
        started: list[str] = []
        for number in range(14):
            runtime = rng.choice(fleet.runtimes)
            match rng.randrange(6):
                case 0:
                    started.append((await runtime.start(caller, number)).run_id)
                case 1:
                    started.append((await runtime.start(only, number)).run_id)
                case 2:
                    await fleet.kill(runtime)
                    await fleet.open()
                case _:
                    data = {"number": number, "rank": rng.randrange(3)}
                    started.append((await runtime.start(guarded, data)).run_id)
            await fleet.clock.advance(rng.choice((0, 0.5, 2)))
        last = fleet.runtimes[-1]
        for run_id in dict.fromkeys(started):
            await fleet.clock.until(last.run(run_id).result())
        await fleet.clock.advance("1m")
        assert {each.status for each in await last.runs()} == {RunStatus.COMPLETED}
        assert watch.most <= 2
        assert alone.most <= 1
        assert not fleet.database.office.letters
        assert not fleet.database.items(ItemQuery("flow.place"))
        assert not fleet.database.items(ItemQuery("flow.run"))
        assert all(each.flow_keys() == [] for each in fleet.runtimes)
