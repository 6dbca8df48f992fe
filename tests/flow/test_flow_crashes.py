"""A crash after each entry of the journal: no limit is exceeded, no order is lost, no start is lost or doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from flow_kit import Watch
from kit import STRIDE, World

from rotor_actors import (
    Batch,
    Context,
    Debounce,
    FlowControl,
    Idempotency,
    RunInfo,
    RunStatus,
    Singleton,
    Workflow,
    workflow,
)
from rotor_actors.errors import StoreError, WorkflowCancelledError
from rotor_actors.records import Entry

pytestmark = pytest.mark.asyncio

Act = Callable[[World], Awaitable[None]]


@dataclass
class Story:
    """What happens, act by act. An act in which the process dies is done again by the next one."""

    workflows: list[Workflow[Any, Any]]
    acts: list[Act]
    watch: Watch = field(default_factory=Watch)
    forgets: bool = False
    """Who ran when the process died runs no more; else it goes on, in its place."""
    crashes: int = 0


async def told(story: Story, position: int | None) -> tuple[list[RunInfo], int]:
    """Tell it, with a crash after so many entries; gives all runs, oldest first, and how many entries there were."""
    async with World(*story.workflows) as world:
        entries: list[Entry] = []
        world.store.before_commit = entries.extend
        world.store.entries_left = position
        for act in story.acts:
            while True:
                try:
                    await act(world)
                    await world.runtime.count()  # raises when the process died in the act
                    break
                except StoreError:
                    story.crashes += 1
                    assert story.crashes <= 1
                    if story.forgets:
                        story.watch.running.clear()
                    await world.reopen()
        runs = await world.runtime.runs(limit=100)
        await world.settle()
        assert not world.runtime.waiting()
        assert [key for key in world.runtime.flow_keys() if key.running or key.waiting] == []
        return runs[::-1], len(entries)


async def crashed_everywhere(make: Callable[[], Story], check: Callable[[Story, list[RunInfo]], None]) -> None:
    story = make()
    runs, entries = await told(story, None)
    check(story, runs)
    crashes = 0
    for position in range(0, entries, STRIDE):
        story = make()
        runs, _ = await told(story, position)
        crashes += story.crashes
        try:
            check(story, runs)
        except AssertionError as error:
            raise AssertionError(f"after a crash at entry {position} of {entries}: {error}") from error
    assert crashes > entries // STRIDE // 2


def in_first_order(names: list[str]) -> list[str]:
    """Steps are executed at least once: the order in which they began first."""
    return list(dict.fromkeys(names))


def began_at(runs: list[RunInfo]) -> dict[str, float]:
    """When each run got its place, in the order in which they were started."""
    return {run.run_id: run.started_at.timestamp() for run in runs if run.started_at is not None}


def start_all(work: Workflow[Any, Any], names: list[str]) -> list[Act]:
    async def start(world: World) -> None:
        for name in names:
            await world.runtime.start(work, name, run_id=name)

    async def await_all(world: World) -> None:
        for name in names:
            await world.result(name)

    return [start, await_all]


def worker(watch: Watch, **rules: Any) -> Workflow[str, str]:
    @workflow(id="worker", **rules)
    async def work(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("exit", watch.exit, name)
        return name

    return work


@pytest.mark.parametrize("parallelism", [1, 2])
async def test_parallelism_and_order(parallelism: int) -> None:
    names = ["a", "b", "c", "d"]

    def make() -> Story:
        watch = Watch()
        work = worker(watch, flow_control=FlowControl("k", parallelism=parallelism))
        return Story([work], start_all(work, names), watch)

    def check(story: Story, runs: list[RunInfo]) -> None:
        assert story.watch.most <= parallelism
        places = list(began_at(runs).values())
        assert places == sorted(places)
        assert parallelism > 1 or in_first_order(story.watch.began) == names
        assert [(run.run_id, run.status) for run in runs] == [(name, RunStatus.COMPLETED) for name in names]

    await crashed_everywhere(make, check)


async def test_rate() -> None:
    names = ["a", "b", "c", "d", "e"]

    def make() -> Story:
        watch = Watch()
        work = worker(watch, flow_control=FlowControl("k", rate=2, period="1m"))
        return Story([work], start_all(work, names), watch)

    def check(story: Story, runs: list[RunInfo]) -> None:
        began = list(began_at(runs).values())
        assert began == sorted(began)
        assert len(began) == len(names)
        assert all(later - earlier >= 60 for earlier, later in zip(began, began[2:], strict=False))

    await crashed_everywhere(make, check)


async def test_a_parent_and_its_children_in_one_place() -> None:
    def make() -> Story:
        watch, flow_control = Watch(), FlowControl("k", parallelism=1)
        child = worker(watch, flow_control=flow_control)

        @workflow(id="parent", flow_control=flow_control)
        async def parent(ctx: Context, name: str) -> str:
            ends = [ctx.step.invoke(f"c{n}", workflow=child, data=f"{name}{n}", timeout="1h") for n in range(2)]
            return ", ".join(end.result for end in await asyncio.gather(*ends))

        return Story([child, parent], start_all(parent, ["a", "b"]), watch)

    def check(story: Story, runs: list[RunInfo]) -> None:
        assert story.watch.most <= 1
        assert in_first_order(story.watch.began) == ["a0", "a1", "b0", "b1"]
        assert [run.status for run in runs] == [RunStatus.COMPLETED] * 6

    await crashed_everywhere(make, check)


async def test_cancelling_one_that_waits_and_one_that_runs() -> None:
    def make() -> Story:
        watch = Watch()
        work = worker(watch, flow_control=FlowControl("k", parallelism=1))

        async def start(world: World) -> None:
            for name in ("a", "b", "c", "d"):
                await world.runtime.start(work, name, run_id=name)

        async def cancel(world: World) -> None:
            await world.settle()
            await world.runtime.cancel("c")
            await world.settle()
            await watch.exit("a")  # before another may have its place: it is not executed when it is cancelled
            await world.runtime.cancel("a")

        async def await_rest(world: World) -> None:
            await world.result("b")
            await world.result("d")

        return Story([work], [start, cancel, await_rest], watch, forgets=True)

    def check(story: Story, runs: list[RunInfo]) -> None:
        ends = {run.run_id: run.status for run in runs}
        assert ends == {"a": RunStatus.CANCELLED, "b": RunStatus.COMPLETED, "c": RunStatus.CANCELLED,
                        "d": RunStatus.COMPLETED}  # fmt: skip
        assert "c" not in story.watch.began
        assert story.watch.most <= 1

    await crashed_everywhere(make, check)


async def test_a_pause_that_was_acknowledged_holds() -> None:
    def make() -> Story:
        watch = Watch()
        work = worker(watch, flow_control=FlowControl("k", parallelism=5))

        async def pause(world: World) -> None:
            await world.runtime.pause_key("k")

        async def start(world: World) -> None:
            await world.runtime.start(work, "a", run_id="a")

        async def look(world: World) -> None:
            await world.clock.advance("1h")
            assert not watch.began

        async def resume(world: World) -> None:
            await world.runtime.resume_key("k")

        async def end(world: World) -> None:
            await world.result("a")

        return Story([work], [pause, start, look, resume, end], watch)

    await crashed_everywhere(make, lambda story, runs: None)


def starting(work: Workflow[Any, Any], data: Any) -> Act:
    async def start(world: World) -> None:
        await world.runtime.start(work, data)
        await world.clock.advance("4s")

    return start


async def passing(world: World) -> None:
    await world.clock.advance("1m")


async def test_debounced_starts_end_in_a_run_with_the_data_of_the_last() -> None:
    def make() -> Story:
        watch = Watch()
        work = worker(watch, debounce=Debounce("10s"))
        return Story([work], [*(starting(work, name) for name in ("a", "b", "c")), passing, passing], watch)

    def check(story: Story, runs: list[RunInfo]) -> None:
        assert [(run.input, run.status) for run in runs] == [("c", RunStatus.COMPLETED)]
        assert set(story.watch.began) == {"c"}

    await crashed_everywhere(make, check)


async def test_elements_of_a_batch_are_neither_lost_nor_given_twice() -> None:
    def make() -> Story:
        seen = Watch()

        @workflow(id="batch", batch=Batch(2, "10s"))
        async def batch(ctx: Context, data: list[str]) -> None:
            for name in data:
                await ctx.step.run(name, seen.enter, name)

        return Story([batch], [*(starting(batch, [name]) for name in ("a", "b", "c")), passing, passing], seen)

    def check(story: Story, runs: list[RunInfo]) -> None:
        given = [name for run in runs for name in run.input]
        # A start that was not acknowledged may have come all the same: it is made again.
        assert set(given) == {"a", "b", "c"}
        assert len(given) <= 3 + story.crashes
        assert given[:1] == ["a"]
        assert all(run.status is RunStatus.COMPLETED for run in runs)

    await crashed_everywhere(make, check)


async def test_a_singleton_that_cancels_never_runs_twice_at_once_and_the_last_one_wins() -> None:
    names = ["a", "b", "c"]

    def make() -> Story:
        watch = Watch()

        @workflow(id="only", singleton=Singleton(mode="cancel"))
        async def only(ctx: Context, name: str) -> None:
            await ctx.step.run("enter", watch.enter, name)
            try:
                await ctx.step.sleep("work", 10)
            finally:
                if name in watch.running:
                    watch.running.remove(name)

        async def start(world: World) -> None:
            for name in names:
                await world.runtime.start(only, name, run_id=name)
                await world.settle()

        async def end(world: World) -> None:
            for name in names:
                try:
                    await world.result(name)
                except WorkflowCancelledError:
                    assert name != "c"

        return Story([only], [start, end], watch, forgets=True)

    def check(story: Story, runs: list[RunInfo]) -> None:
        assert story.watch.most <= 1
        assert [run.run_id for run in runs] == names
        assert runs[-1].status is RunStatus.COMPLETED

    await crashed_everywhere(make, check)


async def test_one_idempotency_key_is_one_run() -> None:
    def make() -> Story:
        watch = Watch()
        work = worker(watch, idempotency=Idempotency("data", period="1h"))
        return Story([work], [*(starting(work, "a") for _ in range(3)), passing], watch)

    def check(story: Story, runs: list[RunInfo]) -> None:
        assert [run.status for run in runs] == [RunStatus.COMPLETED]

    await crashed_everywhere(make, check)
