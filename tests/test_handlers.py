"""`on_failure` and `on_cancel`: durable compensation, in a run of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, EndedRun, RetryPolicy, RunInfo, RunStatus, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowDefinitionError, WorkflowFailedError
from rotor_actors.ids import handler_run_id
from rotor_actors.records import RunChanged, RunCreated, RunsCancelled

pytestmark = pytest.mark.asyncio


@dataclass
class Order:
    item: str


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


SEEN: list[EndedRun[Any]] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    SEEN.clear()


async def note(ctx: Context, ended: EndedRun[Any]) -> None:
    await ctx.step.run("note", lambda: SEEN.append(ended))


@workflow(id="fails", retries=1, on_failure=note)
async def fails(ctx: Context, order: Order) -> None:
    raise KeyError(f"attempt {ctx.attempt}")


@workflow(id="waits", on_cancel=note)
async def waits(ctx: Context, order: Order) -> str:
    await ctx.step.sleep("doze", "9h")
    return "rested"


async def handler_of(world: World, run_id: str, event: str) -> RunInfo:
    await world.settle()
    return await world.runtime.info(handler_run_id(run_id, event))


# on_failure


async def test_a_run_that_failed_for_good_starts_its_handler_with_input_and_error(world: World) -> None:
    handle = await world.runtime.start(fails, Order("tea"))
    with pytest.raises(WorkflowFailedError):
        await world.result(handle)
    await world.settle()
    (ended,) = SEEN
    assert (ended.run_id, ended.workflow_id, ended.data, ended.reason) == (handle.run_id, "fails", Order("tea"), "")
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("KeyError", "'attempt 2'")


async def test_a_handler_is_a_run_of_its_own_that_names_the_run_it_cleans_up_after(world: World) -> None:
    handle = await world.runtime.start(fails, Order("tea"))
    with pytest.raises(WorkflowFailedError):
        await world.result(handle)
    info = await handler_of(world, handle.run_id, "on_failure")
    assert (info.workflow_id, info.status) == ("fails.on_failure", RunStatus.COMPLETED)
    assert (info.parent_run_id, info.root_run_id, info.depth) == (handle.run_id, info.run_id, 0)


@pytest.mark.parametrize("outcome", ["completes", "retried", "cancelled"])
async def test_only_a_failure_for_good_starts_on_failure(world: World, outcome: str) -> None:
    @workflow(id="w", retries=1, on_failure=note)
    async def w(ctx: Context) -> None:
        if outcome == "retried" and ctx.attempt == 1:
            raise RuntimeError("once more")
        if outcome == "cancelled":
            await ctx.cancel()

    handle = await world.runtime.start(w)
    await world.clock.advance("1h")
    assert (await handle.status()).is_terminal
    assert SEEN == []
    assert len(await world.runtime.runs()) == 1


async def test_the_failure_and_its_handler_are_one_durable_act(world: World) -> None:
    handle = await world.runtime.start(fails, Order("tea"))
    world.store.before_commit = lambda entries: None
    with pytest.raises(WorkflowFailedError):
        await world.result(handle)
    facts = world.store.facts
    end = next(n for n, fact in enumerate(facts) if isinstance(fact, RunChanged) and fact.run.status.is_terminal)
    after = facts[end + 1]
    assert isinstance(after, RunCreated)
    assert after.run.workflow_id == "fails.on_failure"


async def test_a_child_that_fails_has_its_handler_and_the_parent_its_error(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        with pytest.raises(WorkflowFailedError) as caught:
            await ctx.step.invoke("f", workflow=fails, data=Order("tea"), timeout="1h")
        return caught.value.run_id

    child_id = await world.execute(parent)
    assert (await handler_of(world, child_id, "on_failure")).status is RunStatus.COMPLETED


# on_cancel


async def test_a_run_that_was_cancelled_starts_its_handler_with_input_and_reason(world: World) -> None:
    handle = await world.runtime.start(waits, Order("tea"))
    await world.settle()
    await world.wait(handle.cancel("out of stock"))
    await world.settle()
    (ended,) = SEEN
    assert (ended.run_id, ended.workflow_id, ended.data) == (handle.run_id, "waits", Order("tea"))
    assert (ended.error, ended.reason) == (None, "out of stock")


async def test_each_cancelled_run_of_a_tree_has_its_handler(world: World) -> None:
    @workflow(id="parent", on_cancel=note)
    async def parent(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            for item in ("tea", "milk"):
                group.create_task(ctx.step.invoke(item, workflow=waits, data=Order(item), timeout="10h"))

    handle = await world.runtime.start(parent)
    await world.settle()
    await world.wait(handle.cancel())
    await world.settle()
    assert sorted(ended.workflow_id for ended in SEEN) == ["parent", "waits", "waits"]
    (fact,) = world.store.committed(RunsCancelled)
    assert len(fact.ns) == 3


@pytest.mark.parametrize("outcome", ["completes", "fails"])
async def test_another_end_starts_no_on_cancel(world: World, outcome: str) -> None:
    @workflow(id="w", retries=0, on_cancel=note)
    async def w(ctx: Context) -> None:
        if outcome == "fails":
            raise RuntimeError("for good")

    handle = await world.runtime.start(w)
    await world.clock.advance("1h")
    assert (await handle.status()).is_terminal
    assert SEEN == []


async def test_a_run_that_cancels_itself_starts_its_handler(world: World) -> None:
    @workflow(id="w", on_cancel=note)
    async def w(ctx: Context) -> None:
        await ctx.cancel("by itself")

    with pytest.raises(WorkflowCancelledError):
        await world.execute(w)
    await world.settle()
    assert [ended.reason for ended in SEEN] == ["by itself"]


async def test_a_run_that_had_ended_is_not_cancelled_and_starts_no_handler(world: World) -> None:
    handle = await world.runtime.start(waits, Order("tea"))
    await world.result(handle)
    report = await world.wait(handle.cancel())
    await world.settle()
    assert report.already_ended == [handle.run_id]
    assert SEEN == []


async def test_cancelling_twice_starts_one_handler(world: World) -> None:
    handle = await world.runtime.start(waits, Order("tea"))
    await world.settle()
    await world.wait(asyncio.gather(handle.cancel("a"), handle.cancel("b")))
    await world.wait(handle.cancel("c"))
    await world.settle()
    assert len(SEEN) == 1


async def test_a_run_that_was_cancelled_before_it_began_has_its_handler_too(world: World) -> None:
    handle = await world.runtime.start(waits, Order("tea"))
    await world.wait(handle.cancel("at once"))
    await world.settle()
    assert [ended.data for ended in SEEN] == [Order("tea")]


# Handlers are runs


async def test_a_handler_is_retried_and_its_steps_are_memoized(world: World) -> None:
    executed: list[str] = []

    async def refund(ctx: Context, ended: EndedRun[Order]) -> None:
        await ctx.step.run("refund", lambda: executed.append(ended.data.item))
        if ctx.attempt < 3:
            raise OSError("mail server down")

    @workflow(id="w", retries=0, on_failure=refund)
    async def w(ctx: Context, order: Order) -> None:
        raise RuntimeError("for good")

    handle = await world.runtime.start(w, Order("tea"))
    await world.clock.advance("1h")
    info = await handler_of(world, handle.run_id, "on_failure")
    assert (info.status, info.attempt) == (RunStatus.COMPLETED, 3)
    assert executed == ["tea"]


async def test_a_handler_that_fails_has_no_handler(world: World) -> None:
    async def broken(ctx: Context, ended: EndedRun[Any]) -> None:
        raise RuntimeError("the handler, too")

    @workflow(id="w", retries=0, on_failure=broken)
    async def w(ctx: Context) -> None:
        raise RuntimeError("for good")

    handle = await world.runtime.start(w)
    await world.clock.advance("1d")
    assert (await handler_of(world, handle.run_id, "on_failure")).status is RunStatus.FAILED
    assert len(await world.runtime.runs()) == 2


async def test_a_handler_in_flight_at_a_crash_goes_on() -> None:
    done: list[str] = []

    async def slow_note(ctx: Context, ended: EndedRun[Order]) -> None:
        await ctx.step.sleep("pause", "1h")
        await ctx.step.run("note", lambda: done.append(ended.data.item))

    @workflow(id="w", on_cancel=slow_note)
    async def w(ctx: Context, order: Order) -> None:
        await ctx.step.sleep("doze", "9h")

    async with World(w) as world:
        handle = await world.runtime.start(w, Order("tea"))
        await world.settle()
        await world.wait(handle.cancel())
        await world.clock.advance("10m")
        await world.reopen()
        assert (await handler_of(world, handle.run_id, "on_cancel")).status is RunStatus.RUNNING
        await world.clock.advance("2h")
        assert (await handler_of(world, handle.run_id, "on_cancel")).status is RunStatus.COMPLETED
        assert done == ["tea"]


async def test_a_crash_right_after_the_end_loses_no_handler() -> None:
    async with World(waits, fails) as world:
        cancelled = await world.runtime.start(waits, Order("tea"))
        failed = await world.runtime.start(fails, Order("milk"))
        await world.settle()
        await world.wait(cancelled.cancel())
        with pytest.raises(WorkflowFailedError):
            await world.result(failed)
        await world.reopen()
        await world.clock.advance("1h")
        assert (await handler_of(world, cancelled.run_id, "on_cancel")).status is RunStatus.COMPLETED
        assert (await handler_of(world, failed.run_id, "on_failure")).status is RunStatus.COMPLETED
        assert {ended.data.item for ended in SEEN} == {"milk", "tea"}


async def test_cancelling_the_tree_of_a_run_does_not_touch_its_handler(world: World) -> None:
    async def slow_note(ctx: Context, ended: EndedRun[Any]) -> None:
        await ctx.step.sleep("pause", "1h")

    @workflow(id="w", retries=0, on_failure=slow_note)
    async def w(ctx: Context) -> None:
        raise RuntimeError("for good")

    handle = await world.runtime.start(w)
    await world.settle()
    await world.wait(handle.cancel())
    assert (await handler_of(world, handle.run_id, "on_failure")).status is RunStatus.RUNNING


async def test_a_handler_may_be_cancelled_and_that_is_that(world: World) -> None:
    async def slow_note(ctx: Context, ended: EndedRun[Any]) -> None:
        await ctx.step.sleep("pause", "1h")

    @workflow(id="w", retries=RetryPolicy(0), on_failure=slow_note, on_cancel=note)
    async def w(ctx: Context) -> None:
        raise RuntimeError("for good")

    handle = await world.runtime.start(w)
    await world.settle()
    handler_id = (await handler_of(world, handle.run_id, "on_failure")).run_id
    assert (await world.wait(world.runtime.cancel(handler_id))).cancelled == [handler_id]
    assert SEEN == []


async def test_what_cannot_be_a_handler_is_refused_where_it_is_defined() -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"workflow 'w': on_cancel must be an async function"):
        workflow(id="w", on_cancel=cast("Any", print))(waits.fn)

    async def one_parameter(ctx: Context) -> None: ...

    with pytest.raises(WorkflowDefinitionError, match=r"\(ctx: Context, ended: EndedRun\)"):
        workflow(id="w", on_failure=cast("Any", one_parameter))(waits.fn)
