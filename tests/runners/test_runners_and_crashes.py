"""Steps with a runner, and everything around them dying: the program by kill -9, universes around each commit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import heavy_bodies as bodies
import pytest
from kit import World, with_a_crash_after_each_entry

from rotor_actors import Context, workflow
from rotor_actors.errors import StepRunnerError
from rotor_actors.runners import InProcessRunner, ProcessPoolRunner
from rotor_actors.simulation import RealWorldError, Simulation, simulate

PROGRAM = Path(__file__).parent.parent / "programs" / "heavy_work.py"
POOL = ProcessPoolRunner(max_workers=2)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_a_program_that_is_killed_takes_its_workers_along_and_the_step_is_executed_once_more(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, str(PROGRAM), str(tmp_path / "r.db"), str(pids)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent.parent.parent)}
    with subprocess.Popen(command, env=environment) as process:
        while not (pids.exists() and pids.read_text().split()):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    (worker,) = map(int, pids.read_text().split())
    while bodies.is_alive(worker):
        time.sleep(0.01)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[2, 3]", "the first step once more, the second once"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.strip() == "[2, 3]", "both are memoized"


@workflow(id="isqrt")
async def isqrt(ctx: Context, number: int) -> list[int]:
    first = await ctx.step.run("first", math.isqrt, number, runner="cpu")
    return [first, await ctx.step.run("second", math.isqrt, first, runner="cpu")]


@pytest.mark.asyncio
async def test_a_crash_at_any_entry_changes_nothing() -> None:
    def world() -> World:
        return World(isqrt, step_runners={"cpu": InProcessRunner()})

    outcomes = await with_a_crash_after_each_entry(world, isqrt, 10_000)
    assert len(outcomes) > 4
    assert outcomes == [[100, 10]] * len(outcomes)


@simulate(seeds=20, crash="every-commit", workflows=[isqrt], options={"step_runners": {"cpu": POOL}})
async def test_in_a_universe_a_pool_is_replaced_and_its_steps_are_as_deterministic_as_any(sim: Simulation) -> None:
    assert await sim.runtime.execute(isqrt, 10_000, run_id="r") == [100, 10]
    steps = Counter(step.step_id for step in await sim.runtime.steps("r"))
    assert steps == {"first": 1, "second": 1}
    assert POOL.pids == []


@simulate(seeds=1, options={"step_runners": {"cpu": POOL}})
async def test_in_a_universe_lambdas_are_refused_and_stubs_are_not(sim: Simulation) -> None:
    @workflow(id="lambda", retries=0)
    async def refused(ctx: Context) -> int:
        with pytest.raises(StepRunnerError, match="is a lambda"):
            await ctx.step.run("lambda", lambda: 1, runner="cpu")
        return await ctx.step.run("stubbed", bodies.double, 1, runner="cpu")

    sim.stub(bodies.double, returns=5)
    assert await sim.runtime.execute(refused) == 5


@simulate(seeds=1)
async def test_a_process_of_a_steps_own_is_refused_in_a_universe(sim: Simulation) -> None:
    def start() -> None:
        get_context("spawn").Process(target=print).start()

    @workflow(id="starts", retries=0)
    async def starts(ctx: Context) -> str:
        with pytest.raises(RealWorldError, match="a process was used inside a simulation"):
            await ctx.step.run("start", start)
        return "refused"

    assert await sim.runtime.execute(starts) == "refused"
