"""Runs that an event cancels: those it is for, within their time, with all below them, over restarts and crashes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from kit import STRIDE, World

from rotor_actors import CancelOn, Context, Debounce, Event, RunStatus, cron, workflow
from rotor_actors.errors import ExpressionError, StoreError, WorkflowCancelledError, WorkflowDefinitionError
from rotor_actors.records import RunsCancelled, Together

pytestmark = pytest.mark.asyncio


@workflow(id="child")
async def child(ctx: Context) -> None:
    await ctx.step.sleep("s", "1d")


@workflow(
    id="order", on="order.created",
    cancel_on=[CancelOn(event="order.cancelled", match="data.order"), CancelOn(event="shop.closed", within="1h")],
)  # fmt: skip
async def order(ctx: Context) -> None:
    await ctx.step.invoke("child", workflow=child, data=None, timeout="24h")


async def created(world: World, **data: Any) -> str:
    [id] = await world.runtime.send(Event("order.created", data))
    await world.settle()
    return id


async def status(world: World, id: str) -> RunStatus:
    await world.settle()
    return (await world.runtime.info(id)).status


async def test_an_event_cancels_the_runs_it_is_for_with_all_below_them() -> None:
    async with World(order, child) as world:
        one, two = await created(world, order=1), await created(world, order=2)
        assert await world.runtime.send(Event("order.cancelled", {"order": 1}, id="e")) == []
        with pytest.raises(WorkflowCancelledError, match=r"event 'order.cancelled' \(id e\)"):
            await world.result(one)
        assert await world.runtime.runs(root=one, status="running") == []
        assert await status(world, two) is RunStatus.RUNNING


async def test_it_cancels_within_the_stated_time_only() -> None:
    async with World(order, child) as world:
        early = await created(world, order=1)
        await world.clock.advance("59m")
        late = await created(world, order=2)
        await world.clock.advance("2m")
        await world.runtime.send(Event("shop.closed"))
        assert await status(world, early) is RunStatus.RUNNING
        assert await status(world, late) is RunStatus.CANCELLED


async def test_a_run_is_cancelled_after_a_restart_while_it_rests_and_before_it_was_registered() -> None:
    async with World(order, child) as world:
        one, two = await created(world, order=1), await created(world, order=2)
        await world.reopen()
        await world.runtime.send(Event("order.cancelled", {"order": 1}))
        assert await status(world, one) is RunStatus.CANCELLED
        await world.reopen(child)
        world.runtime._engine.register(order)  # pyright: ignore[reportPrivateUsage]
        await world.runtime.send(Event("order.cancelled", {"order": 2}))
        assert await status(world, two) is RunStatus.CANCELLED
        await world.reopen()
        assert await status(world, two) is RunStatus.CANCELLED


async def test_a_queued_run_is_cancelled_and_never_begins() -> None:
    async with World(order, child, max_active_runs=1) as world:
        await created(world, order=1)
        queued = await created(world, order=2)
        assert await status(world, queued) is RunStatus.QUEUED
        await world.runtime.send(Event("order.cancelled", {"order": 2}))
        assert await status(world, queued) is RunStatus.CANCELLED


async def test_where_sees_the_event_and_the_runs_own() -> None:
    @workflow(id="task", cancel_on=[CancelOn("user.deleted", where="event.data.id == own.data.user or data.all")])
    async def task(ctx: Context, data: dict[str, int]) -> None:
        await ctx.step.sleep("s", "1d")

    async with World(task) as world:
        one = await world.runtime.start(task, {"user": 1})
        two = await world.runtime.start(task, {"user": 2})
        await world.settle()
        await world.runtime.send(Event("user.deleted", {"id": 1}))
        assert [await status(world, run.run_id) for run in (one, two)] == [RunStatus.CANCELLED, RunStatus.RUNNING]
        await world.runtime.send(Event("user.deleted", {"all": True}))
        assert await status(world, two.run_id) is RunStatus.CANCELLED


async def test_an_invoked_run_is_cancelled_and_its_parent_is_told() -> None:
    @workflow(id="stoppable", cancel_on=[CancelOn("stop")])
    async def stoppable(ctx: Context) -> None:
        await ctx.step.sleep("s", "1d")

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("i", workflow=stoppable, data=None, timeout="24h")
        except WorkflowCancelledError as error:
            return error.reason
        return "completed"

    async with World(parent, stoppable) as world:
        handle = await world.runtime.start(parent)
        await world.settle()
        await world.runtime.send(Event("stop", id="s"))
        assert await world.result(handle) == "event 'stop' (id s)"


async def test_the_event_that_starts_a_run_does_not_cancel_it_and_the_next_one_does() -> None:
    @workflow(id="latest", on="e", cancel_on=[CancelOn("e")])
    async def latest(ctx: Context) -> None:
        await ctx.step.sleep("s", "1d")

    async with World(latest) as world:
        ids = await world.runtime.send([Event("e"), Event("e"), Event("e")])
        assert [await status(world, id) for id in ids] == [
            RunStatus.CANCELLED, RunStatus.CANCELLED, RunStatus.RUNNING,
        ]  # fmt: skip


async def test_a_run_that_waits_for_the_event_that_cancels_it_is_cancelled() -> None:
    @workflow(id="both", cancel_on=[CancelOn("e")])
    async def both(ctx: Context) -> None:
        await ctx.step.wait_for_event("w", event="e", timeout="1h")

    async with World(both) as world:
        handle = await world.runtime.start(both)
        await world.settle()
        await world.runtime.send(Event("e"))
        assert await status(world, handle.run_id) is RunStatus.CANCELLED


async def test_a_run_that_sends_the_event_that_cancels_it_is_cancelled_and_the_event_is_sent() -> None:
    @workflow(id="started", on="e")
    async def started(ctx: Context) -> str:
        return "started"

    @workflow(id="sender", cancel_on=[CancelOn("e")])
    async def sender(ctx: Context) -> None:
        await ctx.step.send_event("s", Event("e"))

    async with World(sender, started) as world:
        handle = await world.runtime.start(sender)
        assert await status(world, handle.run_id) is RunStatus.CANCELLED
        [run] = await world.runtime.runs(workflow="started")
        assert await world.result(run.run_id) == "started"


async def test_a_parent_and_its_child_that_one_event_cancels_are_cancelled_once() -> None:
    @workflow(id="below", cancel_on=[CancelOn("stop")])
    async def below(ctx: Context) -> None:
        await ctx.step.sleep("s", "1d")

    @workflow(id="above", cancel_on=[CancelOn("stop")])
    async def above(ctx: Context) -> None:
        await ctx.step.invoke("i", workflow=below, data=None, timeout="24h")

    async with World(above, below) as world:
        handle = await world.runtime.start(above)
        await world.settle()
        await world.runtime.send(Event("stop"))
        assert await status(world, handle.run_id) is RunStatus.CANCELLED
        cancelled = [n for fact in world.store.committed(RunsCancelled) for n in fact.ns]
        assert len(cancelled) == len(set(cancelled)) == 2


async def test_on_cancel_handlers_run_and_all_is_one_entry_with_the_event() -> None:
    handled: list[str] = []

    async def on_cancel(ctx: Context, ended: Any) -> None:
        handled.append(ended.reason)

    @workflow(id="cleaned", cancel_on=[CancelOn("stop")], on_cancel=on_cancel)
    async def cleaned(ctx: Context) -> None:
        await ctx.step.sleep("s", "1d")

    @workflow(id="started", on="stop")
    async def started(ctx: Context) -> None: ...

    async with World(cleaned, started) as world:
        await world.runtime.start(cleaned)
        await world.runtime.start(cleaned)
        await world.settle()
        acts: list[Any] = []
        world.store.before_commit = lambda entries: acts.extend(entries)
        await world.runtime.send(Event("stop", id="s"))
        await world.settle()
        assert handled == ["event 'stop' (id s)"] * 2
        assert sum(isinstance(act, Together) and act.seq == acts[0].seq for act in acts) == 1


async def test_sending_crashed_at_every_entry_cancels_once_acknowledged() -> None:
    position = 0
    while True:
        world = World(order, child)
        await world.open()
        id = await created(world, order=1)
        world.store.entries_left = position
        event = Event("order.cancelled", {"order": 1}, id="e")
        try:
            await world.runtime.send(event)
            was_sent = True
        except StoreError:
            was_sent = False
        await world.reopen()
        if was_sent:
            assert await status(world, id) is RunStatus.CANCELLED
        await world.runtime.send(event)
        assert await status(world, id) is RunStatus.CANCELLED
        await world.close()
        if was_sent:
            break
        position += STRIDE
    assert position >= 1


async def test_what_a_debounced_run_matches_is_its_last_event() -> None:
    @workflow(id="late", on="e", debounce=Debounce("1m"), cancel_on=[CancelOn("stop", match="data.n")])
    async def late(ctx: Context, data: dict[str, int]) -> None:
        await ctx.step.sleep("s", "1d")

    async with World(late) as world:
        [id] = await world.runtime.send(Event("e", {"n": 1}))
        assert await world.runtime.send(Event("e", {"n": 2})) == [], "it is the same run"
        await world.runtime.send(Event("stop", {"n": 1}))
        assert await status(world, id) is RunStatus.QUEUED
        await world.reopen()
        await world.runtime.send(Event("stop", {"n": 1}))
        assert await status(world, id) is RunStatus.QUEUED
        await world.runtime.send(Event("stop", {"n": 2}))
        assert await status(world, id) is RunStatus.CANCELLED


async def test_an_own_event_without_the_place_to_match_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with World(order, child) as world:
        with caplog.at_level(logging.WARNING, "rotor_actors"):
            id = await created(world, no="order")
        assert "cannot be cancelled by event 'order.cancelled'" in caplog.text
        await world.runtime.send(Event("order.cancelled", {}))
        assert await status(world, id) is RunStatus.RUNNING
        await world.runtime.send(Event("shop.closed"))
        assert await status(world, id) is RunStatus.CANCELLED


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: CancelOn("e", where="data.x ="), ExpressionError, "at position 7"),
        (lambda: CancelOn("e", match="x"), ExpressionError, "'x' is unknown"),
        (lambda: CancelOn("e", within="soon"), ValueError, "within"),
        (lambda: CancelOn("e", within=0), ValueError, "within"),
        (lambda: CancelOn(""), ValueError, "needs an event's name"),
        (lambda: CancelOn(5), ValueError, "needs an event's name"),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_cancel_on_is_refused_when_it_is_made(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cancel_on": CancelOn("e")}, "cancel_on takes a list"),
        ({"cancel_on": ["e"]}, "cancel_on takes a list"),
        ({"cancel_on": "e"}, "cancel_on takes a list"),
        ({"cancel_on": [CancelOn("e", match="data.x")]}, "has no data that the event could match"),
        ({"cancel_on": [CancelOn("e", match="data.x")], "on": cron("* * * * *")}, "has no data"),
    ],
)
async def test_a_cancel_on_that_cannot_work_is_refused_when_the_workflow_is_defined(
    options: dict[str, Any], text: str
) -> None:
    async def fn(ctx: Context) -> None: ...

    with pytest.raises(WorkflowDefinitionError, match=rf"workflow 'w': .*{text}"):
        workflow(id="w", **options)(fn)


async def test_an_event_that_cancels_a_run_is_recorded_for_no_step_below_it() -> None:
    @workflow(id="waiting")
    async def waiting(ctx: Context) -> None:
        await ctx.step.wait_for_event("closed", event="shop.closed", timeout="1d")

    @workflow(id="shop", cancel_on=[CancelOn(event="shop.closed")])
    async def shop(ctx: Context) -> None:
        await ctx.step.invoke("child", workflow=waiting, data=None, timeout="24h")

    async with World(shop, waiting) as world:
        await world.runtime.start(shop, run_id="r")
        await world.settle()
        [below] = await world.runtime.runs(parent="r")
        await world.runtime.send(Event("shop.closed"))
        assert await status(world, below.run_id) is RunStatus.CANCELLED
        assert await world.runtime.steps(below.run_id) == []
