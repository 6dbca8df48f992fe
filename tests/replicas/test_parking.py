"""A run that sleeps for long belongs to nobody meanwhile, and to whoever is there when it is due."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, workflow
from rotor_actors.records import RunsReleased

pytestmark = pytest.mark.asyncio

LEASE = 30.0
"""So short that runs are parked that sleep for longer than a minute."""


@workflow(id="sleeper")
async def sleeper(ctx: Context, naps: list[str]) -> int:
    async def count(value: int) -> int:
        return value + 1

    total = 0
    for index, nap in enumerate(naps):
        await ctx.step.sleep(f"nap {index}", nap)
        total = await ctx.step.run(f"count {index}", count, total)
    return total


@workflow(id="waker")
async def waker(ctx: Context, naps: list[str]) -> int:
    return (await ctx.step.invoke("call", workflow=sleeper, data=naps, timeout="24h")).result


async def test_a_run_that_sleeps_for_long_is_parked_and_claimed_when_it_is_due() -> None:
    async with Fleet(sleeper, lease=LEASE) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(sleeper, ["1h", "2h"])
        await fleet.clock.advance("1s")
        assert fleet.owner_of(handle.run_id) is None
        assert len(fleet.service_of(first).engine.tree) == 0
        await fleet.kill(first)
        await fleet.clock.advance("59m")
        assert fleet.owner_of(handle.run_id) is None
        await fleet.clock.advance("61s")
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 2
        assert not fleet.database.office.letters


async def test_a_run_that_somebody_waits_for_here_stays() -> None:
    async with Fleet(sleeper, lease=LEASE) as fleet:
        first = await fleet.open()
        waiting = asyncio.ensure_future(first.execute(sleeper, ["1h"]))
        await fleet.clock.advance("2s")
        assert len(fleet.service_of(first).engine.tree) == 1
        assert await fleet.clock.until(waiting) == 1
        assert fleet.store_of(first).committed(RunsReleased) == []


async def test_short_sleeps_and_children_of_runs_here_stay() -> None:
    async with Fleet(sleeper, waker, lease=LEASE) as fleet:
        first = await fleet.open()
        short, parent = await first.start(sleeper, ["50s"]), await first.start(waker, ["2h"])
        await fleet.clock.advance("2s")
        assert fleet.store_of(first).committed(RunsReleased) == []
        assert tuple(await fleet.clock.until(asyncio.gather(short.result(), parent.result()))) == (1, 1)


async def test_whoever_waits_for_a_parked_run_gets_its_result() -> None:
    async with Fleet(sleeper, lease=LEASE) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(sleeper, ["1h"])
        await fleet.clock.advance("1s")
        assert fleet.owner_of(handle.run_id) is None
        waiting = [asyncio.ensure_future(each.run(handle.run_id).result()) for each in (first, second)]
        assert await fleet.clock.until(asyncio.gather(*waiting)) == [1, 1]


async def test_a_parked_run_can_be_cancelled_from_anywhere() -> None:
    async with Fleet(sleeper, lease=LEASE) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(sleeper, ["1h"])
        await fleet.clock.advance("1s")
        report = await fleet.clock.until(second.cancel(handle.run_id, "no longer"))
        assert report.cancelled == [handle.run_id]
        assert fleet.owner_of(handle.run_id) is None


async def test_parking_frees_a_place_of_max_active_runs() -> None:
    async with Fleet(sleeper, lease=LEASE, max_active_runs=1) as fleet:
        only = await fleet.open()
        first, second = [await only.start(sleeper, ["1h"]) for _ in range(2)]
        await fleet.clock.advance("10s")
        assert fleet.owner_of(first.run_id) is None
        assert fleet.owner_of(second.run_id) is None, "it has begun, too"
        assert tuple(await fleet.clock.until(asyncio.gather(first.result(), second.result()))) == (1, 1)
