"""A workflow in many universes, crashed and recovered, ends as if nothing had happened."""

from __future__ import annotations

import asyncio

from rotor_actors import Context, RunStatus, workflow
from rotor_actors.simulation import Faults, Simulation, crash_everywhere, simulate


async def fetch(page: int) -> int:
    raise AssertionError("it is stubbed")


def add_one(number: int) -> int:
    return number + 1


@workflow(id="reader")
async def reader(ctx: Context, page: int) -> int:
    return await ctx.step.run("fetch", fetch, page)


@workflow(id="library")
async def library(ctx: Context, pages: int) -> int:
    invokes = [ctx.step.invoke(f"page-{n}", workflow=reader, data=n, timeout="1h") for n in range(pages)]
    read = await asyncio.gather(*invokes)
    await ctx.step.sleep("rest", "10m")
    return await ctx.step.run("add", add_one, sum(each.result for each in read))


@simulate(seeds=30, crash="every-commit")
async def test_a_fan_out_survives_a_crash_at_every_commit(sim: Simulation) -> None:
    sim.stub(fetch, returns=7, takes="3s")
    assert await sim.runtime.execute(library, 4) == 29
    assert 4 <= sim.effects(fetch) <= 8
    assert sim.now() >= 600
    sim.sometimes("a step was executed again", sim.effects(fetch) > 4)


@simulate(seeds=60, crash="seeded", faults=Faults(failed_fsync=0.03, failed_write=0.03, disk_full=0.03))
async def test_a_fan_out_survives_crashes_and_a_disk_that_fails(sim: Simulation) -> None:
    sim.stub(reader, returns=7, takes="3s")
    handle = await sim.runtime.start(library, 4)
    await sim.advance("1s")
    await sim.crash()
    assert await handle.result() == 29
    sim.sometimes("crashed while recovering", sim.universe.crashes > 2)


@simulate(seeds=30, crash="every-commit")
async def test_a_cancelled_tree_leaves_nothing_running_whatever_crashes(sim: Simulation) -> None:
    stub = sim.stub(fetch, returns=7, takes="3s")
    handle = await sim.runtime.start(library, 4)
    await sim.advance("2s")
    await handle.cancel()
    assert await sim.runtime.runs(root=handle.run_id, status="running") == []
    assert await handle.status() is RunStatus.CANCELLED
    began = len(stub.calls)
    await sim.advance("1h")
    assert len(stub.calls) == began, "no step begins after the cancellation was acknowledged"


def test_crash_everywhere_is_one_line() -> None:
    result = crash_everywhere(library, 2, stubs={fetch: 1})
    assert result.crashes >= 12
    assert result.universes == result.crashes + 1
