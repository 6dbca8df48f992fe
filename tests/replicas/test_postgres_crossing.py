"""What crosses from replica to replica, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from test_postgres_replicas import Replicas, replicas

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowTimeoutError
from rotor_actors.records import RunFlag

__all__ = ["replicas"]

pytestmark = pytest.mark.asyncio


@workflow(id="leaf")
async def leaf(ctx: Context, seconds: float) -> str:
    await ctx.step.sleep("a while", seconds)
    return f"slept {seconds:g}"


@workflow(id="middle")
async def middle(ctx: Context, seconds: float) -> str:
    return (await ctx.step.invoke("down", workflow=leaf, data=seconds, timeout="1h", placement="any")).result


@workflow(id="top")
async def top(ctx: Context, count: int) -> list[str]:
    called = [
        ctx.step.invoke(f"call {n}", workflow=middle, data=600.0, timeout="1h", placement="any") for n in range(count)
    ]
    return [each.result for each in await asyncio.gather(*called)]


@workflow(id="patient")
async def patient(ctx: Context) -> list[str]:
    seen: list[str] = []
    try:
        await ctx.step.invoke("late", workflow=leaf, data=2.0, timeout="500ms", placement="any")
    except WorkflowTimeoutError as error:
        seen.append("timed out")
        seen.append((await error.child.join("join", timeout="1m")).result)
    try:
        async with asyncio.timeout(0.3):
            await ctx.step.invoke("withdrawn", workflow=leaf, data=600.0, timeout="1h", placement="any")
    except TimeoutError:
        seen.append("withdrawn")
    seen.append((await ctx.step.invoke("last", workflow=leaf, data=0.1, timeout="1m", placement="any")).result)
    return seen


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Look until that is what is to be seen."""
    async with asyncio.timeout(120):
        while await look() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def three(replicas: Replicas) -> list[Runtime]:
    found = [await replicas.open(leaf, middle, top, patient, label=f"r{n}") for n in range(3)]
    for each in found:
        await replicas.until_others_are_known(each)
    return found


async def _count(runtime: Runtime, root: str) -> int:
    return len(await runtime.runs(root=root))


async def test_a_tree_on_three_replicas_is_cancelled_from_each_of_them(replicas: Replicas) -> None:
    runtimes = await three(replicas)
    for number, runtime in enumerate(runtimes):
        run_id = f"top {number}"
        await runtimes[0].start(top, 8, run_id=run_id)
        await until(partial(_count, runtime, run_id), 17)
        report = await asyncio.wait_for(runtime.cancel(run_id, "enough"), 120)
        infos = await runtime.runs(root=run_id)
        assert Counter(each.status for each in infos) == {"cancelled": 17}
        assert sorted(report.cancelled) == sorted(each.run_id for each in infos)
        with pytest.raises(WorkflowCancelledError):
            await asyncio.wait_for(runtimes[1].run(run_id).result(), 120)


async def test_timeouts_late_joins_and_withdrawals(replicas: Replicas) -> None:
    runtimes = await three(replicas)
    result = await asyncio.wait_for(runtimes[0].execute(patient, None, run_id="p"), 120)
    assert result == ["timed out", "slept 2", "withdrawn", "slept 0.1"]
    await until(lambda: replicas.execute("SELECT count(*) FROM {schema}.rotor_runs WHERE ended_at IS NULL"), [(0,)])
    flags = await replicas.execute(
        "SELECT status, flags FROM {schema}.rotor_runs WHERE parent_n IS NOT NULL ORDER BY n"
    )
    assert flags == [("completed", RunFlag.RELEASED), ("cancelled", RunFlag.WITHDRAWN), ("completed", 0)]


async def test_no_mail_is_left_when_all_is_over(replicas: Replicas) -> None:
    runtimes = await three(replicas)
    handles = [await each.start(top, 5) for each in runtimes]
    await asyncio.sleep(0.3)
    await asyncio.gather(*(runtimes[n - 1].cancel(handle.run_id) for n, handle in enumerate(handles)))
    # The coordinator looks once more, after a while, and finds nothing.
    await until(lambda: replicas.execute("SELECT count(*) FROM {schema}.rotor_mail"), [(0,)])
    assert await replicas.execute("SELECT DISTINCT status FROM {schema}.rotor_runs") == [("cancelled",)]
