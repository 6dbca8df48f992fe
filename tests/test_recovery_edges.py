"""Recovery where something above a run has ended, and where the store or a service fails while the runtime is open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from kit import FragileStore, World

from rotor_actors import Context, ManualClock, MemoryStore, RunStatus, Runtime, workflow
from rotor_actors.errors import StoreError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.records import History

pytestmark = pytest.mark.asyncio


@workflow(id="edge-d")
async def d(ctx: Context) -> None:
    await ctx.step.sleep("long", "20h")


@workflow(id="edge-c")
async def c(ctx: Context) -> str:
    """Times out on its child, which runs on, and ends."""
    try:
        await ctx.step.invoke("d", workflow=d, data=None, timeout="1m")
    except WorkflowTimeoutError as error:
        return error.run_id
    return ""


@workflow(id="edge-b")
async def b(ctx: Context) -> None:
    await ctx.step.invoke("c", workflow=c, data=None, timeout="1h")
    await ctx.step.sleep("long", "20h")


@workflow(id="edge-a")
async def a(ctx: Context) -> None:
    await ctx.step.invoke("b", workflow=b, data=None, timeout="24h")


@pytest.mark.parametrize("crashes", [0, 1, 2])
async def test_cancelling_reaches_a_run_whose_parent_has_ended_through_the_next_one_above(crashes: int) -> None:
    async with World(a, b, c, d) as world:
        root = await world.runtime.start(a)
        await world.clock.advance("10m")
        runs = {info.workflow_id: info for info in await world.runtime.runs(root=root.run_id)}
        assert runs["edge-c"].status is RunStatus.COMPLETED
        assert runs["edge-d"].status is RunStatus.RUNNING
        for _ in range(crashes):
            await world.crash()
            await world.open()
        report = await world.runtime.cancel(runs["edge-b"].run_id)
        assert runs["edge-d"].run_id in report.cancelled
        assert (await world.runtime.info(runs["edge-d"].run_id)).status is RunStatus.CANCELLED


class UnreadableStore(FragileStore):
    """Histories cannot be read while it is `broken`."""

    broken = False

    def histories(self, ns: list[int]) -> dict[int, History]:
        if self.broken:
            raise StoreError("the disk does not answer")
        return super().histories(ns)


@workflow(id="twice", retries=1)
async def twice(ctx: Context) -> int:
    if ctx.attempt == 1:
        raise ValueError("not yet")
    return ctx.attempt


async def test_a_history_that_cannot_be_read_stops_the_runtime_and_is_read_again_when_it_is_reopened() -> None:
    store = UnreadableStore()
    async with World(twice, store=store) as world:
        handle = await world.runtime.start(twice)
        store.broken = True
        await world.clock.advance("1m")
        with pytest.raises(StoreError, match="does not answer"):
            await handle.result()
        store.broken = False
        await world.crash()
        await world.open()
        assert await world.result(world.runtime.run(handle.run_id)) == 2


class BrokenStore(MemoryStore):
    """It has a bug: something else than a StoreError comes out of reading."""

    def histories(self, ns: list[int]) -> dict[int, History]:
        raise ZeroDivisionError("a bug")


async def test_a_service_that_fails_again_and_again_stops_the_runtime_and_says_so() -> None:
    clock = ManualClock()
    async with Runtime(BrokenStore(), clock=clock, drain_timeout=0) as runtime:
        handle = await runtime.start(twice)
        await clock.advance("1m")
        with pytest.raises(StoreError, match="loader"):
            await handle.result()
        with pytest.raises(StoreError, match="loader"):
            await runtime.start(twice)


@workflow(id="taken", retries=3)
async def taken(ctx: Context) -> None:
    await ctx.step.invoke("child", workflow=d, data=None, timeout="1h", run_id="in-use")


async def test_a_run_id_in_use_is_not_tried_again() -> None:
    async with World(taken, d) as world:
        await world.runtime.start(d, run_id="in-use")
        handle = await world.runtime.start(taken)
        with pytest.raises(WorkflowFailedError, match="in-use"):
            await world.result(handle)
        assert (await handle.info()).attempt == 1


# Many runs


async def _with_many_sleepers(store: FragileStore | Path, count: int = 2_000) -> None:
    async with Runtime(store, drain_timeout=0) as runtime:
        await asyncio.gather(*(runtime.start(d) for _ in range(count)))


async def test_opening_a_store_with_many_unfinished_runs_lets_the_host_have_its_turns() -> None:
    store, turns = FragileStore(), 0
    await _with_many_sleepers(store)

    async def host() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.create_task(host())
    async with Runtime(store, workflows=[d], drain_timeout=0):
        assert turns >= 8
    other.cancel()


async def test_opening_that_is_cancelled_half_way_lets_go_of_the_store(tmp_path: Path) -> None:
    await _with_many_sleepers(tmp_path / "rotor.db")
    cancelled = 0
    for turns in range(0, 40, 3):
        opening = asyncio.create_task(Runtime(tmp_path / "rotor.db", workflows=[d], drain_timeout=0).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0.001)
        opening.cancel()
        try:
            runtime = await opening
        except asyncio.CancelledError:
            cancelled += 1
        else:
            await runtime.__aexit__(None, None, None)
    assert cancelled
    async with Runtime(tmp_path / "rotor.db", workflows=[d], drain_timeout=0) as runtime:
        assert await runtime.count() == {RunStatus.RUNNING: 2_000}
