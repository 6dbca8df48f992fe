"""Flow control of started runs: parallelism, rate, keys, pauses; over restarts."""

from __future__ import annotations

from typing import Any

import pytest
from flow_kit import Watch
from kit import World, untouched

from rotor_actors import Context, FlowControl, RunStatus, Workflow, workflow

pytestmark = pytest.mark.asyncio


def worker(
    watch: Watch, flow_control: FlowControl | None, *, takes: float = 10.0, **options: Any
) -> Workflow[Any, str]:
    @workflow(id="worker", flow_control=flow_control, **options)
    async def work(ctx: Context, data: Any) -> str:
        name = data if isinstance(data, str) else data["name"]
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", takes)
        await ctx.step.run("exit", watch.exit, name)
        return f"did {name}"

    return work


async def test_no_more_than_parallelism_run_at_once_and_the_others_follow_in_order() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=2))
    async with World(work) as world:
        handles = [await world.runtime.start(work, f"{n}") for n in range(5)]
        await world.settle()
        assert watch.running == ["0", "1"]
        assert await handles[2].status() is RunStatus.QUEUED
        assert [await world.result(handle) for handle in handles] == [f"did {n}" for n in range(5)]
    assert watch.began == ["0", "1", "2", "3", "4"]
    assert watch.most == 2


async def test_rate_lets_so_many_begin_in_a_period() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", rate=2, period="1m"), takes=1.0)
    async with World(work) as world:
        for n in range(5):
            await world.runtime.start(work, f"{n}")
        await world.settle()
        assert watch.began == ["0", "1"]
        await world.clock.advance("59s")
        assert len(watch.began) == 2
        await world.clock.advance("1s")
        assert len(watch.began) == 4
        await world.clock.advance("1m")
        assert watch.began == ["0", "1", "2", "3", "4"]


async def test_each_value_at_a_path_is_a_key_of_its_own() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("data.user", parallelism=1))
    async with World(work) as world:
        for user, name in (("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "n1"), (None, "n2")):
            await world.runtime.start(work, {"user": user, "name": name})
        await world.settle()
        assert watch.running == ["a1", "b1", "n1"]
        await world.clock.advance("10s")
        assert watch.running == ["a2", "n2"]


async def test_a_constant_is_one_key_for_all_workflows_that_name_it() -> None:
    watch = Watch()
    flow_control = FlowControl("api", parallelism=1)
    first = worker(watch, flow_control)

    @workflow(id="other", flow_control=flow_control)
    async def other(ctx: Context, name: str) -> None:
        await ctx.step.run("enter", watch.enter, name)

    async with World(first, other) as world:
        await world.runtime.start(first, "1")
        await world.runtime.start(other, "2")
        await world.settle()
        assert watch.began == ["1"]
        await world.clock.advance("10s")
        assert watch.began == ["1", "2"]


async def test_a_queue_outlives_a_crash_in_its_order_and_running_ones_keep_their_places() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        handles = [await world.runtime.start(work, f"{n}") for n in range(4)]
        await world.settle()
        await world.reopen()
        await world.settle()
        assert watch.running == ["0"]
        assert [await world.result(handle.run_id) for handle in handles] == [f"did {n}" for n in range(4)]
    assert watch.began == ["0", "1", "2", "3"]
    assert watch.most == 1


async def test_a_rate_remembers_over_a_restart_whom_it_has_let_begin() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", rate=2, period="1m"), takes=1.0)
    async with World(work) as world:
        for n in range(2):
            await world.execute(work, f"{n}")
        await world.reopen()
        await world.runtime.start(work, "2")
        await world.clock.advance("30s")
        assert watch.began == ["0", "1"]
        await world.clock.advance("30s")
        assert watch.began == ["0", "1", "2"]


async def test_a_paused_key_lets_nobody_begin_also_after_a_restart_and_lets_those_who_run_go_on() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=2))
    async with World(work) as world:
        first = await world.runtime.start(work, "0")
        await world.settle()
        await world.runtime.pause_key("k")
        second = await world.runtime.start(work, "1")
        assert await world.result(first) == "did 0"
        await world.reopen()
        await world.clock.advance("1h")
        assert watch.began == ["0"]
        assert (await world.runtime.info(second.run_id)).waiting_for == "flow control: key 'k' is paused"
        await world.runtime.resume_key("k")
        assert await world.result(second.run_id) == "did 1"


async def test_any_number_begins_when_a_key_opens() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1_000))
    async with World(work) as world:
        await world.runtime.pause_key("k")
        for n in range(200):
            await world.runtime.start(work, f"{n}")
        await world.runtime.resume_key("k")
        await world.settle()
        assert watch.running == [f"{n}" for n in range(200)]


