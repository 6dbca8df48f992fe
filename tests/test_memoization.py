"""Memoization: what is recorded answers again, on a retry as after a crash, and what is forgotten runs again."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from kit import IS_SHARED, STRIDE, World, untouched, with_a_crash_after_each_entry

from rotor_actors import Context, RetryPolicy, Workflow, workflow
from rotor_actors.errors import NonDeterminismError, StepFailedError, WorkflowFailedError
from rotor_actors.ids import step_key
from rotor_actors.records import Kind, RunCreated, StepRecorded

pytestmark = pytest.mark.asyncio

SOON = RetryPolicy(3, initial="1s", factor=1, jitter=False)


class Effects:
    """Step bodies that count their executions."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def note(self, name: str) -> str:
        self.counts[name] += 1
        return f"{name} {self.counts[name]}"

    async def fail(self, name: str) -> str:
        await self.note(name)
        raise LookupError(f"{name} {self.counts[name]}")

    async def fail_once(self, name: str) -> str:
        if (text := await self.note(name)) == f"{name} 1":
            raise LookupError(text)
        return text


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
def effects() -> Effects:
    return Effects()


@workflow(id="slow")
async def slow(ctx: Context, duration: str) -> str:
    await ctx.step.sleep("doze", duration)
    return f"slept {duration}"


@workflow(id="other")
async def other(ctx: Context, duration: str) -> str:
    return "other"


# Keys


async def test_a_key_counts_the_uses_of_an_id(world: World, effects: Effects) -> None:
    @workflow(id="loop", retries=SOON)
    async def loop(ctx: Context) -> list[str]:
        found = [await ctx.step.run("page", effects.note, name) for name in ("p0", "p1", "p2")]
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return found

    assert await world.execute(loop) == ["p0 1", "p1 1", "p2 1"]
    assert effects.counts == {"p0": 1, "p1": 1, "p2": 1}
    keys = [fact.step.key for fact in world.store.committed(StepRecorded) if fact.step.kind is Kind.RUN]
    assert keys == [step_key("page", count) for count in range(3)]


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
async def test_the_order_in_which_steps_are_asked_for_does_not_matter_to_the_next_attempt(
    world: World, effects: Effects, order: tuple[str, ...]
) -> None:
    @workflow(id="fan", retries=SOON)
    async def fan(ctx: Context) -> dict[str, str]:
        names = "abc" if ctx.attempt == 1 else order
        found = await asyncio.gather(*(ctx.step.run(name, effects.note, name) for name in names))
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return dict(zip(names, found, strict=True))

    assert await world.execute(fan) == {"a": "a 1", "b": "b 1", "c": "c 1"}


# What is recorded is not done again


async def test_a_retry_returns_what_is_recorded_and_runs_the_rest(world: World, effects: Effects) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> list[str]:
        first = await ctx.step.run("first", effects.note, "first")
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return [first, await ctx.step.run("second", effects.note, "second")]

    assert await world.execute(w) == ["first 1", "second 1"]
    assert effects.counts == {"first": 1, "second": 1}


async def test_a_recovery_returns_what_is_recorded_and_runs_the_rest(effects: Effects) -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> list[str]:
        first = await ctx.step.run("first", effects.note, "first")
        await ctx.step.sleep("the crash comes here", "1h")
        return [first, await ctx.step.run("second", effects.note, "second")]

    async with World(w) as world:
        handle = await world.runtime.start(w)
        await world.clock.advance("10m")
        await world.reopen()
        assert await world.result(handle.run_id) == ["first 1", "second 1"]
        assert effects.counts == {"first": 1, "second": 1}


async def test_a_step_in_flight_at_a_crash_runs_again(effects: Effects) -> None:
    release = asyncio.Event()

    async def wait() -> str:
        text = await effects.note("wait")
        await release.wait()
        return text

    @workflow(id="w")
    async def w(ctx: Context) -> str:
        return await ctx.step.run("wait", wait, timeout="24h")

    async with World(w) as world:
        handle = await world.runtime.start(w)
        await world.settle()
        await world.reopen()
        release.set()
        assert await world.result(handle.run_id) == "wait 2"


