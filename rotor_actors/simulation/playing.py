"""One universe of random work: clients that start, cancel and wait, and the end that must be reached."""

from __future__ import annotations

import asyncio

from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError
from rotor_actors.records import RunStatus
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.workload import Drawing, Plan, World, expected, has_race

_LONGEST = 3600.0 * 48
_LOOK_SECONDS = 30.0


class Work:
    """Random work of a size.

    Args:
        roots: how many runs are started.
        width: how many children each has.
        cancels: how probable it is that one is cancelled.
    """

    def __init__(self, roots: int, width: int, cancels: float = 0.15) -> None:
        self._roots = roots
        self._width = width
        self._cancels = cancels

    async def __call__(self, sim: Simulation) -> None:
        world = World()
        drawing = Drawing(sim.universe.tapes.tape("workload"), self._width)
        plans = [drawing.plan(f"root-{number}") for number in range(self._roots)]
        async with asyncio.TaskGroup() as clients:
            for plan in plans:
                clients.create_task(self._client(sim, world, plan))
        sim.universe.heal()
        await _converge(sim)

    async def _client(self, sim: Simulation, world: World, plan: Plan) -> None:
        await asyncio.sleep((0.0, 0.0, 0.001, 0.5, 4.0)[sim.choose(5)])
        handle = await sim.runtime.start(world.workflow, plan, run_id=plan.name)
        is_cancelled = sim.chance(self._cancels)
        if is_cancelled:
            await asyncio.sleep((0.0, 0.002, 0.5, 3.0, 40.0)[sim.choose(5)])
            await handle.cancel("no longer wanted")
        if sim.chance(0.1):
            await sim.runtime.start(world.workflow, plan, run_id=plan.name)  # the same again: the same run
        try:
            found: list[str] | str | None = await handle.result()
        except WorkflowFailedError as error:
            found = error.error.message
        except WorkflowCancelledError:
            found = None
        _check(plan, found, is_cancelled=is_cancelled)


def _check(plan: Plan, found: list[str] | str | None, *, is_cancelled: bool) -> None:
    if found is None:
        if not is_cancelled:
            raise InvariantError(
                "only cancelled runs are cancelled", f"{plan.name} was, though nobody had asked for it"
            )
    elif not has_race(plan) and found != expected(plan):
        raise InvariantError("same result", f"{plan.name}: expected {expected(plan)!r}, found {found!r}")


async def _converge(sim: Simulation) -> None:
    """All that was left to itself (after a timeout, or abandoned) ends, too."""
    limit = sim.now() + _LONGEST
    while True:
        left = await sim.runtime.runs(status=[RunStatus.RUNNING, RunStatus.QUEUED], limit=5)
        if not left:
            return
        if sim.now() > limit:
            names = ", ".join(f"{run.run_id} of {run.workflow_id!r} ({run.status})" for run in left)
            raise InvariantError("every run ends", f"long after all faults these have not: {names}")
        await asyncio.sleep(_LOOK_SECONDS)
