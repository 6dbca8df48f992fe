"""`step.join`: waiting for the end of any run by its id.

Who waits for whom is an item of the waiting run, and an index in memory. Awaiting a run is not owning it: neither of
the two ends with the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

import msgspec

from rotor_actors.errors import RunNotFoundError, StoreError
from rotor_actors.features import StepFeature
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import (
    ItemDropped,
    ItemRow,
    Kind,
    Outcome,
    OutcomeStatus,
    RunRow,
    RunStatus,
    RunWatched,
    StepRow,
)
from rotor_actors.run import Run
from rotor_actors.step_specs import EndNote, JoinSpec

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
            self._attend(target)

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
        self._attend(spec.run_id)
        return joiner.due

    def _attend(self, target: str) -> None:
        live = self._kernel.tree.find(target)
        if live is None:
            self._look_up(target)  # it has ended, perhaps just before a crash; or it is another replica's
        elif live.row.status.is_terminal:
            self._tell(live.row)  # cancelled, and still cleaning up
        elif self._kernel.sharing is not None:
            self._watch(live.row)

    def _watch(self, row: RunRow) -> None:
        """It is another replica's, or may become so: have the store tell those who wait for it."""
        for joiner in self._of_target.get(row.run_id, {}).values():
            self._kernel.append(joiner.run, RunWatched(row.n, joiner.run.row.n))
        self._kernel.journal.kick()

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

    def ended_elsewhere(self, watcher: Run, row: RunRow) -> None:
        self._tell(row)

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
        elif row is not None and kernel.sharing is not None:
            self._watch(row)
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
