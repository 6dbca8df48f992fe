"""What a tree of runs may spend: a deadline, runs, depth, runs at a time, and units of the user's own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import WorkflowDefinitionError
from rotor_actors.ids import is_storable


class Budget(msgspec.Struct, frozen=True):
    """What a run and all below it may spend together. Runs below inherit it, and can only be given less.

    Args:
        deadline: how long they may take, from the creation of the run that has the budget; waiting in a queue counts.
        runs: how many runs it may invoke or start, directly and further below.
        depth: how many levels of runs may stand below it.
        concurrent: how many runs may be unended at a time, itself included. One more is refused, it does not wait.
        units: how much of each unit may be charged with `ctx.charge`, e.g. `{"tokens": 100_000}`.

    Raises:
        WorkflowDefinitionError: nothing is limited, or a limit is no number that can be one.
        DurationError: `deadline` is no duration.

    Example:
        >>> Budget(runs=50, units={"tokens": 100_000}).runs
        50
    """

    deadline: Duration | None = None
    runs: int | None = None
    depth: int | None = None
    concurrent: int | None = None
    units: Mapping[str, float] = {}

    def __post_init__(self) -> None:
        if self.deadline is not None:
            seconds(self.deadline, name="deadline", exclusive=True)
        for name, least in (("runs", 0), ("depth", 0), ("concurrent", 1)):
            _check_count(name, getattr(self, name), least)
        if not isinstance(self.units, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WorkflowDefinitionError(
                f'Budget(units=…) takes a mapping, e.g. {{"tokens": 1000}}; got {self.units!r}'
            )
        for unit, amount in self.units.items():
            check_charge(f"Budget(units={dict(self.units)!r})", unit, amount)
        if self.deadline is None and self.runs is self.depth is self.concurrent is None and not self.units:
            raise WorkflowDefinitionError(
                "Budget() limits nothing; give deadline=, runs=, depth=, concurrent= or units="
            )


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """A budget as stored: its deadline is a moment."""

    deadline: float | None = None
    runs: int | None = None
    depth: int | None = None
    concurrent: int | None = None
    units: dict[str, float] = {}


def limits_of(budget: Budget, began_at: float) -> Limits:
    """The budget of a run that was created at this time."""
    deadline = None if budget.deadline is None else began_at + seconds(budget.deadline, name="deadline")
    units = {unit: float(amount) for unit, amount in budget.units.items()}
    return Limits(deadline, budget.runs, budget.depth, budget.concurrent, units)


def narrowed(one: Limits, other: Limits) -> Limits:
    """What both allow."""
    units = {unit: min(one.units.get(unit, other.units.get(unit, 0.0)), other.units.get(unit, one.units.get(unit, 0.0)))
             for unit in {**one.units, **other.units}}  # fmt: skip
    return Limits(
        _least(one.deadline, other.deadline), _least(one.runs, other.runs), _least(one.depth, other.depth),
        _least(one.concurrent, other.concurrent), units,
    )  # fmt: skip


def check_charge(what: str, unit: object, amount: object) -> None:
    """Raise where it is no unit, or not an amount of one."""
    if not isinstance(unit, str) or not unit or not is_storable(unit):
        raise WorkflowDefinitionError(f'{what}: a unit is a non-empty text, e.g. "tokens"; got {unit!r}')
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
        raise WorkflowDefinitionError(f"{what}: an amount is a number from 0 on; got {amount!r} of {unit!r}")


def _check_count(name: str, value: object, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise WorkflowDefinitionError(f"Budget({name}={value!r}): expected a number of at least {least}, or None")


def _least(one: float | None, other: float | None) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
