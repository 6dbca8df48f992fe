"""One budget while runs spend it: whose it is, what it allows, what is spent, and the budget above it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rotor_actors.budget import Limits
from rotor_actors.durations import humanize
from rotor_actors.errors import BudgetExceededError
from rotor_actors.stores.base import StoreReader
from rotor_actors.stores.schema import SPENT_SPACE

SPACE = "budget"


class BudgetRecord(msgspec.Struct):
    """A budget as stored. `above` is the run whose budget this one is a part of."""

    n: int
    run_id: str
    workflow_id: str
    depth: int
    limits: Limits
    above: str | None = None
    began_at: float = 0.0
    runs: int = 0
    units: dict[str, float] = {}


class BudgetNode:
    """A budget that some run lives by.

    Attributes:
        record: what is durable of it. above: the budget that it is part of.
        live: how many unended runs live by it.
        holder: many replicas: the run whose item it is, so that it comes to whoever owns that; else None.
    """

    __slots__ = ("above", "holder", "live", "record")

    def __init__(self, record: BudgetRecord, above: BudgetNode | None, holder: int | None = None) -> None:
        self.record = record
        self.above = above
        self.holder = holder
        self.live = 0

    def __iter__(self) -> Iterator[BudgetNode]:
        """This one and those above it."""
        node: BudgetNode | None = self
        while node is not None:
            yield node
            node = node.above

    def refusal(self, where: str, depth: int | None) -> BudgetExceededError | None:
        """Why one more run may not be created, if it may not.

        Args:
            where: names who wants it. depth: of the new run; None where it is the top of a tree of its own.
        """
        for node in self:
            limits, record = node.record.limits, node.record
            if limits.runs is not None and record.runs >= limits.runs:
                return node.exceeded(where, "runs", limits.runs, record.runs + 1)
            if limits.concurrent is not None and node.live >= limits.concurrent:
                return node.exceeded(where, "concurrent", limits.concurrent, node.live + 1)
            if limits.depth is not None and depth is not None and depth - record.depth > limits.depth:
                return node.exceeded(where, "depth", limits.depth, depth - record.depth)
        return None

    def charge(self, where: str, unit: str, amount: float) -> BudgetExceededError | None:
        """Spend, here and above; what is spent is spent, even if it is too much. Then the error says so."""
        error: BudgetExceededError | None = None
        for node in self:
            node.record.units[unit] = spent = node.record.units.get(unit, 0.0) + amount
            allowed = node.record.limits.units.get(unit)
            if error is None and allowed is not None and spent > allowed:
                error = node.exceeded(where, unit, allowed, spent)
        return error

    def left(self, unit: str) -> float | None:
        """How much of the unit is left by the tightest of the budgets; None where none limits it."""
        left = [node.record.limits.units[unit] - node.record.units.get(unit, 0.0)
                for node in self if unit in node.record.limits.units]  # fmt: skip
        return min(left, default=None)

    def exceeded(self, where: str, what: str, allowed: float, wanted: float) -> BudgetExceededError:
        record = self.record
        is_time = what == "deadline"
        limit = humanize(allowed) if is_time else f"{allowed:g}"
        how = (
            "has taken longer"
            if is_time
            else f"this would be {wanted:g}"
            if what in _COUNTS
            else f"{wanted:g} are spent"
        )
        spent = {"runs": float(record.runs), **record.units}
        told = ", ".join(f"{amount:g} {unit}" for unit, amount in spent.items())
        return BudgetExceededError(
            f"{where}: the budget of run {record.run_id} of workflow {record.workflow_id!r} allows {what}={limit}, and "
            f"{how}; spent so far, with all below it: {told}",
            record.run_id, what, allowed, spent,
        )  # fmt: skip


_COUNTS = ("runs", "concurrent", "depth")


def find_budget(run_id: str, store: StoreReader) -> BudgetRecord | None:
    """The budget of a run, as it stands in the store: one that runs live by, or its last state."""
    for space in (SPACE, SPENT_SPACE):
        item = store.item(space, run_id)
        if item is not None and item.body is not None:
            return msgspec.msgpack.decode(item.body, type=BudgetRecord)
    return None
