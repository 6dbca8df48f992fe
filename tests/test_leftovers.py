"""Executions of a step that were interrupted and do not end at once: the next one waits, for no longer than a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from functools import partial

import pytest
from kit import FragileStore, World, until

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import StepTimeoutError
from rotor_actors.records import Kind, StepRecorded
from rotor_actors.stuck import Stuck
from rotor_actors.threads import ThreadCall, Threads

pytestmark = pytest.mark.asyncio

AT_ONCE = RetryPolicy(3, initial=0.001, jitter=False)


def stuck_in(world: World) -> Stuck:
    return world.runtime._engine.stuck  # pyright: ignore[reportPrivateUsage]


class Cleaner:
    """A step body whose first execution cleans up for `seconds`, or for ever."""

    def __init__(self, world: World, seconds: float | None) -> None:
        self.world = world
        self.seconds = seconds
        self.said: list[str] = []

    async def body(self) -> str:
        if self.said:
            self.said.append("begins again")
            return "second"
        self.said.append("begins")
        try:
            await asyncio.Event().wait()
        finally:
            done = asyncio.Event()
            if self.seconds is not None:
                self.world.clock.call_at(self.world.clock.now() + self.seconds, done.set)
            while not done.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await done.wait()
            self.said.append("is clean")
        return "first"


async def test_an_execution_waits_until_the_one_that_the_last_attempt_left_has_cleaned_up() -> None:
    @workflow(id="left", retries=AT_ONCE)
    async def left(ctx: Context) -> str:
        async def fail() -> None:
            await ctx.step.sleep("a little", "1s")
            if ctx.attempt == 1:
                raise ValueError("ends the attempt")

        result, _ = await asyncio.gather(ctx.step.run("clean", cleaner.body), fail())
        return result

    async with World(left, cancel_grace="5s") as world:
        cleaner = Cleaner(world, 2.0)
        began = world.clock.now()
        assert await world.execute(left) == "second"
        assert cleaner.said == ["begins", "is clean", "begins again"]
        assert world.clock.now() - began == pytest.approx(3.0, abs=0.1)


async def test_one_that_does_not_end_is_waited_for_no_longer_than_the_grace_period(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(id="left", retries=AT_ONCE)
    async def left(ctx: Context) -> str:
        async def fail() -> None:
            await ctx.step.sleep("a little", "1s")
            if ctx.attempt == 1:
                raise ValueError("ends the attempt")

        result, _ = await asyncio.gather(ctx.step.run("clean", cleaner.body), fail())
        return result

    async with World(left, cancel_grace="5s") as world:
        cleaner = Cleaner(world, 60.0)
        began = world.clock.now()
        with caplog.at_level(logging.WARNING, "rotor_actors"):
            assert await world.execute(left) == "second"
        assert cleaner.said == ["begins", "begins again"]
        assert world.clock.now() - began == pytest.approx(6.0, abs=0.1)
        [record] = [each for each in caplog.records if "did not end" in each.message]
        assert "step 'clean'" in record.message
        assert "Cleaner.body" in record.message or "in body" in record.message, record.message
        assert len(stuck_in(world)) == 1
        await world.clock.advance("60s")
        assert cleaner.said[-1] == "is clean"
        assert len(stuck_in(world)) == 0, "it ended after all, and is let go"


async def test_a_step_left_by_its_scope_and_asked_for_again_under_its_key_waits_too() -> None:
    """A later attempt comes to the step whose scope an earlier one left."""

    @workflow(id="scoped", retries=AT_ONCE)
    async def scoped(ctx: Context) -> str:
        if ctx.attempt == 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await ctx.step.run("clean", cleaner.body)
            raise ValueError("ends the attempt")
        return await ctx.step.run("clean", cleaner.body)

    async with World(scoped) as world:
        cleaner = Cleaner(world, 3.0)
        assert await world.execute(scoped) == "second"
        assert cleaner.said == ["begins", "is clean", "begins again"]


async def test_a_run_that_is_cancelled_while_its_step_waits_does_not_begin_it() -> None:
    @workflow(id="scoped", retries=AT_ONCE)
    async def scoped(ctx: Context) -> str:
        if ctx.attempt == 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await ctx.step.run("clean", cleaner.body)
            raise ValueError("ends the attempt")
        return await ctx.step.run("clean", cleaner.body)

    async with World(scoped) as world:
        cleaner = Cleaner(world, 3.0)
        handle = await world.runtime.start(scoped)
        await world.clock.advance("2s")
        report = await world.wait(world.runtime.cancel(handle.run_id))
        await world.clock.advance("10s")
        assert report.cancelled == [handle.run_id]
        assert cleaner.said == ["begins", "is clean"]


async def test_a_step_that_does_not_end_at_its_timeout_is_given_up_after_the_grace_period(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(id="slow")
    async def slow(ctx: Context) -> str:
        try:
            return await ctx.step.run("clean", cleaner.body, timeout="10s")
        except StepTimeoutError:
            return "timed out"

    async with World(slow, cancel_grace="5s") as world:
        cleaner = Cleaner(world, 60.0)
        began = world.clock.now()
        assert await world.execute(slow) == "timed out"
        assert world.clock.now() - began == pytest.approx(15.0, abs=0.1)
        assert "timed out, and did not end within its grace period" in caplog.text
        assert len(stuck_in(world)) == 1
        await world.clock.advance("60s")
        assert len(stuck_in(world)) == 0, "it ended after all, and is let go"
        assert cleaner.said == ["begins", "is clean"], "and what it gives then is of no interest"


# Worker threads


async def test_a_sync_step_that_timed_out_is_executed_again_when_its_thread_has_ended() -> None:
    began, let_go, said = threading.Event(), threading.Event(), list[str]()

    def work() -> str:
        if began.is_set():
            said.append("again")
            return "second"
        began.set()
        let_go.wait(60)
        said.append("ends")
        return "first"

    @workflow(id="threaded")
    async def threaded(ctx: Context) -> str:
        return await ctx.step.run("work", work, timeout=0.25, retries=AT_ONCE)

    store = FragileStore()
    async with Runtime(
        store, cancel_grace="1h", drain_timeout=0
    ) as runtime:  # real time: a clock moved by hand waits for threads
        handle = await runtime.start(threaded)
        await until(lambda: any(fact.step.kind is Kind.STEP_RETRY for fact in store.committed(StepRecorded)))
        assert said == []
        let_go.set()
        assert await handle.result() == "second"
        assert said == ["ends", "again"]


async def test_threads_that_do_not_end_take_places_away_once_they_are_many_and_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads, let_go, ended = Threads(limit=2), threading.Event(), list[int]()
    calls = [ThreadCall(let_go.wait, (60,)) for _ in range(5)]
    tasks = [asyncio.create_task(call.result()) for call in calls]
    await until(lambda: all(call.is_running for call in calls))
    places: list[float] = []
    for number, (call, task) in enumerate(zip(calls, tasks, strict=True)):
        task.cancel()
        threads.abandon(call, f"step {number}", partial(ended.append, number))
        places.append(threads.slot().total_tokens)
    assert places == [2, 2, 1, 1, 1]
    assert ["step 2:" in caplog.text, "step 1:" in caplog.text] == [True, False]
    threads.report_left()
    assert "step 1: still runs in a worker thread" in caplog.text
    let_go.set()
    await until(lambda: len(ended) == 5)
    assert threads.slot().total_tokens == 2
