"""Budgets of the runs of one engine: who lives by which, what is spent of it, and what happens when it is used up.

What is spent is an item, written in the act that spends it: the creation of a run, the outcome of a charge. So each is
counted once, whatever crashes. A budget is there for as long as some run lives by it; then its last state is kept
under the id of the run that had it, to be looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sized
from typing import Any

import msgspec

from rotor_actors.alarms import Alarms
from rotor_actors.body import NIL
from rotor_actors.budget import Budget, limits_of, narrowed
from rotor_actors.budget_node import SPACE, BudgetNode, BudgetRecord
from rotor_actors.cancellation import Cancellation
from rotor_actors.errors import ErrorInfo
from rotor_actors.features import StepFeature
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import (
    Entry,
    FlagsAdded,
    ItemDropped,
    ItemPut,
    ItemRow,
    Kind,
    Outcome,
    OutcomeStatus,
    RunFlag,
    RunRow,
    StepRow,
    Together,
)
from rotor_actors.run import Run
from rotor_actors.step_specs import ChargeSpec
from rotor_actors.stores.schema import SPENT_SPACE
from rotor_actors.workflows import Workflow

MEMBER_SPACE = "budget-member"

_logger = logging.getLogger("rotor_actors")


class Budgets(StepFeature):
    """All budgets of one engine. The step that it performs is `ctx.charge`."""

    kinds = (Kind.CHARGE,)
    spaces = (SPACE, MEMBER_SPACE)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self._nodes: dict[str, BudgetNode] = {}
        self._deadlines: Alarms[str] = Alarms()

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self.taken_in(list(self._kernel.tree), items)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        """Runs that live by a budget come all at once (`RunFlag.WHOLE`), and their budgets with them."""
        nodes: list[BudgetNode] = []
        for item in items[SPACE]:
            if item.body:
                record = msgspec.msgpack.decode(item.body, type=BudgetRecord)
                node = self._nodes[record.run_id] = BudgetNode(record, None, item.n)
                nodes.append(node)
        for node in nodes:
            node.above = None if node.record.above is None else self._nodes.get(node.record.above)
        members = {item.n: msgspec.msgpack.decode(item.body, type=str) for item in items[MEMBER_SPACE] if item.body}
        for run in runs:  # parents before children
            self._recover(run, members.get(run.row.n))
        for node in nodes:
            self._arm(node)
            self._settle(node)

    def released(self, runs: list[Run]) -> None:
        """With its last run a budget goes from memory; it is in the store."""
        for run in runs:
            for node in run.budget or ():
                node.live -= 1
                if node.live <= 0 and self._nodes.pop(node.record.run_id, None) is not None:
                    self._deadlines.discard(node.record.run_id)
            run.budget = None

    def _recover(self, run: Run, member_of: str | None) -> None:
        own = self._nodes.get(run.row.run_id)
        if own is None and member_of is not None:
            run.owns_items = True
            own = self._nodes.get(member_of)
            if own is None:  # it was started by a run of another tree, and that tree is another replica's
                _logger.warning("%s: the budget of run %s, which started it, is not here: what it spends is not counted",
                                run.where, member_of, extra={"run_id": run.row.run_id})  # fmt: skip
        if own is None and run.parent is not None and run.parent.row.n == run.row.parent_n:
            own = run.parent.budget
        run.budget = own
        if own is not None:
            for node in own:
                node.live += 1
        elif run.workflow is not None and run.workflow.budget is not None and run.row.attempt == 1:
            self._open_own(run, run.workflow.budget)  # the crash came between the run and its budget

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        """Runs that nobody knew how to run are left as they are; from now on they have their deadline again."""
        for run in self._kernel.tree.orphans:
            if run.row.workflow_id == workflow.id and run.budget is not None:
                for node in run.budget:
                    self._arm(node)

    # Who lives by which

    def run_spends(self, run: Run) -> None:
        if run.budget is not None:
            self._count(run, run.budget)
        if run.workflow is not None and run.workflow.budget is not None:
            self._open_own(run, run.workflow.budget)

    def _keep_whole(self, run: Run) -> None:
        """What is spent is counted in memory: all that live by it must be with one replica."""
        if self._kernel.sharing is not None and not run.row.flags & RunFlag.WHOLE:
            run.row.flags |= RunFlag.WHOLE
            self._kernel.append(run, FlagsAdded(run.row.n, RunFlag.WHOLE))

    def _count(self, run: Run, budget: BudgetNode) -> None:
        self._keep_whole(run)
        for node in budget:
            node.live += 1
            node.record.runs += 1
            self._kernel.append(run, _item(node))

    def give(self, run: Run, budget: Budget) -> None:
        """A budget for a run that was created just now, in the same act: beside the one of its workflow, if any."""
        own = run.budget
        if own is None or own.record.run_id != run.row.run_id:
            self._open_own(run, budget)
            return
        own.record.limits = narrowed(own.record.limits, limits_of(budget, run.row.created_at))
        self._kernel.append(run, _item(own))
        self._arm(own)

    def item_for(self, row: RunRow, workflow: Workflow[Any, Any], budget: Budget) -> ItemPut:
        """What `give` is going to append for the run of this row, which is not there yet."""
        limits = limits_of(budget, row.created_at)
        if workflow.budget is not None:
            limits = narrowed(limits_of(workflow.budget, row.created_at), limits)
        record = BudgetRecord(row.n, row.run_id, row.workflow_id, row.depth, limits, None, row.created_at)
        return _item(BudgetNode(record, None, row.n))

    def adopt(self, run: Run, budget: BudgetNode) -> None:
        """A run that was started, not invoked, lives by the budget of who started it, too."""
        kernel = self._kernel
        own = run.budget
        if own is None:
            run.budget = budget
            member = ItemRow(MEMBER_SPACE, run.row.run_id, msgspec.msgpack.encode(budget.record.run_id))
            kernel.append(run, kernel.put_item(member, run))
        else:
            own.above, own.record.above = budget, budget.record.run_id
            kernel.append(run, _item(own))
        self._count(run, budget)

    def rejoin(self, run: Run) -> None:
        """A run that goes on after its end lives by the budget of the living run that it stands under; it is no new run."""
        if run.parent is not None and run.parent.budget is not None:
            run.budget = budget = run.parent.budget
            for node in budget:
                node.live += 1
            if run.parent.row.n != run.row.parent_n:  # as recovery finds it only under its own
                member = ItemRow(MEMBER_SPACE, run.row.run_id, msgspec.msgpack.encode(budget.record.run_id))
                self._kernel.append(run, self._kernel.put_item(member, run))

    def _open_own(self, run: Run, budget: Budget) -> None:
        row, above = run.row, run.budget
        record = BudgetRecord(row.n, row.run_id, row.workflow_id, row.depth, limits_of(budget, row.created_at),
                              None if above is None else above.record.run_id, row.created_at)  # fmt: skip
        self._nodes[row.run_id] = run.budget = node = BudgetNode(record, above)
        node.live = 1
        self._keep_whole(run)
        if self._kernel.sharing is not None:
            node.holder, run.owns_items = row.n, True
        self._kernel.append(run, _item(node))
        self._arm(node)

    def run_ends(self, run: Run) -> list[Entry]:
        """Children that outlive it go on living by its budget: that must be known when it is gone."""
        if run.budget is None:
            return []
        handed = self._hand_on(run)
        survivors = [child for child in run.each_child() if child.row.flags & (RunFlag.RELEASED | RunFlag.ABANDON)]
        return handed + [
            self._kernel.put_item(
                ItemRow(MEMBER_SPACE, child.row.run_id, msgspec.msgpack.encode(child.budget.record.run_id)), child
            )
            for child in survivors
            if child.budget is not None and not child.is_doomed and child.budget.record.run_id != child.row.run_id
        ]

    def _hand_on(self, run: Run) -> list[Entry]:
        """Many replicas: its items go with it. A budget that others live by is one of them's from now on."""
        entries: list[Entry] = []
        for node in run.budget or ():
            if node.holder != run.row.n:
                continue
            heirs = (each for each in self._kernel.tree if each is not run and not each.is_doomed)
            heir = next((each for each in heirs if each.budget is not None and node in [*each.budget]), None)
            if heir is None:
                entries.append(_spent(node))
            else:
                node.holder, heir.owns_items = heir.row.n, True
                entries.append(_item(node))
        return entries

    @property
    def concerned(self) -> Sized:
        return self._nodes

    def run_ended(self, run: Run) -> None:
        if run.budget is not None:
            nodes = [*run.budget]
            for node in nodes:
                node.live -= 1
                self._settle(node)

    def _settle(self, node: BudgetNode) -> None:
        """Nobody lives by it any more: what was spent is kept, to be looked at."""
        if node.live > 0:
            return
        run_id = node.record.run_id
        self._nodes.pop(run_id, None)
        self._deadlines.discard(run_id)
        self._kernel.journal.append(Together([ItemDropped(SPACE, run_id), _spent(node)]))

    # Charges

    def begin(self, run: Run, pending: Pending) -> None:
        kernel, spec = self._kernel, pending.spec
        assert isinstance(spec, ChargeSpec)
        error, left, items = None, None, list[Entry]()
        if run.budget is not None:
            error = run.budget.charge(f"{run.where}: charge {pending.step_id!r}", spec.unit, spec.amount)
            left = run.budget.left(spec.unit)
            items = [_item(node) for node in run.budget]
        status = OutcomeStatus.COMPLETED if error is None else OutcomeStatus.FAILED
        blob = msgspec.msgpack.encode(left) if error is None else kernel.encode_error(error)
        row = StepRow(run.row.n, kernel.now(), Kind.CHARGE, pending.key, pending.step_id, pending.target, status, blob)
        kernel.record_outcome(run, row, Outcome(status, blob or NIL), *items)

    def withdraw(self, run: Run, pending: Pending) -> None:
        """What is spent is spent."""

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        return {}

    # Deadlines

    def _arm(self, node: BudgetNode) -> None:
        deadline = node.record.limits.deadline
        if deadline is not None:
            self._deadlines.add(node.record.run_id, deadline)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._deadlines.next_due()
        if due is not None and self._kernel.timers.due_of(self) != due:
            self._kernel.timers.add(self, due)

    def alarm(self, now: float) -> None:
        """The time of some budget is up: all that live by it have failed, or are below one that has."""
        while (run_id := self._deadlines.pop_due(now)) is not None:
            node = self._nodes.get(run_id)
            if node is not None:
                self._expire(node)
        self._set_timer()
        self._kernel.queue_of_runs.poke()

    def _expire(self, node: BudgetNode) -> None:
        for run in self._kernel.tree:  # parents before children
            if (
                run.budget is None
                or run.workflow is None
                or run.is_doomed
                or run.row.status.is_terminal
                or node not in [*run.budget]
            ):
                continue
            deadline = node.record.limits.deadline or 0.0
            error = node.exceeded(run.where, "deadline", deadline - node.record.began_at, 0.0)
            failure = ErrorInfo(type(error).__name__, str(error))
            reason = f"the budget of run {node.record.run_id} above it is spent: its deadline has passed"
            Cancellation(self._kernel, self._finishing, [run], reason, failure=failure).begin()


def _item(node: BudgetNode) -> ItemPut:
    return ItemPut(ItemRow(SPACE, node.record.run_id, msgspec.msgpack.encode(node.record), n=node.holder))


def _spent(node: BudgetNode) -> ItemPut:
    return ItemPut(ItemRow(SPENT_SPACE, node.record.run_id, msgspec.msgpack.encode(node.record), ord=node.record.n))
