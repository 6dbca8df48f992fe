"""Flow control of invoked runs: given with the invoke, inherited places, timeouts, withdrawal, cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flow_kit import Watch
from kit import World

from rotor_actors import Context, FlowControl, RunStatus, Singleton, Workflow, workflow
from rotor_actors.errors import WorkflowDefinitionError, WorkflowFailedError, WorkflowTimeoutError

pytestmark = pytest.mark.asyncio


def child_of(watch: Watch, flow_control: FlowControl | None = None, *, takes: float = 10.0) -> Workflow[str, str]:
    @workflow(id="child", flow_control=flow_control)
    async def child(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", takes)
        await ctx.step.run("exit", watch.exit, name)
        return f"did {name}"

    return child


def parent_of(child: Workflow[str, str], **options: Any) -> Workflow[int, list[str]]:
    @workflow(id="parent", retries=0)
    async def parent(ctx: Context, count: int) -> list[str]:
        names = [f"{n}" for n in range(count)]
        ends = [ctx.step.invoke(f"c{n}", workflow=child, data=n, timeout="1h", **options) for n in names]
        return [end.result for end in await asyncio.gather(*ends)]

    return parent


@pytest.mark.parametrize("is_given", [True, False])
async def test_children_wait_for_their_key_in_order_and_their_parent_gets_all_their_results(*, is_given: bool) -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=2)
    child = child_of(watch, None if is_given else flow_control)
    parent = parent_of(child, **({"flow_control": flow_control} if is_given else {}))
    async with World(child, parent) as world:
        assert await world.execute(parent, 5) == [f"did {n}" for n in range(5)]
    assert watch.began == ["0", "1", "2", "3", "4"]
    assert watch.most == 2


async def test_what_is_given_with_the_invoke_takes_the_place_of_the_targets_own() -> None:
    watch = Watch()
    child = child_of(watch, FlowControl("own", parallelism=1))
    parent = parent_of(child, flow_control=FlowControl("given", parallelism=3))
    async with World(child, parent) as world:
        await world.execute(parent, 3)
    assert watch.most == 3


async def test_a_parent_lends_its_place_to_a_child_of_its_own_key_so_that_neither_waits_for_ever() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control)

    @workflow(id="parent", flow_control=flow_control)
    async def parent(ctx: Context, name: str) -> str:
        ends = [ctx.step.invoke(f"c{n}", workflow=child, data=f"{name}{n}", timeout="1h") for n in range(3)]
        return ", ".join(end.result for end in await asyncio.gather(*ends))

    async with World(child, parent) as world:
        first = await world.runtime.start(parent, "a")
        second = await world.runtime.start(parent, "b")
        await world.settle()
        await world.reopen()
        assert await world.result(first.run_id) == "did a0, did a1, did a2"
        assert await world.result(second.run_id) == "did b0, did b1, did b2"
    assert watch.began == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert watch.most == 1


async def test_the_timeout_of_an_invoke_runs_while_the_child_is_queued_and_the_child_begins_later_all_the_same() -> (
    None
):
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control, takes=100.0)
    timed_out: list[str] = []

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> None:
        try:
            await ctx.step.invoke("c", workflow=child, data="late", timeout="30s")
        except WorkflowTimeoutError as error:
            timed_out.append(error.run_id)

    async with World(child, parent) as world:
        await world.runtime.start(child, "first")
        await world.execute(parent)
        assert watch.began == ["first"]
        assert (await world.runtime.info(timed_out[0])).status is RunStatus.QUEUED
        assert await world.result(timed_out[0]) == "did late"


async def test_a_queued_child_whose_scope_is_left_is_withdrawn_and_never_begins() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control, takes=100.0)

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5):
                await ctx.step.invoke("c", workflow=child, data="withdrawn", timeout="1h")
        except TimeoutError:
            return "left"
        return "no"

    async with World(child, parent) as world:
        await world.runtime.start(child, "first")
        assert await world.execute(parent) == "left"
        last = await world.runtime.start(child, "last")
        await world.result(last)
    assert watch.began == ["first", "last"]


async def test_cancelling_the_parent_cancels_queued_children_and_frees_the_places_of_running_ones() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control)
    parent = parent_of(child)
    async with World(child, parent) as world:
        handle = await world.runtime.start(parent, 3)
        other = await world.runtime.start(child, "other")
        await world.settle()
        await handle.cancel()
        assert await world.result(other) == "did other"
        assert await world.runtime.count(root=handle.run_id) == {RunStatus.CANCELLED: 4}
    assert watch.began == ["0", "other"]


async def test_a_child_that_outlives_its_parent_keeps_a_place_of_its_own() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control, takes=100.0)

    @workflow(id="parent", retries=0, flow_control=flow_control)
    async def parent(ctx: Context) -> None:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("c", workflow=child, data="c", timeout="5s")

    async with World(child, parent) as world:
        await world.execute(parent)
        await world.runtime.start(child, "next")
        await world.settle()
        assert watch.running == ["c"]
        await world.clock.advance("100s")
        assert watch.began == ["c", "next"]


async def test_a_parent_that_timed_out_on_a_child_has_its_place_to_lend_again() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control, takes=100.0)

    @workflow(id="parent", retries=0, flow_control=flow_control)
    async def parent(ctx: Context) -> str:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("one", workflow=child, data="one", timeout="5s")
        return (await ctx.step.invoke("two", workflow=child, data="two", timeout="1h")).result

    async with World(child, parent) as world:
        handle = await world.runtime.start(parent)
        await world.runtime.start(child, "next")
        await world.clock.advance("10s")
        assert watch.running == ["one", "two"]
        assert await world.result(handle) == "did two"
        await world.clock.advance("100s")
        assert watch.began == ["one", "two", "next"]


async def test_children_wait_for_no_place_in_the_runtime_even_behind_started_runs_that_do() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child = child_of(watch, flow_control)
    parent = parent_of(child)
    async with World(child, parent, max_active_runs=1) as world:
        handle = await world.runtime.start(parent, 2)
        await world.settle()
        queued = await world.runtime.start(child, "queued")
        assert await world.result(handle) == ["did 0", "did 1"]
        assert await world.result(queued) == "did queued"


async def test_a_map_over_a_singleton_says_which_run_was_there() -> None:
    @workflow(id="only", singleton=Singleton())
    async def only(ctx: Context, n: int) -> int:
        await ctx.step.sleep("work", 1)
        return n

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> list[int | None]:
        ends = ctx.step.map("m", workflow=only, items=range(2), timeout="1h", on_error="collect")
        return [end.body async for end in ends]

    async with World(only, parent) as world:
        with pytest.raises(WorkflowFailedError, match="a singleton"):
            await world.execute(parent)


@pytest.mark.parametrize(
    ("flow_control", "says"),
    [(FlowControl("data.user", parallelism=1), "takes no data"), ("k", "FlowControl")],
)
async def test_flow_control_of_an_invoke_that_cannot_work_is_refused_by_name(flow_control: Any, says: str) -> None:
    @workflow(id="plain")
    async def plain(ctx: Context) -> None: ...

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("c", workflow=plain, data=None, timeout="1h", flow_control=flow_control)

    async with World(plain, parent) as world:
        with pytest.raises(WorkflowFailedError, match=says) as raised:
            await world.execute(parent)
        assert raised.value.error.type.endswith(WorkflowDefinitionError.__name__)


async def test_ctx_invoke_and_invoke_by_id_and_map_take_places_too() -> None:
    watch, flow_control = Watch(), FlowControl("k", parallelism=1)
    child, own = child_of(watch), Watch()
    limited = _named("limited", own, flow_control)

    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        async def by_map() -> list[str]:
            ends = ctx.step.map("m", workflow=limited, items=["m1", "m2"], timeout="1h")
            return [str(end.body) async for end in ends]

        by_id = ctx.step.invoke_by_id(
            "a", workflow="child", returns=str, data="a", timeout="1h", flow_control=flow_control
        )
        by_ctx = ctx.invoke("b", workflow=child, body="b", flow_control=flow_control)
        one, two, three = await asyncio.gather(by_id, by_ctx, by_map())
        return [one.result, str(two.body), *three]

    async with World(child, limited, parent) as world:
        assert await world.execute(parent) == ["did a", "did b", "did m1", "did m2"]
    assert watch.began == ["a", "b"]
    assert (watch.most, own.most) == (1, 1)


def _named(id: str, watch: Watch, flow_control: FlowControl) -> Workflow[str, str]:
    @workflow(id=id, flow_control=flow_control)
    async def named(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("exit", watch.exit, name)
        return f"did {name}"

    return named
