"""The context of a workflow: who it is, what started it, time and chance that replay repeats, cancelling from inside."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, Event, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import WorkflowCancelledError

pytestmark = pytest.mark.asyncio

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


@dataclass
class Order:
    item: str


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


# Who it is


async def test_a_started_run_is_the_top_of_its_tree(world: World) -> None:
    @workflow(id="who")
    async def who(ctx: Context) -> list[Any]:
        return [ctx.run_id, ctx.workflow_id, ctx.attempt, ctx.parent_run_id, ctx.root_run_id, ctx.depth]

    handle = await world.runtime.start(who)
    assert await world.result(handle) == [handle.run_id, "who", 1, None, handle.run_id, 0]


async def test_a_run_id_is_a_uuid_unless_it_was_chosen(world: World) -> None:
    @workflow(id="who")
    async def who(ctx: Context) -> str:
        return ctx.run_id

    handle = await world.runtime.start(who)
    run_id = await world.result(handle)
    assert run_id == handle.run_id
    assert UUID(run_id).version == 7
    assert await world.execute(who, run_id="mine") == "mine"


async def test_attempts_count_from_one(world: World) -> None:
    @workflow(id="who", retries=2)
    async def who(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise RuntimeError("once more")
        return ctx.attempt

    assert await world.execute(who) == 3


async def test_headers_are_those_of_the_starter_and_none_is_an_empty_mapping(world: World) -> None:
    @workflow(id="who")
    async def who(ctx: Context) -> dict[str, str]:
        return dict(ctx.headers)

    assert await world.execute(who, headers={"trace": "1"}) == {"trace": "1"}
    assert await world.execute(who) == {}


async def test_the_event_of_a_run_carries_its_data_as_the_workflow_types_it(world: World) -> None:
    seen: list[Event] = []

    @workflow(id="on-order", on="order.placed")
    async def on_order(ctx: Context, order: Order) -> None:
        seen.append(ctx.event)

    handle = await world.runtime.start(on_order, Order("tea"))
    await world.result(handle)
    at = datetime.fromtimestamp(world.clock.now(), UTC)
    assert seen == [Event("order.placed", Order("tea"), handle.run_id, at)]


async def test_who_it_is_is_the_same_after_a_crash() -> None:
    seen: list[list[Any]] = []

    @workflow(id="who")
    async def who(ctx: Context, order: Order) -> None:
        seen.append([ctx.run_id, ctx.attempt, dict(ctx.headers), ctx.event, order])
        await ctx.step.sleep("the crash comes here", "1h")

    async with World(who) as world:
        handle = await world.runtime.start(who, Order("tea"), headers={"trace": "1"})
        await world.clock.advance("10m")
        await world.reopen()
        await world.result(handle.run_id)
        assert len(seen) == 2
        assert seen[0] == seen[1]


async def test_the_callers_context_variables_reach_the_run_its_steps_and_its_children(world: World) -> None:
    @workflow(id="child")
    async def child(ctx: Context) -> str:
        found = TENANT.get()
        TENANT.set("changed in the child")
        return found

    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        seen = [TENANT.get(), await ctx.step.run("async", read), await ctx.step.run("sync", TENANT.get)]
        TENANT.set("changed")
        seen.append((await ctx.step.invoke("c", workflow=child, data=None, timeout="1m")).result)
        return [*seen, TENANT.get()]

    async def read() -> str:
        return TENANT.get()

    token = TENANT.set("acme")
    try:
        result = await world.execute(parent)
        assert result == ["acme", "acme", "acme", "changed", "changed"]
        assert TENANT.get() == "acme", "what a run sets is for its own steps and children"
    finally:
        TENANT.reset(token)


async def test_what_an_attempt_sets_is_not_seen_by_the_next_one(world: World) -> None:
    seen: list[str] = []

    @workflow(id="again", retries=2)
    async def again(ctx: Context) -> str:
        seen.append(TENANT.get())
        TENANT.set(f"set by attempt {ctx.attempt}")
        if ctx.attempt < 3:
            raise ValueError
        return await ctx.step.run("read", read)

    async def read() -> str:
        return TENANT.get()

    token = TENANT.set("acme")
    try:
        assert await world.execute(again) == "set by attempt 3"
    finally:
        TENANT.reset(token)
    assert seen == ["acme"] * 3


async def test_a_recovered_run_has_the_context_of_who_opened_the_runtime_not_of_who_woke_it() -> None:
    @workflow(id="sleeper")
    async def sleeper(ctx: Context) -> list[str]:
        await ctx.step.sleep("nap", "1m")
        return [TENANT.get(), await ctx.step.run("read", TENANT.get)]

    async with World(sleeper) as world:
        runs = [await world.runtime.start(sleeper) for _ in range(2)]
        await world.settle()
        await world.reopen()
        token = TENANT.set("somebody else")
        try:
            await world.runtime.start(sleeper)
            await world.clock.advance("2m")
        finally:
            TENANT.reset(token)
        assert [await world.result(run.run_id) for run in runs] == [["nobody", "nobody"]] * 2


# Time and chance


async def test_now_is_the_time_of_what_the_run_answers_to_and_the_same_on_replay() -> None:
    seen: list[list[datetime]] = []

    @workflow(id="clock")
    async def clock(ctx: Context) -> None:
        times = [ctx.now()]
        await ctx.step.sleep("a", "1h")
        times.append(ctx.now())
        seen.append(times)
        await ctx.step.sleep("the crash comes here", "1h")

    async with World(clock) as world:
        began = datetime.fromtimestamp(world.clock.now(), UTC)
        handle = await world.runtime.start(clock)
        await world.clock.advance("90m")
        await world.reopen()
        await world.result(handle.run_id)
        assert seen == [[began, began + timedelta(hours=1)]] * 2


async def test_chance_is_the_same_in_each_attempt_and_on_each_replay_and_differs_between_runs() -> None:
    seen: dict[str, list[list[Any]]] = {}

    @workflow(id="dice", retries=RetryPolicy(1, initial="1h"))
    async def dice(ctx: Context) -> None:
        thrown = [ctx.random.random(), ctx.random.randint(1, 6), ctx.uuid(), ctx.uuid()]
        seen.setdefault(ctx.run_id, []).append(thrown)
        await ctx.step.sleep("the crash comes here", "1h")
        if ctx.attempt == 1:
            raise RuntimeError("once more")

    async with World(dice) as world:
        handles = [await world.runtime.start(dice) for _ in range(2)]
        await world.clock.advance("30m")
        await world.reopen()
        for handle in handles:
            await world.result(handle.run_id)
        for thrown in seen.values():
            assert len(thrown) == 3
            assert thrown[0] == thrown[1] == thrown[2]
            assert thrown[0][2].version == 4
            assert thrown[0][2] != thrown[0][3]
        one, other = seen.values()
        assert one[0] != other[0]


# The logger


async def test_the_logger_carries_the_fields_of_the_run_and_is_silent_on_replay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(id="talker")
    async def talker(ctx: Context) -> None:
        ctx.logger.info("before", extra={"mine": 1})
        await ctx.step.sleep("the crash comes here", "1h")
        ctx.logger.info("after")

    caplog.set_level(logging.INFO, logger="rotor_actors.workflow")
    async with World(talker) as world:
        handle = await world.runtime.start(talker)
        await world.clock.advance("30m")
        await world.reopen()
        await world.result(handle.run_id)
        spoken: list[Any] = [record for record in caplog.records if record.name == "rotor_actors.workflow"]
        assert [record.getMessage() for record in spoken] == ["before", "after"]
        first = spoken[0]
        assert (first.run_id, first.root_run_id) == (handle.run_id, handle.run_id)
        assert (first.workflow_id, first.attempt, first.mine) == ("talker", 1, 1)


# Cancelling from inside


async def test_a_run_that_cancels_itself_is_cancelled_and_not_failed(world: World) -> None:
    after: list[str] = []

    @workflow(id="quitter")
    async def quitter(ctx: Context) -> None:
        try:
            await ctx.cancel("no wish to go on")
        finally:
            after.append("cleaned up")

    handle = await world.runtime.start(quitter)
    with pytest.raises(WorkflowCancelledError, match="no wish to go on") as caught:
        await world.result(handle)
    assert caught.value.reason == "no wish to go on"
    info = await handle.info()
    assert (info.status, info.reason, info.attempt) == (RunStatus.CANCELLED, "no wish to go on", 1)
    assert after == ["cleaned up"]


async def test_a_run_that_cancels_itself_takes_its_children_with_it_and_cleans_up(world: World) -> None:
    cleaned: list[str] = []

    @workflow(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("doze", "9h")

    @workflow(id="quitter")
    async def quitter(ctx: Context) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step.invoke("c", workflow=child, data=None, timeout="10h"))
                await ctx.step.sleep("until it runs", "1m")
                await ctx.cancel()
        finally:
            cleaned.append(ctx.workflow_id)

    handle = await world.runtime.start(quitter)
    with pytest.raises(WorkflowCancelledError):
        await world.result(handle)
    await world.settle()
    assert [run.status.value for run in await world.runtime.runs()] == ["cancelled", "cancelled"]
    assert cleaned == ["quitter"]


async def test_a_run_that_swallows_its_own_cancellation_is_cancelled_all_the_same(world: World) -> None:
    @workflow(id="quitter")
    async def quitter(ctx: Context) -> str:
        try:
            await ctx.cancel("enough")
        except BaseException:
            return "went on"

    with pytest.raises(WorkflowCancelledError):
        await world.execute(quitter)


async def test_a_run_that_cancelled_itself_stays_cancelled_after_a_crash() -> None:
    @workflow(id="quitter")
    async def quitter(ctx: Context) -> None:
        await ctx.cancel("enough")

    async with World(quitter) as world:
        handle = await world.runtime.start(quitter)
        await world.settle()
        await world.reopen()
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await world.result(handle.run_id)
