"""The runtime as a test sees it: always that of the current life, with calls that survive a crash.

A call whose process dies is made again in the next life, as a client would that lost its connection. So that this does
not start a second run, a start that is made again asks for the run id that it was given the first time.
"""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import Any

from rotor_actors.errors import RuntimeStateError, StoreCorruptedError, StoreError, StoreFullError
from rotor_actors.handle import RunHandle
from rotor_actors.runtime import Runtime
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.process import Process
from rotor_actors.simulation.universe import CallRecord, Universe
from rotor_actors.workflows import Workflow

_MOST_TRIES = 1_000
_STARTING = ("start",)
_RETRY_SECONDS = 0.25


class UniverseRuntime(Runtime):
    """A `Runtime` to call, and not to open: each call goes to the runtime that is open then."""

    def __init__(self, universe: Universe) -> None:  # pyright: ignore[reportMissingSuperCall]
        object.__setattr__(self, "_universe", universe)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        universe: Universe = object.__getattribute__(self, "_universe")
        attribute = getattr(Runtime, name)
        if name == "run":
            return partial(RunHandle[Any], self)
        if name == "execute":
            return partial(_execute, self)
        if inspect.iscoroutinefunction(attribute):
            return partial(_call, universe, self, name)
        return getattr(universe.runtime, name)


async def _execute(runtime: Runtime, *args: Any, **kwargs: Any) -> Any:
    handle = await runtime.start(*args, **kwargs)
    return await handle.result()


async def _call(universe: Universe, runtime: UniverseRuntime, verb: str, *args: Any, **kwargs: Any) -> Any:
    record = CallRecord()
    first: Any = args[0] if args else None
    if isinstance(first, Workflow):
        universe.know(args[0])
    if verb == "cancel" and args:
        universe.record(t.Asked(universe.now(), universe.lives, verb, args[0]))
    for _ in range(_MOST_TRIES):
        process = await universe.ready()
        task = _begin(universe, process, record, verb, args, kwargs)
        has_ended = await process.outcome_of(task)
        if has_ended and not await _is_to_be_made_again(universe, process, task):
            universe.record(_acknowledged(universe, process, verb, args, record, task))
            result: object = task.result()
            return RunHandle[Any](runtime, task.result().run_id) if isinstance(result, RunHandle) else result
        if verb in _STARTING and record.run_ids and kwargs.get("run_id") is None and not _may_lead_elsewhere(*args):
            kwargs["run_id"] = record.run_ids[0]
    raise RuntimeStateError(f"runtime.{verb} was tried {_MOST_TRIES} times, and the store failed each time")


def _may_lead_elsewhere(workflow: Any, *_: object) -> bool:
    """By its batch, debounce or idempotency a start may lead to another run: it is made again without an id."""
    rules = workflow.rules
    return rules is not None and (rules.merges or rules.idempotency is not None)


def _begin(
    universe: Universe, process: Process, record: CallRecord, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    context = process.context()
    context.run(universe.call_ids.set, record)
    method = getattr(process.runtime, verb)
    return universe.loop.create_task(method(*args, **kwargs), name=f"runtime.{verb}", context=context)


async def _is_to_be_made_again(universe: Universe, process: Process, task: asyncio.Task[Any]) -> bool:
    """The store failed, the disk is full for a while, or the runtime is closing because of either."""
    if task.cancelled():
        return False
    error = task.exception()
    if isinstance(error, StoreFullError):
        await asyncio.sleep(_RETRY_SECONDS)
        return True
    if isinstance(error, StoreCorruptedError) or not isinstance(error, StoreError | RuntimeStateError):
        return False
    if universe.settings.replicas:
        await asyncio.sleep(_RETRY_SECONDS)  # its next incarnation, or another replica
        return True
    if not process.has_failed and not process.is_dead:
        return False
    universe.condemn(process)
    while not process.is_dead:  # noqa: ASYNC110 - it is ended by a timer of the universe, not by anything awaitable
        await asyncio.sleep(_RETRY_SECONDS)
    return True


def _acknowledged(
    universe: Universe, process: Process, verb: str, args: tuple[Any, ...], record: CallRecord, task: asyncio.Task[Any]
) -> t.Acknowledged:
    if task.cancelled():
        outcome = "cancelled"
    elif (error := task.exception()) is not None:
        outcome = f"{type(error).__name__}: {error}"
    else:
        outcome = repr(task.result())
    first = args[0] if args else ""
    if verb in _STARTING and not task.cancelled() and task.exception() is None:
        first = task.result().run_id
    return t.Acknowledged(universe.now(), process.number, verb, first if isinstance(first, str) else "", outcome)
