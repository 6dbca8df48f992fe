"""A runtime over several stores, on the dashboard: as if it were one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dashboard_kit import act, get

from rotor_actors import Context, MemoryStore, Runtime, Workflow, workflow
from rotor_actors.sharding import Shard

pytestmark = pytest.mark.asyncio


@workflow(id="double")
async def double(ctx: Context, number: int) -> int:
    return 2 * number


@workflow(id="sum-of-doubles")
async def sum_of_doubles(ctx: Context, numbers: list[int]) -> int:
    ends = [ctx.step.invoke(str(each), workflow=double, data=each, timeout="1h") for each in numbers]
    return sum(end.result for end in await asyncio.gather(*ends))


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.step.sleep("long", "1h")


ALL: list[Workflow[Any, Any]] = [double, sum_of_doubles, sleeper]


def shards(count: int = 3) -> list[Shard]:
    return [Shard(MemoryStore(), f"shard-{number}") for number in range(count)]


async def test_the_dashboard_shows_all_shards_as_one() -> None:
    async with Runtime(shards(), workflows=ALL, drain_timeout=0) as runtime:
        for number in range(9):
            await runtime.execute(sum_of_doubles, [number, 1], run_id=f"top-{number}")
        page = runtime.dashboard()
        shown = await get(page, "api/runs", limit=5, top=1)
        more = await get(page, "api/runs", limit=5, top=1, after=shown["next"])
        assert {run["run_id"] for run in shown["runs"] + more["runs"]} == {f"top-{number}" for number in range(9)}
        assert shown["counts"] == {"completed": 27}
        for number in range(9):
            detail = await get(page, "api/run", id=f"top-{number}")
            assert (detail["below"], len(detail["steps"])) == (2, 2)
            assert len((await get(page, "api/tree", id=f"top-{number}"))["nodes"]) == 3
            assert len((await get(page, "api/timeline", id=f"top-{number}"))["spans"]) == 3
        await runtime.start(sleeper, run_id="asleep")
        done = await act(page, {"action": "cancel", "run_id": "asleep"})
        assert done.json()["said"].startswith("Cancelled 1 runs")
        services = await get(page, "api/services")
        assert {each["id"] for each in services["services"]} >= {"shard-0: journal", "shard-2: forwarding"}
        assert services["audit"][0]["target"] == "asleep"
