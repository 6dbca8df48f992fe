"""What the coordinator keeps for all replicas, on one PostgreSQL and in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from flow_kit import Watch
from postgres_kit import a_store, a_url, execute, new_schema

from rotor_actors import Context, Event, FlowControl, Idempotency, RunHandle, RunStatus, Runtime, Singleton, workflow
from rotor_actors.errors import SignalNotFoundError

pytestmark = pytest.mark.asyncio

LEASE = 3.0
watch = Watch()


@workflow(id="guarded", flow_control=FlowControl("scarce", parallelism=2))
async def guarded(ctx: Context, name: str) -> str:
    await ctx.step.run("enter", watch.enter, name)
    await ctx.step.sleep("hold", "50ms")
    await ctx.step.run("exit", watch.exit, name)
    return name


@workflow(id="only", singleton=Singleton(mode="skip"))
async def only(ctx: Context, name: str) -> str:
    await ctx.step.wait_for_signal("wait", signal="go", timeout="1m", returns=str)
    return name


@workflow(id="once", idempotency=Idempotency("data", period="1h"))
async def once(ctx: Context, order: int) -> int:
    return order


@workflow(id="placed", on="order.placed")
async def placed(ctx: Context, order: int) -> int:
    event = await ctx.step.wait_for_event("paid", event="order.paid", match="data", timeout="1m")
    assert event is not None
    return order


class Replicas:
    """Three runtimes in a schema of their own; the first one coordinates."""

    def __init__(self) -> None:
        self.schema = new_schema()
        self.runtimes: list[Runtime] = []
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        store = a_store(self.schema, lease=LEASE)
        runtime = Runtime(store, workflows=[guarded, only, once, placed], drain_timeout=0)
        self.runtimes.append(await self._stack.enter_async_context(runtime))

    async def close(self) -> None:
        await self._stack.aclose()

    async def count(self, table: str) -> int:
        [(count,)] = await execute(a_url(), f"SELECT count(*) FROM {self.schema}.{table}")
        return int(count)


@pytest_asyncio.fixture
async def replicas() -> AsyncIterator[Replicas]:
    replicas = Replicas()
    for _ in range(3):
        await replicas.open()
    yield replicas
    await replicas.close()


async def test_a_key_lets_only_so_many_run_also_when_the_coordinator_leaves(replicas: Replicas) -> None:
    first, second, third = replicas.runtimes
    handles: list[RunHandle[str]] = []
    for number in range(10):
        handles.append(await (second, third)[number % 2].start(guarded, f"run {number}"))
    await first.__aexit__(None, None, None)
    results = await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), 30)
    assert sorted(results) == sorted(f"run {number}" for number in range(10))
    assert watch.most <= 2


async def test_singletons_keys_and_signals_are_the_same_for_all(replicas: Replicas) -> None:
    first, second, third = replicas.runtimes
    ones = await asyncio.gather(second.start(only, "one"), third.start(only, "two"), first.start(only, "three"))
    assert len({handle.run_id for handle in ones}) == 1
    orders = await asyncio.gather(second.start(once, 7), third.start(once, 7), first.start(once, 7))
    assert len({handle.run_id for handle in orders}) == 1
    assert [await handle.result("30s") for handle in orders] == [7, 7, 7]
    async with asyncio.timeout(30):
        while True:
            try:
                await third.signal("go", "now")
                break
            except SignalNotFoundError:
                await asyncio.sleep(0.02)
    assert await ones[1].result("30s") == await ones[0].result("30s")


async def test_events_start_runs_once_and_reach_those_that_wait(replicas: Replicas) -> None:
    first, second, third = replicas.runtimes
    sent = await asyncio.gather(*(each.send(Event("order.placed", data=5, id="o5")) for each in replicas.runtimes))
    [run_id] = {run_id for started in sent for run_id in started}
    async with asyncio.timeout(30):
        while (await second.info(run_id)).status is RunStatus.RUNNING:
            await third.send(Event("order.paid", data=5))
            await asyncio.sleep(0.05)
    assert await first.run(run_id).result("30s") == 5
    assert await replicas.count("rotor_mail") == 0
