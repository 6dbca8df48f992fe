"""What a trial may come to, worked out from its plan alone: no engine, no store, no time."""

from __future__ import annotations

from rotor_actors.records import RunStatus
from rotor_actors.simulation.ledger import Account, Ledger, decoded
from rotor_actors.simulation.plan import Act, AtOnce, Child, Op, Race, RunPlan, Sleep
from rotor_actors.simulation.trial import Trial, every_op

_MOST_ATTEMPTS = 3


class Model:
    """The plans of a trial, and what they allow."""

    def __init__(self, trial: Trial) -> None:
        self._plans = trial.plans
        self._caught: dict[str, bool] = {}
        self._withdrawable: set[str] = set()
        for plan in self._plans.values():
            self._look_at(plan)

    def _look_at(self, plan: RunPlan) -> None:
        for op in every_op(plan.ops):
            if isinstance(op, Act):
                self._caught[op.name] = op.is_caught
        for op in every_op(plan.ops):
            # A failing branch ends the attempt, and so its body; what its siblings await is not withdrawn by that.
            if isinstance(op, Race):
                self._withdrawable.update(inner.run.name for inner in every_op(op.ops) if isinstance(inner, Child))

    def is_caught(self, act: str) -> bool:
        return self._caught.get(act, False)

    def may_be_withdrawn(self, plan: str) -> bool:
        """Some scope that awaits a run of this plan can be cancelled by itself."""
        return plan in self._withdrawable

    def children_of_race(self, plan: str, race: str) -> list[str]:
        """The step ids of the children that this scope awaits."""
        ops = [op for op in every_op(self._plans[plan].ops) if isinstance(op, Race) and op.name == race]
        return [inner.name for op in ops for inner in every_op(op.ops) if isinstance(inner, Child)]

    # How a run may end

    def may_fail(self, plan: RunPlan) -> bool:
        return plan.bad_attempts >= _MOST_ATTEMPTS or any(self._raises(op, surely=False) for op in plan.ops)

    def must_fail(self, plan: RunPlan) -> bool:
        """Unless it is cancelled before."""
        return plan.bad_attempts >= _MOST_ATTEMPTS or any(self._raises(op, surely=True) for op in plan.ops)

    def _raises(self, op: Op, *, surely: bool) -> bool:
        match op:
            case Act():
                return op.fails and not op.is_caught
            case Sleep():
                return False
            case Child():
                # It may time out, or be cancelled, before it fails: both are caught.
                return not op.is_caught and not surely and self.may_fail(op.run)
            case AtOnce():
                return any(self._raises(inner, surely=surely) for branch in op.branches for inner in branch)
            case Race():
                return not surely and any(self._raises(inner, surely=False) for inner in op.ops)

    def objection(self, account: Account, ledger: Ledger) -> str:
        """What is wrong with how a run has ended; "" for nothing."""
        plan = self._plans.get(account.plan)
        if plan is None:
            return f"it acts no plan: {account.plan!r}"
        match account.row.status:
            case RunStatus.COMPLETED:
                if self.must_fail(plan):
                    return "it completed, and cannot but fail"
                seen = decoded(account.row.result)
                assert isinstance(seen, list)
                return self._missing(plan.ops, {str(text) for text in seen})  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            case RunStatus.FAILED:
                return "" if self.may_fail(plan) else f"it failed, and cannot: {decoded(account.row.error)}"
            case RunStatus.CANCELLED:
                return ""  # why was looked at when it was
            case _:
                return f"it has not ended: {account.row.status.value}"

    def _missing(self, ops: list[Op], seen: set[str]) -> str:
        """What a body that came to its end must have seen."""
        for op in ops:
            said = self._not_seen(op, seen)
            if said:
                return said
        return ""

    def _not_seen(self, op: Op, seen: set[str]) -> str:
        match op:
            case Act():
                is_there = any(text.startswith((f"{op.name}=", f"{op.name} failed")) for text in seen)
                is_right = any(text.startswith(f"{op.name}{' failed' if op.fails else '='}") for text in seen)
                return "" if is_there and is_right else f"{op.name} is not in its result, or is something else"
            case Sleep():
                return "" if f"{op.name} slept" in seen else f"{op.name} is not in its result"
            case Child():
                return self._child_not_seen(op, seen)
            case AtOnce():
                inner = [each for branch in op.branches for each in branch]
                return self._missing(inner, seen) if f"{op.name} all" in seen else f"{op.name} is not in its result"
            case Race():
                if f"{op.name} in time" in seen:
                    return self._missing(op.ops, seen)
                return "" if f"{op.name} too late" in seen else f"{op.name} is not in its result"

    def _child_not_seen(self, op: Child, seen: set[str]) -> str:
        said = [text.partition(" ")[2] for text in seen if text.startswith(f"{op.name} ")]
        if len(said) != 1:
            return f"{op.name} is in its result {len(said)} times"
        if said[0].startswith("completed") and self.must_fail(op.run):
            return f"{op.name} completed, and cannot but fail"
        if said[0] == "failed" and not self.may_fail(op.run):
            return f"{op.name} failed, and cannot"
        if said[0] == "timed out" and op.timeout > 10_000:
            return f"{op.name} timed out, and had a day"
        return ""
