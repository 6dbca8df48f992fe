"""Runs are owned by one replica at a time, and go on with another when that one is gone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from fleet import Fleet

from rotor_actors import Context, RunStatus, Runtime, workflow
from rotor_actors.errors import StoreError
from rotor_actors.records import RunChanged
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

pytestmark = pytest.mark.asyncio


@workflow(id="counting")
async def counting(ctx: Context, seen: list[str]) -> int:
    async def note(what: str) -> str:
        return what

    first = await ctx.step.run("first", note, "one")
    await ctx.step.sleep("a while", "1m")
    second = await ctx.step.run("second", note, "two")
    return len([*seen, first, second])


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    await ctx.step.sleep("a while", "1m")
    return number * 2


@workflow(id="parent")
async def parent(ctx: Context, count: int) -> int:
    called = [ctx.step.invoke(f"call {n}", workflow=child, data=n, timeout="1h") for n in range(count)]
    return sum(each.result for each in await asyncio.gather(*called))


@workflow(id="hanging")
async def hanging(ctx: Context) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    await ctx.step.run("never", never)


@workflow(id="sleepless")
async def sleepless(ctx: Context) -> None: ...


async def test_a_runtime_on_a_shared_store_runs_workflows() -> None:
    database = SharedDatabase()

    @workflow(id="quick")
    async def quick(ctx: Context, data: int) -> int:
        async def double(value: int) -> int:
            return value * 2

        return await ctx.step.run("double", double, data)

    async with Runtime(SharedMemoryStore(database)) as runtime:
        assert await runtime.execute(quick, 21) == 42
    assert database.replica_rows == {}


async def test_another_replica_goes_on_with_what_one_that_closed_has_left() -> None:
    async with Fleet(counting) as fleet:
        first = await fleet.open()
        handle = await first.start(counting, ["zero"])
        await fleet.clock.advance("10s")
        await fleet.close(first)
        second = await fleet.open()
        assert fleet.owner_of(handle.run_id) == fleet.store_of(second).replica
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 3


async def test_another_replica_goes_on_with_what_one_that_died_has_left() -> None:
    async with Fleet(parent, child) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(parent, 5)
        await fleet.clock.advance("30s")
        assert fleet.owner_of(handle.run_id) == fleet.store_of(first).replica
        await fleet.kill(first)
        assert fleet.owner_of(handle.run_id) == fleet.store_of(second).replica
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 20
        assert not fleet.database.office.letters


async def test_runs_of_workflows_that_a_replica_does_not_know_are_not_claimed_by_it() -> None:
    async with Fleet() as fleet:
        first, second = await fleet.open(counting), await fleet.open(child)
        handle = await first.start(counting, [])
        await fleet.clock.advance("10s")
        await fleet.close(first)
        await fleet.settle()
        assert fleet.owner_of(handle.run_id) is None
        second_too = await fleet.open(counting)
        assert await fleet.clock.until(second_too.run(handle.run_id).result()) == 2
        assert (await second.info(handle.run_id)).status is RunStatus.COMPLETED


async def test_a_workflow_that_is_registered_later_is_declared() -> None:
    async with Fleet() as fleet:
        first, second = await fleet.open(counting), await fleet.open(child)
        left = await first.start(counting, [])
        await fleet.clock.advance("10s")
        await fleet.close(first)
        own = await second.start(counting, [])
        assert await fleet.clock.until(second.run(own.run_id).result()) == 2
        assert await fleet.clock.until(second.run(left.run_id).result()) == 2


async def test_a_run_that_ends_each_replica_that_takes_it_in_is_set_aside() -> None:
    async with Fleet(hanging, child, max_recoveries=3) as fleet:
        runtime = await fleet.open()
        poison = await runtime.start(hanging)
        other = await runtime.start(child, 3)
        await fleet.settle()
        for _ in range(3):
            following = await fleet.open()
            await fleet.kill(runtime)
            runtime = following
            assert (await runtime.info(poison.run_id)).status is RunStatus.RUNNING
        following = await fleet.open()
        await fleet.kill(runtime)
        info = await following.info(poison.run_id)
        assert info.status is RunStatus.FAILED
        assert info.error is not None
        assert "set aside: the process ended 3 times" in info.error.message
        assert await fleet.clock.until(following.run(other.run_id).result()) == 6


async def test_a_child_whose_parent_ended_in_the_moment_of_its_spawning_is_cancelled_by_whoever_takes_it_in() -> None:
    async with Fleet(parent, child) as fleet:
        first = await fleet.open()
        handle = await first.start(parent, 2)
        await fleet.settle()
        await fleet.kill(first)
        row = fleet.database.find(handle.run_id)
        assert row is not None
        ended = row.copy()
        ended.status, ended.ended_at, ended.end_seq = RunStatus.FAILED, fleet.clock.now(), 1_000
        number = fleet.database.enter(1e9)
        fleet.database.take_for(number, [row.n])
        fleet.database.apply(number, [RunChanged(ended)])
        fleet.database.leave(number)
        second = await fleet.open()
        await fleet.settle()
        assert [run.status for run in await second.runs(parent=handle.run_id)] == [RunStatus.CANCELLED] * 2


@pytest.mark.parametrize("survivor_spills", [False, True])
async def test_wherever_the_owner_of_a_tree_is_lost_the_others_bring_it_to_its_end(survivor_spills: bool) -> None:
    entries = 0
    while True:
        async with Fleet(parent, child) as fleet:
            first, second = (
                await fleet.open(spill_above=2),
                await fleet.open(spill_above=2 if survivor_spills else None),
            )
            await first.start(parent, 0, run_id="warm")
            await fleet.settle()
            fleet.store_of(first).entries_left = entries
            with suppress(StoreError):
                await asyncio.wait_for(first.start(parent, 6, run_id="tree"), 0.2)
            await fleet.clock.advance("30s")
            is_over = fleet.store_of(first).entries_left
            fleet.store_of(first).entries_left = 0
            await fleet.kill(first)
            if fleet.database.find("tree") is not None:
                assert await fleet.clock.until(second.run("tree").result()) == 30
            await fleet.settle()
            assert not fleet.database.office.letters
            assert all(row.status.is_terminal for row in fleet.all_rows)
            children = [row.parent_key for row in fleet.all_rows if row.parent_n is not None]
            assert len(set(children)) == len(children)
        if is_over:
            break
        entries += 1
    assert entries > 10


async def test_runs_that_have_ended_leave_nothing_behind_in_any_replica() -> None:
    async with Fleet(parent, child, sleepless) as fleet:
        runtimes = [await fleet.open(spill_above=3) for _ in range(3)]
        sizes: list[int] = []
        for _ in range(4):
            for runtime in runtimes:
                handles = [await runtime.start(parent, 8) for _ in range(3)]
                await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
            await fleet.clock.advance("20s")
            sizes.append(sum(_held(fleet, runtime) for runtime in runtimes))
        assert sizes[-1] <= sizes[0], sizes
        assert all(len(fleet.service_of(runtime).engine.tree) == 0 for runtime in runtimes)


def _held(fleet: Fleet, runtime: Runtime) -> int:
    """How many things stand in the tables of the engine's parts, whatever they are."""
    engine = fleet.service_of(runtime).engine
    remote, borders = engine.finishing.remote, engine.borders
    assert engine.sharing is not None
    owners = [engine.sharing, engine.tree, engine.journal, engine.claims, engine.admission, engine.gate, remote]
    owners += [borders.mailroom if borders is not None else None, fleet.service_of(runtime)]
    return sum(
        len(value)  # pyright: ignore[reportUnknownArgumentType]
        for owner in owners
        if owner is not None
        for value in vars(owner).values()
        if isinstance(value, dict | set | list)
    )
