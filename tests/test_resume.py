"""After a run's end: `resume` goes on from what failed, under the same id, with the memo kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from kit import STRIDE, FragileStore, World

from rotor_actors import Context, EndedRun, RetryPolicy, RunStatus, Workflow, workflow
from rotor_actors.errors import (
    RunNotFoundError,
    RunStatusError,
    StoreError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)

pytestmark = pytest.mark.asyncio


class Weather:
    """What the steps of these tests depend on: it is bad until somebody mends it."""

    def __init__(self) -> None:
        self.is_bad = True
        self.calls: Counter[str] = Counter()

    def act(self, name: str) -> str:
        self.calls[name] += 1
        return name

    def try_it(self, name: str) -> str:
        self.calls[name] += 1
        if self.is_bad:
            raise ValueError(f"{name}: bad weather")
        return name


def simple(weather: Weather, **options: Any) -> Workflow[None, list[str]]:
    @workflow(id="simple", retries=0, **options)
    async def simple(ctx: Context) -> list[str]:
        first = await ctx.step.run("first", weather.act, "first")
        second = await ctx.step.run("second", weather.try_it, "second")
        return [first, second]

    return simple


async def failed(world: World, run_id: str = "r") -> WorkflowFailedError:
    with pytest.raises(WorkflowFailedError) as caught:
        await world.result(run_id)
    return caught.value


async def test_a_failed_run_goes_on_from_its_failed_step_under_its_id() -> None:
    weather = Weather()
    flow = simple(weather)
    async with World(flow) as world:
        await world.runtime.start(flow, run_id="r")
        await failed(world)
        weather.is_bad = False
        handle = await world.runtime.resume("r")
        assert handle.run_id == "r"
        assert await world.result(handle) == ["first", "second"]
        assert weather.calls == {"first": 1, "second": 2}
        info = await handle.info()
        assert (info.status, info.attempt) == (RunStatus.COMPLETED, 2)


async def test_a_failure_that_the_body_caught_stands() -> None:
    weather = Weather()

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        try:
            await ctx.step.run("caught", weather.try_it, "caught")
        except ValueError:
            pass
        return await ctx.step.run("fatal", weather.try_it, "fatal")

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        await failed(world)
        weather.is_bad = False
        await world.runtime.resume("r")
        assert await world.result("r") == "fatal"
        assert weather.calls == {"caught": 1, "fatal": 2}


async def test_a_resumed_run_has_its_retries_again() -> None:
    weather = Weather()

    @workflow(id="w", retries=RetryPolicy(1, initial="1s", jitter=False))
    async def w(ctx: Context) -> str:
        return await ctx.step.run("it", weather.try_it, "it")

    async with World(w) as world:
        await world.runtime.start(w, run_id="r")
        await failed(world)
        await world.runtime.resume("r")
        await failed(world)
        assert weather.calls["it"] == 4
        assert (await world.runtime.info("r")).attempt == 4


async def test_the_child_that_failed_goes_on_too_and_completed_ones_do_not_run_again() -> None:
    weather = Weather()
    leaf = simple(weather)

    @workflow(id="middle", retries=0)
    async def middle(ctx: Context) -> list[str]:
        await ctx.step.run("middle", weather.act, "middle")
        return (await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1h")).result

    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> list[str]:
        return (await ctx.step.invoke("middle", workflow=middle, data=None, timeout="1h")).result

    async with World(top, middle, leaf) as world:
        await world.runtime.start(top, run_id="r")
        await failed(world)
        before = {run.run_id for run in await world.runtime.runs(root="r")}
        weather.is_bad = False
        await world.clock.advance("2d")  # the timeouts of the invokes are long over; they begin anew
        await world.runtime.resume("r")
        assert await world.result("r") == ["first", "second"]
        assert weather.calls == {"first": 1, "second": 2, "middle": 1}
        runs = await world.runtime.runs(root="r")
        assert {run.run_id for run in runs} == before, "the same runs, no new ones"
        assert {run.status for run in runs} == {RunStatus.COMPLETED}


async def test_children_that_were_cancelled_along_with_it_go_on() -> None:
    weather = Weather()

    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> str:
        await ctx.step.run("begin", weather.act, "begin")
        await ctx.step.sleep("doze", "1h")
        return "slept"

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> list[str]:
        async def later() -> str:
            await ctx.step.sleep("wait", "10m")
            return await ctx.step.run("it", weather.try_it, "it")

        both = await asyncio.gather(ctx.step.invoke("slow", workflow=slow, data=None, timeout="3h"), later())
        return [both[0].result, both[1]]

    async with World(w, slow) as world:
        await world.runtime.start(w, run_id="r")
        await failed(world)
        (child,) = await world.runtime.runs(parent="r")
        assert child.status is RunStatus.CANCELLED
        weather.is_bad = False
        await world.runtime.resume("r")
        assert await world.result("r") == ["slept", "it"]
        assert [run.run_id for run in await world.runtime.runs(parent="r")] == [child.run_id]
        assert weather.calls == {"begin": 1, "it": 2}


async def test_a_cancelled_run_goes_on_with_its_tree() -> None:
    weather = Weather()

    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> str:
        await ctx.step.run("begin", weather.act, "begin")
        await ctx.step.sleep("doze", "1h")
        return "slept"

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        return (await ctx.step.invoke("slow", workflow=slow, data=None, timeout="3h")).result

    async with World(w, slow) as world:
        handle = await world.runtime.start(w, run_id="r")
        await world.clock.advance("10m")
        await world.wait(handle.cancel("a mistake"))
        await world.runtime.resume("r")
        assert await world.result("r") == "slept"
        assert weather.calls == {"begin": 1}
        assert {run.status for run in await world.runtime.runs(root="r")} == {RunStatus.COMPLETED}


async def test_a_parent_that_had_the_failure_keeps_it_over_restarts_and_is_not_told_twice() -> None:
    weather = Weather()
    leaf = simple(weather)
    seen: list[str] = []

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        try:
            await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1h")
            seen.append("completed")
        except WorkflowFailedError:
            seen.append("failed")
        await ctx.step.sleep("doze", "1h")
        return "went on"

    async with World(w, leaf) as world:
        await world.runtime.start(w, run_id="r")
        await world.settle()
        (child,) = await world.runtime.runs(parent="r")
        weather.is_bad = False
        await world.runtime.resume(child.run_id)
        assert await world.result(child.run_id) == ["first", "second"]
        await world.reopen()
        assert await world.result("r") == "went on"
        assert set(seen) == {"failed"}
        info = await world.runtime.info(child.run_id)
        assert (info.status, info.is_released) == (RunStatus.COMPLETED, True)


async def test_a_resumed_child_is_cancelled_with_the_tree_it_stands_in() -> None:
    weather = Weather()

    @workflow(id="leaf", retries=0)
    async def leaf(ctx: Context) -> None:
        await ctx.step.run("it", weather.try_it, "it")
        await ctx.step.sleep("doze", "1h")

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        try:
            await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1h")
        except WorkflowFailedError:
            await ctx.step.sleep("doze", "1h")

    async with World(w, leaf) as world:
        handle = await world.runtime.start(w, run_id="r")
        await world.settle()
        (child,) = await world.runtime.runs(parent="r")
        weather.is_bad = False
        await world.runtime.resume(child.run_id)
        await world.settle()
        report = await world.wait(handle.cancel())
        assert set(report.cancelled) == {"r", child.run_id}


async def test_a_late_result_of_a_child_that_was_timed_out_on_is_taken() -> None:
    weather = Weather()

    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> str:
        await ctx.step.sleep("doze", "2h")
        return weather.act("slept")

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        return (await ctx.step.invoke("slow", workflow=slow, data=None, timeout="1h")).result

    async with World(w, slow) as world:
        await world.runtime.start(w, run_id="r")
        error = await failed(world)
        assert error.error.type.endswith(WorkflowTimeoutError.__name__)
        await world.clock.advance("90m")
        await world.runtime.resume("r")
        assert await world.result("r") == "slept"
        assert weather.calls == {"slept": 1}


async def test_a_child_that_was_timed_out_on_and_still_runs_is_awaited_again() -> None:
    @workflow(id="slow", retries=0)
    async def slow(ctx: Context) -> str:
        await ctx.step.sleep("doze", "2h")
        return "slept"

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        return (await ctx.step.invoke("slow", workflow=slow, data=None, timeout="90m")).result

    async with World(w, slow) as world:
        await world.runtime.start(w, run_id="r")
        await failed(world)
        await world.runtime.resume("r")
        await world.reopen()
        assert await world.result("r") == "slept"
        assert len(await world.runtime.runs(root="r")) == 2


async def test_what_failed_of_a_map_goes_on_and_the_rest_of_it_is_not_run_again() -> None:
    weather = Weather()

    @workflow(id="item", retries=0)
    async def item(ctx: Context, n: int) -> int:
        if n == 2:
            await ctx.step.run("two", weather.try_it, "two")
        await ctx.step.run("item", weather.act, f"item-{n}")
        return n

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> list[int]:
        found: list[int] = []
        async for outcome in ctx.step.map("items", workflow=item, items=range(4), timeout="1h", concurrency=1):
            assert outcome.body is not None
            found.append(outcome.body)
        return sorted(found)

    async with World(w, item) as world:
        await world.runtime.start(w, run_id="r")
        await failed(world)
        weather.is_bad = False
        (child,) = await world.runtime.runs(parent="r", status="failed")
        with pytest.raises(RunStatusError, match=r"one of those that a step.map of run r started: resume that run"):
            await world.runtime.resume(child.run_id)
        await world.runtime.resume("r")
        assert await world.result("r") == [0, 1, 2, 3]
        assert weather.calls == {"two": 2, **{f"item-{n}": 1 for n in range(4)}}


async def test_its_failure_handler_is_started_again_when_it_fails_again() -> None:
    weather = Weather()
    handled: list[str] = []

    async def on_failure(ctx: Context, ended: EndedRun[Any]) -> None:
        assert ended.error is not None
        handled.append(ended.error.message)

    flow = simple(weather, on_failure=on_failure)
    async with World(flow) as world:
        await world.runtime.start(flow, run_id="r")
        await failed(world)
        await world.runtime.resume("r")
        await failed(world)
        await world.settle()
        assert handled == ["second: bad weather"] * 2
        assert len(await world.runtime.runs(workflow="simple.on_failure")) == 2


async def test_what_cannot_be_resumed_is_refused_by_name() -> None:
    weather = Weather()
    weather.is_bad = False
    flow = simple(weather)

    @workflow(id="slow")
    async def slow(ctx: Context) -> None:
        await ctx.step.sleep("doze", "1h")

    async with World(flow, slow) as world:
        await world.execute(flow, run_id="done")
        with pytest.raises(RunStatusError, match="has completed, there is nothing to resume") as caught:
            await world.runtime.resume("done")
        assert (caught.value.run_id, caught.value.status) == ("done", "completed")
        await world.runtime.start(slow, run_id="slow")
        with pytest.raises(RunStatusError, match="has not ended: it is running, and goes on by itself"):
            await world.runtime.resume("slow")
        with pytest.raises(RunNotFoundError, match="nobody"):
            await world.runtime.resume("nobody")
        await world.wait(world.runtime.cancel("slow"))
        await world.reopen(flow)
        with pytest.raises(
            RunStatusError, match=r"cannot resume run slow: no workflow 'slow' is registered.*name it in"
        ):
            await world.runtime.resume("slow")


async def test_two_who_resume_at_once_resume_once() -> None:
    weather = Weather()
    flow = simple(weather)
    async with World(flow) as world:
        await world.runtime.start(flow, run_id="r")
        await failed(world)
        weather.is_bad = False
        outcomes = await world.wait(
            asyncio.gather(world.runtime.resume("r"), world.runtime.resume("r"), return_exceptions=True)
        )
        assert sum(isinstance(outcome, RunStatusError) for outcome in outcomes) == 1
        assert await world.result("r") == ["first", "second"]
        assert weather.calls["second"] == 2


async def test_a_run_that_was_resumed_and_cancelled_can_be_resumed_again() -> None:
    weather = Weather()
    flow = simple(weather)
    async with World(flow) as world:
        handle = await world.runtime.start(flow, run_id="r")
        await failed(world)
        weather.is_bad = False
        await world.runtime.resume("r")
        await world.wait(handle.cancel())
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await world.runtime.resume("r")
        assert await world.result("r") == ["first", "second"]


async def test_resume_in_bulk_takes_top_level_runs_only_and_counts_first() -> None:
    weather = Weather()
    leaf = simple(weather)

    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> list[str]:
        return (await ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="1h")).result

    async with World(top, leaf) as world:
        for n in range(3):
            await world.runtime.start(top, run_id=f"r{n}")
            await failed(world, f"r{n}")
        weather.is_bad = False
        would = await world.runtime.resume_all(workflow="top", error="bad weather", dry_run=True)
        assert (would.run_ids, would.skipped) == (["r2", "r1", "r0"], {})
        assert (await world.runtime.count())[RunStatus.FAILED] == 6
        assert (await world.runtime.resume_all()).run_ids == ["r2", "r1", "r0"]
        for n in range(3):
            assert await world.result(f"r{n}") == ["first", "second"]
        with pytest.raises(ValueError, match="status must be of runs that have ended"):
            await world.runtime.resume_all(status="running")


async def test_a_crash_at_any_position_around_a_resume_loses_or_keeps_it_as_a_whole() -> None:
    """The tree fails, is resumed, and completes; the process dies before each of the entries after the failure."""
    weather = Weather()
    leaf = simple(weather)

    @workflow(id="side", retries=0)
    async def side(ctx: Context) -> str:
        await ctx.step.sleep("doze", "1h")
        return "side"

    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> list[str]:
        both = await asyncio.gather(
            ctx.step.invoke("leaf", workflow=leaf, data=None, timeout="3h"),
            ctx.step.invoke("side", workflow=side, data=None, timeout="3h"),
        )
        return [*both[0].result, both[1].result]

    position = 0
    while True:
        weather.is_bad, weather.calls = True, Counter()
        world = World(top, leaf, side, store=FragileStore())
        await world.open()
        await world.runtime.start(top, run_id="r")
        await failed(world)
        weather.is_bad = False
        world.store.entries_left = position
        try:
            await world.runtime.resume("r")
            await world.result("r")
        except StoreError:
            await world.reopen()
            if (await world.runtime.info("r")).status is RunStatus.FAILED:
                await world.runtime.resume("r")
        else:
            await world.close()
            break
        assert await world.result("r") == ["first", "second", "side"], position
        assert weather.calls["first"] == 1
        assert len(await world.runtime.runs(root="r")) == 3
        await world.close()
        position += STRIDE
    assert position > 5


async def test_a_run_is_resumed_only_when_a_child_that_was_cancelled_alone_has_cleaned_up() -> None:
    seen: list[str] = []

    @workflow(id="tidy", retries=0)
    async def tidy(ctx: Context) -> str:
        if seen:
            return "done"
        try:
            await ctx.step.sleep("long", "1h")
        finally:
            seen.append("cleaning up")
            await asyncio.sleep(2)
            seen.append("cleaned up")
        return "never"

    @workflow(id="above", retries=0)
    async def above(ctx: Context) -> str:
        return (await ctx.step.invoke("tidy", workflow=tidy, data=None, timeout="2h")).result

    async with World(above, tidy) as world:
        handle = await world.runtime.start(above, run_id="r")
        await world.settle()
        [child] = await world.runtime.runs(parent="r")
        cancelling = asyncio.ensure_future(world.runtime.cancel(child.run_id))
        with pytest.raises(WorkflowFailedError):
            await world.result(handle, within="1s")
        assert seen == ["cleaning up"]
        resuming = asyncio.ensure_future(world.runtime.resume("r"))
        await world.clock.advance("5s")
        await cancelling
        assert seen == ["cleaning up", "cleaned up"]
        assert await world.result(await resuming) == "done"