async def test_a_crash_at_any_journal_position_changes_nothing_and_repeats_no_recorded_step() -> None:
    worlds: list[Effects] = []

    def make() -> World:
        worlds.append(Effects())
        return World(root, leaf)

    @workflow(id="leaf")
    async def leaf(ctx: Context, name: str) -> str:
        return (await ctx.step.run("note", worlds[-1].note, name)).split()[0]

    @workflow(id="root", retries=SOON)
    async def root(ctx: Context) -> list[str]:
        first = await ctx.step.run("first", worlds[-1].note, "first")
        waits = [ctx.step.invoke("leaf", workflow=leaf, data=f"leaf{n}", timeout="1h") for n in range(2)]
        seen = [each.result for each in await asyncio.gather(*waits)]
        await ctx.step.sleep("pause", "1h")
        try:
            await ctx.step.run("fails", worlds[-1].fail, "fails")
        except LookupError as error:
            seen.append(type(error).__name__)
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return [first.split()[0], *seen, (await ctx.step.run("last", worlds[-1].note, "last")).split()[0]]

    outcomes = await with_a_crash_after_each_entry(make, root)
    assert len(outcomes) > 12 // STRIDE
    assert all(outcome == ["first", "leaf0", "leaf1", "LookupError", "last"] for outcome in outcomes)
    assert all(max(effects.counts.values()) <= 2 for effects in worlds), "a crash repeats what was in flight, once"
    assert worlds[0].counts.total() == 5, "undisturbed, each runs once"


async def test_a_replay_sees_the_outcomes_in_their_recorded_order(effects: Effects) -> None:
    orders: list[list[str]] = []

    @workflow(id="race")
    async def race(ctx: Context) -> None:
        order: list[str] = []
        orders.append(order)

        async def one(duration: str) -> None:
            await ctx.step.invoke(f"s{duration}", workflow=slow, data=duration, timeout="9h")
            order.append(duration)

        await asyncio.gather(*(one(duration) for duration in ("3h", "1h", "2h")))
        await ctx.step.sleep("the crash comes here", "1h")

    async with World(race, slow) as world:
        handle = await world.runtime.start(race)
        await world.clock.advance("210m")
        await world.reopen()
        await world.result(handle.run_id)
        assert orders == [["1h", "2h", "3h"]] * 2


async def test_a_replay_starts_no_effect_before_the_record_is_exhausted(effects: Effects) -> None:
    """The first of two is recorded: on replay the loser of the race must not run before its scope is cancelled."""

    async def for_ever() -> None:
        await effects.note("loser")
        await asyncio.Event().wait()

    @workflow(id="race")
    async def race(ctx: Context) -> str:
        tasks = [
            asyncio.create_task(ctx.step.run("winner", effects.note, "winner")),
            asyncio.create_task(ctx.step.run("loser", for_ever)),
        ]
        _, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for loser in losers:
            loser.cancel()
        await ctx.step.sleep("the crash comes here", "1h")
        return "done"

    async with World(race) as world:
        handle = await world.runtime.start(race)
        await world.clock.advance("10m")
        assert effects.counts == {"winner": 1, "loser": 1}
        await world.reopen()
        assert await world.result(handle.run_id) == "done"
        assert effects.counts == {"winner": 1, "loser": 1}


# Failures


async def test_a_failure_that_was_caught_stands_in_the_next_attempt(world: World, effects: Effects) -> None:
    seen: list[str] = []

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> str:
        with pytest.raises(LookupError) as caught:
            await ctx.step.run("f", effects.fail, "f")
        seen.append(repr(caught.value))
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return "done"

    assert await world.execute(w) == "done"
    assert seen == ["LookupError('f 1')"] * 2
    assert effects.counts == {"f": 1}


async def test_a_failure_that_was_caught_stands_after_a_crash(effects: Effects) -> None:
    seen: list[str] = []

    @workflow(id="w")
    async def w(ctx: Context) -> str:
        with pytest.raises(LookupError) as caught:
            await ctx.step.run("f", effects.fail, "f")
        seen.append(repr(caught.value))
        await ctx.step.sleep("the crash comes here", "1h")
        return "done"

    async with World(w) as world:
        handle = await world.runtime.start(w)
        await world.clock.advance("10m")
        await world.reopen()
        assert await world.result(handle.run_id) == "done"
        assert seen == ["LookupError('f 1')"] * 2
        assert effects.counts == {"f": 1}


