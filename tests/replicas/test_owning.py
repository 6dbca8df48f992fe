"""Runs are owned by one replica at a time, and go on with another when that one is gone."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, RunStatus, Runtime, workflow
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
