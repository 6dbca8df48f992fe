"""Awaiting is owning: when the scope that awaits a child is cancelled by the body itself, the child is withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from cancel_kit import SteadyWorld, child_ids, everything, is_about, unfinished
from kit import STRIDE, World, with_a_crash_after_each_entry

from rotor_actors import Context, Invocation, RunStatus, workflow

pytestmark = pytest.mark.asyncio

CANCELLED, COMPLETED, RUNNING = RunStatus.CANCELLED, RunStatus.COMPLETED, RunStatus.RUNNING


@workflow(id="child")
async def child(ctx: Context, hours: float) -> str:
    await ctx.step.sleep("nap", hours * 3600)
    return f"slept {hours:g} h"


def ask(ctx: Context, hours: float = 12) -> Awaitable[Invocation[str]]:
    return ctx.step.invoke("ask", workflow=child, data=hours, timeout="24h")


# The scopes that withdraw. Each leaves after a minute, and swallows what leaving it raised.


async def by_timeout(ctx: Context) -> None:
    try:
        async with asyncio.timeout(60):
            await ask(ctx)
    except TimeoutError:
        pass


async def by_wait_for(ctx: Context) -> None:
    try:
        await asyncio.wait_for(ask(ctx), 60)
    except TimeoutError:
        pass


async def by_task_cancel(ctx: Context) -> None:
    task = asyncio.ensure_future(ask(ctx))
    await asyncio.sleep(60)
    task.cancel()
    await asyncio.wait([task])


async def by_failing_sibling(ctx: Context) -> None:
    async def fail() -> None:
        await asyncio.sleep(60)
        raise LookupError("the sibling")

    async def asking() -> None:
        await ask(ctx)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asking())
            group.create_task(fail())
    except* LookupError:
        pass


async def by_anyio_scope(ctx: Context) -> None:
    with anyio.move_on_after(60):
        await ask(ctx)


async def by_anyio_task_group(ctx: Context) -> None:
    async def asking() -> None:
        await ask(ctx)

    async with anyio.create_task_group() as group:
        group.start_soon(asking)
        await anyio.sleep(60)
        group.cancel_scope.cancel()


SCOPES = [by_timeout, by_wait_for, by_task_cancel, by_failing_sibling, by_anyio_scope, by_anyio_task_group]
Scope = Callable[[Context], Awaitable[None]]


@pytest.mark.parametrize("scope", SCOPES)
async def test_leaving_the_scope_cancels_the_child(scope: Scope) -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        await scope(ctx)
        await ctx.step.sleep("go on", "1h")
        return "went on"

    async with World() as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("2m")
        (withdrawn,) = await child_ids(world, handle.run_id)
        info = await world.runtime.info(withdrawn)
        assert (info.status, info.reason) == (CANCELLED, "the scope that awaited it was cancelled")
        assert await handle.status() is RUNNING
        assert await world.result(handle) == "went on"


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_later_attempt_spawns_a_withdrawn_child_anew(scope: Scope) -> None:
    """The step's key is the same, its run id is another: that of the next generation."""
    attempts: list[int] = []

    @workflow(id="parent", retries=3)
    async def parent(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            await scope(ctx)
            raise ValueError("once more")
        return (await ask(ctx, 1)).result

    async with World() as world:
        handle = await world.runtime.start(parent)
        assert await world.result(handle) == "slept 1 h"
        assert attempts == [1, 2, 3]
        ids = await child_ids(world, handle.run_id)
        assert len(set(ids)) == 3
        assert [await world.runtime.run(each).status() for each in ids] == [CANCELLED, CANCELLED, COMPLETED]


@pytest.mark.parametrize("scope", SCOPES)
async def test_withdrawing_is_the_same_with_a_crash_after_each_entry(scope: Scope) -> None:
    @workflow(id="parent", retries=3)
    async def parent(ctx: Context) -> list[str | int]:
        if ctx.attempt < 2:
            await scope(ctx)
            raise ValueError("once more")
        return [(await ask(ctx, 1)).result, ctx.attempt]

    outcomes = await with_a_crash_after_each_entry(lambda: SteadyWorld(parent, child), parent)
    assert len(outcomes) > 5 // STRIDE
    assert all(outcome == ["slept 1 h", 2] for outcome in outcomes), outcomes


async def test_a_child_that_finished_before_the_scope_was_left_keeps_its_outcome() -> None:
    executions: list[str] = []

    async def work() -> str:
        executions.append("work")
        return "worked"

    @workflow(id="worker")
    async def worker(ctx: Context) -> str:
        return await ctx.step.run("work", work)

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        async def asking() -> str:
            return (await ctx.step.invoke("ask", workflow=worker, data=None, timeout="1h")).result

        async def fail() -> None:
            await asyncio.sleep(60)
            raise LookupError("the sibling")

        if ctx.attempt == 2:
            return await asking()
        async with asyncio.TaskGroup() as group:
            group.create_task(asking())
            group.create_task(fail())
        raise AssertionError

    async with World() as world:
        handle = await world.runtime.start(parent)
        assert await world.result(handle) == "worked"
        assert executions == ["work"]
        assert len(await child_ids(world, handle.run_id)) == 1


async def test_an_outcome_that_arrives_in_the_turn_of_the_withdrawal_stands_for_later_attempts() -> None:
    """Child and timeout are due at the same moment: whichever the journal has first stands."""

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        if ctx.attempt == 1:
            try:
                async with asyncio.timeout(3600):
                    return (await ask(ctx, 1)).result
            except TimeoutError:
                raise ValueError("once more") from None
        return (await ask(ctx, 1)).result

    outcomes = await with_a_crash_after_each_entry(lambda: SteadyWorld(parent, child), parent)
    assert all(outcome == "slept 1 h" for outcome in outcomes), outcomes


async def test_the_end_of_an_attempt_does_not_withdraw_children_in_flight() -> None:
    """gather does not cancel its siblings, and neither does the attempt: the next one finds the child running."""

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> list[str | int]:
        async def fail_once() -> None:
            if ctx.attempt == 1:
                await asyncio.sleep(60)
                raise ValueError("once more")

        invocation, _ = await asyncio.gather(ask(ctx, 5), fail_once())
        return [invocation.result, ctx.attempt]

    async with World() as world:
        handle = await world.runtime.start(parent)
        began = world.clock.now()
        assert await world.result(handle) == ["slept 5 h", 2]
        assert len(await child_ids(world, handle.run_id)) == 1
        assert is_about(world.clock.now() - began, 5 * 3600), "it slept on while its parent was retried"


async def test_a_step_called_in_the_cleanup_of_an_ended_attempt_is_refused_and_withdraws_nothing() -> None:
    seen: list[str] = []

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        async def asking() -> str:
            try:
                return (await ask(ctx, 5)).result
            except asyncio.CancelledError:
                try:
                    await ctx.step.sleep("refused", 1)
                except Exception as error:
                    seen.append(type(error).__name__)
                raise

        task = asyncio.ensure_future(asking())
        if ctx.attempt == 1:
            await asyncio.sleep(60)
            raise ValueError("once more")
        return await task

    async with World() as world:
        handle = await world.runtime.start(parent)
        assert await world.result(handle) == "slept 5 h"
        assert seen == ["StepRefusedError"]
        assert len(await child_ids(world, handle.run_id)) == 1


async def test_withdrawing_reaches_all_below_the_child() -> None:
    @workflow(id="middle")
    async def middle(ctx: Context) -> None:
        await ctx.step.invoke("leaf", workflow=child, data=12, timeout="24h")

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        with anyio.move_on_after(60):
            await ctx.step.invoke("middle", workflow=middle, data=None, timeout="24h")
        await ctx.step.sleep("go on", "1h")
        return "done"

    async with World() as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("2m")
        assert await unfinished(world.runtime) == [handle.run_id]


async def test_a_shielded_invoke_is_not_withdrawn() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        task = asyncio.ensure_future(ask(ctx, 2))
        try:
            async with asyncio.timeout(60):
                await asyncio.shield(task)
        except TimeoutError:
            pass
        return (await task).result

    async with World() as world:
        assert await world.execute(parent) == "slept 2 h"


async def test_a_withdrawn_run_step_is_interrupted_and_runs_again_in_a_later_attempt() -> None:
    executions: list[str] = []

    async def work() -> str:
        executions.append("began")
        if len(executions) == 1:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                executions.append("interrupted")
        return "worked"

    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        async with asyncio.timeout(60):
            return await ctx.step.run("work", work)

    async with World() as world:
        assert await world.execute(parent) == "worked"
        assert executions == ["began", "interrupted", "began"]


async def test_withdrawing_many_children_at_once() -> None:
    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        async def asking() -> None:
            await ask(ctx)

        async with anyio.create_task_group() as group:
            for _ in range(500):
                group.start_soon(asking)
            await anyio.sleep(60)
            group.cancel_scope.cancel()
        await ctx.step.sleep("go on", "1h")
        return "done"

    async with World() as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("2m")
        assert await unfinished(world.runtime) == [handle.run_id]
        assert len(await everything(world.runtime)) == 501


async def test_cancelling_the_parent_waits_for_a_withdrawn_child_that_still_cleans_up() -> None:
    left: list[str] = []

    @workflow(id="slow-child")
    async def slow_child(ctx: Context) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(3)
            left.append("gone")

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        with anyio.move_on_after(60):
            await ctx.step.invoke("ask", workflow=slow_child, data=None, timeout="24h")
        await ctx.step.sleep("go on", "1h")

    async with World() as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("61s")
        assert left == []
        report = await world.wait(handle.cancel())
        assert (left, report.cancelled) == (["gone"], [handle.run_id])


async def test_a_chosen_run_id_can_be_spawned_anew_after_a_withdrawal() -> None:
    @workflow(id="parent", retries=1)
    async def parent(ctx: Context) -> str:
        invoke = ctx.step.invoke("ask", workflow=child, data=1, timeout="24h", run_id="mine")
        if ctx.attempt == 1:
            async with asyncio.timeout(60):
                await invoke
        return (await invoke).result

    async with World() as world:
        assert await world.execute(parent) == "slept 1 h"


async def test_a_child_that_is_timed_out_on_is_not_withdrawn_by_a_scope_that_ends_in_the_same_moment() -> None:
    """Both were due while the process was down. The journal says that the child runs on: it does. Found by the
    simulator."""

    @workflow(id="both")
    async def both(ctx: Context) -> str:
        try:
            async with asyncio.timeout(3600):
                await ctx.step.invoke("ask", workflow=child, data=12.0, timeout="2h")
        except TimeoutError:
            await ctx.step.sleep("pause", "1s")
        return "done"

    async with World(both, child) as world:
        handle = await world.runtime.start(both)
        await world.settle()
        await world.crash()
        await world.clock.advance("3h")
        await world.open()
        assert await world.result(world.runtime.run(handle.run_id)) == "done"
        (child_id,) = await child_ids(world, handle.run_id)
        assert (await world.runtime.info(child_id)).status is RUNNING
        assert await world.result(world.runtime.run(child_id)) == "slept 12 h"