async def test_an_error_that_cannot_be_rebuilt_is_the_same_stand_in_on_replay(world: World) -> None:
    seen: list[str] = []

    class LocalError(Exception):
        pass

    async def fail() -> None:
        raise LocalError("here")

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> None:
        with pytest.raises(StepFailedError) as caught:
            await ctx.step.run("f", fail)
        seen.append(repr(caught.value) + repr(caught.value.error))
        if ctx.attempt == 1:
            raise RuntimeError("once more")

    await world.execute(w)
    assert len(seen) == 2
    assert seen[0] == seen[1]


async def raised_as_such(ctx: Context, effects: Effects) -> str:
    return await ctx.step.run("f", effects.fail_once, "f")


async def raised_again(ctx: Context, effects: Effects) -> str:
    try:
        return await ctx.step.run("f", effects.fail_once, "f")
    except LookupError:
        raise
    finally:
        await asyncio.sleep(0)


async def within_a_group(ctx: Context, effects: Effects) -> str:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.step.run("f", effects.fail_once, "f"))
    return task.result()


async def within_a_group_of_groups(ctx: Context, effects: Effects) -> str:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(within_a_group(ctx, effects))
    return task.result()


async def as_explicit_cause(ctx: Context, effects: Effects) -> str:
    try:
        return await ctx.step.run("f", effects.fail_once, "f")
    except LookupError as error:
        raise RuntimeError("translated") from error


@pytest.mark.parametrize(
    "act", [raised_as_such, raised_again, within_a_group, within_a_group_of_groups, as_explicit_cause]
)
async def test_a_failure_that_ended_the_attempt_is_forgotten_and_the_step_runs_again(
    world: World, effects: Effects, act: Callable[[Context, Effects], Any]
) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> list[str]:
        before = await ctx.step.run("before", effects.note, "before")
        return [before, await act(ctx, effects)]

    assert await world.execute(w) == ["before 1", "f 2"]
    assert effects.counts == {"before": 1, "f": 2}


async def test_a_failure_that_was_caught_before_another_ended_the_attempt_stands(
    world: World, effects: Effects
) -> None:
    """It is the `__context__` of what ended the attempt, and not its cause."""

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> str:
        try:
            return await ctx.step.run("f", effects.fail_once, "f")
        except LookupError:
            if ctx.attempt == 1:
                raise RuntimeError("something else")  # noqa: B904
            return "stands"

    assert await world.execute(w) == "stands"
    assert effects.counts == {"f": 1}


async def test_of_two_failures_only_the_one_that_ended_the_attempt_is_forgotten(world: World, effects: Effects) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> str:
        with pytest.raises(LookupError):
            await ctx.step.run("caught", effects.fail_once, "caught")
        return await ctx.step.run("fatal", effects.fail_once, "fatal")

    assert await world.execute(w) == "fatal 2"
    assert effects.counts == {"caught": 1, "fatal": 2}


async def test_what_was_forgotten_is_forgotten_after_a_crash_too(effects: Effects) -> None:
    @workflow(id="w", retries=RetryPolicy(3, initial="1h", factor=1, jitter=False))
    async def w(ctx: Context) -> str:
        return await ctx.step.run("f", effects.fail_once, "f")

    async with World(w) as world:
        handle = await world.runtime.start(w)
        await world.clock.advance("10m")
        await world.reopen()
        assert await world.result(handle.run_id) == "f 2"


async def test_a_step_may_fail_each_attempt_anew(world: World, effects: Effects) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> None:
        await ctx.step.run("f", effects.fail, "f")

    with pytest.raises(WorkflowFailedError, match="LookupError: f 4"):
        await world.execute(w)
    assert effects.counts == {"f": 4}


async def test_a_step_in_flight_when_its_attempt_ends_is_interrupted_and_runs_again(
    world: World, effects: Effects
) -> None:
    async def for_ever_at_first() -> str:
        text = await effects.note("long")
        if text == "long 1":
            await asyncio.Event().wait()
        return text

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> list[str]:
        waits = [ctx.step.run("long", for_ever_at_first), ctx.step.run("f", effects.fail_once, "f")]
        return await asyncio.gather(*waits)

    assert await world.execute(w) == ["long 2", "f 2"]


