"""Progress: a run reports, readers follow, the newest value outlives everything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kit import IS_SHARED, STRIDE, World, with_a_crash_after_each_entry

from rotor_actors import Context, RetryPolicy, Update, workflow
from rotor_actors.errors import PayloadError, RunNotFoundError, RuntimeStateError, StepRefusedError
from rotor_actors.records import ItemPut

pytestmark = pytest.mark.asyncio


@workflow(id="counting")
async def counting(ctx: Context, upto: int) -> str:
    for n in range(upto):
        ctx.report({"done": n})
        await ctx.step.sleep(f"s{n}", "1h")
    ctx.report({"done": upto})
    return "counted"


def values(updates: list[Update]) -> list[Any]:
    return [update.value["done"] for update in updates]


async def test_a_reader_gets_the_newest_value_and_then_each_change_until_the_end() -> None:
    async with World(counting) as world:
        handle = await world.runtime.start(counting, 4, run_id="r")
        await world.clock.advance("90m")
        seen: list[Update] = []

        async def follow() -> None:
            async for update in handle.updates():
                seen.append(update)

        following = asyncio.ensure_future(follow())
        await world.settle()
        assert values(seen) == [1]
        await world.clock.advance("1h")
        assert values(seen) == [1, 2]
        await world.wait(following)
        assert values(seen) == [1, 2, 3, 4]
        assert [(update.attempt, update.missed, update.key) for update in seen] == [(1, 0, "")] * 4
        assert seen[1].at.timestamp() == pytest.approx(seen[0].at.timestamp() + 3600)


async def test_several_readers_see_the_same_and_one_that_comes_late_sees_the_last() -> None:
    async with World(counting) as world:
        handle = await world.runtime.start(counting, 3, run_id="r")

        async def follow() -> list[Any]:
            return values([update async for update in world.runtime.run("r").updates()])

        both = asyncio.gather(follow(), follow())
        assert list(await world.wait(both)) == [[0, 1, 2, 3]] * 2
        assert await world.wait(follow()) == [3]
        assert (await handle.progress())[""].value == {"done": 3}


async def test_a_slow_reader_gets_the_newest_and_is_told_what_it_missed() -> None:
    async with World(counting) as world:
        handle = await world.runtime.start(counting, 5, run_id="r")
        updates = handle.updates()
        assert (await world.wait(anext(updates))).value == {"done": 0}
        await world.clock.advance("150m")
        update = await world.wait(anext(updates))
        assert (update.value, update.missed) in (({"done": 2}, 1), ({"done": 1}, 0))
        rest = await world.wait(_all(updates))
        assert rest[-1].value == {"done": 5}
        assert sum(1 + each.missed for each in rest) + 1 + update.missed == 5


async def _all(updates: Any) -> list[Update]:
    return [update async for update in updates]


async def test_keys_are_kept_apart() -> None:
    @workflow(id="w")
    async def w(ctx: Context) -> None:
        ctx.report(1, key="pages")
        ctx.report("warm", key="cache")
        await ctx.step.sleep("doze", "1h")
        ctx.report(2, key="pages")

    async with World(w) as world:
        handle = await world.runtime.start(w, run_id="r")
        pages = asyncio.ensure_future(_all(handle.updates("pages")))
        assert [update.value for update in await world.wait(pages)] == [1, 2]
        progress = await handle.progress()
        assert {key: update.value for key, update in progress.items()} == {"pages": 2, "cache": "warm"}


async def test_the_newest_value_survives_a_restart_and_a_replay_does_not_report_again() -> None:
    async with World(counting) as world:
        await world.runtime.start(counting, 3, run_id="r")
        await world.clock.advance("90m")
        for _ in range(3):
            await world.reopen()
            assert (await world.runtime.progress("r"))[""].value == {"done": 1}
        following = asyncio.ensure_future(_all(world.runtime.run("r").updates()))
        assert values(await world.wait(following)) == [1, 2, 3]
        puts = [fact for fact in world.store.committed(ItemPut) if fact.item.space == "progress"]
        assert len(puts) == 4, "each once, over four processes"
        await world.reopen()
        assert (await world.runtime.progress("r"))[""].value == {"done": 3}


async def test_at_each_crash_nothing_is_reported_twice_and_the_last_value_is_there() -> None:
    worlds: list[World] = []

    def make_world() -> World:
        worlds.append(World(counting))
        return worlds[-1]

    outcomes = await with_a_crash_after_each_entry(make_world, counting, 3)
    assert set(outcomes) == {"counted"}
    assert len(worlds) > 8 // STRIDE
    for world in worlds:
        puts = [fact for fact in world.store.committed(ItemPut) if fact.item.space == "progress"]
        assert len(puts) == 4


async def test_a_new_attempt_reports_anew_and_says_so() -> None:
    @workflow(id="w", retries=RetryPolicy(1, initial="1h", jitter=False))
    async def w(ctx: Context) -> None:
        ctx.report({"done": 0})
        await ctx.step.sleep("doze", "1h")
        ctx.report({"done": 1})
        if ctx.attempt == 1:
            raise ValueError("once")

    async with World(w) as world:
        handle = await world.runtime.start(w, run_id="r")
        following = asyncio.ensure_future(_all(handle.updates()))
        updates = await world.wait(following)
        assert updates[-1].value == {"done": 1}
        assert [update.attempt for update in updates][-1] == 2


async def test_a_report_keeps_no_step_waiting_and_has_no_commit_of_its_own() -> None:
    @workflow(id="w")
    async def w(ctx: Context, reports: bool) -> None:
        for n in range(5):
            if reports:
                ctx.report({"done": n})
            await ctx.step.run(f"s{n}", lambda: 1)

    commits: list[int] = []
    without = 0
    for reports in (False, True):
        async with World(w) as world:
            world.store.before_commit = lambda entries: commits.append(1)
            commits.clear()
            await world.execute(w, reports, run_id="r")
            if not reports:
                without = len(commits)
    # Where replicas share the store, what goes with which commit depends on their messages a little more.
    assert len(commits) <= without + (2 if IS_SHARED else 1)


async def test_a_value_that_cannot_be_stored_and_a_key_that_is_none_are_refused() -> None:
    errors: list[BaseException] = []

    @workflow(id="w")
    async def w(ctx: Context) -> None:
        bad: list[tuple[object, Any]] = [(object(), ""), (1, 7), (1, "k" * 201)]
        for value, key in bad:
            try:
                ctx.report(value, key=key)
            except (PayloadError, TypeError) as error:
                errors.append(error)
        await ctx.step.run("outside", outside, ctx)

    async def outside(ctx: Context) -> None:
        try:
            ctx.report(1)
        except StepRefusedError as error:
            errors.append(error)

    async with World(w) as world:
        await world.execute(w, run_id="r")
        assert [type(error) for error in errors] == [PayloadError, TypeError, PayloadError, StepRefusedError]
        assert await world.runtime.progress("r") == {}


async def test_a_cancelled_run_keeps_its_newest_value_and_ends_the_iteration() -> None:
    async with World(counting) as world:
        handle = await world.runtime.start(counting, 5, run_id="r")
        following = asyncio.ensure_future(_all(handle.updates()))
        await world.clock.advance("90m")
        await world.wait(handle.cancel())
        assert values(await world.wait(following)) == [0, 1]
        assert (await world.runtime.progress("r"))[""].value == {"done": 1}


async def test_leaving_a_run_alone_harms_nobody_and_a_closing_runtime_tells_its_readers() -> None:
    async with World(counting) as world:
        handle = await world.runtime.start(counting, 5, run_id="r")
        first = asyncio.ensure_future(_all(handle.updates()))
        second = asyncio.ensure_future(_all(handle.updates()))
        await world.settle()
        first.cancel()
        await asyncio.wait([first])
        await world.clock.advance("1h")
        await world.close()
        with pytest.raises(RuntimeStateError, match="closed before the run ended"):
            await second
    async with World() as empty:
        with pytest.raises(RunNotFoundError, match="nobody"):
            await anext(empty.runtime.run("nobody").updates())


async def test_progress_goes_with_its_run() -> None:
    async with World(counting) as world:
        await world.execute(counting, 1, run_id="r")
        await world.runtime.delete("r")
        with pytest.raises(RunNotFoundError):
            await world.runtime.progress("r")
        await world.execute(counting, 0, run_id="r")
        assert (await world.runtime.progress("r"))[""].value == {"done": 0}
