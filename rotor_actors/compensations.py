"""Compensation: the steps of a run that failed or was cancelled are undone, newest first, by a run of its own.

That run is created in the entry that ends the other. Its body asks what is to be undone, once, and then undoes each as
a step, with retries of its own; one that cannot be undone is reported at the end, and does not keep back the others.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import msgspec

from rotor_actors.body import NIL
from rotor_actors.context import Context
from rotor_actors.errors import CompensationError, ErrorInfo, RotorError
from rotor_actors.features import Feature
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Pending
from rotor_actors.records import (
    Entry,
    Kind,
    OutcomeStatus,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    RunStatus,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.retry import RetryPolicy, RetryRecord
from rotor_actors.run import Phase, Run
from rotor_actors.step_specs import RunSpec
from rotor_actors.undo import UndoNote, find_undo, parameter_codecs
from rotor_actors.workflows import EndedRun, Workflow

HANDLER = "undo"
_MOST_HISTORIES = 4


class ToUndo(msgspec.Struct, frozen=True):
    """One completed step: where it stands in the journal, and how its undo is to be executed."""

    step_id: str
    note_seq: int
    seq: int
    retries: RetryRecord
    timeout: float


class Compensations(Feature):
    """Notes how steps are undone, and starts the runs that do it."""

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self._created: dict[int, RunCreated] = {}
        self._histories: dict[str, dict[int, StepRow]] = {}

    # While a run goes on

    def note(self, run: Run, pending: Pending) -> None:
        """The step has completed, and its outcome is recorded next. Without that this says nothing."""
        spec: RunSpec = pending.spec
        assert spec.undo is not None
        kernel = self._kernel
        row = StepRow(run.row.n, kernel.now(), Kind.UNDO, pending.key, pending.step_id, spec.undo.name,
                      payload=spec.undo.note, seq=kernel.journal.next_seq)  # fmt: skip
        recorded: Entry = StepRecorded(row)
        if not run.row.flags & RunFlag.UNDOABLE:
            run.row.flags |= RunFlag.UNDOABLE
            recorded = Together([recorded, RunChanged(run.snapshot())])
        kernel.append(run, recorded)

    # When it ends

    def run_ends(self, run: Run) -> list[Entry]:
        """Its end is not completion: the run that undoes it is created in the same entry."""
        row = run.row
        if not row.flags & RunFlag.UNDOABLE or row.status is RunStatus.COMPLETED:
            return []
        failure = None
        if row.status is RunStatus.FAILED and row.error is not None:
            failure = msgspec.msgpack.decode(row.error, type=ErrorInfo)
        handler = _workflow_of(self, row.workflow_id, run.workflow)
        created = self._created[row.n] = self._finishing.handler_entry(run, handler, HANDLER, failure, "")
        return [created]

    @property
    def concerned(self) -> Sized:
        return self._created

    def run_ended(self, run: Run) -> None:
        created = self._created.pop(run.row.n, None)
        if created is None:
            return
        kernel = self._kernel
        if run.workflow is None:
            self._leave_as_orphan(created)
            return
        undoing = kernel.create(created.run, self._known(run.workflow), None, None)
        undoing.seen_seq = kernel.journal.last_seq

    def _leave_as_orphan(self, created: RunCreated) -> None:
        """Nobody knows how: it goes on when the workflow that it compensates for is registered."""
        orphan = Run(self._kernel, created.run.copy(), None, Phase.HELD)
        orphan.seen_seq = self._kernel.journal.last_seq
        self._kernel.tree.add(orphan)
        self._kernel.admission.take(orphan)
        self._kernel.tree.add_orphan(orphan)

    # Its workflow, which exists once something is to be undone

    def open(self, items: object) -> None:
        for run in self._kernel.tree.orphans:
            self.workflow_of(run.row)

    def taken_in(self, runs: list[Run], items: object) -> None:
        self.open(items)

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._created.pop(run.row.n, None)

    def workflow_of(self, row: RunRow) -> Workflow[Any, Any] | None:
        """The workflow of a run that undoes another, or that is a restart or a fork of one, which names no other."""
        owner = self._kernel.registry.get(row.workflow_id.removesuffix(f".{HANDLER}"))
        is_undoing = row.flags & RunFlag.HANDLER and row.parent_step_id in (HANDLER, None)
        is_named_so = owner is not None and owner.id != row.workflow_id
        return self._known(owner) if owner is not None and is_undoing and is_named_so else None

    def makes(self, workflow: Workflow[Any, Any]) -> bool:
        """Is it a workflow of ours, which belongs to this engine alone?"""
        owner_id = workflow.id.removesuffix(f".{HANDLER}")
        return owner_id != workflow.id and self._kernel.registry.get(owner_id) is not None

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        if self._kernel.sharing is not None and workflow.handles is None:
            self._known(workflow)  # of a run that undoes another's steps this replica must say that it can run it
            return
        wanted = f"{workflow.id}.{HANDLER}"
        if any(run.row.workflow_id == wanted for run in self._kernel.tree.orphans):
            self._known(workflow)

    def _known(self, owner: Workflow[Any, Any]) -> Workflow[Any, Any]:
        handler = self._kernel.registry.get(f"{owner.id}.{HANDLER}")
        if handler is None:
            handler = _workflow_of(self, owner.id, owner)
            self._kernel.registry.register(handler)
        return handler

    # What its steps do; called in worker threads

    def find(self, run_id: str) -> list[ToUndo]:
        """The completed steps that say how they are undone, newest first."""
        notes: dict[bytes, StepRow] = {}
        found: list[ToUndo] = []
        for row in self._history(run_id).values():
            if row.kind is Kind.UNDO:
                notes[row.key] = row
            elif row.kind is Kind.RUN and row.status is OutcomeStatus.COMPLETED and row.key in notes:
                noted = notes.pop(row.key)
                note = msgspec.msgpack.decode(noted.payload or b"", type=UndoNote)
                found.append(ToUndo(row.step_id, noted.seq, row.seq, note.retries, note.timeout))
        return found[::-1]

    def undo(self, run_id: str, workflow_id: str, note_seq: int, seq: int) -> Any:
        """Call the undo of one step. An async one gives its coroutine, which the step awaits."""
        history, owner = self._history(run_id), self._kernel.registry.get(workflow_id)
        noted, outcome = history[note_seq], history[seq]
        fn = None if owner is None else find_undo(owner, noted.target)
        if fn is None:
            raise RotorError(
                f"run {run_id}, step {noted.step_id!r}: its undo {noted.target!r} is not there any more; put the function "
                f"back under that name (@workflow(undos=[…]) takes any that has it), then resume this run"
            )
        note = msgspec.msgpack.decode(noted.payload or b"", type=UndoNote)
        codecs = parameter_codecs(fn, len(note.args) + 1, self._kernel.registry.codecs.of)
        payloads = [*note.args, outcome.payload or NIL]
        return fn(*(codec.decode(payload) for codec, payload in zip(codecs, payloads, strict=True)))

    def _history(self, run_id: str) -> dict[int, StepRow]:
        """The journal of a run that has ended, and so does not change any more."""
        known = self._histories.get(run_id)
        if known is None:
            store = self._kernel.ports.store
            row = store.find(run_id)
            if row is None:
                raise CompensationError(f"run {run_id} is not there any more: it was deleted before it was undone")
            while len(self._histories) >= _MOST_HISTORIES:
                self._histories.pop(next(iter(self._histories)), None)
            known = self._histories[run_id] = {step.seq: step for step in store.steps(row.n)}
        return known


def _workflow_of(source: Compensations, owner_id: str, owner: Workflow[Any, Any] | None) -> Workflow[Any, Any]:
    async def compensate(ctx: Context, ended: EndedRun[Any]) -> list[str]:
        undone: list[str] = []
        failed: list[str] = []
        errors: list[Exception] = []
        for each in await ctx.step.run("find", source.find, ended.run_id):
            policy = RetryPolicy.from_record(each.retries)
            try:
                await ctx.step.run(
                    f"undo {each.step_id}", source.undo, ended.run_id, ended.workflow_id, each.note_seq, each.seq,
                    timeout=each.timeout, retries=policy,
                )  # fmt: skip
            except Exception as error:
                failed.append(f"{each.step_id!r} ({type(error).__name__}: {error})")
                errors.append(error)
            else:
                undone.append(each.step_id)
        if failed:
            raise CompensationError(
                f"run {ended.run_id} of workflow {ended.workflow_id!r}: {len(failed)} steps could not be undone: "
                f"{', '.join(failed)}; {len(undone)} were"
            ) from ExceptionGroup("what was raised", errors)  # as its cause: resuming it tries these again
        return undone

    handler = Workflow[Any, Any](id=f"{owner_id}.{HANDLER}", fn=compensate)
    handler.handles = owner
    return handler
