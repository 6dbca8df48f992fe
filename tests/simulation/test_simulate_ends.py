"""Run timeouts, handlers, and absolute sleeps in universes that crash around each of their commits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rotor_actors import Context, EndedRun, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError
from rotor_actors.simulation import Simulation, simulate


def noted(text: str) -> str:
    return text


async def tell(ctx: Context, ended: EndedRun[str]) -> None:
    """Fails at first: handlers are retried."""
    await ctx.step.run("tell", noted, f"{ended.data}: {ended.reason or (ended.error and ended.error.message)}")
    if ctx.attempt == 1:
        raise OSError("the line is busy")
    await ctx.step.run("hang up", noted, "bye")


@workflow(id="slow", timeout="1h", retries=0, on_failure=tell)
async def slow(ctx: Context, name: str) -> str:
    await ctx.step.run("begin", noted, name)
    await ctx.step.sleep("too long", "2h")
    return await ctx.step.run("end", noted, name)


@workflow(id="patient", retries=RetryPolicy(1, initial="5s", jitter=False), on_cancel=tell)
async def patient(ctx: Context, name: str) -> str:
    if ctx.attempt == 1:
        raise OSError("again")
    await ctx.step.run("begin", noted, name)
    await ctx.step.sleep_until("until", ctx.now() + timedelta(hours=3))
    return await ctx.step.run("end", noted, name)


@simulate(seeds=2, crash="every-commit")
async def test_a_run_times_out_once_at_its_moment_and_its_handler_runs_once_to_its_end(sim: Simulation) -> None:
    told = sim.stub(noted, returns=str)
    handle = await sim.runtime.start(slow, "a", run_id="one")
    with pytest.raises(WorkflowFailedError, match="RunTimeoutError"):
        await handle.result()
    assert 3600 <= sim.now() < 3620
    await sim.advance("10m")
    [handler] = await sim.runtime.runs(workflow="slow.on_failure")
    assert any(text.startswith("a: ") for (text,) in told.calls)
    assert 1 <= told.calls.count(("bye",)) <= 1 + sim.universe.crashes
    assert (sim.effects("end"), handler.status) == (0, RunStatus.COMPLETED)
    assert len(await sim.runtime.runs()) == 2


@simulate(seeds=2, crash="every-commit")
async def test_a_cancelled_run_is_cancelled_once_and_its_handler_is_told_why(sim: Simulation) -> None:
    told = sim.stub(noted, returns=str)
    handle = await sim.runtime.start(patient, "a", run_id="one")
    await sim.advance("1h")
    await sim.runtime.cancel("one", "no longer wanted")
    with pytest.raises(WorkflowCancelledError):
        await handle.result()
    await sim.advance("10m")
    [handler] = await sim.runtime.runs(workflow="patient.on_cancel")
    assert ("a: no longer wanted",) in told.calls
    assert 1 <= told.calls.count(("bye",)) <= 1 + sim.universe.crashes
    assert (sim.effects("end"), handler.status) == (0, RunStatus.COMPLETED)


@simulate(seeds=2, crash="every-commit")
async def test_an_absolute_sleep_ends_at_its_moment_whatever_crashes(sim: Simulation) -> None:
    handle = await sim.runtime.start(patient, "a", run_id="one")
    await sim.advance("1h")
    await sim.crash()
    assert await handle.result() == "a"
    assert 3 * 3600 <= sim.now() < 3 * 3600 + 30
    assert await sim.runtime.runs(workflow="patient.on_cancel") == []
