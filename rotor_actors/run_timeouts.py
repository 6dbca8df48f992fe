"""The timeout of a run: one durable moment, whatever attempts, delays and restarts come before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rotor_actors.alarms import Alarms
from rotor_actors.cancellation import Cancellation
from rotor_actors.durations import humanize
from rotor_actors.errors import ErrorInfo, RunTimeoutError
from rotor_actors.features import Feature
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemRow
from rotor_actors.run import Run
from rotor_actors.workflows import Workflow

SPACE = "run-timeout"


class RunTimeouts(Feature):
    """Lets runs fail whose time is up. An item of each says when that is; it goes with the run's end."""

    spaces = (SPACE,)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self._alarms: Alarms[int] = Alarms()
        self._overdue: dict[int, float] = {}
        """Runs whose time was up while their workflow was not registered: they are left as they are until it is."""

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self.taken_in(list(self._kernel.tree), items)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            if run is not None and item.due is not None:
                run.owns_items = True
                self._set(run, item.due)
        for run in runs:
            self._begun_before(run)

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._alarms.discard(run.row.n)
            self._overdue.pop(run.row.n, None)

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        """Runs that nobody knew how to run had their timeout, too: it counts from when they began."""
        for run in self._kernel.tree.orphans:
            if run.row.workflow_id == workflow.id:
                run.workflow = workflow
                self._begun_before(run)
                if (due := self._overdue.pop(run.row.n, None)) is not None:
                    self._set(run, due)

    def begins(self, run: Run) -> None:
        """An attempt begins. The first one starts the clock."""
        if (
            run.row.n in self._alarms
            or run.row.n in self._overdue
            or run.workflow is None
            or run.workflow.timeout is None
        ):
            return
        assert run.row.attempt_at is not None
        due = run.row.attempt_at + run.workflow.timeout
        self._kernel.append(run, self._kernel.put_item(ItemRow(SPACE, run.row.run_id, due=due), run))
        self._set(run, due)
        self._arm()

    def _begun_before(self, run: Run) -> None:
        """A crash may have come between the beginning of a run and its item."""
        if run.row.attempt_at is not None and run.row.attempt == 1:
            self.begins(run)

    def _set(self, run: Run, due: float) -> None:
        self._alarms.add(run.row.n, due)
        self._arm()

    def _arm(self) -> None:
        due = self._alarms.next_due()
        if due is not None and self._kernel.timers.due_of(self) != due:
            self._kernel.timers.add(self, due)

    def run_ended(self, run: Run) -> None:
        self._alarms.discard(run.row.n)

    def alarm(self, now: float) -> None:
        """The time of some run is up."""
        while (n := self._alarms.pop_due(now)) is not None:
            run = self._kernel.tree.get(n)
            if run is None or run.is_doomed:
                continue
            if run.workflow is None:
                self._overdue[n] = now
            else:
                self._expire(run, run.workflow)
        self._arm()
        self._kernel.queue_of_runs.poke()

    def _expire(self, run: Run, workflow: Workflow[Any, Any]) -> None:
        took = "its timeout" if workflow.timeout is None else humanize(workflow.timeout)
        message = f"{run.where}: did not end within {took}; give @workflow(timeout=…) more time, or its steps less"
        failure = ErrorInfo(RunTimeoutError.__name__, message)
        reason = f"run {run.row.run_id} above it took longer than its timeout"
        Cancellation(self._kernel, self._finishing, [run], reason, failure=failure).begin()
