"""`step.run(…, undo=…)`: what a run has done is undone when it fails for good or is cancelled, by a run of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from cancel_kit import SteadyWorld, everything
from kit import STRIDE, FragileStore, World, with_a_crash_after_each_entry

from rotor_actors import Context, EndedRun, ManualClock, RetryPolicy, RunInfo, RunStatus, Workflow, workflow
from rotor_actors.errors import NonRetriableError, RunStatusError, WorkflowDefinitionError, WorkflowFailedError
from rotor_actors.records import RunChanged, RunCreated, RunsCancelled, Together

pytestmark = pytest.mark.asyncio

DONE: list[str] = []
BROKEN: set[str] = set()


@pytest.fixture(autouse=True)
def clean() -> None:
    DONE.clear()
    BROKEN.clear()


@dataclass(frozen=True)
class Booking:
    what: str
    price: int


async def book(what: str, price: int) -> Booking:
    DONE.append(f"book {what}")
    return Booking(what, price)


async def unbook(what: str, price: int, booking: Booking) -> None:
    if what in BROKEN:
        DONE.append(f"cannot unbook {what}")
        raise OSError(f"{what} is closed")
    assert booking == Booking(what, price)
    DONE.append(f"unbook {what}")


def unbook_in_a_thread(what: str, price: int, booking: Booking) -> None:
    DONE.append(f"unbook {booking.what} in a thread")


async def fail() -> None:
    raise NonRetriableError("no more rooms")


@workflow(id="trip", retries=0)
async def trip(ctx: Context, names: list[str]) -> None:
    for price, name in enumerate(names):
        await ctx.step.run(name, book, name, price, undo=unbook)
    await ctx.step.run("fail", fail)


async def undoing(world: World, of: str) -> RunInfo:
    """The run that undoes what the run `of` did."""
    (found,) = [run for run in await everything(world.runtime) if run.handler == "undo" and run.handler_of == of]
    return found


async def failed(world: World, flow: Workflow[Any, Any], data: Any = None) -> str:
    handle = await world.runtime.start(flow, data)
    with pytest.raises(WorkflowFailedError):
        await world.result(handle)
    await world.clock.advance("1h")
    return handle.run_id


async def test_completed_steps_are_undone_newest_first_with_their_arguments_and_results() -> None:
    async with World() as world:
        run_id = await failed(world, trip, ["hotel", "car", "flight"])
        assert DONE == ["book hotel", "book car", "book flight", "unbook flight", "unbook car", "unbook hotel"]
        info = await undoing(world, run_id)
        assert (info.status, info.workflow_id, info.result) == (
            RunStatus.COMPLETED, "trip.undo", ["flight", "car", "hotel"],
        )  # fmt: skip
        steps = [step.step_id for step in await world.runtime.steps(info.run_id)]
        assert steps == ["find", "undo flight", "undo car", "undo hotel"]
        assert [step.step_id for step in await world.runtime.steps(run_id)] == ["hotel", "car", "flight", "fail"]


async def test_a_run_that_completes_undoes_nothing() -> None:
    @workflow(id="good")
    async def good(ctx: Context) -> str:
        return (await ctx.step.run("hotel", book, "hotel", 1, undo=unbook)).what

    async with World() as world:
        assert await world.execute(good) == "hotel"
        assert DONE == ["book hotel"]
        assert len(await everything(world.runtime)) == 1


async def test_a_cancelled_run_is_undone() -> None:
    @workflow(id="waiting")
    async def waiting(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook)
        await ctx.step.sleep("long", "10h")

    async with World() as world:
        handle = await world.runtime.start(waiting)
        await world.settle()
        await world.wait(handle.cancel())
        await world.settle()
        assert DONE == ["book hotel", "unbook hotel"]
        assert (await undoing(world, handle.run_id)).status is RunStatus.COMPLETED


async def test_a_run_whose_time_is_up_is_undone() -> None:
    @workflow(id="slow", timeout=30)
    async def slow(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook)
        await ctx.step.sleep("long", "10h")

    async with World() as world:
        await world.runtime.start(slow)
        await world.clock.advance(31)
        assert DONE == ["book hotel", "unbook hotel"]


async def test_attempts_that_are_tried_again_undo_nothing_and_the_last_one_undoes_all() -> None:
    @workflow(id="retrying", retries=RetryPolicy(1, initial=10, jitter=False))
    async def retrying(ctx: Context) -> None:
        if ctx.attempt == 1:
            await ctx.step.run("hotel", book, "hotel", 1, undo=unbook)
        else:
            await ctx.step.run("car", book, "car", 2, undo=unbook)
        raise OSError("again")

    async with World() as world:
        await failed(world, retrying)
        assert DONE == ["book hotel", "book car", "unbook car", "unbook hotel"]


async def test_steps_that_failed_or_were_interrupted_are_not_undone() -> None:
    async def break_down(what: str, price: int) -> Booking:
        raise OSError("no")

    async def hang(what: str, price: int) -> Booking:
        await asyncio.sleep(3600)
        return Booking(what, price)

    @workflow(id="half", retries=0)
    async def half(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook)
        try:
            await ctx.step.run("broken", break_down, "broken", 2, undo=unbook)
        except OSError:
            await ctx.step.run("hanging", hang, "hanging", 3, undo=unbook)

    async with World() as world:
        handle = await world.runtime.start(half)
        await world.settle()
        await world.wait(handle.cancel())
        await world.settle()
        assert DONE == ["book hotel", "unbook hotel"]


async def test_each_run_of_a_cancelled_tree_undoes_its_own_steps() -> None:
    @workflow(id="child")
    async def child(ctx: Context, name: str) -> None:
        await ctx.step.run(name, book, name, 1, undo=unbook)
        await ctx.step.sleep("long", "10h")

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(ctx.step.invoke(name, workflow=child, data=name, timeout="20h"))

    async with World() as world:
        handle = await world.runtime.start(parent)
        await world.settle()
        await world.wait(handle.cancel())
        await world.settle()
        assert sorted(DONE[2:]) == ["unbook a", "unbook b"]
        assert len([run for run in await everything(world.runtime) if run.handler == "undo"]) == 2


async def test_a_loser_of_a_race_is_undone() -> None:
    @workflow(id="offer", retries=0)
    async def offer(ctx: Context, seconds: float) -> float:
        await ctx.step.run("book", book, f"offer {seconds:g}", 1, undo=unbook)
        await ctx.step.sleep("think", seconds)
        return seconds

    @workflow(id="race")
    async def race(ctx: Context) -> float | None:
        return (await ctx.step.first("offers", workflow=offer, items=[50.0, 5.0], timeout="1h")).body

    async with World() as world:
        assert await world.execute(race) == 5.0
        await world.settle()
        assert DONE == ["book offer 50", "book offer 5", "unbook offer 50"]


async def test_sync_undos_run_in_a_thread() -> None:
    @workflow(id="threaded", retries=0)
    async def threaded(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook_in_a_thread)
        await ctx.step.run("fail", fail)

    async with World() as world:
        await failed(world, threaded)
        assert DONE == ["book hotel", "unbook hotel in a thread"]


# Failing undos


async def test_an_undo_that_fails_is_retried_by_its_own_policy() -> None:
    @workflow(id="flaky", retries=0)
    async def flaky(ctx: Context) -> None:
        policy = RetryPolicy(5, initial="10m", factor=1, jitter=False)
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook, undo_retries=policy)
        await ctx.step.run("fail", fail)

    async with World() as world:
        BROKEN.add("hotel")
        handle = await world.runtime.start(flaky)
        await world.clock.advance("25m")
        BROKEN.clear()
        await world.clock.advance("10m")
        assert DONE[1:] == [*["cannot unbook hotel"] * 3, "unbook hotel"]
        assert (await undoing(world, handle.run_id)).status is RunStatus.COMPLETED


async def test_an_undo_that_fails_for_good_is_reported_and_the_others_go_on() -> None:
    async with World() as world:
        BROKEN.add("car")
        run_id = await failed(world, trip, ["hotel", "car", "flight"])
        await world.clock.advance("1h")
        assert DONE[3:] == ["unbook flight", *["cannot unbook car"] * 4, "unbook hotel"]
        info = await undoing(world, run_id)
        assert info.status is RunStatus.FAILED
        assert info.error is not None
        assert "1 steps could not be undone: 'car' (OSError: car is closed); 2 were" in info.error.message


async def test_an_undo_that_is_gone_from_the_code_is_named() -> None:
    @workflow(id="renamed", retries=0, undos=[unbook])
    async def old(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=unbook, undo_retries=0)
        await ctx.step.sleep("a while", 60)

    @workflow(id="renamed", retries=0)
    async def new(ctx: Context) -> None:
        await ctx.step.sleep("other", 1)
        raise NonRetriableError("changed")

    async with World(old) as world:
        await world.runtime.start(old, run_id="one")
        await world.settle()
        await world.reopen(new)
        await world.clock.advance("1h")
        info = await undoing(world, "one")
        assert info.error is not None
        assert "its undo ':unbook' is not there any more" in info.error.message


# Crashes


async def test_a_crash_at_each_position_leaves_everything_undone_in_order() -> None:
    expected: list[str] = []

    class Checked(SteadyWorld):
        """Each of its lives ends with everything undone, in order; repetitions are what "at least once" means."""

        async def close(self) -> None:
            runtime = self._runtime
            if runtime is not None and self.store.entries_left is None:
                await self.clock.advance("1h")
                order = list(dict.fromkeys(DONE))
                expected.append(" ".join(order))
                DONE.clear()
            await super().close()

    outcomes = await with_a_crash_after_each_entry(
        lambda: Checked(trip, clock=ManualClock()), trip, ["hotel", "car", "flight"]
    )
    assert len(outcomes) > 5 // STRIDE
    assert all(isinstance(outcome, WorkflowFailedError) for outcome in outcomes)
    assert set(expected) == {"book hotel book car book flight unbook flight unbook car unbook hotel"}


async def test_a_crash_at_each_position_of_the_undoing_run_undoes_each_step() -> None:
    position = 0
    while True:
        DONE.clear()
        world = SteadyWorld(trip, store=FragileStore(), clock=ManualClock())
        await world.open()
        handle = await world.runtime.start(trip, ["hotel", "car"])
        world.store.entries_left = position
        await world.clock.advance("1h")
        has_crashed = world.store.entries_left == 0
        await world.reopen()
        await world.clock.advance("1h")
        assert list(dict.fromkeys(DONE))[-4:] == ["book hotel", "book car", "unbook car", "unbook hotel"]
        assert (await undoing(world, handle.run_id)).status is RunStatus.COMPLETED
        await world.close()
        if not has_crashed:
            break
        position += STRIDE
    assert position > 10


async def test_the_undoing_run_is_created_in_the_entry_that_ends_the_run() -> None:
    entries: list[Any] = []
    async with World() as world:
        world.store.before_commit = entries.extend
        await failed(world, trip, ["hotel"])
    ends = [entry for entry in entries if isinstance(entry, Together)]
    kinds = [{type(fact) for fact in entry.entries} for entry in ends]
    assert any({RunChanged, RunCreated} <= kind for kind in kinds)
    assert not any(RunsCancelled in kind for kind in kinds)


async def test_an_undoing_run_of_a_workflow_that_is_unknown_waits_for_it() -> None:
    async with World(trip) as world:
        BROKEN.add("hotel")
        await failed(world, trip, ["hotel"])
        DONE.clear()
        BROKEN.clear()
    async with World(trip) as world:
        BROKEN.add("hotel")
        handle = await world.runtime.start(trip, ["hotel"])
        await world.clock.advance(1)
        await world.crash()
        BROKEN.clear()
        await world.open(_other)
        await world.clock.advance("1h")
        assert "unbook hotel" not in DONE
        world.runtime._engine.register(trip)  # pyright: ignore[reportPrivateUsage]
        await world.clock.advance("1h")
        assert DONE[-1] == "unbook hotel"
        assert (await undoing(world, handle.run_id)).status is RunStatus.COMPLETED


@workflow(id="other")
async def _other(ctx: Context) -> None: ...


async def test_a_run_that_was_undone_is_not_resumed() -> None:
    async with World() as world:
        run_id = await failed(world, trip, ["hotel"])
        with pytest.raises(RunStatusError, match=r"has undone its steps.*runtime\.restart begins it anew"):
            await world.runtime.resume(run_id)


# Bad input


def _local() -> Any:
    async def undo_locally(what: str, price: int, booking: Booking) -> None:
        DONE.append(f"undo {what} locally")

    return undo_locally


LOCAL = _local()
NAMELESS: Any = partial(print)  # it has no name by which another process could find it


async def no_result(what: str, price: int) -> None: ...


@pytest.mark.parametrize(
    ("undo", "says"),
    [
        (LOCAL, "could not be found again by its name"),
        (NAMELESS, "could not be found again by its name"),
        (no_result, "must take the step's 2 arguments and then its result"),
        ("unbook", "could not be found again by its name"),
    ],
)
async def test_an_undo_that_could_not_be_called_later_is_refused_at_the_step(undo: Any, says: str) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=undo)

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match=says):
            await world.execute(bad)
    assert DONE == []


async def test_a_local_function_that_the_workflow_names_can_undo() -> None:
    @workflow(id="naming", retries=0, undos=[LOCAL])
    async def naming(ctx: Context) -> None:
        await ctx.step.run("hotel", book, "hotel", 1, undo=LOCAL)
        await ctx.step.run("fail", fail)

    async with World() as world:
        await failed(world, naming)
        assert DONE == ["book hotel", "undo hotel locally"]


@pytest.mark.parametrize(
    ("undos", "says"),
    [
        ([NAMELESS], "functions that have a name"),
        ([7], "functions that have a name"),
        ([unbook, unbook], "two functions"),
    ],
)
async def test_undos_without_a_name_are_refused_when_the_workflow_is_defined(undos: Any, says: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match=says):

        @workflow(id="bad", undos=undos)
        async def bad(ctx: Context) -> None: ...


async def test_the_handlers_of_a_run_are_visible_as_such() -> None:
    async def handler(ctx: Context, ended: EndedRun[Any]) -> None: ...

    @workflow(id="handled", retries=0, on_failure=handler)
    async def handled(ctx: Context, name: str) -> None:
        raise NonRetriableError("no")

    async with World() as world:
        run_id = await failed(world, handled, "Ada")
        infos = {run.workflow_id: run for run in await everything(world.runtime)}
        info = infos["handled.on_failure"]
        assert (info.handler, info.handler_of, info.started_by) == ("on_failure", run_id, None)
        assert (infos["handled"].handler, infos["handled"].handler_of) == ("", None)