async def test_a_queued_run_that_is_cancelled_never_begins_and_is_in_nobodys_way() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        handles = [await world.runtime.start(work, f"{n}") for n in range(3)]
        await world.settle()
        report = await world.runtime.cancel(handles[1].run_id)
        assert report.cancelled == [handles[1].run_id]
        await world.result(handles[2])
    assert watch.began == ["0", "2"]


async def test_cancelling_a_running_one_gives_its_place_to_the_next_when_it_has_cleaned_up() -> None:
    events: list[str] = []

    @workflow(id="w", flow_control=FlowControl("k", parallelism=1))
    async def work(ctx: Context, name: str) -> None:
        events.append(f"begin {name}")
        try:
            await ctx.step.sleep("long", "1h")
        finally:
            events.append(f"end {name}")

    async with World(work) as world:
        first = await world.runtime.start(work, "0")
        await world.runtime.start(work, "1")
        await world.settle()
        await first.cancel()
        await world.settle()
        assert events == ["begin 0", "end 0", "begin 1"]


async def test_a_higher_priority_goes_first_and_arrival_decides_among_equals() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1), priority="data.priority")
    async with World(work) as world:
        for name, priority in (("0", 0), ("low", -5), ("plain", None), ("high", 7), ("high too", 7), ("over", 10_000)):
            await world.runtime.start(work, {"name": name, "priority": priority})
        await world.clock.advance("10m")
    assert watch.began == ["0", "over", "high", "high too", "plain", "low"]


async def test_priority_alone_orders_those_who_wait_for_max_active_runs() -> None:
    watch = Watch()
    work = worker(watch, None, priority="data.priority")
    async with World(work, max_active_runs=1) as world:
        for name, priority in (("0", 0), ("low", -5), ("high", 7)):
            await world.runtime.start(work, {"name": name, "priority": priority})
        await world.clock.advance("10m")
    assert watch.began == ["0", "high", "low"]
    assert watch.most == 1


async def test_flow_control_and_max_active_runs_hold_together() -> None:
    watch = Watch()
    limited, free = worker(watch, FlowControl("k", parallelism=1)), None

    @workflow(id="free")
    async def free_(ctx: Context, name: str) -> None:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("exit", watch.exit, name)

    free = free_
    async with World(limited, free, max_active_runs=2) as world:
        for n in range(3):
            await world.runtime.start(limited, f"limited {n}")
        for n in range(3):
            await world.runtime.start(free, f"free {n}")
        await world.settle()
        assert watch.running == ["limited 0", "free 0"], "the one that waits for its key takes no place"
        await world.clock.advance("10m")
    assert watch.most == 2
    assert watch.began == ["limited 0", "free 0", "limited 1", "free 1", "limited 2", "free 2"]


async def test_a_queued_run_that_is_cancelled_gives_back_no_place_that_it_did_not_have() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work, max_active_runs=1) as world:
        await world.runtime.start(work, "0")
        queued = await world.runtime.start(work, "1")
        await queued.cancel()
        other = await world.runtime.start(_other(watch), "2")
        assert await other.status() is RunStatus.QUEUED
        await world.result(other)
    assert watch.began == ["0", "2"]
    assert watch.most == 1


def _other(watch: Watch) -> Workflow[str, None]:
    @workflow(id="other")
    async def other(ctx: Context, name: str) -> None:
        await ctx.step.run("enter", watch.enter, name)

    return other


async def test_limits_follow_the_definition_of_the_program_that_goes_on() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        for n in range(4):
            await world.runtime.start(work, f"{n}")
        await world.settle()
        wider = worker(watch, FlowControl("k", parallelism=3))
        await world.crash()
        world._workflows = (wider,)  # pyright: ignore[reportPrivateUsage]
        await world.open()
        await world.settle()
        assert watch.running == ["0", "1", "2"]


@pytest.mark.one_owner("who began without a place in line is in no line: its replica may be an older program")
async def test_runs_that_began_before_their_workflow_had_limits_count() -> None:
    watch = Watch()
    free, limited = worker(watch, None), worker(watch, FlowControl("k", parallelism=1))
    async with World(free) as world:
        await world.runtime.start(free, "0")
        await world.settle()
        await world.crash()
        world._workflows = (limited,)  # pyright: ignore[reportPrivateUsage]
        await world.open()
        await world.runtime.start(limited, "1")
        await world.settle()
        assert watch.running == ["0"]
        await world.clock.advance("10s")
        assert watch.running == ["1"]


