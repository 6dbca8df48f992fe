"""`step.join` and `step.cancel`: waiting for the end of any run by its id, and cancelling one.

Who waits for whom is an item of the waiting run, and an index in memory. Awaiting a run is not owning it: neither of
the two ends with the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from contextlib import ExitStack

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.errors import RunNotFoundError, StoreError
from rotor_actors.features import StepFeature
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending, StepEnded
from rotor_actors.records import (
    ItemDropped,
    ItemRow,
    Kind,
    Outcome,
    OutcomeStatus,
    RunRow,
    RunStatus,
    StepRecorded,
    StepRow,
)
from rotor_actors.run import Run
from rotor_actors.run_actor import RunActor
from rotor_actors.step_specs import CancelSpec, EndNote, JoinSpec

SPACE = "join"

_OUTCOME_OF = {
    RunStatus.COMPLETED: OutcomeStatus.COMPLETED,
    RunStatus.FAILED: OutcomeStatus.FAILED,
    RunStatus.CANCELLED: OutcomeStatus.CANCELLED,
}


class _Joiner(msgspec.Struct, eq=False):
    """One run that waits for another."""

    run: Run
    key: bytes
    step_id: str
    target: str
    due: float

    @property
    def item_key(self) -> str:
        return f"{self.run.row.run_id}:{self.key.hex()}"


class _JoinRecord(msgspec.Struct, frozen=True):
    key: bytes
    step_id: str
    target: str


class Joins(StepFeature):
    """Who waits for the end of a run that is not its child."""

    kinds = (Kind.JOIN,)
    spaces = (SPACE,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._of_run: dict[int, dict[bytes, _Joiner]] = {}
        self._of_target: dict[str, dict[tuple[int, bytes], _Joiner]] = {}

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self.taken_in([], items)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        targets: dict[str, None] = {}
        for item in items[SPACE]:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            if run is not None and item.body is not None:
                run.owns_items = True
                record = msgspec.msgpack.decode(item.body, type=_JoinRecord)
                self._add(_Joiner(run, record.key, record.step_id, record.target, item.due or 0.0))
                targets[record.target] = None
        for target in targets:
            if self._kernel.tree.find(target) is None:
                self._look_up(target)  # it ended, and the crash came before we were told

    # Steps

    def begin(self, run: Run, pending: Pending) -> float:
        known = self._of_run.get(run.row.n, {}).get(pending.key)
        if known is not None:
            return known.due
        kernel = self._kernel
        spec: JoinSpec = pending.spec
        joiner = _Joiner(run, pending.key, pending.step_id, spec.run_id, kernel.now() + spec.timeout)
        body = msgspec.msgpack.encode(_JoinRecord(joiner.key, joiner.step_id, joiner.target))
        kernel.append(run, kernel.put_item(ItemRow(SPACE, joiner.item_key, body, due=joiner.due), run))
        self._add(joiner)
        live = kernel.tree.find(spec.run_id)
        if live is None:
            self._look_up(spec.run_id)
        elif live.row.status.is_terminal:
            self._tell(live.row)  # cancelled, and still cleaning up
        return joiner.due

    def withdraw(self, run: Run, pending: Pending) -> None:
        joiner = self._of_run.get(run.row.n, {}).get(pending.key)
        if joiner is not None:
            self._remove(joiner)
            self._kernel.append(run, ItemDropped(SPACE, joiner.item_key))

    def due(self, run: Run, pending: Pending, at: float) -> None:
        joiner = self._of_run.get(run.row.n, {}).get(pending.key)
        if joiner is not None:
            spec: JoinSpec = pending.spec
            live = self._kernel.tree.find(joiner.target)
            workflow_id = "" if live is None else live.row.workflow_id
            blob = msgspec.msgpack.encode(spec.timeout)
            self._record([joiner], OutcomeStatus.TIMED_OUT, EndNote(joiner.target, workflow_id, blob))

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        joiners = self._of_run.get(run.row.n, {})
        return {key: Known(Kind.JOIN, joiner.target, step_id=joiner.step_id) for key, joiner in joiners.items()}

    # Ends

    @property
    def concerned(self) -> Sized:
        return self._of_target

    def run_ended(self, run: Run) -> None:
        self._forget(run)
        self._tell(run.row)

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._forget(run)

    def _forget(self, run: Run) -> None:
        for joiner in tuple(self._of_run.get(run.row.n, {}).values()):
            self._remove(joiner)

    def _tell(self, row: RunRow) -> None:
        joiners = self._of_target.get(row.run_id)
        if joiners:
            payload = row.result if row.status is RunStatus.COMPLETED else row.error
            self._record([*joiners.values()], _OUTCOME_OF[row.status], EndNote(row.run_id, row.workflow_id, payload))

    def _look_up(self, target: str) -> None:
        waiting = self._of_target.get(target, {})
        self._kernel.in_background(self._find(target), *(joiner.run for joiner in waiting.values()))

    async def _find(self, target: str) -> None:
        """It does not run. Either it has ended, or there never was such a run."""
        kernel = self._kernel
        try:
            await kernel.journal.durable(kernel.journal.last_seq)
            row = await kernel.ports.reader.call(lambda: kernel.ports.store.find(target))
        except StoreError as error:
            kernel.journal.fail(error)
            return
        if row is None and kernel.tree.find(target) is None:
            self._tell_there_is_none(target)
        elif row is not None and row.status.is_terminal:
            self._tell(row)
        kernel.queue_of_runs.poke()

    def _tell_there_is_none(self, target: str) -> None:
        for joiner in tuple(self._of_target.get(target, {}).values()):
            error = RunNotFoundError(f"{joiner.run.where}: step {joiner.step_id!r}: no run has the id {target!r}")
            self._record([joiner], OutcomeStatus.FAILED, EndNote("", "", self._kernel.encode_error(error)))

    def _record(self, joiners: list[_Joiner], status: OutcomeStatus, note: EndNote) -> None:
        kernel, blob = self._kernel, msgspec.msgpack.encode(note)
        for joiner in joiners:
            self._remove(joiner)
            if not joiner.run.is_doomed:
                row, dropped = _row(kernel, joiner, status, blob), ItemDropped(SPACE, joiner.item_key)
                kernel.record_outcome(joiner.run, row, Outcome(status, blob), dropped)

    # The index

    def _add(self, joiner: _Joiner) -> None:
        self._of_run.setdefault(joiner.run.row.n, {})[joiner.key] = joiner
        self._of_target.setdefault(joiner.target, {})[joiner.run.row.n, joiner.key] = joiner

    def _remove(self, joiner: _Joiner) -> None:
        n = joiner.run.row.n
        of_run, of_target = self._of_run.get(n, {}), self._of_target.get(joiner.target, {})
        of_run.pop(joiner.key, None)
        of_target.pop((n, joiner.key), None)
        if not of_run:
            self._of_run.pop(n, None)
        if not of_target:
            self._of_target.pop(joiner.target, None)


def _row(kernel: Kernel, joiner: _Joiner, status: OutcomeStatus, blob: bytes) -> StepRow:
    return StepRow(
        joiner.run.row.n, kernel.now(), Kind.JOIN, joiner.key, joiner.step_id, joiner.target, status, blob
    )  # fmt: skip


class CancelSteps(StepFeature):
    """Cancels runs for runs. The cancellation and the outcome of the step are one entry."""

    kinds = (Kind.CANCEL,)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing

    def begin(self, run: Run, pending: Pending) -> None:
        spec: CancelSpec = pending.spec
        live = self._kernel.tree.find(spec.run_id)
        if live is None:
            actor, busy = run.actor, ExitStack()
            assert isinstance(actor, RunActor)
            busy.enter_context(actor.busy())
            self._kernel.in_background(self._look_up(run, actor, busy, pending), run)
        elif live.row.status.is_terminal:
            self._record(run, pending, was_running=False)
        else:
            self._cancel(run, pending, live)

    def withdraw(self, run: Run, pending: Pending) -> None:
        """It is done at once, or there is nothing to do."""

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        return {}

    def _cancel(self, run: Run, pending: Pending, target: Run) -> None:
        kernel, spec = self._kernel, pending.spec
        cancellation = Cancellation(kernel, self._finishing, [target], spec.reason)
        if _is_below(run, target):
            cancellation.begin()  # it cancels itself with it, and answers to nobody
            return
        row, outcome = self._outcome(run, pending, was_running=True)
        row.seq = kernel.journal.next_seq
        # Before it learns of a child's end by the same entry: on replay a step's outcome comes before those, too.
        run.post(StepEnded(pending.key, outcome, row.seq, row.at))
        cancellation.begin([StepRecorded(row)])
        kernel.progressed(run)

    def _outcome(self, run: Run, pending: Pending, *, was_running: bool) -> tuple[StepRow, Outcome]:
        blob, status = msgspec.msgpack.encode(was_running), OutcomeStatus.COMPLETED
        at, n = self._kernel.now(), run.row.n
        row = StepRow(n, at, Kind.CANCEL, pending.key, pending.step_id, pending.target, status, blob)
        return row, Outcome(status, blob)

    def _record(self, run: Run, pending: Pending, *, was_running: bool) -> None:
        self._kernel.record_outcome(run, *self._outcome(run, pending, was_running=was_running))

    async def _look_up(self, run: Run, actor: RunActor, busy: ExitStack, pending: Pending) -> None:
        kernel, spec = self._kernel, pending.spec
        with busy:
            try:
                await kernel.journal.durable(kernel.journal.last_seq)
                row = await kernel.ports.reader.call(lambda: kernel.ports.store.find(spec.run_id))
            except StoreError as failure:
                kernel.journal.fail(failure)
                return
        if run.is_doomed or run.actor is not actor or not actor.waits_for(pending):
            return
        live = kernel.tree.find(spec.run_id)
        if live is not None and not live.row.status.is_terminal:
            self._cancel(run, pending, live)
        elif row is not None or live is not None:
            self._record(run, pending, was_running=False)
        else:
            error = RunNotFoundError(f"{run.where}: step {pending.step_id!r}: no run has the id {spec.run_id!r}")
            blob = kernel.encode_error(error)
            failed = StepRow(run.row.n, kernel.now(), Kind.CANCEL, pending.key, pending.step_id, pending.target,
                             OutcomeStatus.FAILED, blob)  # fmt: skip
            kernel.record_outcome(run, failed, Outcome(OutcomeStatus.FAILED, blob))
        kernel.queue(run)


def _is_below(run: Run, top: Run) -> bool:
    """Is `run` the run `top`, or below it?"""
    each: Run | None = run
    while each is not None and each is not top:
        each = each.parent
    return each is not None
