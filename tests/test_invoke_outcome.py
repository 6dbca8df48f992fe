"""`ctx.invoke`: the end of a child as a value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, InvokeOutcome, RetryPolicy, RunStatus, cron, workflow
from rotor_actors.errors import (
    DurationError,
    InvokeDepthError,
    InvokeTargetError,
    NonDeterminismError,
    PayloadError,
    RunExistsError,
    WorkflowFailedError,
)
from rotor_actors.ids import child_run_id, step_key
from rotor_actors.records import RunCreated

pytestmark = pytest.mark.asyncio


@dataclass
class Greeting:
    text: str


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@workflow(id="greet")
async def greet(ctx: Context, name: str) -> Greeting:
    return Greeting(f"hello {name}")


@workflow(id="nothing")
async def nothing(ctx: Context) -> None: ...


@workflow(id="slow")
async def slow(ctx: Context, duration: str) -> str:
    await ctx.step.sleep("doze", duration)
    return f"slept {duration}"


@workflow(id="broken", retries=0)
async def broken(ctx: Context, data: None) -> str:
    raise KeyError(f"attempt {ctx.attempt}")


@workflow(id="quits")
async def quits(ctx: Context, data: None) -> str:
    await ctx.cancel("by itself")


@workflow(id="nightly", on=cron("0 3 * * *"))
async def nightly(ctx: Context) -> None: ...


def ways(outcome: InvokeOutcome[Any]) -> tuple[bool, bool, bool]:
    return outcome.is_failed, outcome.is_canceled, outcome.is_timed_out


async def test_a_child_that_completes_gives_its_typed_body(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        outcome = await ctx.invoke("greet", workflow=greet, body="you")
        assert outcome.body == Greeting("hello you")
        assert ways(outcome) == (False, False, False)
        assert outcome.error is None
        return outcome.run_id

    handle = await world.runtime.start(parent)
    assert await world.result(handle) == child_run_id(handle.run_id, step_key("greet", 0), 1)


async def test_a_child_without_data_needs_no_body(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> bool:
        outcome = await ctx.invoke("n", workflow=nothing)
        return outcome.body is None and not any(ways(outcome))

    assert await world.execute(parent)


async def test_a_child_that_fails_raises_nothing(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        outcome = await ctx.invoke("b", workflow=broken, body=None, retries=0)
        assert ways(outcome) == (True, False, False)
        assert outcome.body is None
        assert outcome.error is not None
        assert "raise KeyError" in outcome.error.traceback
        return [outcome.error.type, outcome.error.message]

    assert await world.execute(parent) == ["KeyError", "'attempt 1'"]


async def test_a_child_that_is_cancelled_raises_nothing(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> bool:
        outcome = await ctx.invoke("q", workflow=quits, body=None)
        assert ways(outcome) == (False, True, False)
        return outcome.body is None and outcome.error is None

    assert await world.execute(parent)


async def test_a_child_that_is_cancelled_from_outside_raises_nothing(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> bool:
        return (await ctx.invoke("s", workflow=slow, body="9h", workflow_run_id="the-child")).is_canceled

    handle = await world.runtime.start(parent)
    await world.clock.advance("1h")
    await world.wait(world.runtime.cancel("the-child"))
    assert await world.result(handle)


async def test_a_timeout_raises_nothing_and_the_child_runs_on(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        outcome = await ctx.invoke("s", workflow=slow, body="3h", timeout="1h")
        assert ways(outcome) == (False, False, True)
        assert outcome.body is None
        assert outcome.error is None
        return outcome.run_id

    child_id = await world.execute(parent)
    assert (await world.runtime.info(child_id)).status is RunStatus.RUNNING
    assert await world.result(child_id) == "slept 3h"


async def test_it_waits_for_a_day_by_default(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> bool:
        return (await ctx.invoke("s", workflow=slow, body="7d")).is_timed_out

    began = world.clock.now()
    assert await world.execute(parent)
    assert world.clock.now() - began == 86_400


async def test_a_child_is_retried_three_times_by_default_whatever_its_own_policy(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        outcomes = [
            await ctx.invoke("b", workflow=broken, body=None),
            await ctx.invoke("b", workflow=broken, body=None, retries=1),
            await ctx.invoke("b", workflow=broken, body=None, retries=RetryPolicy(2)),
        ]
        return [outcome.error.message for outcome in outcomes if outcome.error is not None]

    assert await world.execute(parent) == ["'attempt 4'", "'attempt 2'", "'attempt 3'"]


async def test_a_retry_delay_is_constant(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> float:
        began = ctx.now()
        await ctx.invoke("b", workflow=broken, body=None, retries=2, retry_delay="10m")
        return (ctx.now() - began).total_seconds()

    assert await world.execute(parent) == 1200


async def test_headers_reach_the_child(world: World) -> None:
    @workflow(id="child")
    async def child(ctx: Context) -> dict[str, str]:
        return dict(ctx.headers)

    @workflow(id="parent")
    async def parent(ctx: Context) -> dict[str, str] | None:
        return (await ctx.invoke("c", workflow=child, headers={"tenant": "a"})).body

    assert await world.execute(parent) == {"tenant": "a"}


async def test_the_child_may_be_given_a_run_id(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        return (await ctx.invoke("g", workflow=greet, body="you", workflow_run_id="greeting-1")).run_id

    assert await world.execute(parent) == "greeting-1"
    assert await world.runtime.run("greeting-1").result() == Greeting("hello you")


async def test_what_keeps_a_child_from_being_spawned_is_raised(world: World) -> None:
    await world.execute(greet, "first", run_id="taken")
    before = len(world.store.committed(RunCreated))

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with pytest.raises(InvokeTargetError):
            await ctx.invoke("n", workflow=nightly)
        with pytest.raises(RunExistsError):
            await ctx.invoke("g", workflow=greet, body="you", workflow_run_id="taken")
        with pytest.raises(PayloadError):
            await ctx.invoke("g", workflow=greet, body=cast("str", 3))
        with pytest.raises(DurationError, match="timeout="):
            await ctx.invoke("g", workflow=greet, body="you", timeout="25h")
        with pytest.raises(DurationError, match="retry_delay="):
            await ctx.invoke("g", workflow=greet, body="you", retry_delay="soon")

    await world.execute(parent)
    assert len(world.store.committed(RunCreated)) == before + 1


async def test_it_counts_towards_the_depth() -> None:
    @workflow(id="down", retries=0)
    async def down(ctx: Context) -> int:
        try:
            outcome: InvokeOutcome[int] = await ctx.invoke("down", workflow=down)
        except InvokeDepthError:
            return ctx.depth
        assert outcome.body is not None
        return outcome.body

    async with World(max_depth=4) as world:
        assert await world.execute(down) == 4


async def test_outcomes_are_memoized_equal_whatever_they_are(world: World) -> None:
    seen: list[list[InvokeOutcome[Any]]] = []

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> None:
        invokes: list[Coroutine[Any, Any, InvokeOutcome[Any]]] = [
            ctx.invoke("g", workflow=greet, body="you"), ctx.invoke("b", workflow=broken, body=None, retries=0),
            ctx.invoke("q", workflow=quits, body=None), ctx.invoke("s", workflow=slow, body="2h", timeout="1h"),
        ]  # fmt: skip
        seen.append([await invoke for invoke in invokes])
        if ctx.attempt == 1:
            raise RuntimeError("once more")

    await world.execute(parent)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(world.store.committed(RunCreated)) == 5


async def test_it_shares_its_memo_with_step_invoke(world: World) -> None:
    """Both are an invoke of one target under one key: a deploy may change from one to the other."""

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            await ctx.invoke("b", workflow=broken, body=None, retries=0)
            raise RuntimeError("once more")
        with pytest.raises(WorkflowFailedError) as caught:
            await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h")
        return caught.value.error.type

    assert await world.execute(parent) == "KeyError"


async def test_another_target_under_the_same_key_is_refused(world: World) -> None:
    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            await ctx.invoke("x", workflow=greet, body="you")
            raise RuntimeError("once more")
        with pytest.raises(NonDeterminismError, match=r"an invoke of workflow 'slow' in the code.*of workflow 'greet'"):
            await ctx.invoke("x", workflow=slow, body="1h")
        return "refused"

    assert await world.execute(parent) == "refused"


async def test_a_scope_that_is_cancelled_takes_its_child_with_it(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await ctx.invoke("s", workflow=slow, body="9h", workflow_run_id="the-child")

    await world.execute(parent)
    await world.settle()
    assert (await world.runtime.info("the-child")).status is RunStatus.CANCELLED
