"""What is done with runs after their end, by any replica: they are nobody's, and one replica at a time does it."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, RunStatus, workflow
from rotor_actors.errors import NonRetriableError, RotorError, RunNotFoundError, RunStatusError

pytestmark = pytest.mark.asyncio

broken = {"is": True}


@workflow(id="fragile")
async def fragile(ctx: Context, name: str) -> str:
    async def attempt() -> str:
        if broken["is"]:
            raise NonRetriableError("broken")
        return name

    await ctx.step.run("first", str, "done")
    return await ctx.step.run("second", attempt)


@workflow(id="above")
async def above(ctx: Context, name: str) -> str:
    return (await ctx.step.invoke("below", workflow=fragile, data=name, timeout="1h")).result


@workflow(id="sleeper")
async def sleeper(ctx: Context, name: str) -> str:
    await ctx.step.sleep("a while", "1m")
    return name


@workflow(id="far-above")
async def far_above(ctx: Context, name: str) -> str:
    return (await ctx.step.invoke("below", workflow=sleeper, data=name, timeout="1h", placement="any")).result


ALL = (fragile, above, sleeper, far_above)


@pytest.fixture(autouse=True)
def _broken() -> None:
    broken["is"] = True


@pytest.mark.parametrize("flow", [fragile, above])
async def test_a_failed_run_is_resumed_by_any_replica(flow: object) -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(above if flow is above else fragile, "x")
        with pytest.raises(RotorError):
            await fleet.clock.until(handle.result())
        broken["is"] = False
        again = await second.resume(handle.run_id)
        assert fleet.owner_of(handle.run_id) in (None, fleet.store_of(second).replica)
        assert await fleet.clock.until(again.result()) == "x"
        assert await fleet.clock.until(handle.result()) == "x"


async def test_a_resumed_run_outlives_the_replica_that_resumed_it() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(sleeper, "x")
        await fleet.settle()
        await first.run(handle.run_id).cancel()
        await second.resume(handle.run_id)
        await fleet.clock.advance("10s")
        await fleet.kill(second)
        assert await fleet.clock.until(first.run(handle.run_id).result()) == "x"


async def test_of_two_that_resume_a_run_at_once_one_does() -> None:
    async with Fleet(*ALL) as fleet:
        replicas = [await fleet.open() for _ in range(2)]
        handle = await replicas[0].start(fragile, "x")
        with pytest.raises(RotorError):
            await fleet.clock.until(handle.result())
        broken["is"] = False
        outcomes = await fleet.clock.until(
            asyncio.gather(*(each.resume(handle.run_id) for each in replicas), return_exceptions=True)
        )
        assert [isinstance(each, RunStatusError) for each in outcomes].count(True) <= 1
        assert await fleet.clock.until(handle.result()) == "x"
        assert (await handle.info()).attempt == 2


async def test_a_cancelled_tree_of_two_replicas_is_resumed_as_a_whole() -> None:
    async with Fleet(*ALL) as fleet:
        first = await fleet.open(far_above)
        second = await fleet.open(*ALL)
        handle = await first.start(far_above, "x")
        await fleet.clock.advance("10s")
        assert len(await first.runs(workflow="sleeper")) == 1
        await fleet.clock.until(first.run(handle.run_id).cancel())
        again = await second.resume(handle.run_id)
        assert await fleet.clock.until(again.result()) == "x"
        assert len(await first.runs(workflow="sleeper")) == 1


async def test_a_run_that_runs_elsewhere_is_neither_resumed_restarted_nor_deleted() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(sleeper, "x")
        await fleet.settle()
        for verb in (second.resume, second.restart, second.delete):
            with pytest.raises(RunStatusError, match="not ended"):
                await verb(handle.run_id)


async def test_a_run_is_restarted_forked_and_deleted_by_any_replica() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(above, "x")
        with pytest.raises(RotorError):
            await fleet.clock.until(handle.result())
        broken["is"] = False
        restarted = await second.restart(handle.run_id)
        assert await fleet.clock.until(restarted.result()) == "x"
        forked = await second.fork(restarted.run_id, from_step="below")
        assert await fleet.clock.until(forked.result()) == "x"
        assert await second.delete(handle.run_id) == 2
        with pytest.raises(RunNotFoundError):
            await first.info(handle.run_id)
        report = await first.prune(older_than="0s")
        assert report.runs == 4
        assert await second.runs() == []


async def test_of_two_that_delete_a_tree_at_once_nothing_is_deleted_twice() -> None:
    async with Fleet(*ALL) as fleet:
        replicas = [await fleet.open() for _ in range(2)]
        handle = await replicas[0].start(sleeper, "x")
        assert await fleet.clock.until(handle.result()) == "x"
        outcomes = await asyncio.gather(*(each.delete(handle.run_id) for each in replicas), return_exceptions=True)
        assert sum(each for each in outcomes if isinstance(each, int)) == 1


async def test_handlers_and_undoing_go_on_with_another_replica() -> None:
    undone: list[str] = []

    def take_back(order: str, _: str) -> None:
        undone.append(order)

    @workflow(id="booking", undos=[take_back])
    async def booking(ctx: Context, order: str) -> None:
        await ctx.step.run("book", str, order, undo=take_back)
        await ctx.step.sleep("a while", "1m")
        raise NonRetriableError("sold out")

    async with Fleet(booking) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(booking, "o1")
        await fleet.clock.advance("10s")
        await fleet.kill(first)
        await fleet.clock.advance("5m")
        assert (await second.info(handle.run_id)).status is RunStatus.FAILED
        assert undone == ["o1"]
