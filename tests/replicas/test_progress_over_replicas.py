"""What a run reports of itself is followed from any replica, whoever owns it and whenever that changes."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, RunHandle, workflow

pytestmark = pytest.mark.asyncio


@workflow(id="reporter")
async def reporter(ctx: Context, count: int) -> str:
    for number in range(count):
        ctx.report(number, key="at")
        await ctx.step.sleep(f"sleep {number}", "10s")
    return "done"


async def _follow(handle: RunHandle[str]) -> list[object]:
    return [update.value async for update in handle.updates()]


async def test_reports_are_followed_from_another_replica() -> None:
    async with Fleet(reporter) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(reporter, 3)
        followed = asyncio.ensure_future(_follow(second.run(handle.run_id)))
        assert await fleet.clock.until(followed) == [0, 1, 2]


async def test_reports_are_followed_over_a_change_of_owner() -> None:
    async with Fleet(reporter) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handle = await first.start(reporter, 4)
        followed = asyncio.ensure_future(_follow(third.run(handle.run_id)))
        await fleet.clock.advance("12s")
        await fleet.kill(first)
        assert await fleet.clock.until(followed) == [0, 1, 2, 3]
        assert (await second.run(handle.run_id).progress())["at"].value == 3
