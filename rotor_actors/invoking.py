"""Spawning children, attaching to those that run already, and letting go of them when the timeout passes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from rotor_actors.budgets import Budgets
from rotor_actors.cancellation import Cancellation
from rotor_actors.errors import RunExistsError, RunSkippedError, StoreError
from rotor_actors.finishing import Finishing
from rotor_actors.flow.creating import create_with_ticket, enter_created, queued
from rotor_actors.flow.passes import ticket_item
from rotor_actors.flow.ticket import Ticket
from rotor_actors.ids import child_run_id
from rotor_actors.kernel import Kernel
from rotor_actors.loading import ReleaseNote
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.records import (
    Entry,
    Kind,
    Outcome,
    OutcomeStatus,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.roots import left_to_others
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.step_specs import InvokeSpec
from rotor_actors.workflows import Workflow


class Invoking:
    """What a parent's supervisor does for its invokes."""

    def __init__(self, kernel: Kernel, finishing: Finishing, budgets: Budgets) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self._budgets = budgets

    def invoke(self, run: Run, pending: Pending, generation: int) -> None:
        """Spawn the child; or, after a recovery or in a later attempt, wait for the one that runs."""
        spec: InvokeSpec = pending.spec
        child = run.child(pending.key)
        if child is not None:
            self._await(run, pending.key, child)
        elif pending.is_spawned:
            return  # it has ended since the history was loaded: its end is in the mailbox
        elif spec.run_id is not None:
            # A withdrawn child keeps the id it was given: its successor's carries the generation.
            chosen = spec.run_id if generation == 1 else f"{spec.run_id}#{generation}"
            self._invoke_as(run, pending, generation, chosen)
        else:
            self._spawn(run, pending, generation, child_run_id(run.row.run_id, pending.key, generation))

    def _await(self, run: Run, key: bytes, child: Run) -> None:
        if isinstance(run.actor, RunActor) and child.row.deadline is not None and not child.is_doomed:
            run.actor.steps.await_until(key, child.row.deadline)

    def _spawn(self, run: Run, pending: Pending, generation: int, run_id: str) -> None:
        kernel, parent, spec = self._kernel, run.row, pending.spec
        workflow = kernel.registry.get(spec.workflow_id)
        assert workflow is not None
        ticket: Ticket | None = spec.ticket
        if ticket is not None and ticket.singleton is not None and self._meets_another(run, pending, ticket):
            return
        if run.budget is None and spec.budget is None and workflow.budget is None:
            self._create(run, pending, generation, run_id, workflow)
            return
        error = None
        if run.budget is not None:
            error = run.budget.refusal(f"{run.where}: step {pending.step_id!r}", parent.depth + 1)
        if error is not None:
            self._record(run, pending, OutcomeStatus.FAILED, "", kernel.encode_error(error))
            return
        with kernel.journal.one_act():
            child = self._create(run, pending, generation, run_id, workflow)
            if spec.budget is not None:
                self._budgets.give(child, spec.budget)

    def _create(self, run: Run, pending: Pending, generation: int, run_id: str, workflow: Workflow[Any, Any]) -> Run:
        kernel, spec = self._kernel, pending.spec
        ticket: Ticket | None = spec.ticket
        row = self._row(run, pending, generation, run_id, workflow)
        if ticket is not None:
            child = create_with_ticket(kernel, self._finishing, row, workflow, ticket, parent=run, context=run.context)
        elif self._goes_elsewhere(run, spec, workflow):
            entry = left_to_others(row)
            kernel.append(run, entry)
            child = self._stub(row, run)
        else:
            seq = kernel.append(run, RunCreated(row))
            child = kernel.create(row, workflow, run, run.context)
            child.seen_seq = seq
        kernel.progressed(run)
        self._await(run, pending.key, child)
        return child

    def _goes_elsewhere(self, run: Run, spec: InvokeSpec, workflow: Workflow[Any, Any]) -> bool:
        """Whoever lives by a budget stays with it: what is spent is counted in memory. And an event that cancels a run
        must find it from the first moment on: that is noted by whoever owns it."""
        sharing = self._kernel.sharing
        if sharing is None or run.budget is not None or spec.budget is not None or workflow.budget is not None:
            return False
        if workflow.cancel_on:
            return False
        return sharing.leaves_to_others(spec.placement)

    def _stub(self, row: RunRow, run: Run) -> Run:
        assert self._finishing.remote is not None
        own_row: RunRow = row.copy()
        return self._finishing.remote.stub(own_row, run)

    def _row(self, run: Run, pending: Pending, generation: int, run_id: str, workflow: Workflow[Any, Any]) -> RunRow:
        parent, spec, now = run.row, pending.spec, self._kernel.now()
        return RunRow(
            n=self._kernel.tree.next_n(),
            run_id=run_id,
            workflow_id=spec.workflow_id,
            root_n=parent.root_n,
            root_run_id=parent.root_run_id,
            created_at=now,
            parent_n=parent.n,
            parent_run_id=parent.run_id,
            parent_key=pending.key,
            parent_step_id=pending.step_id,
            generation=generation,
            depth=parent.depth + 1,
            input=spec.data,
            version=workflow.version,
            headers=spec.headers,
            retries=spec.retries,
            timeout=spec.timeout,
            deadline=now + spec.timeout,
            attempt_at=now,
            flags=RunFlag.ABANDON if spec.abandon else 0,
        )

    def _meets_another(self, run: Run, pending: Pending, ticket: Ticket) -> bool:
        """Say whether the child is a singleton's that may not be spawned now; the step fails, then."""
        other = self._other(run, ticket)
        if other is None:
            return False
        what = "and is this run, or above it" if _is_at_or_above(other, run) else "and has not ended"
        message = (
            f"{run.where}: step {pending.step_id!r} invokes workflow {pending.target!r}, a singleton: run "
            f"{other.row.run_id} of {ticket.singleton!r} is there {what}; await that one, or give the singleton a key"
        )
        blob = self._kernel.encode_error(RunSkippedError(message, other.row.run_id))
        self._record(run, pending, OutcomeStatus.FAILED, "", blob)
        return True

    def _other(self, run: Run, ticket: Ticket) -> Run | None:
        """The run of the child's singleton that keeps it from being spawned now."""
        other = self._kernel.gate.rival(ticket)
        if other is None or other.is_doomed or (ticket.replaces and not _is_at_or_above(other, run)):
            return None
        return other

    def _invoke_as(self, run: Run, pending: Pending, generation: int, run_id: str) -> None:
        """Spawn under an id of the caller's choice, once it is known to be free; until then it is not at rest."""
        actor, busy = run.actor, ExitStack()
        assert isinstance(actor, RunActor)
        busy.enter_context(actor.steps.busy())
        self._kernel.in_background(self._spawn_if_free(run, actor, busy, pending, generation, run_id), run)

    async def _spawn_if_free(
        self, run: Run, actor: RunActor, busy: ExitStack, pending: Pending, generation: int, run_id: str
    ) -> None:
        kernel = self._kernel
        async with kernel.claims.hold(run_id):
            with busy:
                try:
                    taken = await self._is_taken(run_id)
                except StoreError as error:
                    kernel.journal.fail(error)  # what cannot be read cannot go on; reopening tries again
                    return
            if run.is_doomed or run.actor is not actor or not actor.steps.waits_for(pending):
                return
            if taken:
                self._refuse(run, pending, run_id)
            elif kernel.sharing is not None:
                await self._spawn_unless_taken(run, actor, pending, generation, run_id)
                return
            else:
                self._spawn(run, pending, generation, run_id)
            kernel.queue(run)
            with suppress(StoreError):  # all who wait are told
                await kernel.journal.durable(kernel.journal.last_seq)

    async def _spawn_unless_taken(
        self, run: Run, actor: RunActor, pending: Pending, generation: int, run_id: str
    ) -> None:
        """Other replicas may choose the same id in this moment: the database says who was first."""
        kernel, spec = self._kernel, pending.spec
        workflow = kernel.registry.get(spec.workflow_id)
        assert workflow is not None
        refusal = None if run.budget is None else run.budget.refusal(
            f"{run.where}: step {pending.step_id!r}", run.row.depth + 1
        )  # fmt: skip
        if refusal is not None:
            self._record(run, pending, OutcomeStatus.FAILED, "", kernel.encode_error(refusal))
            kernel.queue(run)
            return
        ticket: Ticket | None = spec.ticket
        if ticket is not None and ticket.singleton is not None and self._meets_another(run, pending, ticket):
            kernel.queue(run)
            return
        row = self._row(run, pending, generation, run_id, workflow)
        created = RunCreated(row)
        entries: list[Entry] = [created]
        if ticket is not None:
            ticket = queued(kernel, row, ticket)
            entries += [ticket_item(row.n, ticket), *kernel.gate.announcement(row, ticket)]
        if spec.budget is not None and run.budget is None:
            row.flags |= RunFlag.WHOLE
            entries.append(self._budgets.item_for(row, workflow, spec.budget))

        def is_awaited() -> bool:
            return not run.is_doomed and run.actor is actor and actor.steps.waits_for(pending)

        def spawned() -> None:
            with kernel.journal.one_act():
                if ticket is None:
                    child = kernel.create(row, workflow, run, run.context)
                elif self._other(run, ticket) is None:
                    child = enter_created(kernel, self._finishing, row, workflow, ticket, run)
                else:  # one that came while the database was asked: this is nobody's, and must not hide that
                    if is_awaited():
                        self._meets_another(run, pending, ticket)
                    child = kernel.create(
                        row, workflow, run, run.context, msgspec.structs.replace(ticket, singleton=None)
                    )
                    if not run.is_doomed and run.phase is not Phase.ENDED:
                        run.drop_child(pending.key, child)
                        reason = "its singleton is there"
                        Cancellation(kernel, self._finishing, [child], reason, withdrawn=child).begin()
                        return
                child.seen_seq = max(child.seen_seq, created.seq)
                run.seen_seq = max(run.seen_seq, created.seq)
                if spec.budget is not None:
                    self._budgets.give(child, spec.budget)
            self._received(run, actor, pending, child)

        with actor.steps.busy():
            try:
                is_ours = await kernel.journal.attempt(entries, spawned)
            except StoreError:
                return  # all who wait are told
        if not is_ours:
            kernel.gate.no_more_announced(row)
        if not is_ours and is_awaited():
            self._refuse(run, pending, run_id)
        kernel.queue(run)
        kernel.journal.kick()

    def _received(self, run: Run, actor: RunActor, pending: Pending, child: Run) -> None:
        """The child is there. Its parent may have ended meanwhile, or have left the scope that awaits it."""
        kernel = self._kernel
        if run.is_doomed or run.phase is Phase.ENDED:
            reason = f"its parent ended ({run.row.status.value})"
            Cancellation(kernel, self._finishing, [child], reason).begin()
        elif run.actor is actor and not actor.steps.waits_for(pending):
            run.drop_child(pending.key, child)
            reason = "the scope that awaited it was cancelled"
            Cancellation(kernel, self._finishing, [child], reason, withdrawn=child).begin()
        else:
            kernel.progressed(run)
            self._await(run, pending.key, child)

    async def _is_taken(self, run_id: str) -> bool:
        kernel = self._kernel
        if kernel.tree.find(run_id) is not None:
            return True
        await kernel.journal.durable(kernel.journal.last_seq)  # it may have begun and ended just now
        return await kernel.ports.reader.call(lambda: kernel.ports.store.find(run_id)) is not None

    def _refuse(self, run: Run, pending: Pending, run_id: str) -> None:
        error = RunExistsError(
            f"{run.where}: step {pending.step_id!r} cannot spawn a run with the id {run_id!r}: another run has it; "
            f"leave run_id out, or choose one that is new"
        )
        blob = self._kernel.encode_error(error)
        self._record(run, pending, OutcomeStatus.FAILED, "", blob)

    def timed_out(self, run: Run, pending: Pending) -> None:
        """The parent lets go: the child runs on, and its end goes to nobody."""
        child = run.child(pending.key)
        if child is None or child.is_doomed:
            return  # its end is on its way
        if child.phase is Phase.REMOTE and self._finishing.remote is not None:
            let_go: list[Entry] = self._finishing.remote.let_go(child)
        else:
            child.row.flags |= RunFlag.RELEASED
            self._kernel.gate.let_go(child)
            let_go = [RunChanged(child.snapshot())]
        blob = msgspec.msgpack.encode(child.row.timeout or 0.0)
        self._record(run, pending, OutcomeStatus.TIMED_OUT, child.row.run_id, blob, let_go)

    def _record(
        self, run: Run, pending: Pending, status: OutcomeStatus, run_id: str, blob: bytes, also: Sequence[Entry] = ()
    ) -> None:
        kernel = self._kernel
        note = msgspec.msgpack.encode(ReleaseNote(run_id, pending.target, blob))
        row = StepRow(run.row.n, kernel.now(), Kind.INVOKE, pending.key, pending.step_id, pending.target, status, note)
        row.seq = seq = kernel.journal.next_seq
        recorded = StepRecorded(row)
        kernel.journal.append(Together([recorded, *also]) if also else recorded)
        kernel.progressed(run)
        run.post(StepEnded(pending.key, Outcome(status, blob), seq, row.at, run_id, pending.target))


def _is_at_or_above(other: Run, run: Run) -> bool:
    above: Run | None = run
    while above is not None and above is not other:
        above = above.parent
    return above is other
