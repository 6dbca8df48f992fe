"""`runtime.why` and `info.waiting_for`: what a run waits for, since when, and what happens next."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from kit import IS_SHARED, World

from rotor_actors import Context, RetryPolicy, workflow
from rotor_actors.errors import RunNotFoundError

pytestmark = pytest.mark.asyncio


@workflow(id="slow")
async def slow(ctx: Context, duration: str) -> str:
    await ctx.step.sleep("doze", duration)
    return f"slept {duration}"


@workflow(id="parent")
async def parent(ctx: Context) -> None:
    await ctx.step.invoke("it", workflow=slow, data="9h", timeout="10h")


# Where replicas share the store.
_OWNED = re.compile(r"; replica \S+ \(\d+\) owns it; \d+ s are left of its lease$")


async def why(world: World, run_id: str = "r") -> tuple[str, str]:
    """The sentence behind the run's name, and the short form."""
    await world.settle()
    sentence = _OWNED.sub("", await world.runtime.why(run_id))
    assert re.match(rf"run {run_id} of workflow '[\w.-]+' ", sentence)
    return sentence.split("' ", 1)[1], (await world.runtime.info(run_id)).waiting_for


def at(world: World, seconds: float) -> str:
    return datetime.fromtimestamp(world.clock.now() + seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


async def test_a_run_that_sleeps_says_until_when() -> None:
    async with World(slow) as world:
        await world.runtime.start(slow, "2h", run_id="r")
        await world.clock.advance("30m")
        assert await why(world) == (f"sleeps in step 'doze' until {at(world, 5400)} (in 1h30m)", "sleep 'doze'")


async def test_a_sleeping_run_that_was_recovered_and_not_loaded_says_when_it_is_due() -> None:
    async with World(slow) as world:
        await world.runtime.start(slow, "2h", run_id="r")
        await world.settle()
        await world.reopen()
        text, brief = await why(world)
        assert f"due at {at(world, 7200)} (in 2h)" in text
        assert brief == "timer"


async def test_a_run_that_awaits_a_child_names_it_before_and_after_a_restart() -> None:
    async with World(slow, parent) as world:
        await world.runtime.start(parent, run_id="r")
        await world.settle()
        (child,) = await world.runtime.runs(parent="r")
        expected = (
            f"waits for child {child.run_id} of workflow 'slow' (step 'it') since {at(world, 0)} (now), "
            f"until {at(world, 36_000)} (in 10h) at most", "child 'it'"
        )  # fmt: skip
        assert await why(world) == expected
        await world.reopen()
        assert await why(world) == expected


async def test_a_step_under_way_and_its_retries_are_told_apart() -> None:
    gate = asyncio.Event()
    calls: list[int] = []

    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await ctx.step.run("fetch", fetch, timeout="1m", retries=RetryPolicy(3, initial="10s", factor=1, jitter=False))

    async def fetch() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("not yet")
        await gate.wait()

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        text, brief = await why(world)
        assert text == (f"waits to try step 'fetch' again: it failed once; execution 2 begins {at(world, 10)} (in 10s)")
        assert brief == "step-retry 'fetch'"
        await world.clock.advance("10s")
        assert await why(world) == (
            f"executes step 'fetch' (execution 2) since {at(world, -10)} (10s ago)", "step 'fetch'"
        )  # fmt: skip
        gate.set()
        await world.result("r")


async def test_a_run_between_two_attempts_says_what_it_failed_of_and_when_it_goes_on() -> None:
    @workflow(id="w", retries=RetryPolicy(1, initial="20s", jitter=False))
    async def w(ctx: Context) -> None:
        raise KeyError("key")

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        expected = (f"failed in attempt 1 with KeyError: 'key'; attempt 2 begins {at(world, 20)} (in 20s)", "retry")
        assert await why(world) == expected
        await world.reopen()
        assert await why(world) == expected


async def test_a_run_that_waits_for_admission_says_how_many_stand_before_it() -> None:
    async with World(slow, max_active_runs=1) as world:
        for name in ("a", "b", "r"):
            await world.runtime.start(slow, "1h", run_id=name)
        text, brief = await why(world)
        assert "waits for admission since" in text
        assert "max_active_runs=1 are under way, 1 stand before it; it begins when one of them ends" in text
        assert brief == "admission"
        assert "it is next" in (await why(world, "b"))[0]


async def test_an_orphan_says_that_its_workflow_is_not_registered() -> None:
    async with World(slow) as world:
        await world.runtime.start(slow, "1h", run_id="r")
        await world.settle()
        await world.reopen(parent)
        text, brief = await why(world)
        if IS_SHARED:
            assert "no replica owns it, and none that is alive can run workflow 'slow'" in text
            return
        assert "is left untouched" in text
        assert "no workflow of that id is registered; it goes on when Runtime(workflows=[…]) names it" in text
        assert brief == "workflow"


async def test_a_timer_of_the_body_is_named_as_such() -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await asyncio.sleep(60)

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        text, brief = await why(world)
        assert text == f"waits for a timer of its body (asyncio.sleep, a timeout), due at {at(world, 60)} (in 1m)"
        assert brief == "timer"


async def test_several_waits_are_named_and_the_rest_is_counted() -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.sleep(f"s{n}", "1h") for n in range(5)))

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        text, brief = await why(world)
        assert text.count("sleeps in step") == 3
        assert text.endswith("; and for 2 more")
        assert brief == "sleep 's0' and 4 more"


