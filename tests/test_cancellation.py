"""Cancelling a run: the fact, whom it reaches, whom it spares, and what the canceller is told."""

from __future__ import annotations

import asyncio

import pytest
from cancel_kit import (
    branch,
    by_workflow,
    child_ids,
    everything,
    is_about,
    no_task_is_left,
    other_tasks,
    sleeper,
    unfinished,
)
from kit import World

from rotor_actors import Context, RunStatus, workflow
from rotor_actors.errors import (
    RunNotFoundError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.records import RunsCancelled

pytestmark = pytest.mark.asyncio

CANCELLED, COMPLETED, RUNNING = RunStatus.CANCELLED, RunStatus.COMPLETED, RunStatus.RUNNING


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


@workflow(id="stepper")
async def stepper(ctx: Context) -> None:
    await asyncio.gather(ctx.step.run("a", hang), ctx.step.run("b", hang))


@workflow(id="late")
async def late(ctx: Context) -> str:
    await ctx.step.sleep("nap", "2h")
    return "late"


# Whom it reaches


async def test_cancel_ends_the_run_and_all_below_it() -> None:
    async with World() as world:
        handle = await world.runtime.start(branch, [3, 2])
        await world.settle()
        runs = await everything(world.runtime)

        report = await handle.cancel("enough")

        assert len(report.cancelled) == 1 + 3 + 6
        assert set(report.cancelled) == {run.run_id for run in runs}
        place = report.cancelled.index
        assert all(run.parent_run_id is None or place(run.parent_run_id) < place(run.run_id) for run in runs)
        assert {run.status for run in await everything(world.runtime)} == {CANCELLED}
        assert (report.already_ended, report.cleanup_errors, report.stuck) == ([], [], [])


async def test_the_whole_tree_is_cancelled_by_one_entry() -> None:
    async with World() as world:
        handle = await world.runtime.start(branch, [3, 2])
        await world.settle()
        await handle.cancel()
        facts = world.store.committed(RunsCancelled)
        assert [len(fact.ns) for fact in facts] == [10], "durable when the canceller knows, and all or nothing"


async def test_result_raises_workflow_cancelled_error_with_the_reason() -> None:
    async with World() as world:
        handle = await world.runtime.start(sleeper)
        waiter = asyncio.ensure_future(handle.result())
        await world.settle()
        await handle.cancel("no longer needed")
        for result in (waiter, handle.result()):
            with pytest.raises(WorkflowCancelledError, match="no longer needed") as caught:
                await result
            assert (caught.value.run_id, caught.value.reason) == (handle.run_id, "no longer needed")
        assert (await handle.info()).reason == "no longer needed"


async def test_running_step_bodies_are_interrupted() -> None:
    async with World() as world:
        before = other_tasks()
        handle = await world.runtime.start(stepper)
        await world.settle()
        report = await handle.cancel()
        assert report.interrupted_steps == 2
        assert await no_task_is_left(before)
        assert await world.runtime.steps(handle.run_id) == [], "nothing of them is recorded"


async def test_a_step_that_waits_for_its_retry_is_not_executed_again() -> None:
    executions: list[int] = []

    async def flaky() -> None:
        executions.append(1)
        raise OSError("not now")

    @workflow(id="retrying-step", retries=0)
    async def retrying(ctx: Context) -> None:
        await ctx.step.run("flaky", flaky, retries=5)

    async with World() as world:
        handle = await world.runtime.start(retrying)
        await world.settle()
        await handle.cancel()
        await world.clock.advance("1d")
        assert len(executions) == 1


async def test_cancel_reaches_children_that_the_parent_timed_out_on() -> None:
    @workflow(id="let-go")
    async def let_go(ctx: Context) -> None:
        with pytest.raises(WorkflowTimeoutError):
            await ctx.step.invoke("late", workflow=late, data=None, timeout="1h")
        await ctx.step.sleep("nap", "12h")

    async with World() as world:
        handle = await world.runtime.start(let_go)
        await world.clock.advance("90m")
        assert await by_workflow(world.runtime) == {"let-go": RUNNING, "late": RUNNING}
        await handle.cancel()
        assert await by_workflow(world.runtime) == {"let-go": CANCELLED, "late": CANCELLED}


async def test_cancel_reaches_abandonable_children() -> None:
    @workflow(id="loose")
    async def loose(ctx: Context) -> None:
        await ctx.step.invoke("late", workflow=late, data=None, timeout="3h", on_parent_close="abandon")

    async with World() as world:
        handle = await world.runtime.start(loose)
        await world.settle()
        await handle.cancel()
        assert await by_workflow(world.runtime) == {"loose": CANCELLED, "late": CANCELLED}


async def test_cancel_reaches_what_an_ended_child_left_behind() -> None:
    @workflow(id="leaver")
    async def leaver(ctx: Context) -> None:
        invoke = ctx.step.invoke("late", workflow=late, data=None, timeout="3h", on_parent_close="abandon")
        task = asyncio.ensure_future(invoke)
        await asyncio.wait([task], timeout=1)

    @workflow(id="above")
    async def above(ctx: Context) -> None:
        await ctx.step.invoke("leaver", workflow=leaver, data=None, timeout="3h")
        await ctx.step.sleep("nap", "12h")

    async with World() as world:
        handle = await world.runtime.start(above)
        await world.clock.advance("1m")
        assert await by_workflow(world.runtime) == {"above": RUNNING, "leaver": COMPLETED, "late": RUNNING}
        await handle.cancel()
        assert await by_workflow(world.runtime) == {"above": CANCELLED, "leaver": COMPLETED, "late": CANCELLED}


async def test_the_end_of_what_was_left_behind_is_not_taken_for_a_step_of_its_adopter() -> None:
    """Both call their step "same"; the grandparent's is another child."""

    @workflow(id="leaver-of-same")
    async def leaver(ctx: Context) -> str:
        invoke = ctx.step.invoke("same", workflow=late, data=None, timeout="3h", on_parent_close="abandon")
        await asyncio.wait([asyncio.ensure_future(invoke)], timeout=1)
        return "left"

    @workflow(id="slow")
    async def slow(ctx: Context) -> str:
        await ctx.step.sleep("nap", "5h")
        return "slow"

    @workflow(id="adopter")
    async def adopter(ctx: Context) -> list[str]:
        left = ctx.step.invoke("leaver", workflow=leaver, data=None, timeout="3h")
        same = ctx.step.invoke("same", workflow=slow, data=None, timeout="6h")
        return [each.result for each in await asyncio.gather(left, same)]

    async with World() as world:
        assert await world.execute(adopter) == ["left", "slow"]


# Whom it spares


async def test_cancelling_a_child_spares_its_siblings_and_its_parent() -> None:
    @workflow(id="two-children")
    async def two_children(ctx: Context) -> list[str]:
        invokes = (ctx.step.invoke("late", workflow=late, data=None, timeout="3h") for _ in range(2))
        ends = await asyncio.gather(*invokes, return_exceptions=True)
        return [type(end).__name__ if isinstance(end, BaseException) else end.result for end in ends]

    async with World() as world:
        handle = await world.runtime.start(two_children)
        await world.settle()
        first, second = await child_ids(world, handle.run_id)
        report = await world.runtime.cancel(first)
        assert report.cancelled == [first]
        assert await world.runtime.run(second).status() is RUNNING
        assert await world.result(handle) == ["WorkflowCancelledError", "late"]


async def test_ctx_invoke_tells_a_cancelled_child_as_a_value() -> None:
    @workflow(id="teller")
    async def teller(ctx: Context) -> list[bool]:
        outcome = await ctx.invoke("late", workflow=late)
        return [outcome.is_canceled, outcome.is_failed, outcome.is_timed_out, outcome.body is None]

    async with World() as world:
        handle = await world.runtime.start(teller)
        await world.settle()
        await world.runtime.cancel((await child_ids(world, handle.run_id))[0])
        assert await world.result(handle) == [True, False, False, True]


async def test_a_cancelled_child_stays_cancelled_for_each_later_attempt() -> None:
    @workflow(id="stubborn", retries=1)
    async def stubborn(ctx: Context) -> None:
        await ctx.step.invoke("late", workflow=late, data=None, timeout="3h")

    async with World() as world:
        handle = await world.runtime.start(stubborn)
        await world.settle()
        await world.runtime.cancel((await child_ids(world, handle.run_id))[0], "not this one")
        with pytest.raises(WorkflowFailedError, match="not this one"):
            await world.result(handle)
        assert len(await child_ids(world, handle.run_id)) == 1
        assert (await handle.info()).attempt == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_a_run_cancels_owned_children_and_spares_those_it_let_go(fails: bool) -> None:
    @workflow(id="owned")
    async def owned(ctx: Context) -> None:
        await ctx.step.sleep("nap", "12h")

    @workflow(id="abandoned")
    async def abandoned(ctx: Context) -> str:
        await ctx.step.sleep("nap", "12h")
        return "abandoned"

    @workflow(id="timed-out")
    async def timed_out(ctx: Context) -> str:
        await ctx.step.sleep("nap", "12h")
        return "timed out"

    @workflow(id="ender", retries=0)
    async def ender(ctx: Context) -> None:
        step = ctx.step
        invokes = (
            step.invoke("owned", workflow=owned, data=None, timeout="24h"),
            step.invoke("abandoned", workflow=abandoned, data=None, timeout="24h", on_parent_close="abandon"),
            step.invoke("timed-out", workflow=timed_out, data=None, timeout="1h"),
        )
        await asyncio.wait([asyncio.ensure_future(invoke) for invoke in invokes], return_when="FIRST_COMPLETED")
        if fails:
            raise ValueError("over")

    async with World() as world:
        handle = await world.runtime.start(ender)
        await world.clock.advance("2h")
        end = RunStatus.FAILED if fails else COMPLETED
        assert await by_workflow(world.runtime) == {
            "ender": end, "owned": CANCELLED, "abandoned": RUNNING, "timed-out": RUNNING
        }  # fmt: skip
        mine, loose, late_one = await child_ids(world, handle.run_id)
        assert (await world.runtime.info(mine)).reason == f"its parent ended ({end.value})"
        assert [await world.result(loose), await world.result(late_one)] == ["abandoned", "timed out"]


async def test_what_was_left_behind_can_still_be_cancelled_by_its_id() -> None:
    @workflow(id="quick")
    async def quick(ctx: Context) -> str:
        with pytest.raises(WorkflowTimeoutError) as caught:
            await ctx.step.invoke("late", workflow=late, data=None, timeout="1m")
        return caught.value.run_id

    async with World() as world:
        child = await world.execute(quick)
        assert (await world.runtime.cancel(child)).cancelled == [child]


async def test_another_tree_is_spared() -> None:
    async with World() as world:
        one, other = await world.runtime.start(branch, [2]), await world.runtime.start(branch, [2])
        await world.settle()
        await one.cancel()
        assert {run.root_run_id for run in await world.runtime.runs(status="running")} == {other.run_id}


# What the canceller is told


async def test_a_run_that_has_ended_stays_as_it_is_and_the_report_says_so() -> None:
    @workflow(id="done")
    async def done(ctx: Context) -> int:
        return 7

    async with World() as world:
        handle = await world.runtime.start(done)
        assert await world.result(handle) == 7
        entries = len(world.store.facts)
        report = await handle.cancel()
        assert (report.cancelled, report.already_ended) == ([], [handle.run_id])
        assert (await handle.result(), len(world.store.facts)) == (7, entries)


async def test_cancelling_an_unknown_run_is_refused() -> None:
    async with World() as world:
        with pytest.raises(RunNotFoundError, match="nobody"):
            await world.runtime.cancel("nobody")


async def test_cancelling_twice_changes_nothing_the_second_time() -> None:
    async with World() as world:
        handle = await world.runtime.start(sleeper)
        await world.settle()
        assert (await handle.cancel("first")).cancelled == [handle.run_id]
        again = await handle.cancel("second")
        assert (again.cancelled, again.already_ended) == ([], [handle.run_id])
        assert (await handle.info()).reason == "first"


async def test_two_cancellers_at_once_get_the_same_report() -> None:
    async with World() as world:
        handle = await world.runtime.start(branch, [2])
        await world.settle()
        first, second = await asyncio.gather(handle.cancel("first"), handle.cancel("second"))
        assert first == second
        assert len(first.cancelled) == 3
        assert (await handle.info()).reason == "first"


async def test_cancelling_the_canceller_does_not_stop_the_cancellation() -> None:
    async with World() as world:
        handle = await world.runtime.start(branch, [2])
        await world.settle()
        canceller = asyncio.ensure_future(handle.cancel())
        await asyncio.sleep(0)
        canceller.cancel()
        await world.settle()
        assert canceller.cancelled()
        assert await unfinished(world.runtime) == []


async def test_a_waiter_is_told_though_cleanup_has_not_ended() -> None:
    async def slow_to_go() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(3600)

    @workflow(id="slow-to-go")
    async def slow(ctx: Context) -> None:
        await ctx.step.run("s", slow_to_go)

    async with World() as world:
        handle = await world.runtime.start(slow)
        await world.settle()
        canceller = asyncio.ensure_future(handle.cancel())
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert not canceller.done()
        report = await world.wait(canceller, "1m")
        assert is_about(report.seconds, 4), "the first reminder cut its sleep short"