async def test_the_end_of_an_invoke_is_not_forgotten_even_if_it_ended_the_attempt(world: World) -> None:
    @workflow(id="broken", retries=0)
    async def broken(ctx: Context) -> None:
        raise OSError("down")

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> None:
        await ctx.step.invoke("b", workflow=broken, data=None, timeout="1h")

    with pytest.raises(WorkflowFailedError, match="down"):
        await world.execute(w)
    assert len(world.store.committed(RunCreated)) == 2


# Another kind or target under the same key


async def a_run(ctx: Context) -> object:
    return await ctx.step.run("x", lambda: 1)


async def a_sleep(ctx: Context) -> object:
    await ctx.step.sleep("x", "1s")
    return None


async def an_invoke(ctx: Context) -> object:
    return await ctx.step.invoke("x", workflow=other, data="", timeout="1h")


async def another_invoke(ctx: Context) -> object:
    return await ctx.step.invoke("x", workflow=slow, data="1s", timeout="1h")


NAMES: dict[Callable[[Context], Any], str] = {
    a_run: "a run step", a_sleep: "a sleep", an_invoke: "an invoke of workflow 'other'",
    another_invoke: "an invoke of workflow 'slow'",
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(NAMES, 2)))
@pytest.mark.parametrize("how", ["retry", "crash"])
async def test_another_kind_or_target_under_a_recorded_key_is_refused_with_both_names(
    before: Callable[[Context], Any], after: Callable[[Context], Any], how: str
) -> None:
    acts = [before]

    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> str:
        if acts[0] is after:
            with pytest.raises(NonDeterminismError) as caught:
                await after(ctx)
            return str(caught.value)
        await acts[0](ctx)
        await ctx.step.sleep("the crash comes here", "1h")
        raise RuntimeError("once more")

    async with World(w, slow, other) as world:
        handle = await world.runtime.start(w)
        await world.clock.advance("10m")
        acts[0] = after
        if how == "crash":
            handle = (await world.reopen()).run(handle.run_id)
        message: str = await world.result(handle)
        assert f"run {handle.run_id} of workflow 'w': step 'x' (use 0)" in message
        assert f"{NAMES[after]} in the code, but the journal recorded {NAMES[before]} under the same key" in message
        assert "another id" in message


async def test_another_target_than_that_of_a_child_still_running_is_refused(world: World) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> str:
        if ctx.attempt == 1:
            task = asyncio.create_task(ctx.step.invoke("x", workflow=slow, data="9h", timeout="10h"))
            await ctx.step.sleep("until it runs", "1m")
            assert not task.done()
            raise RuntimeError("once more")
        with pytest.raises(NonDeterminismError):
            await an_invoke(ctx)
        return "refused"

    assert await world.execute(w) == "refused"
    assert len(world.store.committed(RunCreated)) == 2


async def test_an_uncaught_non_determinism_error_fails_the_run_at_once(world: World) -> None:
    @workflow(id="w", retries=SOON)
    async def w(ctx: Context) -> None:
        await (a_run if ctx.attempt == 1 else a_sleep)(ctx)
        raise RuntimeError("once more")

    handle = await world.runtime.start(w)
    with pytest.raises(WorkflowFailedError, match="NonDeterminismError"):
        await world.result(handle)
    assert (await handle.info()).attempt == 2


# Code that changed under runs in flight


def version(*steps: str, effects: Effects) -> Workflow[None, list[str]]:
    """A workflow of these steps; at "pause" it sleeps for an hour."""

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> list[str]:
        found: list[str] = []
        for step in steps:
            if step == "pause":
                await ctx.step.sleep("pause", "1h")
            else:
                found.append(await ctx.step.run(step, effects.note, step))
        return found

    return w


async def deployed(before: Workflow[Any, Any], after: Workflow[Any, Any], **options: Any) -> tuple[Any, bool]:
    """The outcome of a run that was begun by the one and finished by the other, and whether it was marked."""
    async with World(before) as world:
        handle = await world.runtime.start(before)
        await world.clock.advance("10m")
        await world.reopen(after, **options)
        result: Any
        try:
            result = await world.result(handle.run_id)
        except WorkflowFailedError as error:
            result = error
        return result, (await world.runtime.info(handle.run_id)).is_diverged


