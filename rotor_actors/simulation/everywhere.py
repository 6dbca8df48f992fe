"""`crash_everywhere`: one workflow, crashed around each of its commits, must end as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError
from rotor_actors.simulation.campaign import Campaign, Plan, Result
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.universe import Settings
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")

_ROOT = "crash-everywhere"


class _End(msgspec.Struct):
    """How a universe ended: the outcome, and how often each step of each run was executed."""

    outcome: object
    effects: Counter[tuple[str, str]]


def crash_everywhere(
    workflow: Workflow[In, Out],
    data: In = None,  # type: ignore[assignment]
    *,
    stubs: Mapping[Callable[..., Any], object] | None = None,
    store: str = "sqlite",
    options: Mapping[str, Any] | None = None,
) -> Result:
    """Run a workflow; then once for each place around each of its commits at which the process can die.

    Each must end with the same result (or the same error). A step whose body was cut off by the crash is executed once
    more; none may be executed more often than that, and none may be left out.

    Args:
        workflow, data: what to run.
        stubs: what step functions return instead of being called.
        store: `"sqlite"` or `"memory"`.
        options: more arguments for `Runtime`.

    Returns:
        Result: among others the number of universes.

    Raises:
        UniverseFailed: one of them ended otherwise.

    Example:
        >>> from rotor_actors import Context, workflow
        >>> def pay() -> int:
        ...     return 7
        >>> @workflow(id="shop")
        ... async def shop(ctx: Context) -> int:
        ...     return await ctx.step.run("pay", pay)
        >>> crash_everywhere(shop).universes
        10
    """
    reference: list[_End] = []

    async def main(simulation: Simulation) -> None:
        for function, value in (stubs or {}).items():
            simulation.stub(function, returns=value)
        end = await _end(simulation, workflow, data)
        if not reference:
            reference.append(end)
        else:
            _compare(reference[0], end, simulation.universe.crashes)

    settings = Settings(workflows=(workflow,), store=store, options=dict(options or {}))
    name = f"crash_everywhere({workflow.id!r})"
    return Campaign(name, main, Plan(1, "every-commit", settings), lambda: "(the call of crash_everywhere)").run()


async def _end(simulation: Simulation, workflow: Workflow[Any, Any], data: object) -> _End:
    outcome: object
    try:
        outcome = await simulation.runtime.execute(workflow, data, run_id=_ROOT)
    except (WorkflowFailedError, WorkflowCancelledError) as error:
        outcome = error
    effects = Counter((effect.run_id, effect.step_id) for effect in simulation.universe.stubs.effects)
    return _End(outcome, effects)


def _compare(expected: _End, found: _End, crashes: int) -> None:
    if found.outcome != expected.outcome:
        raise InvariantError("same result", f"expected {expected.outcome!r}, found {found.outcome!r}")
    for step in {**expected.effects, **found.effects}:
        least, times = expected.effects[step], found.effects[step]
        if not least <= times <= least + crashes * (least > 0):
            raise InvariantError(
                "same effects",
                f"step {step[1]!r} of run {step[0]} was executed {times} times; without a crash {least} times, and a "
                f"crash may add one",
            )
