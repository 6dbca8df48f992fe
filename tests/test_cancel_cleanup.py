"""What bodies and steps may do after they were cancelled, for how long, and what becomes of those that do not end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from cancel_kit import by_workflow, child_ids, is_about, no_task_is_left, other_tasks, sleeper, unfinished
from kit import World

from rotor_actors import CancelReport, Context, EndedRun, RunHandle, RunStatus, Runtime, workflow
from rotor_actors.errors import StepRefusedError, WorkflowCancelledError
from rotor_actors.records import RunsCancelled, StepRecorded

pytestmark = pytest.mark.asyncio


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


async def started(world: World, body: Any, **options: Any) -> RunHandle[Any]:
    handle: RunHandle[Any] = await world.runtime.start(workflow(id="it", retries=0, **options)(body))
    await world.settle()
    return handle


async def cancelled(world: World, body: Any, **options: Any) -> CancelReport:
    """Start a run of `body`, cancel it when it has come to rest, and move the clock until that is done."""
    handle = await started(world, body, **options)
    return await world.wait(handle.cancel("stop"))


# Cleanup runs


async def test_finally_and_except_of_bodies_and_steps_run_once() -> None:
    seen: list[str] = []

    async def step() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            seen.append("step except")
            raise
        finally:
            await asyncio.sleep(0)
            seen.append("step finally")

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.run("s", step)
        except asyncio.CancelledError:
            seen.append("body except")
            raise
        finally:
            await asyncio.sleep(1)
            seen.append("body finally")

    async with World() as world:
        report = await cancelled(world, body)
        assert sorted(seen) == ["body except", "body finally", "step except", "step finally"]
        assert (report.cleanup_errors, report.stuck) == ([], [])
        assert is_about(report.seconds, 1)


async def test_timers_of_a_cleanup_run_from_the_cancellation_on() -> None:
    """The body last heard the time ten hours ago."""
    waited: list[str] = []

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "12h")
        finally:
            try:
                async with asyncio.timeout(2):
                    await asyncio.sleep(1)
                waited.append("a second")
            except TimeoutError:
                waited.append("timed out at once")

    async with World() as world:
        handle = await started(world, body)
        await world.clock.advance("10h")
        report = await world.wait(handle.cancel())
        assert waited == ["a second"]
        assert is_about(report.seconds, 1)


async def test_tasks_of_the_body_clean_up_too() -> None:
    seen: list[str] = []

    async def work(name: str) -> None:
        try:
            await hang()
        finally:
            seen.append(name)

    async def body(ctx: Context) -> None:
        left_alone = asyncio.ensure_future(work("left alone"))
        async with asyncio.TaskGroup() as group:
            group.create_task(work("in a group"))
        await left_alone

    async with World() as world:
        assert (await cancelled(world, body)).stuck == []
        assert sorted(seen) == ["in a group", "left alone"]


async def test_leaves_are_interrupted_before_their_parents() -> None:
    seen: list[str] = []

    @workflow(id="leaf")
    async def leaf(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "12h")
        finally:
            seen.append("leaf")

    @workflow(id="middle")
    async def middle(ctx: Context) -> None:
        try:
            await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="24h")
        finally:
            seen.append("middle")

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.invoke("middle", workflow=middle, data=None, timeout="24h")
        finally:
            seen.append("top")

    async with World() as world:
        await cancelled(world, body)
        assert seen == ["leaf", "middle", "top"]


async def test_a_step_called_while_cleaning_up_is_refused_by_name() -> None:
    refused: list[str] = []

    async def undo() -> None:
        refused.append("undo was executed")

    async def body(ctx: Context) -> None:
        step = ctx.step
        try:
            await step.sleep("nap", "12h")
        finally:
            calls = (
                step.run("undo", undo),
                step.invoke("undo-child", workflow=sleeper, data=None, timeout="1h"),
                step.sleep("undo-nap", 1),
            )
            for call in calls:
                try:
                    await call
                except StepRefusedError as error:
                    refused.append(str(error))

    async with World() as world:
        report = await cancelled(world, body)
        names = ("'undo'", "'undo-child'", "'undo-nap'")
        assert all(name in text for name, text in zip(names, refused, strict=True))
        assert all("on_cancel" in text for text in refused)
        assert len(report.cancelled) == len(await world.runtime.runs()) == 1, "no child"


async def test_ctx_cancel_in_a_cleanup_does_not_hold_it_up() -> None:
    async def body(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "12h")
        finally:
            await ctx.cancel("again")

    async with World() as world:
        report = await cancelled(world, body)
        assert (report.seconds, report.stuck) == (0, [])


# What does not let the cancellation through


async def test_a_swallowed_cancellation_is_cancelled_all_the_same_and_noted() -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.step.sleep("nap", "12h")
        except asyncio.CancelledError:
            pass
        return "as if nothing had happened"

    async with World() as world:
        handle = await started(world, body)
        report = await handle.cancel()
        assert len(report.cleanup_errors) == 1
        assert handle.run_id in report.cleanup_errors[0]
        assert "swallowed" in report.cleanup_errors[0]
        with pytest.raises(WorkflowCancelledError):
            await handle.result()


async def test_a_body_that_swallows_the_cancellation_and_goes_on_gets_nothing_done() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async def body(ctx: Context) -> None:
        for round in range(3):
            try:
                await ctx.step.sleep(f"nap {round}", "12h")
            except asyncio.CancelledError:
                pass
        await ctx.step.run("work", work)

    async with World() as world:
        report = await cancelled(world, body)
        assert done == []
        assert "StepRefusedError" in report.cleanup_errors[0]
        assert world.store.committed(StepRecorded) == []


async def test_errors_of_cleanups_are_reported_and_hurt_nobody() -> None:
    async def step() -> None:
        try:
            await hang()
        finally:
            raise LookupError("in the step")

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.run("s", step)
        finally:
            raise LookupError("in the body")

    async with World() as world:
        handle = await started(world, body)
        other = await world.runtime.start(sleeper)
        report = await handle.cancel()
        texts = "\n".join(report.cleanup_errors)
        assert "LookupError: in the step" in texts
        assert "step 's'" in texts
        assert "LookupError: in the body" in texts
        assert await handle.status() is RunStatus.CANCELLED
        assert await other.status() is RunStatus.RUNNING


async def test_a_step_that_returns_a_result_when_cancelled_is_not_recorded() -> None:
    async def step() -> str:
        try:
            await hang()
        except asyncio.CancelledError:
            pass
        return "a result"

    async def body(ctx: Context) -> str:
        return await ctx.step.run("s", step)

    async with World() as world:
        handle = await started(world, body)
        await handle.cancel()
        assert await world.runtime.steps(handle.run_id) == []


# Grace


async def test_cleanup_is_reminded_at_80_and_90_percent_and_abandoned_at_the_end_of_its_grace() -> None:
    times: list[float] = []

    async def body(ctx: Context) -> None:
        while True:
            try:
                await hang_in_body()
            except asyncio.CancelledError:
                times.append(world.clock.now())

    async def hang_in_body() -> None:
        await asyncio.get_running_loop().create_future()

    async with World(cancel_grace="10s") as world:
        handle = await started(world, body)
        began = world.clock.now()
        report = await world.wait(handle.cancel())
        assert [round(at - began, 6) for at in times] == [0, 8, 9]
        assert is_about(report.seconds, 10)
        assert len(report.stuck) == 1
        assert handle.run_id in report.stuck[0]
        assert "hang_in_body" in report.stuck[0], "where it stands"
        assert await handle.status() is RunStatus.CANCELLED


async def test_a_stuck_step_is_abandoned_fenced_and_reported_with_where_it_stands() -> None:
    let_go = asyncio.Event()

    async def refuse_to_go() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass

    async def step() -> str:
        await refuse_to_go()
        return "too late"

    async def body(ctx: Context) -> str:
        return await ctx.step.run("stuck-one", step)

    async with World(cancel_grace="10s") as world:
        before = other_tasks()
        handle = await started(world, body)
        report = await world.wait(handle.cancel())
        assert is_about(report.seconds, 10)
        (stuck,) = report.stuck
        assert handle.run_id in stuck
        assert "step 'stuck-one'" in stuck
        assert "refuse_to_go" in stuck
        assert len(world.runtime._engine.stuck) == 1  # pyright: ignore[reportPrivateUsage]
        let_go.set()
        await world.settle()
        assert len(world.runtime._engine.stuck) == 0, "let go of"  # pyright: ignore[reportPrivateUsage]
        assert await world.runtime.steps(handle.run_id) == []
        assert await handle.status() is RunStatus.CANCELLED
        assert await no_task_is_left(before)


async def test_closing_does_not_wait_for_a_step_that_was_given_up() -> None:
    let_go = asyncio.Event()

    async def step() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass

    async def body(ctx: Context) -> None:
        await ctx.step.run("stuck-one", step)

    async with asyncio.timeout(5):
        async with World(cancel_grace="1s", drain_timeout="1h") as world:
            assert len((await cancelled(world, body)).stuck) == 1
    let_go.set()
    await asyncio.sleep(0)


async def test_the_grace_is_one_deadline_for_the_whole_tree() -> None:
    @workflow(id="nested")
    async def nested(ctx: Context, depth: int) -> None:
        try:
            if depth:
                await ctx.step.invoke("below", workflow=nested, data=depth - 1, timeout="24h")
            await ctx.step.sleep("nap", "12h")
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

    async with World(cancel_grace="10s") as world:
        handle = await world.runtime.start(nested, 5)
        await world.settle()
        report = await world.wait(handle.cancel())
        assert (len(report.cancelled), len(report.stuck)) == (6, 6)
        assert is_about(report.seconds, 10)


async def test_without_any_grace_cleanup_up_to_its_first_await_still_runs() -> None:
    seen: list[str] = []

    async def step() -> None:
        try:
            await hang()
        finally:
            seen.append("step")

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.run("s", step)
        finally:
            seen.append("body")

    async with World(cancel_grace=0) as world:
        await cancelled(world, body)
        assert sorted(seen) == ["body", "step"]


async def test_a_body_that_spins_is_abandoned() -> None:
    """With the real clock, for it never rests."""

    @workflow(id="spinner")
    async def spinner(ctx: Context) -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                pass

    async with Runtime(":memory:", cancel_grace=0.05, drain_timeout=0) as runtime:
        handle = await runtime.start(spinner)
        report = await handle.cancel()
        assert len(report.stuck) == 1
        assert "spinner" in report.stuck[0]


async def test_nothing_a_stuck_body_does_later_counts() -> None:
    done: list[str] = []

    async def body(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "12h")
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    pass
            done.append("reached")
            await ctx.step.sleep("more", 1)

    async with World(cancel_grace="10s") as world:
        handle = await started(world, body)
        assert len((await world.wait(handle.cancel())).stuck) == 1
        await world.clock.advance("1d")
        assert done == [], "it is not driven any more"
        assert await world.runtime.steps(handle.run_id) == []


async def test_a_step_in_a_worker_thread_is_abandoned_and_reported_at_once() -> None:
    began, let_go = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        let_go.wait(10)
        return "too late"

    @workflow(id="threaded")
    async def threaded(ctx: Context) -> str:
        return await ctx.step.run("in-thread", work)

    async with Runtime(":memory:", drain_timeout=0) as runtime:
        handle = await runtime.start(threaded)
        while not began.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        report = await handle.cancel()
        assert report.seconds < 2, "not its grace period"
        (stuck,) = report.stuck
        assert handle.run_id in stuck
        assert "step 'in-thread'" in stuck
        assert "worker thread" in stuck
        let_go.set()
        assert await runtime.steps(handle.run_id) == []
        assert await handle.status() is RunStatus.CANCELLED


async def test_a_step_that_waits_for_a_thread_is_just_dropped() -> None:
    began, let_go = threading.Semaphore(0), threading.Event()
    executions: list[int] = []

    def work(number: int) -> None:
        executions.append(number)
        began.release()
        let_go.wait(10)

    @workflow(id="many-threads")
    async def many(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.run("work", work, number) for number in range(45)))

    async with Runtime(":memory:", drain_timeout=0) as runtime:
        handle = await runtime.start(many)
        while len(executions) < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        report = await handle.cancel()
        let_go.set()
        assert (report.interrupted_steps, len(report.stuck), len(executions)) == (45, 40, 40)


# From inside


async def test_ctx_cancel_ends_the_run_cancelled_not_failed() -> None:
    seen: list[str] = []

    async def body(ctx: Context) -> None:
        child = asyncio.ensure_future(ctx.step.invoke("c", workflow=sleeper, data=None, timeout="24h"))
        await asyncio.sleep(1)
        try:
            await ctx.cancel("I give up")
        finally:
            seen.append(f"cleaned up, {child.done()}")

    async with World() as world:
        handle = await started(world, body)
        with pytest.raises(WorkflowCancelledError, match="I give up"):
            await world.result(handle)
        assert await by_workflow(world.runtime) == {"it": RunStatus.CANCELLED, "sleeper": RunStatus.CANCELLED}
        assert seen == ["cleaned up, False"]


async def test_what_is_asked_for_in_the_turn_of_ctx_cancel_does_not_begin() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async def body(ctx: Context) -> None:
        await asyncio.gather(
            ctx.cancel("me"),
            ctx.step.invoke("c", workflow=sleeper, data=None, timeout="24h"),
            ctx.step.run("work", work),
        )

    async with World() as world:
        handle = await started(world, body)
        await world.clock.advance("1h")
        assert await child_ids(world, handle.run_id) == [], "no child escapes"
        assert done == []
        assert await unfinished(world.runtime) == []


async def test_ctx_cancel_of_a_child_is_told_to_its_parent() -> None:
    @workflow(id="quitter")
    async def quitter(ctx: Context) -> None:
        await ctx.cancel("not today")

    async def body(ctx: Context) -> str:
        try:
            await ctx.step.invoke("c", workflow=quitter, data=None, timeout="1h")
        except WorkflowCancelledError as error:
            return error.reason
        return ""

    async with World() as world:
        assert await world.result(await started(world, body)) == "not today"


async def test_ctx_cancel_from_within_a_step_is_refused_by_name() -> None:
    async def body(ctx: Context) -> str:
        async def step() -> None:
            await ctx.cancel("from a step")

        try:
            await ctx.step.run("s", step)
        except StepRefusedError as error:
            return str(error)
        return ""

    async with World() as world:
        assert "ctx.cancel" in await world.result(await started(world, body))


async def test_a_body_that_returns_right_after_ctx_cancel_is_cancelled() -> None:
    async def body(ctx: Context) -> str:
        canceller = asyncio.ensure_future(ctx.cancel("me"))
        await asyncio.sleep(0)
        return f"returned {canceller.done()}"

    async with World() as world:
        with pytest.raises(WorkflowCancelledError):
            await world.result(await started(world, body))


# The handler


async def test_on_cancel_runs_as_a_run_of_its_own_with_steps() -> None:
    undone: list[str] = []

    async def undo(what: str) -> None:
        undone.append(what)

    async def compensate(ctx: Context, ended: EndedRun[str]) -> None:
        await ctx.step.sleep("breathe", "1m")
        await ctx.step.run("undo", undo, f"{ended.data} of {ended.workflow_id}: {ended.reason}")

    async def body(ctx: Context, data: str) -> None:
        await ctx.step.sleep("nap", "12h")

    async with World() as world:
        booking = workflow(id="booking", on_cancel=compensate)(body)
        handle = await world.runtime.start(booking, "room 7")
        await world.settle()
        await handle.cancel("too expensive")
        (running,) = await world.runtime.runs(status="running")
        assert running.parent_run_id == handle.run_id
        await world.clock.advance("2m")
        assert undone == ["room 7 of booking: too expensive"]
        assert await unfinished(world.runtime) == []


async def test_on_cancel_begins_with_the_cancellation_or_not_at_all() -> None:
    """One entry holds both: no crash leaves a cancelled run without its compensation."""
    undone: list[str] = []

    async def undo() -> None:
        undone.append("undone")

    async def compensate(ctx: Context, ended: EndedRun[None]) -> None:
        await ctx.step.run("undo", undo)

    @workflow(id="booking", on_cancel=compensate)
    async def booking(ctx: Context) -> None:
        await ctx.step.sleep("nap", "12h")

    async with World(booking) as world:
        handle = await world.runtime.start(booking)
        await world.settle()
        world.store.entries_left = 1
        report = await handle.cancel()
        assert report.cancelled == [handle.run_id]
        assert len(world.store.committed(RunsCancelled)) == 1
        await world.crash()
        undone.clear()
        await world.open()
        await world.settle()
        assert undone == ["undone"], "its step's outcome was not recorded, so it runs again"
        assert await unfinished(world.runtime) == []


async def test_on_cancel_of_each_run_in_the_tree_is_started_but_not_for_a_run_that_had_ended() -> None:
    cancelled_ones: list[str] = []

    async def compensate(ctx: Context, ended: EndedRun[Any]) -> None:
        cancelled_ones.append(ended.workflow_id)

    @workflow(id="quick", on_cancel=compensate)
    async def quick(ctx: Context) -> None: ...

    @workflow(id="slow", on_cancel=compensate)
    async def slow(ctx: Context) -> None:
        await ctx.step.sleep("nap", "12h")

    @workflow(id="top", on_cancel=compensate)
    async def top(ctx: Context) -> None:
        await ctx.step.invoke("quick", workflow=quick, data=None, timeout="1h")
        await ctx.step.invoke("slow", workflow=slow, data=None, timeout="24h")

    async with World() as world:
        handle = await world.runtime.start(top)
        await world.settle()
        await handle.cancel()
        await world.settle()
        assert sorted(cancelled_ones) == ["slow", "top"]


async def test_cancel_waits_for_the_cleanup_of_a_step_whose_scope_the_body_had_left() -> None:
    seen: list[str] = []
    may_go = asyncio.Event()

    async def slow_to_go() -> None:
        try:
            await hang()
        finally:
            await may_go.wait()
            seen.append("gone")

    async def body(ctx: Context) -> None:
        try:
            async with asyncio.timeout(60):
                await ctx.step.run("s", slow_to_go)
        except TimeoutError:
            pass
        await ctx.step.sleep("nap", "12h")

    async with World() as world:
        handle = await started(world, body)
        await world.clock.advance("61s")
        canceller = asyncio.ensure_future(handle.cancel())
        await world.settle()
        assert not canceller.done()
        may_go.set()
        assert (await canceller).stuck == []
        assert seen == ["gone"]