async def test_a_step_may_be_added_behind_what_is_recorded(effects: Effects) -> None:
    before = version("a", "pause", "b", effects=effects)
    after = version("a", "pause", "new", "b", effects=effects)
    assert await deployed(before, after, strict_replay=True) == (["a 1", "new 1", "b 1"], False)


async def test_a_step_that_was_dropped_is_tolerated_and_the_run_marked(effects: Effects) -> None:
    before = version("a", "b", "pause", "c", effects=effects)
    after = version("a", "pause", "c", effects=effects)
    assert await deployed(before, after) == (["a 1", "c 1"], True)


async def test_a_step_that_was_added_amid_what_is_recorded_runs_and_the_run_is_marked(effects: Effects) -> None:
    before = version("a", "b", "pause", effects=effects)
    after = version("a", "new", "b", "pause", effects=effects)
    assert await deployed(before, after) == (["a 1", "new 1", "b 1"], True)
    assert effects.counts == {"a": 1, "new": 1, "b": 1}


async def test_steps_that_changed_places_answer_by_key_and_the_run_is_marked(effects: Effects) -> None:
    before = version("a", "b", "c", "pause", effects=effects)
    after = version("c", "b", "a", "pause", effects=effects)
    assert await deployed(before, after) == (["c 1", "b 1", "a 1"], True)
    assert effects.counts == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("steps", [("a", "pause", "c"), ("a", "new", "b", "pause"), ("b", "a", "pause")])
async def test_strict_replay_refuses_changed_code_by_name_and_does_not_try_again(
    effects: Effects, steps: tuple[str, ...]
) -> None:
    before, after = version("a", "b", "pause", effects=effects), version(*steps, effects=effects)
    error, is_diverged = await deployed(before, after, strict_replay=True)
    assert isinstance(error, WorkflowFailedError)
    assert error.error.type == "rotor_actors.errors.NonDeterminismError"
    assert "strict_replay" in error.error.message
    assert "'b'" in error.error.message or "'a'" in error.error.message
    assert not is_diverged
    assert effects.counts == {"a": 1, "b": 1}, "no new step ran"


async def test_unchanged_code_is_not_marked(effects: Effects) -> None:
    same = version("a", "b", "pause", "c", effects=effects)
    assert await deployed(same, same, strict_replay=True) == (["a 1", "b 1", "c 1"], False)


async def test_an_invoke_that_was_dropped_is_named_when_strict(effects: Effects) -> None:
    @workflow(id="w")
    async def before(ctx: Context) -> None:
        await ctx.step.invoke("the invoke", workflow=other, data="", timeout="1h")
        await ctx.step.sleep("pause", "1h")

    after = version("pause", effects=effects)
    async with World(before, other) as world:
        handle = await world.runtime.start(before)
        await world.clock.advance("10m")
        await world.reopen(after, other, strict_replay=True)
        with pytest.raises(
            WorkflowFailedError, match="outcome of an invoke of workflow 'other', which the code did not"
        ):
            await world.result(handle.run_id)


# A workflow that is not there


async def test_a_run_whose_workflow_is_not_registered_is_left_untouched_until_it_is(
    effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    known = version("a", "pause", "b", effects=effects)
    async with World(known) as world:
        handle = await world.runtime.start(known)
        await world.clock.advance("10m")
        await world.reopen(other)
        await world.clock.advance("1d")
        assert await untouched(world.runtime) == 1
        if not IS_SHARED:
            assert world.runtime.orphans() == [handle.run_id]
            assert any(handle.run_id in record.getMessage() for record in caplog.records)
        assert (await world.runtime.info(handle.run_id)).status.value == "running"
        await world.reopen(known)
        assert await untouched(world.runtime) == 0
        assert await world.result(handle.run_id) == ["a 1", "b 1"]


async def test_an_orphan_goes_on_as_soon_as_its_workflow_is_registered_by_use(effects: Effects) -> None:
    known = version("a", "pause", "b", effects=effects)
    async with World(known) as world:
        handle = await world.runtime.start(known)
        await world.clock.advance("10m")
        await world.reopen(other)
        assert await world.execute(known) == ["a 2", "b 2"]
        assert await world.result(handle.run_id) == ["a 1", "b 1"]
