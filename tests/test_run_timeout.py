"""`@workflow(timeout=…)`: one durable moment, over all attempts and restarts, at which a run has failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from cancel_kit import SteadyWorld, by_workflow, everything
from kit import World, with_a_crash_after_each_entry

from rotor_actors import Context, EndedRun, ManualClock, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowDefinitionError, WorkflowFailedError

pytestmark = pytest.mark.asyncio


@workflow(id="long-sleep")
async def long_sleep(ctx: Context) -> None:
    await ctx.step.sleep("long", "10h")


@workflow(id="slow", timeout="1h")
async def slow(ctx: Context) -> None:
    await ctx.step.invoke("child", workflow=long_sleep, data=None, timeout="20h")


async def test_a_run_fails_when_its_time_is_up_and_its_children_are_cancelled() -> None:
    async with World() as world:
        handle = await world.runtime.start(slow)
        await world.clock.advance("59m")
        assert await handle.status() is RunStatus.RUNNING
        await world.clock.advance("1m")
        assert await by_workflow(world.runtime) == {"slow": RunStatus.FAILED, "long-sleep": RunStatus.CANCELLED}
        with pytest.raises(WorkflowFailedError, match="did not end within 1h") as raised:
            await handle.result()
        assert raised.value.error.type == "RunTimeoutError"


async def test_a_run_that_ends_in_time_is_not_touched() -> None:
    @workflow(id="quick", timeout=5)
    async def quick(ctx: Context) -> str:
        await ctx.step.sleep("short", 4)
        return "done"

    async with World() as world:
        handle = await world.runtime.start(quick)
        assert await world.result(handle) == "done"
        await world.clock.advance("1h")
        assert await handle.status() is RunStatus.COMPLETED


async def test_the_time_counts_over_attempts_and_their_delays_and_is_not_retried() -> None:
    attempts: list[int] = []

    @workflow(id="failing", timeout="1h", retries=RetryPolicy(100, initial="10m", factor=1, jitter=False))
    async def failing(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError("not yet")

    async with World() as world:
        handle = await world.runtime.start(failing)
        await world.clock.advance("3h")
        with pytest.raises(WorkflowFailedError, match="RunTimeoutError"):
            await handle.result()
    assert attempts == [1, 2, 3, 4, 5, 6]


async def test_the_body_is_interrupted_and_may_clean_up_but_calls_no_step() -> None:
    seen: list[str] = []

    async def effect() -> None:
        seen.append("effect")

    @workflow(id="cleaning", timeout=10, retries=0)
    async def cleaning(ctx: Context) -> None:
        try:
            await ctx.step.sleep("long", "1h")
        finally:
            seen.append("cleaned up")
            await ctx.step.run("too late", effect)

    async with World() as world:
        handle = await world.runtime.start(cleaning)
        await world.clock.advance(11)
        assert seen == ["cleaned up"]
        assert await handle.status() is RunStatus.FAILED


async def test_a_step_in_flight_is_interrupted() -> None:
    seen: list[str] = []

    async def effect() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("interrupted")
            raise

    @workflow(id="stepping", timeout=10, retries=0)
    async def stepping(ctx: Context) -> None:
        await ctx.step.run("long", effect)

    async with World() as world:
        handle = await world.runtime.start(stepping)
        await world.clock.advance(11)
        assert seen == ["interrupted"]
        assert await handle.status() is RunStatus.FAILED


async def test_the_parent_gets_the_failure_and_goes_on() -> None:
    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("slow", workflow=slow, data=None, timeout="20h")
        except WorkflowFailedError as error:
            return error.error.type
        return "it ended"

    async with World() as world:
        assert await world.execute(parent) == "RunTimeoutError"


async def test_on_failure_is_started_with_the_error() -> None:
    told: list[EndedRun[Any]] = []

    async def on_failure(ctx: Context, ended: EndedRun[Any]) -> None:
        told.append(ended)

    @workflow(id="handled", timeout=5, on_failure=on_failure)
    async def handled(ctx: Context, name: str) -> None:
        await ctx.step.sleep("long", "1h")

    async with World() as world:
        await world.runtime.start(handled, "Ada")
        await world.clock.advance(6)
    assert told[0].error is not None
    assert (told[0].error.type, told[0].data) == ("RunTimeoutError", "Ada")


async def test_a_child_that_was_let_go_of_runs_on() -> None:
    @workflow(id="letting-go", timeout=30, retries=0)
    async def letting_go(ctx: Context) -> None:
        await ctx.step.invoke("kept", workflow=long_sleep, data=None, timeout="20h", on_parent_close="abandon")

    async with World() as world:
        await world.runtime.start(letting_go)
        await world.clock.advance(31)
        assert await by_workflow(world.runtime) == {"letting-go": RunStatus.FAILED, "long-sleep": RunStatus.RUNNING}
        await world.clock.advance("10h")
        assert (await by_workflow(world.runtime))["long-sleep"] is RunStatus.COMPLETED


async def test_time_in_the_queue_does_not_count() -> None:
    @workflow(id="queued", timeout="30m")
    async def queued(ctx: Context) -> str:
        await ctx.step.sleep("work", "20m")
        return "done"

    async with World(max_active_runs=1) as world:
        handles = [await world.runtime.start(queued) for _ in range(3)]
        await world.clock.advance("61m")
        assert [await handle.result() for handle in handles] == ["done"] * 3


async def test_a_restart_keeps_the_moment_and_what_has_passed_meanwhile_counts() -> None:
    async with World(slow, long_sleep) as world:
        handle = await world.runtime.start(slow)
        await world.clock.advance("30m")
        await world.reopen()
        await world.clock.advance("29m")
        assert (await by_workflow(world.runtime))["slow"] is RunStatus.RUNNING
        await world.crash()
        await world.clock.advance("1h")
        await world.open()
        await world.settle()
        assert await world.runtime.run(handle.run_id).status() is RunStatus.FAILED


async def test_an_orphan_keeps_its_timeout_until_its_workflow_is_known() -> None:
    @workflow(id="slow", timeout="1h", retries=RetryPolicy(9, initial="1m", jitter=False))
    async def in_attempts(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("try again")
        await ctx.step.sleep("long", "10h")

    async with World(in_attempts) as world:
        handle = await world.runtime.start(in_attempts)
        await world.clock.advance("5m")
        await world.crash()
        await world.open(long_sleep)
        await world.clock.advance("2h")
        assert await world.runtime.run(handle.run_id).status() is RunStatus.RUNNING
        await world.runtime.start(in_attempts)
        await world.clock.advance(1)
        assert await world.runtime.run(handle.run_id).status() is RunStatus.FAILED


async def test_cancelling_wins_when_it_comes_first() -> None:
    async with World() as world:
        handle = await world.runtime.start(slow)
        await world.settle()
        await world.wait(handle.cancel("enough"))
        await world.clock.advance("2h")
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await handle.result()


@pytest.mark.parametrize("retries", [0, RetryPolicy(3, initial="20m", jitter=False)])
async def test_a_crash_at_each_position_makes_no_difference(retries: int | RetryPolicy) -> None:
    @workflow(id="crashing", timeout="1h", retries=retries)
    async def crashing(ctx: Context) -> None:
        await ctx.step.sleep("a while", "25m")
        if ctx.attempt == 1:
            raise OSError("try again")
        await ctx.step.invoke("child", workflow=long_sleep, data=None, timeout="20h")

    ends = Counter[str]()

    def make_world() -> World:
        return SteadyWorld(crashing, long_sleep, clock=ManualClock())

    for outcome in await with_a_crash_after_each_entry(make_world, crashing):
        assert isinstance(outcome, WorkflowFailedError)
        ends[outcome.error.type] += 1
    assert list(ends) == ["RunTimeoutError" if retries else "OSError"]


async def test_a_crash_right_after_the_beginning_does_not_lose_the_moment() -> None:
    async with World(slow, long_sleep) as world:
        world.store.entries_left = 1  # the run is there, its item is not
        with pytest.raises(Exception, match="power"):
            await world.result(await world.runtime.start(slow, run_id="one"))
        await world.reopen()
        await world.clock.advance("61m")
        assert await world.runtime.run("one").status() is RunStatus.FAILED
        assert all(run.status is not RunStatus.RUNNING for run in await everything(world.runtime))


@pytest.mark.parametrize("timeout", [0, -1, "soon", True, float("nan")])
async def test_a_timeout_that_is_none_is_refused_when_the_workflow_is_defined(timeout: Any) -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"workflow 'bad': timeout"):

        @workflow(id="bad", timeout=timeout)
        async def bad(ctx: Context) -> None: ...
