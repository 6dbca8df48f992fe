"""Flow control holds over replicas: lines are the coordinator's, whoever owns the runs in them."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet
from flow_kit import Watch

from rotor_actors import Context, FlowControl, Idempotency, RunHandle, workflow

pytestmark = pytest.mark.asyncio


async def test_a_key_lets_only_so_many_run_over_all_replicas() -> None:
    watch = Watch()

    @workflow(id="guarded", flow_control=FlowControl("scarce", parallelism=2))
    async def guarded(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("hold", "10s")
        await ctx.step.run("exit", watch.exit, name)
        return name

    async with Fleet(guarded) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles: list[RunHandle[str]] = []
        for number in range(9):
            handles.append(await replicas[number % 3].start(guarded, f"run {number}"))
            await fleet.clock.advance("1ms")
        results = await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert sorted(results) == sorted(f"run {number}" for number in range(9))
        assert watch.most == 2
        assert watch.began == [f"run {number}" for number in range(9)]
        await fleet.settle()
        assert not fleet.database.office.letters


async def test_the_idempotency_key_of_a_deleted_run_is_free_again_whichever_replica_deletes_it() -> None:
    @workflow(id="once", idempotency=Idempotency("data", period="30d"))
    async def once(ctx: Context, key: str) -> str:
        return ctx.run_id

    async with Fleet(once) as fleet:
        replicas = [await fleet.open() for _ in range(2)]
        known: list[str] = []
        for deleting in replicas:  # one of them is the coordinator
            handle = await fleet.clock.until(replicas[0].start(once, "a"))
            assert await fleet.clock.until(handle.result()) == handle.run_id
            known.append(handle.run_id)
            assert await fleet.clock.until(deleting.delete(handle.run_id)) == 1
            await fleet.clock.advance("2s")
        last = await fleet.clock.until(replicas[1].start(once, "a"))
        assert await fleet.clock.until(last.result()) == last.run_id
        assert len({*known, last.run_id}) == 3
        assert not fleet.database.office.letters
