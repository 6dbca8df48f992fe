"""`@simulate`: an async test that is run in many universes, and looks to pytest like any sync test."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec

from rotor_actors.simulation.campaign import Campaign, CrashMode, Plan
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.policies import policy_of
from rotor_actors.simulation.reporting import command_of
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.tape import Tape
from rotor_actors.simulation.universe import Settings
from rotor_actors.workflows import Workflow

P = ParamSpec("P")

_MODES = (None, "seeded", "every-commit")


def simulate(
    *,
    seeds: int = 100,
    crash: CrashMode | None = None,
    faults: Faults | None = None,
    policy: str = "sound",
    store: str = "sqlite",
    workflows: Iterable[Workflow[Any, Any]] = (),
    allow: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    replicas: int = 0,
) -> Callable[[Callable[Concatenate[Simulation, P], Awaitable[None]]], Callable[P, None]]:
    """Run an async test in many universes: virtual time, seeded chance, crashes, a disk that fails.

    Args:
        seeds: in how many universes at least.
        crash: `"seeded"`: the process dies by chance, in recovery too; `"every-commit"`: once before, at and after
            each commit of the first universe, and around some commit in each of the others; None: as in `faults`.
        faults: what else goes wrong, and how often.
        policy: `"sound"` orders callbacks as asyncio does; `"chaos"` and `"pct(3)"` also try other orders.
        store: `"sqlite"`, or `"memory"`, which is faster.
        workflows: those that must be known for `invoke_by_id`, or for events.
        allow: names of modules that may use the real world.
        options: more arguments for `Runtime`, such as `{"cancel_grace": "1s"}`. Whatever `step_runners` holds, its steps
            are executed inside the universe.

    The test's first parameter is the `Simulation`; the others are fixtures and parameters, as ever: they are made once
    and handed to each universe. What pytest sees is a sync function, under any asyncio mode, and it may be called
    inside a running event loop.

    Raises (of the decorated test):
        UniverseFailed: with the seed, a smaller schedule that fails in the same way, a timeline, and the command that
            runs this universe again.
        FaultNeverFiredError, NeverHeldError: nothing failed, and not all was tested that was asked for.

    Example:
        >>> from rotor_actors import Context, workflow
        >>> @workflow(id="nap")
        ... async def nap(ctx: Context) -> str:
        ...     await ctx.step.sleep("nap", "8h")
        ...     return "rested"
        >>> @simulate(seeds=3)
        ... async def test_nap(sim: Simulation) -> None:
        ...     assert await sim.runtime.execute(nap) == "rested"
        ...     assert sim.now() > 8 * 3600
        >>> test_nap()  # doctest: +ELLIPSIS
        test_nap: 3 universes, ...
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"simulate(seeds={seeds!r}): expected a number of at least 1, e.g. seeds=100")
    if crash not in _MODES:
        raise ValueError(f"simulate(crash={crash!r}): expected None, 'seeded' or 'every-commit'")
    policy_of(policy, Tape("checked"))
    if store not in ("sqlite", "memory"):
        raise ValueError(f"simulate(store={store!r}): expected 'sqlite' or 'memory'")
    _check_replicas(replicas, faults or Faults())
    settings = Settings(
        workflows=tuple(workflows), faults=faults or Faults(), policy=policy, store=store, allow=tuple(allow),
        options=dict(options or {}), replicas=replicas,
    )  # fmt: skip
    plan = Plan(seeds, crash, settings)

    def decorate(test: Callable[Concatenate[Simulation, P], Awaitable[None]]) -> Callable[P, None]:
        if not inspect.iscoroutinefunction(test):
            raise TypeError(f"simulate: {test!r} must be an async function: 'async def {test.__name__}(sim)'")
        before = _parameters_before(test)

        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            async def main(simulation: Simulation) -> None:
                await test(*args[:before], simulation, *args[before:], **kwargs)  # type: ignore[arg-type]

            __tracebackhide__ = True
            campaign = Campaign(test.__name__, main, plan, functools.partial(command_of, test))
            print(f"{test.__name__}: {campaign.run()}")

        run.__signature__ = _signature(test, before)  # type: ignore[attr-defined]
        return run

    return decorate


def _check_replicas(replicas: int, faults: Faults) -> None:
    if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"simulate(replicas={replicas!r}): expected a number from 0, e.g. replicas=3")
    misplaced = faults.misplaced(has_replicas=replicas > 0)
    if misplaced:
        where = "with replicas, whose database has no disk" if replicas else "without replicas: simulate(replicas=3)"
        raise ValueError(f"simulate(faults=…): {', '.join(misplaced)} cannot happen {where}")


def _parameters_before(test: Callable[..., object]) -> int:
    """A method's `self` comes before the simulation."""
    names = list(inspect.signature(test).parameters)
    if not names or names == ["self"]:
        raise TypeError(f"simulate: {test.__qualname__} takes no simulation: 'async def {test.__name__}(sim)'")
    return 1 if names[0] in ("self", "cls") else 0


def _signature(test: Callable[..., object], before: int) -> inspect.Signature:
    signature = inspect.signature(test)
    parameters = list(signature.parameters.values())
    del parameters[before]
    return signature.replace(parameters=parameters, return_annotation=None)
