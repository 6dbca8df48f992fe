"""`step.map`, `step.first` and `step.quorum`: a bounded window, the order of completion, and a memo that is read in pages."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from bodies import BODIES
from cancel_kit import child_ids, everything
from crash_kit import ActError, ChildPlan, Play, crash_at, differences, run_once, survives_every_crash
from kit import STRIDE, World

from rotor_actors import Context, InvokeOutcome, RetryPolicy, RunStatus, Workflow, paging, workflow
from rotor_actors.errors import PayloadError, QuorumError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.records import RunCreated, RunsCancelled

pytestmark = pytest.mark.asyncio

RETRY = RetryPolicy(2, initial="10s", jitter=False)


@workflow(id="nap", retries=0)
async def nap(ctx: Context, seconds: float) -> float:
    """Sleeps so long; below zero it fails at once."""
    if seconds < 0:
        raise ActError("no such nap")
    await ctx.step.sleep("nap", seconds)
    return seconds


def mapping(
    items: list[float], *, concurrency: int = 2, retries: int | RetryPolicy = 0, **options: Any
) -> Workflow[None, list[tuple[int | None, float | None]]]:
    """A workflow that maps `nap` over the items, and gives what it got in the order in which it came."""

    @workflow(id="mapping", retries=retries)
    async def mapping(ctx: Context) -> list[tuple[int | None, float | None]]:
        ends = ctx.step.map("naps", workflow=nap, items=items, timeout="1h", concurrency=concurrency, **options)
        return [(outcome.index, outcome.body) async for outcome in ends]

    return mapping


# Live


async def test_outcomes_come_in_the_order_of_completion_with_the_place_of_their_item() -> None:
    async with World() as world:
        got = await world.execute(mapping([3, 1, 2], concurrency=3))
    assert got == [(1, 1.0), (2, 2.0), (0, 3.0)]


async def test_no_more_children_run_than_the_window_allows() -> None:
    most = Counter[str]()

    async def enter() -> None:
        most["now"] += 1
        most["most"] = max(most["most"], most["now"])

    async def leave() -> None:
        most["now"] -= 1

    @workflow(id="counted")
    async def counted(ctx: Context, number: int) -> None:
        await ctx.step.run("enter", enter)
        await ctx.step.sleep("work", 1 + number % 3)
        await ctx.step.run("leave", leave)

    @workflow(id="all")
    async def all_of_them(ctx: Context) -> int:
        return len([1 async for _ in ctx.step.map("n", workflow=counted, items=range(20), timeout="1h", concurrency=4)])

    async with World() as world:
        assert await world.execute(all_of_them) == 20
    assert most["most"] == 4


async def test_items_are_pulled_only_while_there_is_room() -> None:
    pulled: list[int] = []

    def items() -> Iterator[float]:
        for number in range(1_000):
            pulled.append(number)
            yield 1.0

    @workflow(id="slow-consumer")
    async def slow_consumer(ctx: Context) -> int:
        async for _ in ctx.step.map("naps", workflow=nap, items=items(), timeout="1h", concurrency=3):
            await ctx.step.sleep("use it", "1h")
        return len(pulled)

    async with World() as world:
        await world.runtime.start(slow_consumer)
        await world.clock.advance("30m")
        assert len(pulled) == 3  # one in use, two whose ends nobody has taken
        await world.clock.advance("1h")
        assert len(pulled) == 4


async def test_items_may_come_from_steps() -> None:
    async def page(number: int) -> list[float]:
        return [number + 0.1, number + 0.2]

    @workflow(id="paged")
    async def paged(ctx: Context) -> list[float]:
        async def items() -> AsyncIterator[float]:
            for number in range(1, 4):
                for item in await ctx.step.run("page", page, number):
                    yield item

        ends = ctx.step.map("naps", workflow=nap, items=items(), timeout="1h", concurrency=2)
        return sorted([outcome.body or 0.0 async for outcome in ends])

    async with World() as world:
        assert await world.execute(paged) == [1.1, 1.2, 2.1, 2.2, 3.1, 3.2]


async def test_no_items_are_no_children() -> None:
    async with World() as world:
        assert await world.execute(mapping([])) == []
        assert len(await everything(world.runtime)) == 1


# Errors


async def test_by_default_the_first_failure_is_raised_with_its_item_and_the_siblings_are_cancelled() -> None:
    caught: list[WorkflowFailedError] = []

    @workflow(id="raising", retries=0)
    async def raising(ctx: Context) -> list[float | None]:
        try:
            ends = ctx.step.map("naps", workflow=nap, items=[50, 1, -1, 60], timeout="1h", concurrency=4)
            return [outcome.body async for outcome in ends]
        except WorkflowFailedError as error:
            caught.append(error)
            await ctx.step.sleep("go on", 5)
        return []

    async with World() as world:
        handle = await world.runtime.start(raising)
        await world.clock.advance(2)
        statuses = [run.status for run in await world.runtime.runs(parent=handle.run_id)][::-1]
        assert statuses == [RunStatus.CANCELLED, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.CANCELLED]
        assert await world.result(handle) == []
    assert "no such nap" in str(caught[0])
    assert caught[0].__notes__[-1] == "item 2 of step 'naps'"


async def test_collect_gives_each_end_as_an_outcome() -> None:
    @workflow(id="collecting", retries=0)
    async def collecting(ctx: Context) -> list[InvokeOutcome[float]]:
        ends = ctx.step.map("naps", workflow=nap, items=[1, -1, 99], timeout=10, on_error="collect", concurrency=3)
        return sorted([outcome async for outcome in ends], key=lambda outcome: outcome.index or 0)

    async with World() as world:
        good, failed, late = await world.execute(collecting)
        assert (good.body, good.is_completed) == (1.0, True)
        assert failed.is_failed
        assert failed.error is not None
        assert "no such nap" in failed.error.message
        assert late.is_timed_out
        assert await world.result(late.run_id) == 99.0  # it ran on


async def test_a_cancelled_child_is_an_outcome() -> None:
    async with World() as world:
        handle = await world.runtime.start(mapping([50, 60], on_error="collect"))
        await world.settle()
        await world.runtime.cancel((await child_ids(world, handle.run_id))[0])
        assert await world.result(handle) == [(0, None), (1, 60.0)]


async def test_an_item_that_does_not_fit_is_raised_after_the_ends_before_it() -> None:
    seen: list[float | None] = []

    @workflow(id="unfit", retries=0)
    async def unfit(ctx: Context) -> None:
        items: list[Any] = [1, "two", 3]
        async for outcome in ctx.step.map("naps", workflow=nap, items=items, timeout="1h", concurrency=1):
            seen.append(outcome.body)

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match="input of workflow 'nap'"):
            await world.execute(unfit)
    assert seen == [1.0]


async def test_what_making_the_items_raises_is_raised_and_the_children_are_withdrawn() -> None:
    def items() -> Iterator[float]:
        yield 500
        raise LookupError("no more pages")

    @workflow(id="broken-items", retries=0)
    async def broken_items(ctx: Context) -> str:
        try:
            async for _ in ctx.step.map("naps", workflow=nap, items=items(), timeout="1h"):
                pass
        except LookupError as error:
            await ctx.step.sleep("go on", 1)
            return str(error)
        return "nothing was raised"

    async with World() as world:
        handle = await world.runtime.start(broken_items)
        assert await world.result(handle) == "no more pages"
        assert [run.status for run in await world.runtime.runs(parent=handle.run_id)] == [RunStatus.CANCELLED]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be a number of at least 1"),
        ({"concurrency": True}, ValueError, "concurrency must be a number of at least 1"),
        ({"concurrency": 2.5}, ValueError, "concurrency must be a number of at least 1"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'raise' or 'collect'"),
        ({"items": 7}, TypeError, "items must be an iterable"),
        ({"items": "abc"}, TypeError, "items must be an iterable"),
        ({"timeout": "25h"}, ValueError, "at most 1d"),
        ({"timeout": None}, TypeError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
    ],
)
async def test_bad_input_is_refused_at_the_call(options: dict[str, Any], error: type[Exception], says: str) -> None:
    raised: list[Exception] = []

    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        given: dict[str, Any] = {"items": [1], "timeout": "1h", **options}
        try:
            ctx.step.map("naps", workflow=nap, **given)
        except Exception as refused:
            raised.append(refused)

    async with World() as world:
        await world.execute(bad)
        assert len(await everything(world.runtime)) == 1
    assert isinstance(raised[0], error)
    assert says in str(raised[0])


# Leaving, cancelling


async def test_leaving_early_withdraws_the_rest() -> None:
    @workflow(id="leaving")
    async def leaving(ctx: Context) -> int | None:
        async for outcome in ctx.step.map("naps", workflow=nap, items=[60, 1, 70, 80], timeout="1h", concurrency=3):
            found = outcome.index
            break
        else:
            raise AssertionError("no outcome")
        await ctx.step.sleep("go on", 5)
        return found

    async with World() as world:
        handle = await world.runtime.start(leaving)
        assert await world.result(handle) == 1
        ended = [run.status for run in await world.runtime.runs(parent=handle.run_id)]
        assert Counter(ended) == {RunStatus.CANCELLED: 2, RunStatus.COMPLETED: 1}
        assert world.store.committed(RunsCancelled)[0].withdrawn is not None


async def test_a_kept_iterator_keeps_its_children_and_closing_withdraws_them() -> None:
    @workflow(id="closing")
    async def closing(ctx: Context) -> int:
        ends = ctx.step.map("naps", workflow=nap, items=[60, 1, 2], timeout="1h", concurrency=3)
        async with aclosing(ends):
            async for _ in ends:
                break
            return len([outcome async for _, outcome in _zip(2, ends)])

    async with World() as world:
        handle = await world.runtime.start(closing)
        assert await world.result(handle) == 2


async def _zip(count: int, ends: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    for number in range(count):
        yield number, await anext(ends)


async def test_cancelling_the_run_cancels_the_children() -> None:
    async with World() as world:
        handle = await world.runtime.start(mapping([60, 70, 80]))
        await world.settle()
        report = await world.wait(handle.cancel())
        assert len(report.cancelled) == 3
        assert not report.cleanup_errors
        await world.clock.advance("1h")
        assert all(run.status is RunStatus.CANCELLED for run in await everything(world.runtime))


async def test_the_scope_around_it_withdraws_the_children() -> None:
    @workflow(id="scoped")
    async def scoped(ctx: Context) -> list[int | None]:
        seen: list[int | None] = []
        try:
            async with asyncio.timeout(10):
                async for outcome in ctx.step.map("naps", workflow=nap, items=[1, 60, 2, 70], timeout="1h"):
                    seen.append(outcome.index)
        except TimeoutError:
            await ctx.step.sleep("go on", 5)
        return seen

    async with World() as world:
        handle = await world.runtime.start(scoped)
        assert await world.result(handle) == [0, 2]
        ended = [run.status for run in await world.runtime.runs(parent=handle.run_id)][::-1]
        assert ended == [RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.COMPLETED, RunStatus.CANCELLED]


# First and quorum


async def test_first_is_the_first_that_completes_and_the_losers_are_cancelled() -> None:
    @workflow(id="racing")
    async def racing(ctx: Context) -> tuple[int | None, float | None]:
        won = await ctx.step.first("fastest", workflow=nap, items=[60, -1, 2, 70], timeout="1h")
        return won.index, won.body

    async with World() as world:
        handle = await world.runtime.start(racing)
        assert await world.result(handle) == (2, 2.0)
        ended = [run.status for run in await world.runtime.runs(parent=handle.run_id)][::-1]
        assert ended == [RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.COMPLETED, RunStatus.CANCELLED]


async def test_a_quorum_out_of_reach_is_raised_without_waiting_for_the_rest() -> None:
    @workflow(id="voting", retries=0)
    async def voting(ctx: Context) -> list[int | None]:
        try:
            await ctx.step.quorum("votes", workflow=nap, items=[60, -1, 1, -2], needed=3, timeout="1h")
        except QuorumError as error:
            indexes = [outcome.index for outcome in error.outcomes if isinstance(outcome, InvokeOutcome)]
            return indexes if "needed 3 of 4" in str(error) else []
        return []

    async with World() as world:
        handle = await world.runtime.start(voting)
        await world.clock.advance(2)
        assert await handle.result(timeout=1) == [1, 3]


@pytest.mark.parametrize("needed", [0, 3, True, -1])
async def test_a_quorum_that_no_items_can_reach_is_refused(needed: int) -> None:
    @workflow(id="voting", retries=0)
    async def voting(ctx: Context) -> None:
        await ctx.step.quorum("votes", workflow=nap, items=[1, 1], needed=needed, timeout="1h")

    async with World() as world:
        if needed is True:
            with pytest.raises(WorkflowFailedError, match="needed must be between 1 and the 2 items"):
                await world.execute(voting)
        else:
            with pytest.raises(WorkflowFailedError, match="needed must be between"):
                await world.execute(voting)


# Replay and attempts


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "ROWS_PER_PAGE", 2)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("name", [name for name in BODIES if name.startswith(("step_", "two_maps"))])
async def test_pages_of_two_rows_make_no_difference_to_a_replay(name: str) -> None:
    report = await survives_every_crash(BODIES[name])
    assert report.crashes > 10 // STRIDE


async def _map_in_attempts(play: Play) -> None:
    plans = [ChildPlan([0.5 + number * 7 % 5 / 3.3], fails=number == 2) for number in range(8)]
    ends = play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=3, on_error="collect")
    seen = 0
    async for outcome in ends:
        play.saw(outcome.index)
        seen += 1
        if seen == 2 + play.ctx.attempt:
            await play.act(f"fail in {play.ctx.attempt}", 0.1, error="bad")


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("crashes", [1, 2])
async def test_attempts_see_the_order_of_the_first_and_survive_every_crash(crashes: int) -> None:
    report = await survives_every_crash(_map_in_attempts, retries=RETRY, crashes=crashes)
    orders = [[line.split()[1] for line in seen] for (run, _), seen in report.world.seen.items() if run == "root"]
    assert [len(order) for order in orders] == [3, 4, 5]
    assert orders[0] == orders[1][:3] == orders[2][:3]
    assert orders[1] == orders[2][:4]
    assert report.crashes > 10 // STRIDE


async def _left_in_attempts(play: Play) -> None:
    """Each attempt withdraws children that the next one spawns anew."""
    plans = [ChildPlan([0.6 + number % 3 * 1.6]) for number in range(6)]
    try:
        async with asyncio.timeout(1.0 + play.ctx.attempt):
            async for outcome in play.step.map(
                "kids", workflow=play.world.child, items=plans, timeout=9, concurrency=4
            ):
                play.saw(outcome.index)
    except TimeoutError:
        await play.act(f"fail in {play.ctx.attempt}", 0.05, error="bad")


@pytest.mark.usefixtures("small_pages")
async def test_withdrawn_children_are_spawned_anew_in_the_next_attempt() -> None:
    report = await survives_every_crash(_left_in_attempts, retries=RETRY)
    generations = Counter(row.generation for row in report.store.runs.values())
    assert generations[2] > 0
    assert report.end == report.world.seen["root", 3]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("looks", [1, 3])
async def test_tiny_slices_and_three_crashes_make_no_difference(looks: int) -> None:
    reference = await run_once(_map_in_attempts, retries=RETRY)
    for position in range(1, reference.store.committed, 4 * STRIDE):
        crashed = await crash_at(_map_in_attempts, position, retries=RETRY, crashes=3, looks=looks)
        assert differences(reference, crashed) == []


async def _raising_in_attempts(play: Play) -> None:
    plans = [ChildPlan([1.0 + number], fails=number == 1) for number in range(5)]
    async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=4):
        play.saw(outcome.index)


async def test_a_failure_that_ends_the_attempt_is_raised_again_in_the_next_and_spawns_nothing() -> None:
    report = await survives_every_crash(_raising_in_attempts, retries=RETRY)
    assert isinstance(report.end, str)
    assert "the child failed" in report.end
    assert len(report.store.runs) == 6  # five children, and none of them twice


async def test_a_smaller_window_in_later_code_still_finds_what_is_recorded() -> None:
    world = World(nap)
    old = mapping([9, 1, 2, 3], concurrency=4)
    await world.open(nap, old)
    await world.runtime.start(old, run_id="one")
    await world.clock.advance(2.5)
    await world.reopen(nap, mapping([9, 1, 2, 3], concurrency=1))
    assert sorted(await world.result("one")) == [(0, 9.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    await world.close()


async def test_another_workflow_under_the_same_id_is_refused_by_name() -> None:
    @workflow(id="other")
    async def other(ctx: Context, seconds: float) -> float:
        return seconds

    @workflow(id="mapping", retries=0)
    async def changed(ctx: Context) -> list[float | None]:
        return [end.body async for end in ctx.step.map("naps", workflow=other, items=[9, 1], timeout="1h")]

    @workflow(id="mapping", retries=0)
    async def no_map(ctx: Context) -> float:
        return (await ctx.step.invoke("naps", workflow=nap, data=1, timeout="1h")).result

    cases: list[tuple[Workflow[None, Any], str]] = [
        (changed, "a map over workflow 'other'"),
        (no_map, "an invoke of workflow 'nap'"),
    ]
    for new, says in cases:
        old = mapping([9, 1])
        async with World(nap, old) as world:
            await world.runtime.start(old, run_id="one")
            await world.clock.advance(2)
            await world.reopen(nap, other, new)
            with pytest.raises(WorkflowFailedError, match=says):
                await world.result("one")


@pytest.mark.usefixtures("small_pages")
async def test_a_map_that_is_gone_from_the_code_marks_the_run() -> None:
    @workflow(id="mapping", retries=0)
    async def gone(ctx: Context) -> str:
        await ctx.step.sleep("instead", 1)
        return "nothing to map"

    old = mapping([9, 1, 2, 3])
    async with World(nap, old) as world:
        await world.runtime.start(old, run_id="one")
        await world.clock.advance(5)
        await world.reopen(nap, gone)
        assert await world.result("one") == "nothing to map"
        assert (await world.runtime.info("one")).is_diverged


async def test_a_finished_map_spawns_nothing_in_a_later_attempt() -> None:
    @workflow(id="twice", retries=RETRY)
    async def twice(ctx: Context) -> int:
        count = len([1 async for _ in ctx.step.map("naps", workflow=nap, items=[1, 2, 3], timeout="1h")])
        if ctx.attempt < 3:
            raise ActError("again")
        return count

    async with World() as world:
        assert await world.execute(twice) == 3
        assert len(world.store.committed(RunCreated)) == 4


# Memory


@pytest.mark.usefixtures("small_pages")
async def test_a_parent_holds_no_more_of_its_children_than_its_window_live_and_after_a_crash() -> None:
    """Neither the run nor its attempt may keep something for each of the items: that is what a million must fit in."""

    @workflow(id="many", retries=0)
    async def many(ctx: Context) -> int:
        total = 0
        async for _ in ctx.step.map("naps", workflow=nap, items=(1.0 for _ in range(300)), timeout="1h", concurrency=5):
            total += 1
            if total in (250, 260):
                await ctx.step.sleep("a while", "1h")
        return total

    async with World(many, nap) as world:
        await world.runtime.start(many, run_id="one")
        await world.clock.advance("10m")
        assert _largest_collection(world) < 100
        await world.reopen()
        await world.clock.advance("1h")
        assert _largest_collection(world) < 100
        assert await world.result("one") == 300


def _largest_collection(world: World) -> int:
    """The largest container that can be reached from the run and its actor, without the store."""
    run = world.runtime._engine.tree.find("one")  # pyright: ignore[reportPrivateUsage]
    assert run is not None
    assert run.actor is not None
    actor: Any = run.actor
    roots: list[Any] = [actor._state, actor._loop, actor.steps, actor._loaded, run.children, run.mailbox]
    seen: set[int] = set()
    largest = 0
    todo = [root for root in roots if root is not None]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type) or type(each).__name__ in ("module", "function", "Engine"):
            continue
        seen.add(id(each))
        is_container = type(each).__name__ in ("list", "dict", "set", "deque", "tuple")
        if is_container:
            largest = max(largest, len(each))
        if is_container or type(each).__module__.startswith("rotor_actors"):
            todo.extend(gc.get_referents(each))
    return largest


async def test_a_timed_out_child_is_raised_with_its_run_id() -> None:
    @workflow(id="late", retries=0)
    async def late(ctx: Context) -> str:
        try:
            async for _ in ctx.step.map("naps", workflow=nap, items=[500], timeout=5):
                pass
        except WorkflowTimeoutError as error:
            return error.run_id
        return ""

    async with World() as world:
        run_id = await world.execute(late)
        assert await world.result(run_id) == 500.0


async def test_an_item_of_the_wrong_type_is_a_payload_error() -> None:
    @workflow(id="wrong", retries=0)
    async def wrong(ctx: Context) -> str:
        items: list[Any] = [object()]
        try:
            return str([end async for end in ctx.step.map("naps", workflow=nap, items=items, timeout=5)])
        except PayloadError as error:
            return str(error)

    async with World() as world:
        assert "input of workflow 'nap'" in await world.execute(wrong)
