"""Cancellation at every awkward moment: nothing escapes it, nothing is half done, and the report is true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from cancel_kit import SlicingClock, branch, everything, no_task_is_left, other_tasks, sleeper, unfinished
from kit import FragileStore, World, untouched

from rotor_actors import CancelReport, Context, RunHandle, RunStatus, workflow
from rotor_actors.errors import RunNotFoundError, StoreError, WorkflowCancelledError
from rotor_actors.records import Entry, RunChanged, RunCreated, RunsCancelled, flatten

pytestmark = pytest.mark.asyncio

CANCELLED = RunStatus.CANCELLED
T = TypeVar("T")


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def slicing(*workflows: Any, **options: Any) -> World:
    return World(*workflows, clock=SlicingClock(), **options)


# Spawning


async def test_children_whose_spawn_is_in_flight_do_not_escape() -> None:
    """Cancelled after each number of loop passes, with slices that end in the midst of the fan-out."""
    for count in range(40):
        async with slicing() as world:
            before = other_tasks()
            handle = await world.runtime.start(branch, [6, 3])
            await passes(count)
            await handle.cancel()
            assert await unfinished(world.runtime) == [], count
            await world.clock.advance("1d")
            assert await unfinished(world.runtime) == [], count
            assert {run.status for run in await everything(world.runtime)} == {CANCELLED}, count
            assert await no_task_is_left(before), count


async def test_a_child_with_a_chosen_id_that_is_being_looked_up_does_not_escape() -> None:
    @workflow(id="choosing")
    async def choosing(ctx: Context) -> None:
        await ctx.step.invoke("c", workflow=sleeper, data=None, timeout="24h", run_id="chosen")

    for count in range(12):
        async with slicing() as world:
            handle = await world.runtime.start(choosing)
            await passes(count)
            await handle.cancel()
            await world.settle()
            assert await unfinished(world.runtime) == [], count


async def test_a_body_that_is_about_to_take_an_outcome_spawns_nothing_more() -> None:
    """The child's end lies in the mailbox when the cancellation comes."""

    @workflow(id="quick")
    async def quick(ctx: Context) -> None: ...

    @workflow(id="chain")
    async def chain(ctx: Context) -> None:
        for _ in range(50):
            await ctx.step.invoke("next", workflow=quick, data=None, timeout="1h")

    for count in range(30):
        async with slicing() as world:
            handle = await world.runtime.start(chain)
            await passes(count)
            report = await handle.cancel()
            runs = await everything(world.runtime)
            await world.settle()
            assert await everything(world.runtime) == runs, "nothing happens after the ack"
            assert (handle.run_id in report.cancelled) is (runs[0].status is CANCELLED)


async def test_steps_whose_past_is_not_durable_yet_do_not_begin() -> None:
    executed: list[int] = []

    async def work() -> None:
        executed.append(1)
        await asyncio.get_running_loop().create_future()

    @workflow(id="many-steps")
    async def many(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.run("w", work) for _ in range(20)))

    for count in range(20):
        async with slicing() as world:
            before = other_tasks()
            handle = await world.runtime.start(many)
            await passes(count)
            report = await handle.cancel()
            known = len(executed)
            await passes(20)
            assert len(executed) == known, "none begins after the ack"
            assert report.interrupted_steps <= 20
            assert report.seconds == 0, "none was waited for in vain"
            assert await no_task_is_left(before)


# The first step, and the last


async def test_cancel_before_the_first_step_of_the_body() -> None:
    seen: list[str] = []

    @workflow(id="never-begun")
    async def never_begun(ctx: Context) -> None:
        try:
            seen.append("began")
        finally:
            seen.append("ended")

    async with World() as world:
        starting = asyncio.ensure_future(world.runtime.start(never_begun, run_id="it"))
        while world.runtime._engine.tree.find("it") is None:  # noqa: ASYNC110 # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0)
        report = await world.runtime.cancel("it")
        await starting
        status = await world.runtime.run("it").status()
        assert (status, report.cancelled, seen) in [
            (CANCELLED, ["it"], []),
            (RunStatus.COMPLETED, [], ["began", "ended"]),
        ]


