"""Replicas on one PostgreSQL, in real time: a few of what the tests in memory say, with real connections and threads."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from postgres_kit import a_store, a_url, execute, new_schema

from rotor_actors import Context, FlowControl, Runtime, Workflow, workflow
from rotor_actors.errors import StoreError
from rotor_actors.records import RunCreated, RunRow
from rotor_actors.service import Service

pytestmark = pytest.mark.asyncio

LEASE = 3.0


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    async def double(value: int) -> int:
        return value * 2

    return await ctx.step.run("double", double, number)


@workflow(id="parent")
async def parent(ctx: Context, count: int) -> int:
    ends = ctx.step.map("all", workflow=child, items=range(count), timeout="1h", concurrency=50, placement="any")
    return sum([outcome.body or 0 async for outcome in ends])


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> str:
    await ctx.step.sleep("a while", "1s")
    return "slept"


# Four bytes each: as long as it may be, where it is in an index.
LONGEST = "\U0001d11e" * 200


@workflow(id=LONGEST, flow_control=FlowControl(f"data.{LONGEST[:195]}", parallelism=1))
async def named_at_length(ctx: Context, data: dict[str, str]) -> str:
    ctx.report("far", key=LONGEST)
    # No index may refuse it: as random as an address is.
    address = "".join(map(chr, random.Random(1).sample(range(0x4E00, 0x9FFF), 3_000)))
    return await ctx.step.run(address, lambda: "done")


class Replicas:
    """Runtimes in a schema of their own."""

    def __init__(self) -> None:
        self.schema = new_schema()
        self.url = a_url()
        self._stack = AsyncExitStack()

    async def open(self, *workflows: Workflow[Any, Any], **options: Any) -> Runtime:
        store = a_store(self.schema, lease=LEASE)
        known = workflows or (parent, child, sleeper)
        return await self._stack.enter_async_context(Runtime(store, workflows=known, drain_timeout=0, **options))

    async def close(self) -> None:
        await self._stack.aclose()

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return await execute(self.url, sql.format(schema=self.schema))

    def service_of(self, runtime: Runtime) -> Service:
        service = runtime._service  # pyright: ignore[reportPrivateUsage]
        assert service is not None
        return service

    async def until_anew(self, runtime: Runtime, number: int | None) -> None:
        async with asyncio.timeout(30):
            while self.service_of(runtime).replica in (None, number):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_others_are_known(self, runtime: Runtime) -> None:
        async with asyncio.timeout(30):
            while not self.service_of(runtime).engine.sharing.others:  # type: ignore[union-attr] # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture
async def replicas() -> AsyncIterator[Replicas]:
    replicas = Replicas()
    yield replicas
    await replicas.close()


async def test_children_are_run_by_all_replicas_and_their_ends_come_to_the_parent(replicas: Replicas) -> None:
    runtimes = [await replicas.open() for _ in range(3)]
    await replicas.until_others_are_known(runtimes[0])
    handle = await runtimes[0].start(parent, 200)
    assert await asyncio.gather(*(each.run(handle.run_id).result("60s") for each in runtimes)) == [39800] * 3
    [(live,)] = await replicas.execute("SELECT count(*) FROM {schema}.rotor_runs WHERE ended_at IS NULL")
    assert live == 0
    async with asyncio.timeout(10):  # what was just told is taken away with the next commit
        while await replicas.execute("SELECT 1 FROM {schema}.rotor_mail"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_replica_whose_row_is_gone_begins_anew_and_its_runs_go_on(replicas: Replicas) -> None:
    first, second = await replicas.open(), await replicas.open()
    handle = await first.start(sleeper)
    number = replicas.service_of(first).replica
    await replicas.execute(f"DELETE FROM {{schema}}.rotor_replicas WHERE number = {number}")
    assert await handle.result("30s") == "slept"
    await replicas.until_anew(first, number)
    assert await first.execute(child, 4) == 8
    assert await second.execute(child, 5) == 10


async def test_a_replica_whose_connections_are_cut_goes_on_as_the_same_or_as_another(replicas: Replicas) -> None:
    first = await replicas.open()
    handle = await first.start(sleeper)
    waiting = asyncio.ensure_future(handle.result("60s"))
    await replicas.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert await waiting == "slept"
    assert await first.execute(parent, 20) == 380


async def test_a_loop_that_stood_still_for_longer_than_the_lease_begins_nothing_before_it_is_another_replica(
    replicas: Replicas,
) -> None:
    only = await replicas.open()
    begun_by: list[int | None] = []

    @workflow(id="acting")
    async def acting(ctx: Context) -> str:
        async def effect() -> str:
            begun_by.append(replicas.service_of(only).replica)
            return "done"

        await ctx.step.sleep("a while", "500ms")
        return await ctx.step.run("act", effect)

    handle = await only.start(acting)
    number = replicas.service_of(only).replica
    time.sleep(LEASE + 1)  # noqa: ASYNC251 - the loop is blocked: that is the point
    assert await handle.result("60s") == "done"
    assert number not in begun_by


async def test_what_a_lost_life_has_left_waiting_for_its_turn_is_refused_when_the_next_one_is_open(
    replicas: Replicas,
) -> None:
    """Found by replies that did not come: a commit that waited behind a hanging call came under the new number."""
    only = await replicas.open()
    ports, number = replicas.service_of(only).engine.ports, replicas.service_of(only).replica
    goes_on, hangs = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait(30)

    hanging = asyncio.ensure_future(ports.writer.call(hang))
    late = asyncio.ensure_future(
        ports.writer.call(lambda: ports.store.commit([RunCreated(RunRow(77, "late", "child", 77, "late", 0.0))]))
    )
    while not hangs.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await replicas.execute(f"DELETE FROM {{schema}}.rotor_replicas WHERE number = {number}")
    await replicas.until_anew(only, number)
    goes_on.set()
    await asyncio.wait([hanging, late])
    assert isinstance(late.exception(), StoreError)
    assert await replicas.execute("SELECT count(*) FROM {schema}.rotor_runs WHERE n = 77") == [(0,)]
    assert await only.execute(child, 4) == 8


async def test_no_name_is_so_long_that_an_index_refuses_it_and_the_commit_with_it(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """One such item would have taken all replicas down, one after the other: each that owns the run writes it again."""
    caplog.set_level(logging.WARNING, "rotor_actors")
    runtime = await replicas.open(named_at_length)
    first = replicas.service_of(runtime).replica

    async with asyncio.timeout(30):
        result = await runtime.execute(named_at_length, {LONGEST[:195]: LONGEST}, run_id=LONGEST)
        await runtime.pause_key(f"{LONGEST}:data.{LONGEST[:195]}={LONGEST}")
    replica = replicas.service_of(runtime).replica
    await replicas.close()

    assert (result, replica) == ("done", first)
    assert not [record for record in caplog.records if "lost the store" in record.getMessage()], "closed in good order"
