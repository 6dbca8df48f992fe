"""`step.cancel`: cancelling any run by its id, once, whatever crashes."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from contextlib import ExitStack

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.error_texts import bounded
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
    RunWatched,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.step_specs import CancelSpec

SPACE = "cancel-step"


class _Request(msgspec.Struct, frozen=True):
    """A run of another replica that a run of ours has asked to be cancelled."""

    key: bytes
    step_id: str
    target: str


class CancelSteps(StepFeature):
    """Cancels runs for runs. The cancellation and the outcome of the step are one entry.

    Save for a run that another replica owns: its owner is asked, and the step waits for the run's end, which says
    whether it was cancelled or had ended before.
    """

    kinds = (Kind.CANCEL,)
    spaces = (SPACE,)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self._requests: dict[int, dict[bytes, _Request]] = {}

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            if item.n is not None and item.body is not None and self._kernel.tree.get(item.n) is not None:
                request = msgspec.msgpack.decode(item.body, type=_Request)
                self._requests.setdefault(item.n, {})[request.key] = request

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._requests.pop(run.row.n, None)

    @property
    def concerned(self) -> Sized:
        return self._requests

    def run_ended(self, run: Run) -> None:
        self._requests.pop(run.row.n, None)

    def begin(self, run: Run, pending: Pending) -> None:
        spec: CancelSpec = pending.spec
        if pending.key in self._requests.get(run.row.n, {}):
            return
        live = self._kernel.tree.find(spec.run_id)
        if live is None:
            actor, busy = run.actor, ExitStack()
            assert isinstance(actor, RunActor)
            busy.enter_context(actor.steps.busy())
            self._kernel.in_background(self._look_up(run, actor, busy, pending), run)
        elif live.row.status.is_terminal:
            self._record(run, pending, was_running=False)
        else:
            self._cancel(run, pending, live)

    def withdraw(self, run: Run, pending: Pending) -> None:
        """It is done at once, or asked for; that is not taken back."""
        request = self._take(run, pending.key)
        if request is not None:
            self._kernel.append(run, ItemDropped(SPACE, _item_key(run, pending.key)))

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        requests = self._requests.get(run.row.n, {})
        return {key: Known(Kind.CANCEL, each.target, step_id=each.step_id) for key, each in requests.items()}

    # Runs of other replicas

    def _ask_owner(self, run: Run, pending: Pending, target: RunRow) -> None:
        kernel, remote, spec = self._kernel, self._finishing.remote, pending.spec
        assert remote is not None
        request = _Request(pending.key, pending.step_id, spec.run_id)
        self._requests.setdefault(run.row.n, {})[pending.key] = request
        item = ItemRow(SPACE, _item_key(run, pending.key), msgspec.msgpack.encode(request))
        asked = remote.cancel_entries([target.n], bounded(spec.reason))
        kernel.append(run, Together([kernel.put_item(item, run), *asked, RunWatched(target.n, run.row.n)]))
        kernel.journal.kick()

    def ended_elsewhere(self, watcher: Run, row: RunRow) -> None:
        for request in tuple(self._requests.get(watcher.row.n, {}).values()):
            if request.target == row.run_id and self._take(watcher, request.key) is not None:
                was_running = row.status is RunStatus.CANCELLED
                recorded, outcome = self._outcome(watcher, request, was_running=was_running)
                dropped = ItemDropped(SPACE, _item_key(watcher, request.key))
                self._kernel.record_outcome(watcher, recorded, outcome, dropped)

    def _take(self, run: Run, key: bytes) -> _Request | None:
        requests = self._requests.get(run.row.n)
        request = None if requests is None else requests.pop(key, None)
        if not requests:
            self._requests.pop(run.row.n, None)
        return request

    # Runs of our own

    def _cancel(self, run: Run, pending: Pending, target: Run) -> None:
        kernel, spec = self._kernel, pending.spec
        if target.phase is Phase.REMOTE:
            self._ask_owner(run, pending, target.row)
            return
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

    def _outcome(self, run: Run, pending: Pending | _Request, *, was_running: bool) -> tuple[StepRow, Outcome]:
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
        if run.is_doomed or run.actor is not actor or not actor.steps.waits_for(pending):
            return
        live = kernel.tree.find(spec.run_id)
        if live is not None and not live.row.status.is_terminal:
            self._cancel(run, pending, live)
        elif kernel.sharing is not None and live is None and row is not None and not row.status.is_terminal:
            self._ask_owner(run, pending, row)
        elif row is not None or live is not None:
            self._record(run, pending, was_running=False)
        else:
            error = RunNotFoundError(f"{run.where}: step {pending.step_id!r}: no run has the id {spec.run_id!r}")
            blob = kernel.encode_error(error)
            failed = StepRow(run.row.n, kernel.now(), Kind.CANCEL, pending.key, pending.step_id, pending.target,
                             OutcomeStatus.FAILED, blob)  # fmt: skip
            kernel.record_outcome(run, failed, Outcome(OutcomeStatus.FAILED, blob))
        kernel.queue(run)


def _item_key(run: Run, key: bytes) -> str:
    return f"{run.row.run_id}:{key.hex()}"


def _is_below(run: Run, top: Run) -> bool:
    """Is `run` the run `top`, or below it?"""
    each: Run | None = run
    while each is not None and each is not top:
        each = each.parent
    return each is not None
