"""What is left of a simulated process when it has died: its coroutines, whose `finally` blocks run when they go.

In the real world they would not run at all. Here they do, one way or another, for Python closes a coroutine that
nobody holds: so they run at once, in a known order, after the store was fenced, and nothing they do has an effect.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from typing import Any

from rotor_actors.engine import Engine
from rotor_actors.run_actor import RunActor
from rotor_actors.simulation.loop import SimulationTask

_MOST_REFUSALS = 10


def close_actors(engine: Engine) -> None:
    """The bodies of all runs, leaves first."""
    actors = [run.actor for run in reversed(list(engine.tree))]
    for actor in [*actors, *engine.stuck.bodies]:
        if isinstance(actor, RunActor):
            _close_actor(actor)


def _close_actor(actor: RunActor) -> None:
    loop = actor._loop  # pyright: ignore[reportPrivateUsage]
    tasks: list[Any] = list(loop.pending_tasks())
    actor.abandon()
    running = events._get_running_loop()
    events._set_running_loop(loop)
    try:
        for task in tasks:
            _close(task, task.get_coro(), loop)
    finally:
        loop.close()
        events._set_running_loop(running)


def close_tasks(tasks: list[SimulationTask]) -> None:
    """Services, steps, calls: the newest first."""
    for task in reversed(tasks):
        if not task.done():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _close(task, task.get_coro(), task.get_loop())


def _close(task: asyncio.Task[Any], coro: Any, loop: asyncio.AbstractEventLoop) -> None:
    asyncio.tasks._enter_task(loop, task)  # anyio's scopes look whose task they are left in
    try:
        for _ in range(_MOST_REFUSALS):
            try:
                coro.close()
            except RuntimeError:  # it awaited something while it was closed
                continue
            except BaseException:  # what a dead process raises in its `finally` blocks is nobody's concern
                pass
            break
    finally:
        asyncio.tasks._leave_task(loop, task)
