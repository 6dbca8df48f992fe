"""Signals: each has a name that one step waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import msgspec

from rotor_actors.errors import SignalInUseError, SignalNotFoundError, StoreError
from rotor_actors.features import StepFeature
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import ItemDropped, ItemRow, Kind, MailKind, Outcome, OutcomeStatus, StepRow
from rotor_actors.replicas.asking import Asker, Asking
from rotor_actors.run import Run
from rotor_actors.sharing import Sharing
from rotor_actors.step_specs import WaitForSignalSpec
from rotor_actors.stores.base import ItemQuery
from rotor_actors.stores.shared import Mail

SPACE = "signal-waiters"
_MOST_RIVALS = 100
_BETWEEN = "\x1f"  # of signal and run in a key, with many replicas


class SignalNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a waiter's item; its key is the signal's name. With many replicas the number of the run is in it, too,
    for two may begin to wait at once; `at` says who was first."""

    key: bytes
    step_id: str
    at: float = 0.0


class SignalSent(msgspec.Struct, frozen=True):
    """To a run: for its step of this key, if that waits still."""

    asker: Asker
    signal: str
    key: bytes
    data: bytes


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

    def __init__(self, kernel: Kernel, asking: Asking | None = None) -> None:
        self._kernel = kernel
        self._asking = asking
        self._by_name: dict[str, SignalWait] = {}
        self._of_run: dict[int, dict[bytes, SignalWait]] = {}

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self.taken_in([], items)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            if run is not None:
                run.owns_items = True
                note = msgspec.msgpack.decode(item.body or b"", type=SignalNote)
                self._add(SignalWait(run, signal_of(item), note, item.due or 0.0))

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self.run_ended(run)

    async def deliver(self, signal: str, data: bytes) -> int:
        """Give the signal to the step that waits for it, whoever owns its run; gives the entry that must be durable.

        Raises:
            SignalNotFoundError: none does. AnswerTimeoutError: the run's owner has not taken it yet.
        """
        if self._asking is not None and not self._waits_here(signal):
            await self._deliver_elsewhere(self._asking, signal, data)
            return self._kernel.journal.durable_seq
        return self.send(signal, data)

    def _waits_here(self, signal: str) -> bool:
        wait = self._by_name.get(signal)
        return wait is not None and not wait.run.is_doomed and self._kernel.now() < wait.due

    def send(self, signal: str, data: bytes) -> int:
        """Give the signal to the step of ours that waits for it; gives the number of the entry that says so.

        Raises:
            SignalNotFoundError: none does.
        """
        wait = self._by_name.get(signal)
        if wait is None or not self._waits_here(signal):
            raise _not_found(signal)
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
            error = _in_use(run, pending.step_id, signal, other.note.step_id, other.run.where)
            outcome = Outcome(OutcomeStatus.FAILED, kernel.encode_error(error))
            self._end(run, pending.key, pending.step_id, signal, outcome)
            return None
        at = 0.0 if kernel.sharing is None else kernel.now()
        wait = SignalWait(run, signal, SignalNote(pending.key, pending.step_id, at), spec.due)
        self._add(wait)
        item = ItemRow(SPACE, self._item_key(run, signal), msgspec.msgpack.encode(wait.note), due=spec.due)
        kernel.append(run, kernel.put_item(item, run))
        if kernel.sharing is not None:
            kernel.in_background(self._look_for_another(wait))
        return spec.due

    # Many replicas

    def _item_key(self, run: Run, signal: str) -> str:
        return signal if self._kernel.sharing is None else f"{signal}{_BETWEEN}{run.row.n}"

    def serve(self, sharing: Sharing) -> None:
        """Take signals by mail, for runs of ours."""
        sharing.handlers[MailKind.SIGNAL] = self._came

    def _came(self, mail: Mail, run: Run | None) -> None:
        sent = msgspec.msgpack.decode(mail.body or b"", type=SignalSent)
        assert self._asking is not None
        wait = None if run is None else self._of_run.get(run.row.n, {}).get(sent.key)
        if wait is None or wait.run.is_doomed or self._kernel.now() >= wait.due:
            self._asking.answer(sent.asker, error=_not_found(sent.signal))
        else:
            self._end(wait.run, sent.key, wait.note.step_id, wait.signal, Outcome(OutcomeStatus.COMPLETED, sent.data))
            self._asking.answer(sent.asker)

    async def _deliver_elsewhere(self, asking: Asking, signal: str, data: bytes) -> None:
        waiters = [each for each in await self._in_store(signal) if each.due is None or self._kernel.now() < each.due]
        if not waiters:
            raise _not_found(signal)
        item = min(waiters, key=_came_at)
        key = msgspec.msgpack.decode(item.body or b"", type=SignalNote).key
        answer = await asking.ask(
            f"signal {signal!r}", MailKind.SIGNAL, lambda asker: SignalSent(asker, signal, key, data), to=item.n or 0
        )
        if answer is None:  # its run has ended meanwhile
            raise _not_found(signal)
        answer.result()

    async def _in_store(self, signal: str) -> list[ItemRow]:
        """Who waits for it, to the store."""
        kernel, prefix = self._kernel, f"{signal}{_BETWEEN}"
        await kernel.journal.durable(kernel.journal.last_seq)
        query = ItemQuery(SPACE, _MOST_RIVALS, after=(0, prefix))
        items = await kernel.ports.reader.call(lambda: kernel.ports.store.items(query))
        return [item for item in items if item.key.startswith(prefix) and item.n is not None and not item.is_damaged]

    async def _look_for_another(self, wait: SignalWait) -> None:
        """A run of another replica may wait for the same signal: the later of the two fails, as it would here."""
        kernel, n = self._kernel, wait.run.row.n
        try:
            items = await self._in_store(wait.signal)
        except StoreError as error:
            kernel.journal.fail(error)
            return
        first = min((item for item in items if item.due is None or kernel.now() < item.due), key=_came_at, default=None)
        if first is None or first.n == n or self._of_run.get(n, {}).get(wait.note.key) is not wait:
            return
        rows = await kernel.ports.reader.call(lambda: kernel.ports.store.rows([first.n or 0]))
        if not rows or rows[0].ended_at is not None or self._of_run.get(n, {}).get(wait.note.key) is not wait:
            return
        note = msgspec.msgpack.decode(first.body or b"", type=SignalNote)
        refused = _in_use(wait.run, wait.note.step_id, wait.signal, note.step_id, f"run {rows[0].run_id}")
        if not wait.run.is_doomed:
            outcome = Outcome(OutcomeStatus.FAILED, kernel.encode_error(refused))
            self._end(wait.run, wait.note.key, wait.note.step_id, wait.signal, outcome)
            kernel.queue_of_runs.poke()

    def withdraw(self, run: Run, pending: Pending) -> None:
        wait = self._of_run.get(run.row.n, {}).get(pending.key)
        if wait is not None:
            self._remove(wait)
            self._kernel.append(run, ItemDropped(SPACE, self._item_key(run, wait.signal)))

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
        also = [] if wait is None else [ItemDropped(SPACE, self._item_key(run, signal))]
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


def _came_at(item: ItemRow) -> tuple[float, int]:
    return msgspec.msgpack.decode(item.body or b"", type=SignalNote).at, item.n or 0


def _not_found(signal: str) -> SignalNotFoundError:
    return SignalNotFoundError(
        f"no run waits for a signal {signal!r} now, and it is not kept: send it when "
        f"step.wait_for_signal(…, signal={signal!r}) has been reached, or send an event"
    )


def _in_use(run: Run, step_id: str, signal: str, other_step_id: str, other: str) -> SignalInUseError:
    return SignalInUseError(
        f"{run.where}: step {step_id!r} cannot wait for signal {signal!r}: step {other_step_id!r} of {other} waits for it "
        f"already; a signal has one receiver, so put an id into its name"
    )


def signal_of(item: ItemRow) -> str:
    """The signal that the waiter of this item waits for."""
    return item.key.partition(_BETWEEN)[0]
