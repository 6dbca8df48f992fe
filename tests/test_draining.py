"""Leaving: what ends in time does, what does not goes on next time, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from cancel_kit import no_task_is_left, other_tasks, sleeper
from kit import World

from rotor_actors import Context, ManualClock, MemoryStore, RunStatus, Runtime, workflow
from rotor_actors.errors import RotorError, RuntimeStateError, StepRefusedError, StoreError
from rotor_actors.records import ItemPut

pytestmark = pytest.mark.asyncio


@workflow(id="none")
async def none(ctx: Context) -> None: ...


async def test_what_ends_within_drain_timeout_does() -> None:
    store, may_end = MemoryStore(), asyncio.Event()

    async def work() -> str:
        await may_end.wait()
        return "worked"

    @workflow(id="child")
    async def child(ctx: Context) -> str:
        return await ctx.step.run("work", work)

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        return (await ctx.step.invoke("c", workflow=child, data=None, timeout="1h")).result

    runtime = Runtime(store, drain_timeout="1m")
    await runtime.__aenter__()
    handle = await runtime.start(parent)
    waiter = asyncio.ensure_future(handle.result())
    leaving = asyncio.ensure_future(runtime.__aexit__(None, None, None))
    await asyncio.sleep(0.02)
    assert not leaving.done()
    may_end.set()
    await leaving
    assert await waiter == "worked"


async def test_what_does_not_end_goes_on_next_time_and_nothing_is_lost() -> None:
    executions: list[str] = []

    async def first() -> str:
        executions.append("first")
        return "first"

    async def second() -> str:
        executions.append("second")
        if executions.count("second") == 1:
            await asyncio.get_running_loop().create_future()
        return "second"

    @workflow(id="two-steps")
    async def two_steps(ctx: Context) -> list[str]:
        return [await ctx.step.run("first", first), await ctx.step.run("second", second)]

    async with World(two_steps) as world:
        handle = await world.runtime.start(two_steps)
        await world.settle()
        await world.close()
        await world.open()
        assert await world.result(handle.run_id) == ["first", "second"]
        assert executions == ["first", "second", "second"]


async def test_a_waiter_gets_runtime_state_error() -> None:
    async with World() as world:
        handle = await world.runtime.start(sleeper)
        await world.settle()
        waiter = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0)
        await world.close()
        with pytest.raises(RuntimeStateError, match="goes on when the store is opened again"):
            await waiter


async def test_leaving_with_a_sleeping_run_does_not_wait() -> None:
    runtime = Runtime(":memory:", drain_timeout="1h")
    async with asyncio.timeout(5):
        async with runtime:
            await runtime.start(sleeper)


async def test_leaving_does_not_wait_for_a_clock_that_only_a_test_moves() -> None:
    @workflow(id="nap")
    async def nap(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1s")

    async with asyncio.timeout(5):
        async with Runtime(":memory:", clock=ManualClock(), drain_timeout="1h") as runtime:
            await runtime.start(nap)


async def test_cancelling_the_exit_drains_no_longer_but_closes_the_store(tmp_path: Path) -> None:
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    @workflow(id="hanging")
    async def hanging(ctx: Context) -> None:
        await ctx.step.run("h", hang)

    before = other_tasks()
    runtime = Runtime(tmp_path / "store.db", drain_timeout="1h")
    await runtime.__aenter__()
    handle = await runtime.start(hanging)
    leaving = asyncio.ensure_future(runtime.__aexit__(None, None, None))
    await asyncio.sleep(0.02)
    assert not leaving.done()
    leaving.cancel()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await no_task_is_left(before)
    async with Runtime(tmp_path / "store.db", drain_timeout=0) as again:
        assert await again.run(handle.run_id).status() is RunStatus.RUNNING


async def test_a_timeout_around_the_exit_works() -> None:
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    @workflow(id="hanging")
    async def hanging(ctx: Context) -> None:
        await ctx.step.run("h", hang)

    runtime = Runtime(":memory:", drain_timeout="1h")
    await runtime.__aenter__()
    await runtime.start(hanging)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await runtime.__aexit__(None, None, None)
    with pytest.raises(RuntimeStateError):
        await runtime.start(none)


async def test_closing_twice_and_at_once_is_fine() -> None:
    runtime = Runtime(":memory:", drain_timeout=0)
    await runtime.__aenter__()
    await runtime.start(sleeper)
    await asyncio.gather(runtime.__aexit__(None, None, None), runtime.__aexit__(None, None, None))
    await runtime.__aexit__(None, None, None)


async def test_leaving_what_was_never_entered_is_fine() -> None:
    await Runtime(":memory:").__aexit__(None, None, None)


async def test_nothing_can_be_used_after_closing() -> None:
    runtime = Runtime(":memory:", drain_timeout=0)
    async with runtime:
        handle = await runtime.start(sleeper)
    async with asyncio.timeout(5):
        for use in (
            runtime.start(none),
            runtime.start(none, run_id="mine"),
            runtime.execute(none),
            runtime.cancel(handle.run_id),
            runtime.cancel("nobody"),
            runtime.runs(),
            runtime.info(handle.run_id),
            runtime.count(),
            handle.result(),
            handle.status(),
        ):
            with pytest.raises(RuntimeStateError):
                await use
    with pytest.raises(RuntimeStateError):
        await runtime.__aenter__()


async def test_nothing_can_be_used_before_opening() -> None:
    runtime = Runtime(":memory:")
    with pytest.raises(RuntimeStateError, match="not open"):
        await runtime.start(none)


async def test_start_is_refused_while_draining() -> None:
    may_end = asyncio.Event()

    async def work() -> None:
        await may_end.wait()

    @workflow(id="working")
    async def working(ctx: Context) -> None:
        await ctx.step.run("w", work)

    runtime = Runtime(":memory:", drain_timeout="1m")
    await runtime.__aenter__()
    handle = await runtime.start(working)
    leaving = asyncio.ensure_future(runtime.__aexit__(None, None, None))
    await asyncio.sleep(0.02)
    with pytest.raises(RuntimeStateError, match="closing"):
        await runtime.start(none)
    assert await handle.status() is RunStatus.RUNNING, "it can still be looked at"
    assert (await handle.cancel()).cancelled == [handle.run_id], "and cancelled"
    await leaving


async def test_closing_interrupts_bodies_without_recording_anything() -> None:
    seen: list[str] = []

    @workflow(id="interrupted")
    async def interrupted(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "1h")
        except asyncio.CancelledError:
            for call in (ctx.step.sleep("more", 1), ctx.cancel("in the way")):
                try:
                    await call
                except StepRefusedError:
                    seen.append("refused")
            raise

    async with World(interrupted) as world:
        handle = await world.runtime.start(interrupted)
        await world.settle()
        entries = len(world.store.facts)
        await world.close()
        assert seen == ["refused", "refused"]
        # Closing keeps where the code's steps are, and nothing of the run.
        assert all(isinstance(fact, ItemPut) and fact.item.space == "place" for fact in world.store.facts[entries:])
        await world.open()
        await world.result(handle.run_id)
        assert await world.runtime.run(handle.run_id).status() is RunStatus.COMPLETED


async def test_closing_during_a_cancellation_gives_its_canceller_a_report() -> None:
    async with World() as world:

        @workflow(id="slow-to-go")
        async def slow_to_go(ctx: Context) -> None:
            try:
                await ctx.step.sleep("nap", "1h")
            finally:
                await asyncio.sleep(3)

        handle = await world.runtime.start(slow_to_go)
        await world.settle()
        canceller = asyncio.ensure_future(handle.cancel())
        await world.settle()
        assert not canceller.done()
        await world.close()
        async with asyncio.timeout(5):
            assert (await canceller).cancelled == [handle.run_id]


async def test_a_failing_store_leaves_no_canceller_waiting() -> None:
    @workflow(id="slow-to-go")
    async def slow_to_go(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "1h")
        finally:
            await asyncio.sleep(3)

    async with World() as world:
        handle = await world.runtime.start(slow_to_go)
        await world.settle()
        canceller = asyncio.ensure_future(handle.cancel())
        await world.settle()
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.start(none)
        async with asyncio.timeout(5):
            assert (await canceller).cancelled == [handle.run_id]
        with pytest.raises(StoreError):
            await world.runtime.cancel(handle.run_id)


@pytest.mark.parametrize("in_file", [False, True])
async def test_closing_in_the_midst_of_work_ends_and_loses_nothing(in_file: bool, tmp_path: Path) -> None:
    """At each of many moments there is something appended that is not committed; whoever waits for it is told."""

    async def work(number: int) -> int:
        return number

    @workflow(id="busy-child")
    async def child(ctx: Context, number: int) -> int:
        return await ctx.step.run("work", work, number)

    @workflow(id="busy")
    async def busy(ctx: Context) -> int:
        invokes = (ctx.step.invoke("c", workflow=child, data=number, timeout="1h") for number in range(10))
        return sum(each.result for each in await asyncio.gather(*invokes))

    for count in range(15):
        store: Any = tmp_path / f"{count}.db" if in_file else MemoryStore()
        async with asyncio.timeout(20):
            runtime = Runtime(store, workflows=[busy, child], drain_timeout=0)
            await runtime.__aenter__()
            starting = [asyncio.ensure_future(runtime.start(busy, run_id=f"run {number}")) for number in range(3)]
            looking = asyncio.ensure_future(keep_looking(runtime))
            for _ in range(count * 3):
                await asyncio.sleep(0)
            await runtime.__aexit__(None, None, None)
            await asyncio.wait(starting)
            await looking
            refused = [each for each in starting if isinstance(each.exception(), RuntimeStateError)]
            started = [each.result().run_id for each in starting if each not in refused]
            async with Runtime(store, workflows=[busy, child], drain_timeout=0) as again:
                assert [await again.run(run_id).result() for run_id in started] == [45] * len(started)


async def keep_looking(runtime: Runtime) -> None:
    """Until the runtime is closed; each answer is an answer or an error of ours."""
    with contextlib.suppress(RotorError):
        while True:
            await runtime.count()
            await asyncio.sleep(0)
