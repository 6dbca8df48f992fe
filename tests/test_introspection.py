"""Looking at runs from outside: `runs`, `count`, `info`, `steps`, `tree`, and the handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, RunStatus, RunTree, workflow
from rotor_actors.errors import (
    RunNotFoundError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)

pytestmark = pytest.mark.asyncio


@dataclass
class Order:
    item: str


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@workflow(id="greet")
async def greet(ctx: Context, order: Order) -> Order:
    return Order(f"hello {order.item}")


@workflow(id="slow")
async def slow(ctx: Context, duration: str) -> str:
    await ctx.step.sleep("doze", duration)
    return f"slept {duration}"


@workflow(id="broken", retries=0)
async def broken(ctx: Context) -> None:
    raise KeyError("key")


@workflow(id="family")
async def family(ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.step.invoke("g", workflow=greet, data=Order("you"), timeout="1h"))
        group.create_task(ctx.step.invoke("s", workflow=slow, data="9h", timeout="10h"))


async def one_of_each(world: World) -> dict[str, str]:
    """A run in each status but queued; status to run id."""
    completed = await world.runtime.start(greet, Order("you"), run_id="completed")
    failed = await world.runtime.start(broken, run_id="failed")
    cancelled = await world.runtime.start(slow, "9d", run_id="cancelled")
    running = await world.runtime.start(slow, "9d", run_id="running")
    await world.settle()
    await world.wait(cancelled.cancel("enough"))
    return {handle.run_id: handle.run_id for handle in (completed, failed, cancelled, running)}


# runs


async def test_runs_are_listed_newest_first(world: World) -> None:
    for n in range(5):
        await world.execute(greet, Order(""), run_id=f"r{n}")
    assert [run.run_id for run in await world.runtime.runs()] == ["r4", "r3", "r2", "r1", "r0"]


async def test_runs_are_listed_page_by_page(world: World) -> None:
    for n in range(5):
        await world.execute(greet, Order(""), run_id=f"r{n}")
    pages: list[list[str]] = []
    after: str | None = None
    while page := await world.runtime.runs(limit=2, after=after):
        pages.append([run.run_id for run in page])
        after = page[-1].run_id
    assert pages == [["r4", "r3"], ["r2", "r1"], ["r0"]]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("completed", ["completed"]),
        (RunStatus.FAILED, ["failed"]),
        (["cancelled", RunStatus.RUNNING], ["running", "cancelled"]),
        ((), ["running", "cancelled", "failed", "completed"]),
        (None, ["running", "cancelled", "failed", "completed"]),
        ("queued", []),
    ],
)
async def test_runs_are_filtered_by_status(world: World, status: Any, expected: list[str]) -> None:
    await one_of_each(world)
    assert [run.run_id for run in await world.runtime.runs(status=status)] == expected


async def test_a_status_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="sleeping"):
        await world.runtime.runs(status="sleeping")


async def test_runs_are_filtered_by_workflow_parent_and_root(world: World) -> None:
    handle = await world.runtime.start(family, run_id="top")
    await world.runtime.start(slow, "1h", run_id="aside")
    await world.settle()
    ids = {run.workflow_id: run.run_id for run in await world.runtime.runs(root="top")}
    assert ids.keys() == {"family", "greet", "slow"}
    assert {run.run_id for run in await world.runtime.runs(parent="top")} == {ids["greet"], ids["slow"]}
    assert {run.run_id for run in await world.runtime.runs(workflow="slow")} == {ids["slow"], "aside"}
    assert [run.run_id for run in await world.runtime.runs(workflow=slow, root=handle.run_id)] == [ids["slow"]]
    assert await world.runtime.runs(workflow="unknown") == []


@pytest.mark.parametrize("name", ["after", "parent", "root"])
async def test_a_run_named_in_a_query_must_exist(world: World, name: str) -> None:
    arguments: dict[str, Any] = {name: "nobody"}
    with pytest.raises(RunNotFoundError, match="no run has the id 'nobody'"):
        await world.runtime.runs(**arguments)


# count


async def test_count_tells_how_many_runs_have_each_status(world: World) -> None:
    await one_of_each(world)
    await world.execute(greet, Order(""))
    assert await world.runtime.count() == {
        RunStatus.COMPLETED: 2, RunStatus.FAILED: 1, RunStatus.CANCELLED: 1, RunStatus.RUNNING: 1,
    }  # fmt: skip


async def test_count_of_one_tree(world: World) -> None:
    await one_of_each(world)
    await world.runtime.start(family, run_id="top")
    await world.settle()
    assert await world.runtime.count(root="top") == {RunStatus.RUNNING: 2, RunStatus.COMPLETED: 1}
    assert await world.runtime.count(root="nobody") == {}


# info


async def test_the_info_of_a_completed_run(world: World) -> None:
    began = datetime.fromtimestamp(world.clock.now(), UTC)
    await world.execute(slow, "2h", run_id="s", headers={"trace": "1"})
    info = await world.runtime.info("s")
    assert (info.run_id, info.workflow_id, info.status, info.attempt) == ("s", "slow", RunStatus.COMPLETED, 1)
    assert (info.depth, info.parent_run_id, info.parent_step_id, info.root_run_id) == (0, None, None, "s")
    assert (info.input, info.result, info.error, info.reason) == ("2h", "slept 2h", None, "")
    assert (info.created_at, info.started_at, info.ended_at) == (began, began, began + timedelta(hours=2))
    assert (info.headers, info.waiting_for, info.is_released, info.is_diverged) == ({"trace": "1"}, "", False, False)


async def test_input_and_result_are_typed_where_the_workflow_is_known_and_plain_where_not(world: World) -> None:
    await world.execute(greet, Order("you"), run_id="g")
    info = await world.runtime.info("g")
    assert (info.input, info.result) == (Order("you"), Order("hello you"))
    await world.reopen(slow)
    info = await world.runtime.info("g")
    assert (info.input, info.result) == ({"item": "you"}, {"item": "hello you"})


async def test_the_info_of_a_failed_run(world: World) -> None:
    await one_of_each(world)
    info = await world.runtime.info("failed")
    assert info.error is not None
    assert (info.error.type, info.error.message, info.reason) == ("KeyError", "'key'", "")
    assert "raise KeyError" in info.error.traceback
    assert (info.result, info.status) == (None, RunStatus.FAILED)


async def test_the_info_of_a_cancelled_run(world: World) -> None:
    await one_of_each(world)
    info = await world.runtime.info("cancelled")
    assert (info.status, info.reason, info.error, info.result) == (RunStatus.CANCELLED, "enough", None, None)
    assert info.ended_at is not None


async def test_the_info_of_a_child_names_its_place(world: World) -> None:
    await world.runtime.start(family, run_id="top")
    await world.settle()
    (child,) = await world.runtime.runs(workflow="slow")
    assert (child.parent_run_id, child.parent_step_id, child.root_run_id, child.depth) == ("top", "s", "top", 1)


async def test_a_run_that_waits_for_admission_says_so() -> None:
    async with World(max_active_runs=1) as world:
        await world.runtime.start(slow, "1h", run_id="first")
        second = await world.runtime.start(slow, "1h", run_id="second")
        await world.settle()
        info = await second.info()
        assert (info.status, info.waiting_for, info.started_at) == (RunStatus.QUEUED, "admission", None)
        assert await world.result(second) == "slept 1h"
        assert (await second.info()).started_at == info.created_at + timedelta(hours=1)


async def test_looking_shows_what_was_done_before(world: World) -> None:
    """A reader never sees less than what it knows to have happened."""
    handle = await world.runtime.start(greet, Order(""))
    assert await handle.status() in (RunStatus.RUNNING, RunStatus.COMPLETED)
    await world.result(handle)
    assert await handle.status() is RunStatus.COMPLETED


# steps


async def test_steps_are_listed_in_the_order_of_their_outcomes(world: World) -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await ctx.step.run("one", lambda: 1)
        await ctx.step.sleep("two", "1h")
        with pytest.raises(ValueError, match="three"):
            await ctx.step.run("three", fail)
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("four", workflow=slow, data="9h", timeout="1h")

    def fail() -> None:
        raise ValueError("three")

    began = datetime.fromtimestamp(world.clock.now(), UTC)
    handle = await world.runtime.start(w)
    await world.result(handle)
    steps = await world.runtime.steps(handle.run_id)
    assert [(step.step_id, step.kind, step.status.value) for step in steps] == [
        ("one", "run", "completed"),
        ("two", "sleep", "completed"),
        ("three", "run", "failed"),
        ("four", "invoke", "timed_out"),
    ]
    assert [step.ended_at - began for step in steps] == [timedelta(hours=hours) for hours in (0, 1, 1, 2)]
    assert steps[0].began_at == began


async def test_events_of_the_run_are_no_steps(world: World) -> None:
    @workflow(id="w", retries=1)
    async def w(ctx: Context) -> None:
        await asyncio.sleep(10)
        if ctx.attempt == 1:
            raise RuntimeError("once more")

    handle = await world.runtime.start(w)
    await world.result(handle)
    assert await world.runtime.steps(handle.run_id) == []


# tree


def shape(tree: RunTree) -> Any:
    return {f"{tree.run.workflow_id} {tree.run.status.value}": [shape(child) for child in tree.children]}


async def test_the_tree_of_a_run_is_all_below_it_in_the_order_of_creation(world: World) -> None:
    @workflow(id="top")
    async def top(ctx: Context) -> None:
        await ctx.step.invoke("f", workflow=family, data=None, timeout="20h")

    handle = await world.runtime.start(top)
    await world.settle()
    tree = await handle.tree()
    assert shape(tree) == {"top running": [{"family running": [{"greet completed": []}, {"slow running": []}]}]}
    (branch,) = tree.children
    assert shape(await world.runtime.tree(branch.run.run_id)) == shape(branch), "a tree may start anywhere"


async def test_a_tree_is_printed_with_a_line_for_each_run(world: World) -> None:
    handle = await world.runtime.start(family, run_id="top")
    await world.settle()
    lines = str(await handle.tree()).splitlines()
    assert lines[0] == "family top running"
    assert [line.split()[::2] for line in lines[1:]] == [["greet", "completed"], ["slow", "running"]]
    assert all(line.startswith("  ") for line in lines[1:])


async def test_a_deep_tree_can_be_looked_at_and_printed(world: World) -> None:
    @workflow(id="down")
    async def down(ctx: Context) -> None:
        if ctx.depth < 1500:
            await ctx.step.invoke("d", workflow=down, data=None, timeout="1h")

    async with World(max_depth=None) as deep:
        handle = await deep.runtime.start(down)
        await deep.result(handle)
        tree = await handle.tree()
        assert len(str(tree).splitlines()) == 1501


# Runs that are not there


@pytest.mark.parametrize("look", ["info", "steps", "tree", "cancel"])
async def test_an_unknown_run_is_not_found(world: World, look: str) -> None:
    with pytest.raises(RunNotFoundError, match="no run has the id 'nobody' in this store"):
        await getattr(world.runtime, look)("nobody")


async def test_a_handle_of_an_unknown_run_finds_that_out_when_it_is_used(world: World) -> None:
    handle = world.runtime.run("nobody")
    for use in (handle.result, handle.status, handle.info, handle.tree, handle.cancel):
        with pytest.raises(RunNotFoundError):
            await use()


# The handle


async def test_any_number_of_waiters_get_the_result(world: World) -> None:
    handle = await world.runtime.start(slow, "1h")
    waits = [handle.result() for _ in range(3)] + [world.runtime.run(handle.run_id).result() for _ in range(3)]
    assert await world.wait(asyncio.gather(*waits)) == ["slept 1h"] * 6
    assert await handle.result() == "slept 1h", "and those who come later"


async def test_cancelling_a_waiter_cancels_neither_the_run_nor_other_waiters(world: World) -> None:
    handle = await world.runtime.start(slow, "1h")
    one, other = asyncio.create_task(handle.result()), asyncio.create_task(handle.result())
    await world.settle()
    one.cancel()
    await asyncio.wait([one])
    assert one.cancelled()
    assert await world.wait(other) == "slept 1h"


async def test_a_waiter_may_have_a_timeout_of_its_own_and_the_run_goes_on(world: World) -> None:
    handle = await world.runtime.start(slow, "3h")
    with pytest.raises(WorkflowTimeoutError) as caught:
        await world.wait(handle.result(timeout="1h"))
    assert (caught.value.run_id, caught.value.workflow_id, caught.value.timeout) == (handle.run_id, "slow", 3600)
    assert await world.result(handle) == "slept 3h"


async def test_each_way_to_end_has_its_own_exception(world: World) -> None:
    await one_of_each(world)
    with pytest.raises(WorkflowFailedError, match="KeyError") as failed:
        await world.result("failed")
    assert (failed.value.run_id, failed.value.workflow_id) == ("failed", "broken")
    with pytest.raises(WorkflowCancelledError, match="enough") as cancelled:
        await world.result("cancelled")
    assert (cancelled.value.run_id, cancelled.value.workflow_id) == ("cancelled", "slow")


async def test_all_that_is_known_outlives_the_runtime(world: World) -> None:
    await one_of_each(world)
    before = [await world.runtime.info(run_id) for run_id in ("completed", "failed", "cancelled")]
    await world.reopen(greet, broken, slow)
    assert [await world.runtime.info(run_id) for run_id in ("completed", "failed", "cancelled")] == before
    assert await world.result("completed") == Order("hello you")