async def test_a_completion_that_races_with_a_cancellation_is_reported_truly() -> None:
    async def work(count: int) -> str:
        await passes(count)
        return "done"

    @workflow(id="racer")
    async def racer(ctx: Context, count: int) -> str:
        return await ctx.step.run("w", work, count)

    ends: set[RunStatus] = set()
    for count in range(25):
        async with World() as world:
            handle = await world.runtime.start(racer, 6)
            await passes(count)
            report = await handle.cancel()
            status = await handle.status()
            ends.add(status)
            assert report.seconds == 0
            if status is CANCELLED:
                assert (report.cancelled, report.already_ended) == ([handle.run_id], [])
                with pytest.raises(WorkflowCancelledError):
                    await handle.result()
            else:
                assert (report.cancelled, report.already_ended) == ([], [handle.run_id])
                assert await handle.result() == "done"
    assert ends == {CANCELLED, RunStatus.COMPLETED}, "both were seen"


async def test_cancelling_a_child_and_its_parent_at_once() -> None:
    for count in range(6):
        async with slicing() as world:
            handle = await world.runtime.start(branch, [3, 2])
            await world.settle()
            child = (await world.runtime.runs(parent=handle.run_id))[0].run_id
            one = asyncio.ensure_future(world.runtime.cancel(child))
            await passes(count)
            other = await handle.cancel()
            first = await one
            runs = {run.run_id for run in await everything(world.runtime)}
            assert set(first.cancelled) | set(other.cancelled) == runs
            assert first == other or len(first.cancelled) + len(other.cancelled) == len(runs), "each is told once"


async def test_cancelling_the_parent_waits_for_a_child_that_was_cancelled_before_it() -> None:
    @workflow(id="slow-to-go")
    async def slow_to_go(ctx: Context) -> None:
        try:
            await ctx.step.sleep("nap", "12h")
        finally:
            await asyncio.sleep(3)
            raise LookupError("in the child")

    @workflow(id="above")
    async def above(ctx: Context) -> None:
        await ctx.step.invoke("c", workflow=slow_to_go, data=None, timeout="24h")

    async with World() as world:
        handle = await world.runtime.start(above)
        await world.settle()
        child = (await world.runtime.runs(parent=handle.run_id))[0].run_id
        first = asyncio.ensure_future(world.runtime.cancel(child))
        await passes(1)
        second = asyncio.ensure_future(handle.cancel())
        await world.settle()
        assert not second.done()
        report: CancelReport = await world.wait(second)
        assert any("in the child" in text for text in report.cleanup_errors)
        assert (await first).cancelled == [child]


# Every state that a run can be in


async def test_cancel_a_queued_run() -> None:
    async with World(max_active_runs=1) as world:
        first, second, third = [await world.runtime.start(sleeper) for _ in range(3)]
        await world.settle()
        assert await second.status() is RunStatus.QUEUED
        assert (await second.cancel()).cancelled == [second.run_id]
        await first.cancel()
        await world.settle()
        assert [await run.status() for run in (first, second, third)] == [CANCELLED, CANCELLED, RunStatus.RUNNING]


