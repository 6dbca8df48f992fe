"""What is run in a replicated universe: a trial, with calls to any of the replicas, until nothing is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from rotor_actors.runtime import Runtime
from rotor_actors.simulation.client import UniverseRuntime
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.judge import Judge
from rotor_actors.simulation.plan import Size, draw_plan
from rotor_actors.simulation.replicas.crowd import SCENES, Crowd
from rotor_actors.simulation.replicas.crowd_judge import CrowdJudge
from rotor_actors.simulation.replicas.judge import ReplicaJudge
from rotor_actors.simulation.replicas.universe import ReplicaUniverse
from rotor_actors.simulation.trial import Trial
from rotor_actors.simulation.universe import Universe

# Leases run out, runs are claimed again, sleeps and retries of runs that were let go of end.
_LONGEST = 600.0
# More than all that can go wrong takes, and all that a plan holds.
_LONGEST_TRIAL = 5_000.0
# Of its sleeps: of more than a minute, for which a run is parked.
_NAPS = 0.1
_LOOK_SECONDS = 2.0
_QUIET_LOOKS = 3


def judged_replicas(size: Size, judges: list[Judge]) -> Callable[[Universe], Awaitable[None]]:
    """See `judge.judged`: the same for several replicas. They share one program, which knows the trial's workflows."""

    async def main(universe: Universe) -> None:
        assert isinstance(universe, ReplicaUniverse)
        plans = draw_plan(universe.tapes.tape("trial"), msgspec.structs.replace(size, naps=_NAPS))
        trial = Trial(universe, plans)
        await _play(universe, ReplicaJudge(trial), judges, trial.workflows, trial.run)

    return main


def judged_crowd(
    width: int, judges: list[Judge], scenes: tuple[str, ...] = SCENES
) -> Callable[[Universe], Awaitable[None]]:
    """The same for a crowd, whose fan-outs have up to three times so many children."""

    async def main(universe: Universe) -> None:
        assert isinstance(universe, ReplicaUniverse)
        crowd = Crowd(universe, universe.tapes.tape("crowd"), width, scenes)
        await _play(universe, CrowdJudge(universe), judges, crowd.workflows, crowd.run)

    return main


async def _play(
    universe: ReplicaUniverse, judge: ReplicaJudge, judges: list[Judge], workflows: dict[str, Any],
    run: Callable[[Runtime], Awaitable[None]],
) -> None:  # fmt: skip
    judges.append(judge)
    judge.attach(universe)
    for workflow in workflows.values():
        universe.know(workflow)
    try:
        async with asyncio.timeout(_LONGEST_TRIAL):
            await run(UniverseRuntime(universe))
    except TimeoutError:
        raise InvariantError("11 every run ends", "long after all faults some callers were not answered") from None
    universe.heal()
    await _until_quiet(universe, judge)
    judge.at_end()


async def _until_quiet(universe: ReplicaUniverse, judge: ReplicaJudge) -> None:
    """Nothing runs, no message is under way, and it has been so for a while; or it takes too long, which is judged."""
    limit, quiet = universe.now() + _LONGEST, 0
    while quiet < _QUIET_LOOKS and universe.now() < limit:
        await asyncio.sleep(_LOOK_SECONDS)
        is_quiet = not universe.database.live_runs() and not universe.database.office.letters
        quiet = quiet + 1 if is_quiet and all(engine.is_idle for engine in universe.engines()) else 0