async def test_a_suspect_says_that_it_is_on_probation() -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await asyncio.sleep(0)
        await ctx.step.run("hang", hang)

    async def hang() -> None:
        await asyncio.Event().wait()

    async with World(w) as world:
        for name in ("r0", "r"):
            await world.runtime.start(w, run_id=name)
        for _ in range(4):
            await world.settle()
            await world.reopen()
        text, brief = await why(world)
        assert "is on probation: the process ended 3 times in a row while it was being recovered" in text
        assert brief == "probation"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_a_run_that_has_ended_says_how(end: str) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        if end == "failed":
            raise ValueError("bad")
        if end == "cancelled":
            await ctx.cancel("no more")

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        text, brief = await why(world)
        assert brief == ""
        assert text == {
            "completed": f"completed {at(world, 0)} (now); it waits for nothing",
            "failed": f"failed {at(world, 0)} (now) with ValueError: bad; runtime.resume goes on from the failed step, "
                      f"restart from the top",
            "cancelled": f"was cancelled {at(world, 0)} (now): no more; it waits for nothing",
        }[end]  # fmt: skip


async def test_a_cancelled_run_that_still_cleans_up_has_ended_for_all_who_ask() -> None:
    release = asyncio.Event()

    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await ctx.step.run("hang", hang)

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async with World(w) as world:
        handle = await world.runtime.start(w, run_id="r")
        await world.settle()
        cancelling = asyncio.ensure_future(handle.cancel())
        await asyncio.sleep(0)
        assert "was cancelled" in await world.runtime.why("r")
        release.set()
        await world.wait(cancelling)


async def test_why_of_an_unknown_run_is_refused_by_name() -> None:
    async with World() as world:
        with pytest.raises(RunNotFoundError, match="no run has the id 'nobody'"):
            await world.runtime.why("nobody")


async def test_filters_meet_and_bad_ones_are_refused() -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context, fails: bool) -> None:
        if fails:
            raise ValueError("the tap drips")

    async with World(w, slow) as world:
        began = datetime.fromtimestamp(world.clock.now(), UTC)
        for name, fails in (("a-1", True), ("a-2", False), ("b-1", True)):
            await world.runtime.start(w, fails, run_id=name)
            await world.settle()
            await world.clock.advance("1h")
        middle = began + (datetime.fromtimestamp(world.clock.now(), UTC) - began) / 2

        async def ids(**filters: Any) -> list[str]:
            return [run.run_id for run in await world.runtime.runs(**filters)]

        assert await ids(id_prefix="a-") == ["a-2", "a-1"]
        assert await ids(error="tap drips") == ["b-1", "a-1"]
        assert await ids(error="tap drips", id_prefix="b") == ["b-1"]
        assert await ids(since=middle) == ["b-1"]
        assert await ids(until=middle, status="failed") == ["a-1"]
        assert await ids(since=began, limit=1, after="b-1") == ["a-2"]
        with pytest.raises(ValueError, match="since needs a datetime with a time zone"):
            await ids(since=datetime(2026, 1, 1))
        with pytest.raises(ValueError, match="limit must be a number of at least 1, got 0"):
            await ids(limit=0)
