"""`step.invoke`: every row of the table in docs/design.md, as a user sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
import pytest_asyncio
from kit import STRIDE, FragileStore, World, until, with_a_crash_after_each_entry

from rotor_actors import Context, Invocation, RetryPolicy, RunStatus, Runtime, Workflow, cron, workflow
from rotor_actors.errors import (
    DurationError,
    InvokeDepthError,
    InvokeTargetError,
    NonRetriableError,
    PayloadError,
    RunExistsError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.ids import child_run_id, step_key
from rotor_actors.records import History, RunCreated, RunsCancelled

pytestmark = pytest.mark.asyncio


@dataclass
class Order:
    item: str
    count: int = 1


@dataclass
class Receipt:
    text: str
    total: int


class SlowReadingStore(FragileStore):
    """A store with a disk, whose histories can be read only while `may_read` is set."""

    is_inline = False

    def __init__(self) -> None:
        super().__init__()
        self.may_read, self.reading = threading.Event(), threading.Event()
        self.may_read.set()

    def histories(self, ns: list[int]) -> dict[int, History]:
        self.reading.set()
        found = super().histories(ns)
        assert self.may_read.wait(10), "nobody let it read"
        return found


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@workflow(id="bill")
async def bill(ctx: Context, order: Order) -> Receipt:
    return Receipt(f"{order.count} x {order.item}", order.count * 7)


@workflow(id="slow")
async def slow(ctx: Context, duration: str) -> str:
    await ctx.step.sleep("doze", duration)
    return f"slept {duration}"


@workflow(id="broken", retries=2)
async def broken(ctx: Context, data: None) -> None:
    raise KeyError(f"attempt {ctx.attempt}")


async def statuses(world: World, run_id: str) -> dict[str, str]:
    """Workflow id to status, of a whole tree."""
    return {run.workflow_id: run.status.value for run in await world.runtime.runs(root=run_id)}


# The child completes


async def test_a_child_that_completes_gives_its_typed_result_and_its_run_id(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        invocation = await ctx.step.invoke("bill", workflow=bill, data=Order("tea", 2), timeout="1m")
        result, run_id = invocation
        assert isinstance(invocation, Invocation)
        assert result == Receipt("2 x tea", 14)
        return [result.text, run_id]

    text, run_id = await world.execute(parent)
    assert text == "2 x tea"
    assert await world.runtime.run(run_id).result() == Receipt("2 x tea", 14)


async def test_a_child_knows_its_parent_its_root_and_its_depth(world: World) -> None:
    @workflow(id="leaf")
    async def leaf(ctx: Context) -> list[str | int | None]:
        return [ctx.parent_run_id, ctx.root_run_id, ctx.depth]

    @workflow(id="middle")
    async def middle(ctx: Context) -> list[str | int | None]:
        return [ctx.run_id, *(await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1m")).result]

    @workflow(id="top")
    async def top(ctx: Context) -> list[str | int | None]:
        return (await ctx.step.invoke("middle", workflow=middle, data=None, timeout="1m")).result

    handle = await world.runtime.start(top)
    middle_id, parent_id, root_id, depth = await world.result(handle)
    assert (parent_id, root_id, depth) == (middle_id, handle.run_id, 2)


async def test_a_childs_run_id_is_a_function_of_parent_step_and_generation(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        found = [await ctx.step.invoke("bill", workflow=bill, data=Order("tea"), timeout="1m") for _ in range(2)]
        return [each.run_id for each in found]

    handle = await world.runtime.start(parent)
    expected = [child_run_id(handle.run_id, step_key("bill", count), 1) for count in range(2)]
    assert await world.result(handle) == expected


async def test_children_invoked_at_once_run_at_once(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        waits = [ctx.step.invoke(f"s{n}", workflow=slow, data=f"{n}h", timeout="9h") for n in (3, 1, 2)]
        return [each.result for each in await asyncio.gather(*waits)]

    began = world.clock.now()
    assert await world.execute(parent) == ["slept 3h", "slept 1h", "slept 2h"]
    assert world.clock.now() - began == 3 * 3600


async def test_headers_reach_the_child_and_no_further(world: World) -> None:
    @workflow(id="leaf")
    async def leaf(ctx: Context) -> dict[str, str]:
        return dict(ctx.headers)

    @workflow(id="child")
    async def child(ctx: Context) -> list[dict[str, str]]:
        return [dict(ctx.headers), (await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1m")).result]

    @workflow(id="parent")
    async def parent(ctx: Context) -> list[dict[str, str]]:
        return (await ctx.step.invoke("c", workflow=child, data=None, timeout="1m", headers={"tenant": "a"})).result

    assert await world.execute(parent, headers={"top": "x"}) == [{"tenant": "a"}, {}]


async def test_headers_that_are_not_strings_are_refused(world: World) -> None:
    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> None:
        headers = cast("dict[str, str]", {"tries": 3})
        with pytest.raises(TypeError, match="headers are strings; got 'tries': 3"):
            await ctx.step.invoke("bill", workflow=bill, data=Order("tea"), timeout="1m", headers=headers)

    await world.execute(parent)


async def test_invoke_by_id_finds_a_registered_workflow_and_types_the_result_as_told() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        found = await ctx.step.invoke_by_id("b", workflow="bill", returns=Receipt, data=Order("tea"), timeout="1m")
        assert isinstance(found.result, Receipt)
        return found.result.text

    async with World(bill) as world:
        assert await world.execute(parent) == "1 x tea"


async def test_data_that_does_not_fit_the_targets_annotation_is_refused_and_nothing_is_spawned(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("bill", workflow=bill, data=cast("Order", {"item": 3}), timeout="1m")

    handle = await world.runtime.start(parent)
    with pytest.raises(WorkflowFailedError, match="PayloadError") as caught:
        await world.result(handle)
    assert "input of workflow 'bill'" in caught.value.error.message
    assert len(await world.runtime.runs()) == 1


async def test_data_for_a_workflow_that_takes_none_is_refused(world: World) -> None:
    @workflow(id="idle")
    async def idle(ctx: Context) -> None: ...

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with pytest.raises(PayloadError, match="takes no data"):
            await ctx.step.invoke("idle", workflow=idle, data=cast("None", 3), timeout="1m")

    await world.execute(parent)


# The child fails for good


async def test_a_child_that_fails_for_good_raises_workflow_failed_error_with_all_that_is_known(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        try:
            await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h")
        except WorkflowFailedError as error:
            return [error.run_id, error.workflow_id, error.error.type, error.error.message, error.error.traceback]
        raise AssertionError

    handle = await world.runtime.start(parent)
    run_id, workflow_id, kind, message, traceback = await world.result(handle)
    assert run_id == child_run_id(handle.run_id, step_key("b", 0), 1)
    assert (workflow_id, kind) == ("broken", "KeyError")
    assert message == "'attempt 3'", "its own retries are used up first"
    assert "raise KeyError" in traceback
    assert (await world.runtime.info(run_id)).attempt == 3


async def test_the_error_shows_the_remote_traceback_as_a_note(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        with pytest.raises(WorkflowFailedError) as caught:
            await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h")
        return caught.value.__notes__

    (note,) = await world.execute(parent)
    assert note.startswith("remote traceback:\n")
    assert "raise KeyError" in note


async def test_the_invoke_may_bring_other_retries_than_the_targets_own(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        ends: list[str] = []
        for retries in (0, 1, RetryPolicy(4, initial="1s")):
            try:
                await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h", retries=retries)
            except WorkflowFailedError as error:
                ends.append(error.error.message)
        return ends

    assert await world.execute(parent) == ["'attempt 1'", "'attempt 2'", "'attempt 5'"]


async def test_a_retry_delay_is_constant(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> float:
        began = ctx.now()
        with pytest.raises(WorkflowFailedError):
            await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h", retries=3, retry_delay="2m")
        return (ctx.now() - began).total_seconds()

    assert await world.execute(parent) == 3 * 120


async def test_a_failure_that_nobody_catches_fails_the_parent_once_its_retries_are_used_up(world: World) -> None:
    @workflow(id="parent", retries=2)
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h")

    handle = await world.runtime.start(parent)
    with pytest.raises(WorkflowFailedError) as caught:
        await world.result(handle)
    assert caught.value.error.type == "rotor_actors.errors.WorkflowFailedError"
    assert (await handle.info()).attempt == 3
    assert len(world.store.committed(RunCreated)) == 2, "the child was not run again"


# The child is cancelled


async def test_a_cancelled_child_raises_an_ordinary_exception_in_a_parent_that_is_not_cancelled(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        with pytest.raises(WorkflowCancelledError) as caught:
            await ctx.step.invoke("s", workflow=slow, data="1h", timeout="2h")
        error: BaseException = caught.value
        assert isinstance(error, Exception)
        assert not isinstance(error, asyncio.CancelledError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await ctx.step.sleep("still alive", "1m")
        return [caught.value.run_id, caught.value.workflow_id, caught.value.reason]

    handle = await world.runtime.start(parent)
    await world.clock.advance("10m")
    child_id = child_run_id(handle.run_id, step_key("s", 0), 1)
    report = await world.wait(world.runtime.cancel(child_id, "enough"))
    assert report.cancelled == [child_id]
    assert await world.result(handle) == [child_id, "slow", "enough"]


async def test_failed_timed_out_and_cancelled_are_told_apart_by_except_star(world: World) -> None:
    @workflow(id="quitter")
    async def quitter(ctx: Context) -> None:
        await ctx.cancel("no wish to go on")

    async def swallow(work: Any, into: list[str]) -> None:
        try:
            try:
                await work
            except WorkflowError as error:
                raise ExceptionGroup("collected", [error]) from None
        except* WorkflowFailedError:
            into.append("failed")
        except* WorkflowTimeoutError:
            into.append("timed out")
        except* WorkflowCancelledError:
            into.append("cancelled")

    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        seen: list[str] = []
        await swallow(ctx.step.invoke("b", workflow=broken, data=None, timeout="1h"), seen)
        await swallow(ctx.step.invoke("s", workflow=slow, data="2h", timeout="1h"), seen)
        await swallow(ctx.step.invoke("q", workflow=quitter, data=None, timeout="1h"), seen)
        return seen

    assert await world.execute(parent) == ["failed", "timed out", "cancelled"]


# The parent's timeout passes


async def test_when_the_timeout_passes_the_parent_goes_on_and_the_child_runs_on(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str | float]:
        try:
            await ctx.step.invoke("s", workflow=slow, data="3h", timeout="1h")
        except WorkflowTimeoutError as error:
            return [error.run_id, error.workflow_id, error.timeout, ctx.now().timestamp()]
        raise AssertionError

    began = world.clock.now()
    handle = await world.runtime.start(parent)
    run_id, workflow_id, timeout, at = await world.result(handle)
    assert isinstance(run_id, str)
    assert (workflow_id, timeout, at) == ("slow", 3600.0, began + 3600)
    info = await world.runtime.info(run_id)
    assert (info.status, info.is_released) == (RunStatus.RUNNING, True)
    assert await world.result(run_id) == "slept 3h", "joined later"


async def test_a_child_that_was_timed_out_on_can_be_cancelled_by_the_run_id_of_the_error(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("s", workflow=slow, data="3h", timeout="1h")
        except WorkflowTimeoutError as error:
            return error.run_id
        raise AssertionError

    run_id = await world.execute(parent)
    assert (await world.wait(world.runtime.cancel(run_id))).cancelled == [run_id]
    with pytest.raises(WorkflowCancelledError):
        await world.result(run_id)


async def test_a_child_that_ends_before_the_deadline_is_no_timeout_and_its_alarm_is_silent(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        result = (await ctx.step.invoke("s", workflow=slow, data="59m", timeout="1h")).result
        await ctx.step.sleep("past the deadline", "2h")
        return result

    assert await world.execute(parent) == "slept 59m"


async def test_a_virtual_day_ends_at_its_deadline_to_the_second(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("s", workflow=slow, data="7d", timeout=timedelta(hours=24))

    began = world.clock.now()
    parent_run = await world.runtime.start(Workflow(id="p", fn=parent.fn, retries=0))
    with pytest.raises(WorkflowFailedError, match="WorkflowTimeoutError"):
        await world.result(parent_run)
    assert world.clock.now() == began + 24 * 3600


# The awaiting scope is cancelled by the body


async def test_a_scope_that_is_cancelled_takes_its_child_with_it(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            async with asyncio.timeout(600):
                await ctx.step.invoke("s", workflow=slow, data="3h", timeout="5h")
        except TimeoutError:
            return "let go"
        return "not reached"

    handle = await world.runtime.start(parent)
    assert await world.result(handle) == "let go"
    await world.settle()
    assert await statuses(world, handle.run_id) == {"parent": "completed", "slow": "cancelled"}


async def test_a_withdrawn_child_is_no_outcome_and_a_later_attempt_spawns_the_next_generation(world: World) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="1m", jitter=False))
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            async with asyncio.timeout(600):  # the TimeoutError ends the attempt
                await ctx.step.invoke("s", workflow=slow, data="1h", timeout="5h")
        return (await ctx.step.invoke("s", workflow=slow, data="1h", timeout="5h")).run_id

    handle = await world.runtime.start(parent)
    assert await world.result(handle) == child_run_id(handle.run_id, step_key("s", 0), 2)
    children = await world.runtime.runs(parent=handle.run_id)
    assert [child.status.value for child in children] == ["completed", "cancelled"]


# The parent is cancelled


async def test_cancelling_a_parent_cancels_every_descendant_in_one_durable_act(world: World) -> None:
    @workflow(id="middle")
    async def middle(ctx: Context) -> str:
        return (await ctx.step.invoke("s", workflow=slow, data="9h", timeout="10h")).result

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        return (await ctx.step.invoke("m", workflow=middle, data=None, timeout="12h")).result

    handle = await world.runtime.start(parent)
    await world.clock.advance("1h")
    report = await world.wait(handle.cancel("changed my mind"))
    assert len(report.cancelled) == 3
    assert await statuses(world, handle.run_id) == dict.fromkeys(("parent", "middle", "slow"), "cancelled")
    (fact,) = world.store.committed(RunsCancelled)
    assert len(fact.ns) == 3


async def test_cancelling_kills_also_those_that_were_timed_out_on_or_abandoned(world: World) -> None:
    @workflow(id="abandoned")
    async def abandoned(ctx: Context) -> None:
        await ctx.step.sleep("doze", "9d")

    @workflow(id="middle")
    async def middle(ctx: Context) -> None:
        task = asyncio.create_task(
            ctx.step.invoke("a", workflow=abandoned, data=None, timeout="20h", on_parent_close="abandon")
        )
        await ctx.step.sleep("until it runs", "1m")
        task.add_done_callback(lambda done: done.cancelled())

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke("m", workflow=middle, data=None, timeout="1h")
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("s", workflow=slow, data="9d", timeout="1h")
        await ctx.step.sleep("on", "9d")

    handle = await world.runtime.start(parent)
    await world.clock.advance("5h")
    before = await statuses(world, handle.run_id)
    assert before == {"parent": "running", "middle": "completed", "slow": "running", "abandoned": "running"}
    report = await world.wait(handle.cancel())
    assert len(report.cancelled) == 3
    after = await statuses(world, handle.run_id)
    assert after == {"parent": "cancelled", "middle": "completed", "slow": "cancelled", "abandoned": "cancelled"}


# The parent ends with children still running


@pytest.mark.parametrize("how", ["completes", "fails"])
async def test_a_parent_that_ends_cancels_the_children_it_owns_and_no_others(world: World, how: str) -> None:
    @workflow(id="owned")
    async def owned(ctx: Context) -> None:
        await ctx.step.sleep("doze", "9d")

    @workflow(id="abandoned")
    async def abandoned(ctx: Context) -> str:
        await ctx.step.sleep("doze", "2d")
        return "ran on"

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> None:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("s", workflow=slow, data="1d", timeout="1h")
        tasks = [
            asyncio.create_task(ctx.step.invoke("o", workflow=owned, data=None, timeout="20h")),
            asyncio.create_task(
                ctx.step.invoke("a", workflow=abandoned, data=None, timeout="20h", on_parent_close="abandon")
            ),
        ]
        await ctx.step.sleep("until they run", "1m")
        assert len(tasks) == 2
        if how == "fails":
            raise NonRetriableError("on purpose")

    handle = await world.runtime.start(parent)
    await world.clock.advance("2h")
    end = "completed" if how == "completes" else "failed"
    assert await statuses(world, handle.run_id) == {
        "parent": end, "owned": "cancelled", "slow": "running", "abandoned": "running",
    }  # fmt: skip
    await world.clock.advance("3d")
    assert await statuses(world, handle.run_id) == {
        "parent": end, "owned": "cancelled", "slow": "completed", "abandoned": "completed",
    }  # fmt: skip


async def test_a_child_cancelled_because_its_parent_ended_says_so(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        task = asyncio.create_task(ctx.step.invoke("s", workflow=slow, data="9h", timeout="10h"))
        await ctx.step.sleep("until it runs", "1m")
        assert not task.done()
        return "done"

    handle = await world.runtime.start(parent)
    assert await world.result(handle) == "done"
    (child,) = await world.runtime.runs(parent=handle.run_id)
    assert "parent ended" in child.reason


async def test_the_end_of_an_abandoned_grandchild_answers_no_step_of_its_grandparent(world: World) -> None:
    """Both levels use one step id, so both children have one step key."""

    @workflow(id="grandchild")
    async def grandchild(ctx: Context) -> str:
        await ctx.step.sleep("doze", "1h")
        return "of the grandchild"

    @workflow(id="child")
    async def child(ctx: Context) -> str:
        task = asyncio.create_task(
            ctx.step.invoke("sub", workflow=grandchild, data=None, timeout="2h", on_parent_close="abandon")
        )
        await ctx.step.sleep("until it runs", "1m")
        assert not task.done()
        return "of the child"

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        await ctx.step.invoke("first", workflow=child, data=None, timeout="3h")
        return (await ctx.step.invoke("sub", workflow=slow, data="2h", timeout="3h")).result

    assert await world.execute(parent) == "slept 2h"


# The parent is retried or recovered


async def end_of_each_kind(ctx: Context, seen: list[list[object]]) -> None:
    """Invoke four children that end in the four ways, and note what the parent saw of each."""
    ends: list[object] = []
    quick: list[tuple[str, Workflow[Any, Any], Any]] = [
        ("bill", bill, Order("tea")), ("broken", broken, None), ("slow", slow, "9h"), ("quit", quits, None),
    ]  # fmt: skip
    for name, target, data in quick:
        try:
            ends.append(await ctx.step.invoke(name, workflow=target, data=data, timeout="1h"))
        except WorkflowError as error:
            ends.append(error)
    seen.append(ends)


@workflow(id="quits")
async def quits(ctx: Context, data: None) -> None:
    await ctx.cancel("by itself")


async def test_a_retried_parent_gets_the_ends_of_its_children_again_of_whatever_kind(world: World) -> None:
    seen: list[list[object]] = []

    @workflow(id="parent", retries=2)
    async def parent(ctx: Context) -> str:
        await end_of_each_kind(ctx, seen)
        if ctx.attempt < 3:
            raise RuntimeError("once more")
        return "done"

    assert await world.execute(parent) == "done"
    kinds = [type(end) for end in seen[0]]
    assert kinds == [Invocation, WorkflowFailedError, WorkflowTimeoutError, WorkflowCancelledError]
    assert seen[0] == seen[1] == seen[2]
    assert len(world.store.committed(RunCreated)) == 5, "no child was spawned twice"


async def test_a_recovered_parent_gets_the_ends_of_its_children_again_of_whatever_kind() -> None:
    seen: list[list[object]] = []

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        await end_of_each_kind(ctx, seen)
        await ctx.step.sleep("the crash comes here", "1d")
        return "done"

    async with World(parent, bill, broken, slow, quits) as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("2h")
        await world.reopen()
        assert await world.result(handle.run_id) == "done"
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert len(world.store.committed(RunCreated)) == 5, "no child was spawned twice"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("crash_after", [None, "90m", "150m", "5h"])
@pytest.mark.parametrize("delay", [1, 3])
async def test_a_timeout_stands_also_when_the_child_completes_before_the_next_attempt_or_in_it(
    strict: bool, crash_after: str | None, delay: int
) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial=delay * 3600, maximum="9h", jitter=False))
    async def parent(ctx: Context) -> float:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("s", workflow=slow, data="3h", timeout="1h")
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        await ctx.step.sleep("meanwhile it completes", "4h")
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("again", workflow=slow, data="3h", timeout="1h")
        return ctx.now().timestamp()

    async with World(parent, slow, strict_replay=strict) as world:
        began = world.clock.now()
        handle = await world.runtime.start(parent)
        if crash_after is not None:
            await world.clock.advance(crash_after)
            handle = (await world.reopen()).run(handle.run_id)
        assert await world.result(handle) == began + (6 + delay) * 3600
        assert not (await handle.info()).is_diverged
        assert len(world.store.committed(RunCreated)) == 3


async def test_a_running_child_is_re_attached_by_the_next_attempt_with_its_original_deadline(world: World) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="20m", jitter=False))
    async def parent(ctx: Context) -> list[float]:
        began = ctx.now().timestamp()
        if ctx.attempt == 1:
            task = asyncio.create_task(ctx.step.invoke("s", workflow=slow, data="9h", timeout="1h"))
            await ctx.step.sleep("a while", "10m")
            assert not task.done()
            raise RuntimeError("the attempt ends with the child in flight")
        with pytest.raises(WorkflowTimeoutError) as caught:
            await ctx.step.invoke("s", workflow=slow, data="9h", timeout="1h")
        assert caught.value.timeout == 3600
        return [began, ctx.now().timestamp()]

    began = world.clock.now()
    assert await world.execute(parent) == [began + 1800, began + 3600]
    assert len(world.store.committed(RunCreated)) == 2


async def test_a_running_child_is_re_attached_after_a_crash_with_its_original_deadline() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> float:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("s", workflow=slow, data="9h", timeout="1h")
        return ctx.now().timestamp()

    async with World(parent, slow) as world:
        began = world.clock.now()
        handle = await world.runtime.start(parent)
        for _ in range(3):
            await world.clock.advance("15m")
            await world.reopen()
        assert await world.result(handle.run_id) == began + 3600
        assert len(world.store.committed(RunCreated)) == 2


async def test_a_deadline_that_passed_while_nothing_ran_has_passed_on_recovery() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            return (await ctx.step.invoke("s", workflow=slow, data="9h", timeout="1h")).result
        except WorkflowTimeoutError:
            return "timed out"

    async with World(parent, slow) as world:
        handle = await world.runtime.start(parent)
        await world.settle()
        await world.crash()
        await world.clock.advance("2h")
        await world.open()
        assert await world.result(handle.run_id, within="1m") == "timed out"


async def test_an_attempt_that_ends_leaves_its_children_in_flight(world: World) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="1h", jitter=False))
    async def parent(ctx: Context) -> str:
        async def fail() -> None:
            await ctx.step.sleep("a while", "1m")
            if ctx.attempt == 1:
                raise RuntimeError("first attempt")

        invocation, _ = await asyncio.gather(ctx.step.invoke("s", workflow=slow, data="30m", timeout="9h"), fail())
        return invocation.result

    handle = await world.runtime.start(parent)
    await world.clock.advance("45m")
    assert await statuses(world, handle.run_id) == {"parent": "running", "slow": "completed"}
    assert await world.result(handle) == "slept 30m"
    assert len(world.store.committed(RunCreated)) == 2


async def test_a_child_that_ends_in_a_later_attempt_before_it_is_asked_for_is_not_spawned_again(world: World) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="1m", jitter=False))
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            task = asyncio.create_task(ctx.step.invoke("s", workflow=slow, data="30m", timeout="9h"))
            await ctx.step.sleep("a while", "1m")
            assert not task.done()
            raise RuntimeError("the attempt ends with the child in flight")
        await ctx.step.sleep("meanwhile it ends", "1h")
        return (await ctx.step.invoke("s", workflow=slow, data="30m", timeout="9h")).result

    assert await world.execute(parent) == "slept 30m"
    assert len(world.store.committed(RunCreated)) == 2


@pytest.mark.parametrize("strict", [False, True])
async def test_a_crash_in_a_later_attempt_before_an_inherited_child_is_asked_for_changes_nothing(strict: bool) -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="1m", jitter=False))
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            task = asyncio.create_task(ctx.step.invoke("s", workflow=slow, data="30m", timeout="9h"))
            await ctx.step.sleep("a while", "1m")
            assert not task.done()
            raise RuntimeError("the attempt ends with the child in flight")
        await ctx.step.sleep("meanwhile it ends", "1h")
        return (await ctx.step.invoke("s", workflow=slow, data="30m", timeout="9h")).result

    for crash_after in ("10m", "45m"):
        async with World(parent, slow, strict_replay=strict) as world:
            handle = await world.runtime.start(parent)
            await world.clock.advance(crash_after)
            await world.reopen()
            assert await world.result(handle.run_id) == "slept 30m"
            assert len(world.store.committed(RunCreated)) == 2
            assert not (await world.runtime.info(handle.run_id)).is_diverged


async def test_a_child_that_ends_while_the_next_attempt_is_being_loaded_answers_as_it_will_on_replay() -> None:
    store, began, ended, crash = SlowReadingStore(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    orders: list[list[str]] = []

    async def hold() -> None:
        began.set()
        await ended.wait()

    @workflow(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.run("hold", hold)

    @workflow(id="parent", retries=RetryPolicy(1, initial=0))
    async def parent(ctx: Context) -> None:
        order: list[str] = []

        async def local() -> None:
            await ctx.step.run("until it runs", began.wait)
            for _ in range(5):
                await asyncio.sleep(0)
            order.append("local")
            if ctx.attempt == 1:
                store.may_read.clear()
                raise RuntimeError("once more")

        async def invoke() -> None:
            await ctx.step.invoke("c", workflow=child, data=None, timeout="1h", run_id="child")
            order.append("child")

        await asyncio.gather(invoke(), local())
        orders.append(order)
        await ctx.step.run("the crash comes here", crash.wait)

    async with Runtime(store, workflows=[parent, child], drain_timeout=0) as runtime:
        await runtime.start(parent, run_id="parent")
        await until(store.reading.is_set)
        ended.set()
        await until(lambda: (row := store.find("child")) is not None and row.status.is_terminal)
        store.may_read.set()
        await until(lambda: orders)
    crash.set()
    async with Runtime(store, workflows=[parent, child], drain_timeout=0, strict_replay=True) as runtime:
        await runtime.run("parent").result()
    assert orders == [["child", "local"]] * 2
    assert len(store.committed(RunCreated)) == 2


async def test_children_that_end_while_their_parent_is_being_loaded_are_not_spawned_again() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> list[str]:
        waits = [ctx.step.invoke(f"s{n}", workflow=slow, data="1h", timeout="9h") for n in range(5)]
        return [each.result for each in await asyncio.gather(*waits)]

    async with World(parent, slow) as world:
        handle = await world.runtime.start(parent)
        await world.settle()
        await world.reopen()
        assert await world.result(handle.run_id) == ["slept 1h"] * 5
        assert len(world.store.committed(RunCreated)) == 6


# The target


async def test_an_unknown_target_is_refused_at_once_and_named_with_those_that_are_known() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.invoke_by_id("x", workflow="nobody", returns=str, data=None, timeout="1m")

    async with World(parent, bill) as world:
        handle = await world.runtime.start(parent)
        with pytest.raises(WorkflowFailedError) as caught:
            await world.result(handle, within=0)
        assert caught.value.error.type == "rotor_actors.errors.InvokeTargetError"
        assert "'nobody'" in caught.value.error.message
        assert "'bill'" in caught.value.error.message
        assert "Runtime(workflows=[…])" in caught.value.error.message
        assert len(world.store.committed(RunCreated)) == 1
        assert (await handle.info()).attempt == 1, "the code is wrong: trying again would not help"


@workflow(id="nightly", on=cron("0 3 * * *"))
async def nightly(ctx: Context) -> None: ...


@workflow(id="on-event", on="order.placed")
async def on_event(ctx: Context) -> str:
    return "ok"


async def test_a_target_that_the_clock_starts_is_refused_at_once(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        with pytest.raises(InvokeTargetError, match="'nightly': it is started by the clock"):
            await ctx.step.invoke("n", workflow=nightly, data=None, timeout="1m")
        return (await ctx.step.invoke("e", workflow=on_event, data=None, timeout="1m")).result

    assert await world.execute(parent) == "ok", "one that an event starts may be invoked"
    assert len(world.store.committed(RunCreated)) == 2


async def test_what_is_no_workflow_is_refused_by_name(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with pytest.raises(InvokeTargetError, match="decorated with @workflow"):
            await ctx.step.invoke("x", workflow=cast("Workflow[None, None]", print), data=None, timeout="1m")

    await world.execute(parent)


# Depth


@workflow(id="descend", retries=0)
async def descend(ctx: Context, to: int) -> int:
    if ctx.depth == to:
        return ctx.depth
    return (await ctx.step.invoke("down", workflow=descend, data=to, timeout="1h")).result


async def test_a_workflow_may_invoke_itself_down_to_depth_one_hundred(world: World) -> None:
    assert await world.execute(descend, 100) == 100


async def test_one_deeper_is_refused_by_default(world: World) -> None:
    with pytest.raises(WorkflowFailedError):
        await world.execute(descend, 101)
    assert len(world.store.committed(RunCreated)) == 101


async def test_the_depth_error_names_the_limit_and_the_chain() -> None:
    @workflow(id="a", retries=0)
    async def a(ctx: Context) -> str:
        return (await ctx.step.invoke("to b", workflow=b, data=None, timeout="1h")).result

    @workflow(id="b")
    async def b(ctx: Context) -> str:
        with pytest.raises(InvokeDepthError) as caught:
            await ctx.step.invoke("to c", workflow=slow, data="1h", timeout="1h")
        return str(caught.value)

    async with World(max_depth=1) as world:
        message = await world.execute(a)
        assert "'to c' would invoke 'slow' at depth 2, the limit is 1 (Runtime(max_depth=…))" in message
        assert message.endswith("the chain: a → b → slow")
        assert len(world.store.committed(RunCreated)) == 2


async def test_without_a_limit_there_is_none() -> None:
    async with World(max_depth=None) as world:
        assert await world.execute(descend, 150) == 150


# The timeout


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [
        (None, TypeError), ("24h1s", DurationError), (24 * 3600 + 1, DurationError), ("-5m", DurationError),
        (0, DurationError), (True, DurationError), (float("nan"), DurationError), ("10 parsecs", DurationError),
        ("", DurationError), ([], DurationError), (timedelta(days=2), DurationError),
    ],
)  # fmt: skip
async def test_a_timeout_that_is_none_is_refused_with_a_right_value(
    world: World, timeout: Any, kind: type[Exception]
) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        with pytest.raises(kind) as caught:
            await ctx.step.invoke("s", workflow=slow, data="1s", timeout=timeout)
        with pytest.raises(kind) as by_id:
            await ctx.step.invoke_by_id("s", workflow="slow", returns=str, data="1s", timeout=timeout)
        assert str(by_id.value) == str(caught.value)
        return str(caught.value)

    world.runtime._engine.register(slow)  # pyright: ignore[reportPrivateUsage]
    message = await world.execute(parent)
    assert message.startswith("timeout")
    assert 'timeout="5m"' in message
    assert len(world.store.committed(RunCreated)) == 1


async def test_an_omitted_timeout_is_a_type_error_that_names_it(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        invoke: Any = ctx.step.invoke
        with pytest.raises(TypeError, match="timeout"):
            await invoke("s", workflow=slow, data="1s")
        return "ok"

    assert await world.execute(parent) == "ok"


@pytest.mark.parametrize("timeout", ["24h", 86_400, timedelta(hours=24), "1h30m", "90s", 0.5])
async def test_each_way_to_write_a_timeout_up_to_a_day_is_taken(world: World, timeout: Any) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        return (await ctx.step.invoke("b", workflow=bill, data=Order("tea"), timeout=timeout)).result.text

    assert await world.execute(parent) == "1 x tea"


async def test_on_parent_close_takes_two_words_only(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with pytest.raises(ValueError, match="must be 'cancel' or 'abandon', got 'leave'"):
            await ctx.step.invoke("s", workflow=slow, data="1s", timeout="1m", on_parent_close=cast("Any", "leave"))

    await world.execute(parent)


# Run ids of the caller's choice


async def test_a_child_may_be_given_a_run_id(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        return (await ctx.step.invoke("s", workflow=slow, data="1h", timeout="2h", run_id="order-7")).run_id

    assert await world.execute(parent) == "order-7"
    assert await world.runtime.run("order-7").result() == "slept 1h"


async def test_a_run_id_in_use_is_refused_and_stays_refused_on_each_attempt(world: World) -> None:
    seen: list[str] = []

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        with pytest.raises(RunExistsError, match=r"'s' cannot spawn a run with the id 'order-7'.*choose one") as caught:
            await ctx.step.invoke("s", workflow=slow, data="1h", timeout="2h", run_id="order-7")
        seen.append(str(caught.value))
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return "refused"

    assert await world.execute(slow, "1s", run_id="order-7") == "slept 1s"
    assert await world.execute(parent) == "refused"
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(world.store.committed(RunCreated)) == 2


async def test_a_run_id_that_was_given_to_a_child_just_now_is_in_use(world: World) -> None:
    """The first child has ended, but its row may not be in the store yet."""

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        await ctx.step.invoke("one", workflow=bill, data=Order("tea"), timeout="1m", run_id="bill-1")
        with pytest.raises(RunExistsError):
            await ctx.step.invoke("two", workflow=bill, data=Order("tea"), timeout="1m", run_id="bill-1")
        return "refused"

    assert await world.execute(parent) == "refused"


async def test_a_crash_at_any_journal_position_loses_no_child_of_a_chosen_run_id() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        one = await ctx.step.invoke("one", workflow=bill, data=Order("tea"), timeout="1m", run_id="bill-1")
        two = await ctx.step.invoke("two", workflow=slow, data="1h", timeout="2h", run_id="nap-1")
        return f"{one.run_id} {two.run_id}"

    outcomes = await with_a_crash_after_each_entry(lambda: World(parent, bill, slow), parent)
    assert len(outcomes) > 6 // STRIDE
    assert set(outcomes) == {"bill-1 nap-1"}


async def test_of_two_parents_that_choose_one_run_id_at_once_one_is_refused(world: World) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context, n: int) -> str:
        try:
            return (await ctx.step.invoke("one", workflow=bill, data=Order("tea"), timeout="1m", run_id="b")).run_id
        except RunExistsError:
            return "refused"

    ends = await world.wait(asyncio.gather(*(world.runtime.execute(parent, n) for n in range(5))))
    assert sorted(ends) == ["b", "refused", "refused", "refused", "refused"]


async def test_a_child_of_a_chosen_run_id_is_re_attached_in_a_later_attempt_and_after_a_crash() -> None:
    @workflow(id="parent", retries=RetryPolicy(1, initial="1m", jitter=False))
    async def parent(ctx: Context) -> str:
        async def fail() -> None:
            await ctx.step.sleep("a while", "1m")
            if ctx.attempt == 1:
                raise RuntimeError("first attempt")

        invoke = ctx.step.invoke("s", workflow=slow, data="1h", timeout="2h", run_id="order-7")
        return (await asyncio.gather(invoke, fail()))[0].run_id

    async with World(parent, slow) as world:
        handle = await world.runtime.start(parent)
        for _ in range(4):
            await world.clock.advance("45s")
            await world.reopen()
        assert await world.result(handle.run_id) == "order-7"
        assert len(world.store.committed(RunCreated)) == 2
