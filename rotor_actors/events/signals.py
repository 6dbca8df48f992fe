"""Signals: each has a name that one step waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import msgspec

from rotor_actors.errors import SignalInUseError, SignalNotFoundError
from rotor_actors.features import StepFeature
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import ItemDropped, ItemRow, Kind, Outcome, OutcomeStatus, StepRow
from rotor_actors.run import Run
from rotor_actors.step_specs import WaitForSignalSpec

SPACE = "signal-waiters"


class SignalNote(msgspec.Struct, frozen=True):
    """The body of a waiter's item; its key is the signal's name."""

    key: bytes
    step_id: str


class SignalWait:
    """A step that waits for a signal."""

    __slots__ = ("due", "note", "run", "signal")

    def __init__(self, run: Run, signal: str, note: SignalNote, due: float) -> None:
        self.run = run
        self.signal = signal
        self.note = note
        self.due = due


class Signals(StepFeature):
    """The steps that wait for signals, at most one for each name."""

    spaces = (SPACE,)
    kinds = (Kind.WAIT_FOR_SIGNAL,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_name: dict[str, SignalWait] = {}
        self._of_run: dict[int, dict[bytes, SignalWait]] = {}

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            if run is not None:
                note = msgspec.msgpack.decode(item.body or b"", type=SignalNote)
                self._add(SignalWait(run, item.key, note, item.due or 0.0))

    def send(self, signal: str, data: bytes) -> int:
        """Give the signal to the step that waits for it; gives the number of the entry that says so.

        Raises:
            SignalNotFoundError: none does.
        """
        wait = self._by_name.get(signal)
        if wait is None or wait.run.is_doomed or self._kernel.now() >= wait.due:
            raise SignalNotFoundError(
                f"no run waits for a signal {signal!r} now, and it is not kept: send it when "
                f"step.wait_for_signal(…, signal={signal!r}) has been reached, or send an event"
            )
        self._end(wait.run, wait.note.key, wait.note.step_id, signal, Outcome(OutcomeStatus.COMPLETED, data))
        self._kernel.queue_of_runs.poke()
        return self._kernel.journal.last_seq

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        of_run = self._of_run.get(run.row.n, {})
        return {
            key: Known(Kind.WAIT_FOR_SIGNAL, wait.signal, step_id=wait.note.step_id, due=wait.due)
            for key, wait in of_run.items()
        }

    def begin(self, run: Run, pending: Pending) -> float | None:
        known = self._of_run.get(run.row.n, {}).get(pending.key)
        if known is not None:
            return known.due
        kernel, signal = self._kernel, pending.target
        spec: WaitForSignalSpec = pending.spec
        other = self._by_name.get(signal)
        if other is not None and not other.run.is_doomed:
            error = SignalInUseError(
                f"{run.where}: step {pending.step_id!r} cannot wait for signal {signal!r}: step {other.note.step_id!r} of "
                f"{other.run.where} waits for it already; a signal has one receiver, so put an id into its name"
            )
            outcome = Outcome(OutcomeStatus.FAILED, kernel.encode_error(error))
            self._end(run, pending.key, pending.step_id, signal, outcome)
            return None
        wait = SignalWait(run, signal, SignalNote(pending.key, pending.step_id), spec.due)
        self._add(wait)
        item = ItemRow(SPACE, signal, msgspec.msgpack.encode(wait.note), due=spec.due)
        kernel.append(run, kernel.put_item(item, run))
        return spec.due

    def withdraw(self, run: Run, pending: Pending) -> None:
        wait = self._of_run.get(run.row.n, {}).get(pending.key)
        if wait is not None:
            self._remove(wait)
            self._kernel.append(run, ItemDropped(SPACE, wait.signal))

    def due(self, run: Run, pending: Pending, at: float) -> None:
        if pending.key in self._of_run.get(run.row.n, {}):
            spec: WaitForSignalSpec = pending.spec
            outcome = Outcome(OutcomeStatus.TIMED_OUT, msgspec.msgpack.encode(spec.timeout))
            self._end(run, pending.key, pending.step_id, pending.target, outcome)

    @property
    def concerned(self) -> Sized:
        return self._of_run

    def run_ended(self, run: Run) -> None:
        if run.row.n in self._of_run:
            for wait in tuple(self._of_run[run.row.n].values()):
                self._remove(wait)

    def _end(self, run: Run, key: bytes, step_id: str, signal: str, outcome: Outcome) -> None:
        wait = self._of_run.get(run.row.n, {}).get(key)
        also = [] if wait is None else [ItemDropped(SPACE, signal)]
        if wait is not None:
            self._remove(wait)
        row = StepRow(run.row.n, self._kernel.now(), Kind.WAIT_FOR_SIGNAL, key, step_id, signal, outcome.status,
                      outcome.payload)  # fmt: skip
        self._kernel.record_outcome(run, row, outcome, *also)

    def _add(self, wait: SignalWait) -> None:
        self._by_name[wait.signal] = wait
        self._of_run.setdefault(wait.run.row.n, {})[wait.note.key] = wait

    def _remove(self, wait: SignalWait) -> None:
        if self._by_name.get(wait.signal) is wait:  # else its run was cancelled, and another waits for it already
            del self._by_name[wait.signal]
        of_run = self._of_run[wait.run.row.n]
        del of_run[wait.note.key]
        if not of_run:
            del self._of_run[wait.run.row.n]
