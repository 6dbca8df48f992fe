"""A run that has failed goes on where it is resumed: on one replica, whoever had it before."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, RunStatus, workflow
from rotor_actors.errors import RunStatusError, WorkflowFailedError

pytestmark = pytest.mark.asyncio

weather: list[str] = []


@workflow(id="sailing", retries=0)
async def sailing(ctx: Context) -> str:
    async def look() -> str:
        while weather == ["hold"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if weather:
            raise ValueError(weather[0])
        return "fine"

    await ctx.step.sleep("a while", "1s")
    return await ctx.step.run("look", look, retries=0)


@pytest.fixture(autouse=True)
def bad_weather() -> None:
    weather[:] = ["storm"]


async def failed_on_one_that_is_gone(fleet: Fleet) -> str:
    first = await fleet.open()
    handle = await first.start(sailing)
    with pytest.raises(WorkflowFailedError):
        await fleet.clock.until(handle.result())
    await fleet.kill(first)
    return handle.run_id


async def test_a_run_goes_on_where_it_is_resumed() -> None:
    async with Fleet(sailing) as fleet:
        run_id = await failed_on_one_that_is_gone(fleet)
        second, third = await fleet.open(), await fleet.open()
        weather.clear()
        handle = await second.resume(run_id)
        assert fleet.owner_of(run_id) == fleet.store_of(second).replica
        assert await fleet.clock.until(handle.result()) == "fine"
        assert await fleet.clock.until(third.run(run_id).result()) == "fine"


async def test_what_was_resumed_is_taken_over_like_any_run() -> None:
    async with Fleet(sailing) as fleet:
        run_id = await failed_on_one_that_is_gone(fleet)
        second, third = await fleet.open(), await fleet.open()
        weather[:] = ["hold"]
        await second.resume(run_id)
        await fleet.clock.advance("1s")
        assert fleet.owner_of(run_id) == fleet.store_of(second).replica
        await fleet.kill(second)
        assert fleet.owner_of(run_id) == fleet.store_of(third).replica
        weather.clear()
        assert await fleet.clock.until(third.run(run_id).result()) == "fine"


async def test_two_replicas_that_resume_it_at_once_do_it_once() -> None:
    async with Fleet(sailing) as fleet:
        run_id = await failed_on_one_that_is_gone(fleet)
        second, third = await fleet.open(), await fleet.open()
        weather.clear()
        outcomes = await asyncio.gather(second.resume(run_id), third.resume(run_id), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(refused) == 1
        assert isinstance(refused[0], RunStatusError)
        assert await fleet.clock.until(second.run(run_id).result()) == "fine"
        [row] = [run for run in await second.runs() if run.run_id == run_id]
        assert (row.status, row.attempt) == (RunStatus.COMPLETED, 2)
