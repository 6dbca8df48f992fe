"""Who waits for what: the report of a universe in which nothing can happen any more."""

from __future__ import annotations

from typing import Protocol

from rotor_actors.run_actor import RunActor
from rotor_actors.simulation.loop import SimulationLoop
from rotor_actors.simulation.process import Process
from supervisors import await_chain

_MOST_LINES = 20


class Watched(Protocol):
    """As much of a universe as is looked at."""

    loop: SimulationLoop

    @property
    def process(self) -> Process | None: ...


def who_waits(universe: Watched) -> str:
    """Lines for each task and each run that waits."""
    lines = _runs(universe.process) + _tasks(universe.loop)
    more = [f"  … and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return "\n".join(["; who waits for what:", *lines[:_MOST_LINES], *more]) if lines else ""


def _tasks(loop: SimulationLoop) -> list[str]:
    lines: list[str] = []
    for task in loop.pending_tasks():
        whose = "the test" if task.life is None else repr(task.life)
        lines.append(f"  task {task.get_name()} of {whose} at {' > '.join(await_chain(task)) or 'its start'}")
    return lines


def _runs(process: Process | None) -> list[str]:
    engine = None if process is None else process.engine
    if engine is None:
        return []
    lines: list[str] = []
    for run in engine.tree:
        actor = run.actor
        if isinstance(actor, RunActor):
            state = actor._state  # pyright: ignore[reportPrivateUsage]
            waits = [f"{pending.kind.value} step {pending.step_id!r}" for pending in state.pending]
            body = actor.body
            where = "" if body is None else f" at {' > '.join(await_chain(body))}"
            lines.append(f"  {run.where}: {', '.join(waits) or 'no step'}{where}")
        else:
            lines.append(f"  {run.where}: {run.phase.name.lower()}")
    return lines