async def test_a_workflow_that_has_no_limits_any_more_takes_them_from_nobody_else() -> None:
    watch, flow_control = Watch(), FlowControl("shared", parallelism=1)

    @workflow(id="other", flow_control=flow_control)
    async def other(ctx: Context, name: str) -> None:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("exit", watch.exit, name)

    work = worker(watch, flow_control)
    async with World(other, work) as world:
        for n in range(3):
            await world.runtime.start(other, f"other {n}")
        await world.runtime.start(work, "work")
        await world.crash()
        world._workflows = (other, worker(watch, None))  # pyright: ignore[reportPrivateUsage]
        await world.open()
        await world.settle()
        assert sorted(watch.running) == ["other 0", "work"]


async def test_a_run_that_is_resumed_goes_on_at_once_and_counts_over_a_restart_too() -> None:
    watch, is_broken = Watch(), [True]

    @workflow(id="w", retries=0, flow_control=FlowControl("k", parallelism=1))
    async def work(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("break", broken, name)
        await ctx.step.sleep("more", 10)
        await ctx.step.run("exit", watch.exit, name)
        return name

    async def broken(name: str) -> None:
        if is_broken[0] and name == "0":
            await watch.exit(name)
            raise RuntimeError("no")

    async with World(work) as world:
        first = await world.runtime.start(work, "0")
        await world.clock.advance("10s")
        assert await first.status() is RunStatus.FAILED
        is_broken.clear()
        is_broken.append(False)
        second = await world.runtime.start(work, "1")
        await world.runtime.resume(first.run_id)
        third = await world.runtime.start(work, "2")
        await world.clock.advance("1s")
        assert await first.status() is RunStatus.RUNNING
        assert (world.runtime.flow_keys()[0].running, world.runtime.flow_keys()[0].waiting) == (2, 1)
        await world.reopen()
        assert (world.runtime.flow_keys()[0].running, world.runtime.flow_keys()[0].waiting) == (2, 1)
        assert [await world.result(each.run_id) for each in (first, second, third)] == ["0", "1", "2"]


async def test_a_run_that_is_forked_begins_at_once_and_counts() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        first = await world.runtime.start(work, "0")
        await world.result(first)
        second = await world.runtime.start(work, "1")
        await world.settle()
        [step] = [step for step in await world.runtime.steps(first.run_id) if step.kind == "run"][:1]
        fork = await world.runtime.fork(first.run_id, from_step=step.step_id)
        third = await world.runtime.start(work, "2")
        await world.settle()
        assert await fork.status() is RunStatus.RUNNING
        assert (world.runtime.flow_keys()[0].running, world.runtime.flow_keys()[0].waiting) == (2, 1)
        assert [await world.result(each.run_id) for each in (second, fork, third)] == ["did 1", "did 0", "did 2"]


async def test_a_restart_stands_in_line() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        first = await world.runtime.start(work, "0")
        await world.result(first)
        await world.runtime.start(work, "1")
        again = await world.runtime.restart(first.run_id)
        assert await again.status() is RunStatus.QUEUED
        assert await world.result(again) == "did 0"
    assert watch.began == ["0", "1", "0"]


async def test_queued_runs_of_an_unknown_workflow_wait_for_it_and_keep_their_place() -> None:
    watch = Watch()
    work = worker(watch, FlowControl("k", parallelism=1))
    async with World(work) as world:
        for n in range(3):
            await world.runtime.start(work, f"{n}")
        await world.settle()
        await world.crash()
        workflows, world._workflows = world._workflows, ()  # pyright: ignore[reportPrivateUsage]
        await world.open()
        await world.clock.advance("1h")
        assert watch.began == ["0"]
        assert await untouched(world.runtime) == 3
        await world.runtime.start(workflows[0], "3")
        await world.clock.advance("1h")
    assert watch.began == ["0", "1", "2", "3"]


@pytest.mark.parametrize("retries", [0, 2])
async def test_a_run_that_fails_keeps_its_place_until_its_end(retries: int) -> None:
    began: list[str] = []

    @workflow(id="w", retries=retries, flow_control=FlowControl("k", parallelism=1))
    async def work(ctx: Context, name: str) -> None:
        began.append(name)
        if name == "0":
            raise RuntimeError("no")

    async with World(work) as world:
        await world.runtime.start(work, "0")
        last = await world.runtime.start(work, "1")
        await world.result(last)
    assert began == ["0"] * (retries + 1) + ["1"]