async def test_cancel_a_run_that_waits_to_be_retried() -> None:
    attempts: list[int] = []

    @workflow(id="failing", retries=3)
    async def failing(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError("not now")

    async with World() as world:
        handle = await world.runtime.start(failing)
        await world.settle()
        assert (await handle.info()).waiting_for == "retry"
        await handle.cancel()
        await world.clock.advance("1d")
        assert (attempts, await handle.status()) == ([1], CANCELLED)


async def test_cancel_dormant_runs_after_a_restart_loads_nothing() -> None:
    async with World(branch) as world:
        handle = await world.runtime.start(branch, [2, 2])
        await world.settle()
        await world.close()
        await world.open()
        await world.settle()
        report = await world.runtime.cancel(handle.run_id)
        assert len(report.cancelled) == 7
        await world.clock.advance("1d")
        assert {run.status for run in await everything(world.runtime)} == {CANCELLED}


async def test_cancel_while_runs_are_being_recovered() -> None:
    for count in range(25):
        async with slicing(branch) as world:
            before = other_tasks()
            handle = await world.runtime.start(branch, [3, 2])
            await passes(30)
            await world.reopen()
            await passes(count)
            await world.runtime.cancel(handle.run_id)
            await world.clock.advance("1d")
            assert await unfinished(world.runtime) == [], count
            await world.close()
            assert await no_task_is_left(before), count
            await world.open()


async def test_cancel_a_run_whose_workflow_is_not_registered() -> None:
    async with World(sleeper) as world:
        handle = await world.runtime.start(sleeper)
        await world.settle()
        await world.close()
        await world.open(branch)
        assert await untouched(world.runtime) == 1
        assert (await world.runtime.cancel(handle.run_id)).cancelled == [handle.run_id]
        assert await untouched(world.runtime) == 0


# Size


async def test_a_chain_of_600() -> None:
    async with World(max_depth=None) as world:
        handle = await world.runtime.start(branch, [1] * 600)
        await world.settle()
        report = await handle.cancel()
        assert (len(report.cancelled), report.stuck) == (601, [])
        assert await unfinished(world.runtime) == []


async def test_a_tree_of_2000_with_running_steps() -> None:
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    @workflow(id="hanging")
    async def hanging(ctx: Context) -> None:
        await ctx.step.run("h", hang)

    @workflow(id="wide")
    async def wide(ctx: Context) -> None:
        invokes = (ctx.step.invoke("c", workflow=hanging, data=None, timeout="24h") for _ in range(2_000))
        await asyncio.gather(*invokes)

    async with World() as world:
        before = other_tasks()
        handle = await world.runtime.start(wide)
        await world.settle()
        report = await handle.cancel()
        assert (len(report.cancelled), report.interrupted_steps, report.stuck) == (2_001, 2_000, [])
        assert await no_task_is_left(before)
        assert len(world.store.committed(RunsCancelled)) == 1


# Crashes


async def test_a_cancellation_is_never_seen_in_part() -> None:
    """Whatever prefix of the entries a crash leaves, the tree is cancelled as a whole or not at all.

    The fan-out does not fit into one commit, and is cancelled before the first one is written: the rows that are
    written then must be those that were appended.
    """
    commits: list[list[RunStatus]] = []

    def look(entries: list[Entry]) -> None:
        commits.append([fact.run.status for fact in flatten(entries) if isinstance(fact, RunCreated | RunChanged)])

    @workflow(id="wide")
    async def wide(ctx: Context) -> None:
        invokes = (ctx.step.invoke("c", workflow=sleeper, data=None, timeout="24h") for _ in range(2_500))
        await asyncio.gather(*invokes)

    async with World(wide, sleeper) as world:
        world.store.before_commit = look
        starting = asyncio.ensure_future(world.runtime.start(wide, run_id="it"))
        while len(world.runtime._engine.tree) < 2_400:  # noqa: ASYNC110 # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0)
        report = await world.runtime.cancel("it")
        await starting
        assert len(report.cancelled) == 2_501
        assert {status for statuses in commits for status in statuses} == {RunStatus.RUNNING}
        assert sum(len(statuses) for statuses in commits) >= 2_501


async def grow(ctx: Context, seed: int) -> int:
    """The body of a random tree: what it does is the same on each replay."""
    chance = random.Random(seed)
    for round in range(chance.randint(1, 3)):
        works: list[Awaitable[object]] = []
        for number in range(chance.randint(1, 3)):
            name = f"{round}-{number}"
            match chance.randint(0, 5 if ctx.depth < 3 else 3):
                case 0:
                    works.append(ctx.step.run(name, short_work, chance.randint(0, 4)))
                case 1:
                    works.append(ctx.step.sleep(name, chance.randint(1, 600)))
                case 2:
                    works.append(ctx.step.run(name, long_work))
                case 3:
                    works.append(asyncio.sleep(chance.randint(1, 600)))
                case _:
                    works.append(
                        ctx.step.invoke(name, workflow=random_tree, data=chance.getrandbits(30), timeout="5m",
                                        on_parent_close=chance.choice(["cancel", "abandon"]))
                    )  # fmt: skip
        try:
            async with asyncio.timeout(chance.choice([30, 300, 3000])):
                await asyncio.gather(*works)
        except (TimeoutError, ExceptionGroup):
            pass
        except Exception:
            if chance.random() < 0.5:
                raise
        finally:
            if chance.random() < 0.2:
                await asyncio.sleep(1)
    return seed


async def short_work(count: int) -> None:
    await passes(count)


async def long_work() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await passes(3)


@workflow(id="random-tree", retries=1)
async def random_tree(ctx: Context, seed: int) -> int:
    return await grow(ctx, seed)


@pytest.mark.parametrize("seed", range(60))
async def test_random_trees_cancelled_at_random_moments(seed: int) -> None:
    chance = random.Random(seed)
    async with slicing(random_tree) as world:
        before = other_tasks()
        handle = await world.runtime.start(random_tree, chance.getrandbits(30))
        await passes(chance.randint(0, 30))
        for _ in range(chance.randint(0, 3)):
            await world.clock.advance(chance.uniform(0, 200))
            await passes(chance.randint(0, 10))
            if chance.random() < 0.3:
                await world.reopen()
                await passes(chance.randint(0, 10))
        await cancel_and_look(world, handle, before, chance)


async def cancel_and_look(
    world: World, handle: RunHandle[int], before: set[asyncio.Task[object]], chance: random.Random
) -> None:
    runs = world.runtime
    cancellers = [asyncio.ensure_future(runs.cancel(handle.run_id)) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.3 and (others := await unfinished(runs)):
        cancellers.append(asyncio.ensure_future(runs.cancel(chance.choice(others))))
    for report in [await world.wait(canceller, "1m") for canceller in cancellers]:
        assert (report.stuck, report.cleanup_errors) == ([], [])
    status = await runs.run(handle.run_id).status()
    if status is CANCELLED:
        assert await unfinished(runs) == [], "no descendant is left"
    ended = await everything(runs)
    await world.clock.advance("1h" if status is CANCELLED else "1d")
    if status is CANCELLED:
        assert await everything(runs) == ended, "nothing happens after the ack"
    await world.reopen()
    await world.clock.advance("1d")
    if status is CANCELLED:
        assert [run.status for run in await everything(world.runtime)] == [run.status for run in ended]
    await world.close()
    assert await no_task_is_left(before)
    await world.open()


@pytest.mark.parametrize("seed", range(12))
async def test_a_crash_at_each_entry_around_a_cancellation_leaves_all_or_nothing(seed: int) -> None:
    for entries_left in range(4):
        store = FragileStore()
        async with slicing(random_tree, store=store) as world:
            chance = random.Random(seed)
            handle = await world.runtime.start(random_tree, chance.getrandbits(30))
            await world.clock.advance(chance.uniform(0, 20))
            alive = set(await unfinished(world.runtime))
            store.entries_left = entries_left
            canceller = asyncio.ensure_future(world.runtime.cancel(handle.run_id))
            try:
                await world.wait(canceller, "1m")
                acked = True
            except StoreError:
                acked = False
            await world.crash()
            cancelled = {run.run_id for run in store_runs(store) if run.status is CANCELLED} & alive
            assert cancelled in (set(), alive) or handle.run_id not in alive
            assert not acked or cancelled == alive or handle.run_id not in alive
            await world.open()
            await world.clock.advance("1d")
            now_cancelled = {run.run_id for run in store_runs(store) if run.status is CANCELLED}
            assert cancelled <= now_cancelled


def store_runs(store: FragileStore) -> list[Any]:
    return list(store._runs.values())  # pyright: ignore[reportPrivateUsage]


# Looked up while it is being started


class SlowExecutor:
    """Lets some passes of the loop go by before each call and after it, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def call(self, function: Callable[[], T]) -> T:
        await passes(self._chance.randrange(4))
        result = function()
        await passes(self._chance.randrange(4))
        return result

    def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(40))
async def test_a_run_that_is_looked_up_while_it_is_being_started_is_not_taken_for_one_that_has_ended(seed: int) -> None:
    """Neither by a cancel nor by a waiter: both see it, or say that there is none. Found by the simulator."""
    chance = random.Random(seed)

    def slow(name: str) -> SlowExecutor:
        return SlowExecutor(chance)

    async with slicing(sleeper, executor=slow) as world:
        runtime = world.runtime
        other = asyncio.ensure_future(runtime.start(sleeper))
        await passes(chance.randrange(4))
        cancel = asyncio.ensure_future(runtime.cancel("wanted"))
        result = asyncio.ensure_future(runtime.run("wanted").result())
        await passes(chance.randrange(4))
        await runtime.start(sleeper, run_id="wanted")
        await passes(50)
        is_cancelled = not isinstance(cancel.exception() if cancel.done() else None, RunNotFoundError)
        assert is_cancelled is ((await runtime.info("wanted")).status is CANCELLED)
        if is_cancelled:
            assert (await cancel).cancelled == ["wanted"]
        if not result.done() or not isinstance(result.exception(), RunNotFoundError):
            await runtime.cancel("wanted")
            with pytest.raises(WorkflowCancelledError):
                await result
            assert (await runtime.info("wanted")).status is CANCELLED
        await (await other).cancel()
