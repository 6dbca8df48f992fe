"""`step.start`: a run of its own, linked to the run that started it, and neither awaited by it nor cancelled with it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from rotor_actors.budgets import Budgets
from rotor_actors.errors import PayloadError, RunExistsError, StoreError
from rotor_actors.features import StepFeature
from rotor_actors.ids import child_run_id
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import Entry, Kind, Outcome, OutcomeStatus, RunCreated, RunFlag, RunRow, RunStatus, StepRow
from rotor_actors.replicas.forwarding import Forwarding
from rotor_actors.roots import left_to_others, start_root_as
from rotor_actors.run import Run
from rotor_actors.run_actor import RunActor
from rotor_actors.step_specs import StartSpec
from rotor_actors.workflows import Workflow


class Detached(StepFeature):
    """Starts runs for runs. The new run and the outcome of the step that started it are one entry."""

    kinds = (Kind.START,)

    def __init__(self, kernel: Kernel, budgets: Budgets, forwarding: Forwarding | None) -> None:
        self._kernel = kernel
        self._budgets = budgets
        self._forwarding = forwarding

    def begin(self, run: Run, pending: Pending) -> None:
        spec: StartSpec = pending.spec
        if pending.key in self.waiting(run):
            return
        if spec.run_id is None:
            self._start(run, pending, child_run_id(run.row.run_id, pending.key, 1))
            return
        actor, busy = run.actor, ExitStack()
        assert isinstance(actor, RunActor)
        busy.enter_context(actor.steps.busy())
        self._kernel.in_background(self._start_if_new(run, actor, busy, pending, spec.run_id), run)

    def withdraw(self, run: Run, pending: Pending) -> None:
        """What was started runs on; what is being looked up sees that nobody waits any more."""
        if self._forwarding is not None:
            self._forwarding.asking.withdraw(run, pending)

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        return {} if self._forwarding is None else self._forwarding.asking.waiting(run, Kind.START)

    def _start(self, run: Run, pending: Pending, run_id: str) -> None:
        kernel, spec = self._kernel, pending.spec
        workflow = kernel.registry.get(spec.workflow_id)
        assert workflow is not None
        if run.budget is not None:
            error = run.budget.refusal(f"{run.where}: step {pending.step_id!r}", None)
            if error is not None:
                self._record(run, pending, OutcomeStatus.FAILED, kernel.encode_error(error))
                return
        row = self._row(run, pending, workflow, run_id)
        if self._forwarding is not None and self._forwarding.is_needed(workflow, is_chosen=spec.run_id is not None):
            self._forwarding.start_for(run, pending, row, is_chosen=spec.run_id is not None)
            return
        if workflow.rules is not None:
            self._start_by_rules(run, pending, workflow, row)
            return
        if self._goes_elsewhere(run, workflow):
            left = left_to_others(row)
            self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(run_id), *left.entries)
            return
        with kernel.journal.one_act():
            self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(run_id), RunCreated(row))
            started = kernel.create(row, workflow, None, run.context)
            if run.budget is not None:
                self._budgets.adopt(started, run.budget)
        started.seen_seq = kernel.journal.last_seq

    def _goes_elsewhere(self, run: Run, workflow: Workflow[Any, Any]) -> bool:
        sharing = self._kernel.sharing
        if sharing is None or run.budget is not None or workflow.budget is not None or workflow.cancel_on:
            return False
        return sharing.leaves_to_others(None)

    def _row(self, run: Run, pending: Pending, workflow: Workflow[Any, Any], run_id: str) -> RunRow:
        kernel, spec = self._kernel, pending.spec
        now, n = kernel.now(), kernel.tree.next_n()
        is_queued = kernel.admission.is_full_up
        return RunRow(
            n=n,
            run_id=run_id,
            workflow_id=spec.workflow_id,
            root_n=n,
            root_run_id=run_id,
            created_at=now,
            parent_run_id=run.row.run_id,
            parent_step_id=pending.step_id,
            input=spec.data,
            version=workflow.version,
            headers=spec.headers,
            status=RunStatus.QUEUED if is_queued else RunStatus.RUNNING,
            attempt_at=None if is_queued else now,
            flags=RunFlag.STARTED,
        )

    def _start_by_rules(self, run: Run, pending: Pending, workflow: Workflow[Any, Any], row: RunRow) -> None:
        """What becomes of it is the rules' to say: a run that waits in line, or the one that is there already."""
        kernel = self._kernel
        with kernel.journal.one_act():
            try:
                started = kernel.start_by_rules(row, workflow, run.context)
            except PayloadError as error:
                self._record(run, pending, OutcomeStatus.FAILED, kernel.encode_error(error))
                return
            new = self._kernel.tree.find(started.run_id) if started.is_new else None
            if new is not None and run.budget is not None:
                self._budgets.adopt(new, run.budget)
            if not run.is_doomed:  # a singleton may have replaced the very run that starts it
                self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(started.run_id))

    def _record(self, run: Run, pending: Pending, status: OutcomeStatus, blob: bytes, *also: Entry) -> None:
        kernel = self._kernel
        row = StepRow(run.row.n, kernel.now(), Kind.START, pending.key, pending.step_id, pending.target, status, blob)
        kernel.record_outcome(run, row, Outcome(status, blob), *also)

    # Under an id of the caller's choice

    async def _start_if_new(self, run: Run, actor: RunActor, busy: ExitStack, pending: Pending, run_id: str) -> None:
        kernel = self._kernel
        async with kernel.claims.hold(run_id):
            with busy:
                try:
                    existing = await self._find(run_id)
                except StoreError as error:
                    kernel.journal.fail(error)  # what cannot be read cannot go on; reopening tries again
                    return
            if run.is_doomed or run.actor is not actor or not actor.steps.waits_for(pending):
                return
            if existing is None and kernel.sharing is not None and not self._has_rules(pending.spec):
                await self._start_unless_taken(run, actor, pending, run_id)
                return
            if existing is None:
                self._start(run, pending, run_id)
            elif self._is_same(existing, pending.spec):
                self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(run_id))
            else:
                self._refuse(run, pending, existing)
            kernel.queue(run)
            with suppress(StoreError):
                await kernel.journal.durable(kernel.journal.last_seq)

    def _has_rules(self, spec: StartSpec) -> bool:
        workflow = self._kernel.registry.get(spec.workflow_id)
        return workflow is not None and workflow.rules is not None

    async def _start_unless_taken(self, run: Run, actor: RunActor, pending: Pending, run_id: str) -> None:
        """Other replicas may choose the same id in this moment: the database says who was first. The outcome comes
        with an entry of its own: a replay that does not find it finds the run, which is the same."""
        kernel = self._kernel
        workflow = kernel.registry.get(pending.spec.workflow_id)
        assert workflow is not None
        error = None if run.budget is None else run.budget.refusal(f"{run.where}: step {pending.step_id!r}", None)
        if error is not None:
            self._record(run, pending, OutcomeStatus.FAILED, kernel.encode_error(error))
            kernel.queue(run)
            return
        row, budget = self._row(run, pending, workflow, run_id), run.budget

        def wanted() -> bool:
            return not run.is_doomed and run.actor is actor and actor.steps.waits_for(pending)

        def begun(started: Run) -> None:
            if budget is not None:
                self._budgets.adopt(started, budget)
            if wanted():
                self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(run_id))

        with actor.steps.busy():
            try:
                is_ours = await start_root_as(kernel, row, workflow, run.context, then=begun)
                existing = None if is_ours else await self._find(run_id)
            except StoreError as failure:
                kernel.journal.fail(failure)
                return
            if existing is not None and wanted():
                if self._is_same(existing, pending.spec):
                    self._record(run, pending, OutcomeStatus.COMPLETED, msgspec.msgpack.encode(run_id))
                else:
                    self._refuse(run, pending, existing)
        kernel.queue(run)
        kernel.journal.kick()

    async def _find(self, run_id: str) -> RunRow | None:
        kernel = self._kernel
        live = kernel.tree.find(run_id)
        if live is not None:
            return live.row
        await kernel.journal.durable(kernel.journal.last_seq)  # it may have begun and ended just now
        return await kernel.ports.reader.call(lambda: kernel.ports.store.find(run_id))

    def _is_same(self, existing: RunRow, spec: StartSpec) -> bool:
        workflow = self._kernel.registry.get(spec.workflow_id)
        assert workflow is not None
        codec = self._kernel.registry.data_codec(workflow)
        return existing.workflow_id == spec.workflow_id and codec.gives_same(existing.input, spec.data)

    def _refuse(self, run: Run, pending: Pending, existing: RunRow) -> None:
        error = RunExistsError(
            f"{run.where}: step {pending.step_id!r} cannot start a run with the id {existing.run_id!r}: it belongs to a "
            f"run of workflow {existing.workflow_id!r} with other input; the same id is for starting the same again"
        )
        self._record(run, pending, OutcomeStatus.FAILED, self._kernel.encode_error(error))
