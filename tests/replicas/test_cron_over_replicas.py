"""Each scheduled time starts one run, whichever replica coordinates, and whenever that changes."""

from __future__ import annotations

import asyncio

import pytest
from dying import over_each_commit
from fleet import Fleet

from rotor_actors import Context, RunStatus, Runtime, cron, workflow

pytestmark = pytest.mark.asyncio


@workflow(id="hourly", on=cron("0 * * * *"))
async def hourly(ctx: Context) -> str:
    await ctx.step.sleep("a while", "5m")
    return "done"


async def test_each_time_starts_one_run_whoever_coordinates() -> None:
    async with Fleet(hourly) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        for replica in (first, second):
            await fleet.clock.advance("3h")
            await fleet.kill(replica)
        await fleet.clock.advance("3h")
        runs = await third.runs(workflow="hourly")
        assert len(runs) == 9
        assert {each.status for each in runs} == {RunStatus.COMPLETED}


async def test_a_time_that_passes_while_nobody_coordinates_is_made_up_for_once() -> None:
    async with Fleet(hourly) as fleet:
        first = await fleet.open()
        await fleet.clock.advance("90m")
        before = len(await first.runs(workflow="hourly"))
        await fleet.kill(first)
        await fleet.clock.advance("61m")
        second = await fleet.open()
        await fleet.clock.advance("10m")
        assert len(await second.runs(workflow="hourly")) == before + 1


async def test_a_time_starts_one_run_at_whichever_commit_the_coordinator_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        await fleet.clock.advance("2h")
        await fleet.clock.advance("30m")
        runs = await runtimes[1].runs(workflow="hourly")
        assert [each.status for each in runs] == [RunStatus.COMPLETED] * len(runs)
        assert len(runs) == 2

    await over_each_commit(lambda: Fleet(hourly), scenario)


async def test_one_that_was_the_coordinator_and_does_not_know_it_starts_nothing() -> None:
    async with Fleet(hourly) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        await fleet.clock.advance("30m")
        row = fleet.database.replica_rows.pop(
            fleet.store_of(first).replica
        )  # its lease is lost, and it has not noticed
        assert row.number
        await fleet.clock.advance("2h")
        runs = await second.runs(workflow="hourly")
        assert len(runs) == 2
        await asyncio.sleep(0)
