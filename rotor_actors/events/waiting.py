"""`step.wait_for_event`: the steps that wait, over attempts and restarts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sized
from hashlib import blake2b
from typing import Any

import msgspec

from rotor_actors.errors import ExpressionError
from rotor_actors.events.expression import Literal, Node
from rotor_actors.events.own import bound, own_values
from rotor_actors.events.parsing import condition
from rotor_actors.events.waiters import Waiter, Waiters
from rotor_actors.features import StepFeature
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import ItemDropped, ItemRow, Kind, Outcome, OutcomeStatus, StepRow
from rotor_actors.run import Run
from rotor_actors.step_specs import WaitForEventSpec

SPACE = "event-waiters"

_logger = logging.getLogger("rotor_actors")
_MOST_PARSED = 1_000


class WaiterNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a waiter's item. `own` are the values of the run's own event that its expression asks for."""

    key: bytes
    step_id: str
    event: str
    match: str | None = None
    where: str | None = None
    own: bytes | None = None


class Waiting:
    """A step that waits: whose, and what is kept of it."""

    __slots__ = ("item_key", "note", "run", "waiter")

    def __init__(self, run: Run, note: WaiterNote, item_key: str, node: Node | None, until: float | None) -> None:
        self.run = run
        self.note = note
        self.item_key = item_key
        self.waiter: Waiter[Waiting] = Waiter(self, note.event, node, until)


class EventWaits(StepFeature):
    """The steps that wait for events."""

    spaces = (SPACE,)
    kinds = (Kind.WAIT_FOR_EVENT,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._parsed: dict[tuple[str | None, str | None], Node | None] = {}
        self._of_run: dict[int, dict[bytes, Waiting]] = {}
        self.waiters: Waiters[Waiting] = Waiters()

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        self.taken_in([], items)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        codec = self._kernel.registry.codecs.of(Any)
        for item in items[SPACE]:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            if run is not None:
                run.owns_items = True
                note = msgspec.msgpack.decode(item.body or b"", type=WaiterNote)
                values: list[Any] = [] if note.own is None else codec.decode(note.own)
                self._add(Waiting(run, note, item.key, self._restored(run, note, values), item.due))

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self.run_ended(run)

    def _restored(self, run: Run, note: WaiterNote, values: list[Any]) -> Node | None:
        try:
            return bound(self.parse(note.match, note.where), values)
        except ExpressionError as error:  # it was one to the program that wrote it
            _logger.error("%s: step %r waits for no event any more, only for its timeout: %s", run.where, note.step_id,
                          error, extra={"run_id": run.row.run_id})  # fmt: skip
            return Literal(False)

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        of_run = self._of_run.get(run.row.n, {})
        return {
            key: Known(Kind.WAIT_FOR_EVENT, waiting.note.event, step_id=waiting.note.step_id, due=waiting.waiter.until)
            for key, waiting in of_run.items()
        }

    def begin(self, run: Run, pending: Pending) -> float | None:
        known = self._of_run.get(run.row.n, {}).get(pending.key)
        if known is not None:
            return known.waiter.until
        spec: WaitForEventSpec = pending.spec
        kernel = self._kernel
        node = spec.node
        codec = kernel.registry.codecs.of(Any)
        try:
            values = own_values(node, run, codec, spec.match)
        except ExpressionError as error:
            self._end(run, pending, OutcomeStatus.FAILED, kernel.encode_error(error))
            return None
        own = codec.encode(values) if values else None
        note = WaiterNote(pending.key, pending.step_id, pending.target, spec.match, spec.where, own)
        key = item_key(run, pending.key)
        if kernel.sharing is not None:
            key = of_event(note.event) + key
        waiting = Waiting(run, note, key, bound(node, values), spec.due)
        self._add(waiting)
        item = ItemRow(SPACE, waiting.item_key, msgspec.msgpack.encode(note), ord=kernel.journal.next_seq, due=spec.due)
        kernel.append(run, kernel.put_item(item, run))
        return spec.due

    def withdraw(self, run: Run, pending: Pending) -> None:
        waiting = self._of_run.get(run.row.n, {}).get(pending.key)
        if waiting is not None:
            self._remove(waiting)
            self._kernel.append(run, ItemDropped(SPACE, waiting.item_key))

    def due(self, run: Run, pending: Pending, at: float) -> None:
        if pending.key in self._of_run.get(run.row.n, {}):
            self._end(run, pending, OutcomeStatus.TIMED_OUT, None)

    def of(self, run: Run, key: bytes) -> Waiting | None:
        """The step of this key, if it waits."""
        return self._of_run.get(run.row.n, {}).get(key)

    def give(self, waiting: Waiting, event: bytes) -> None:
        """An event that was recorded as these bytes is for this step."""
        note = waiting.note
        row = StepRow(waiting.run.row.n, self._kernel.now(), Kind.WAIT_FOR_EVENT, note.key, note.step_id, note.event,
                      OutcomeStatus.COMPLETED, event)  # fmt: skip
        self._remove(waiting)
        outcome = Outcome(OutcomeStatus.COMPLETED, event)
        self._kernel.record_outcome(waiting.run, row, outcome, ItemDropped(SPACE, waiting.item_key))

    @property
    def concerned(self) -> Sized:
        return self._of_run

    def run_ended(self, run: Run) -> None:
        if run.row.n in self._of_run:
            for waiting in tuple(self._of_run[run.row.n].values()):
                self._remove(waiting)

    def _end(self, run: Run, pending: Pending, status: OutcomeStatus, payload: bytes | None) -> None:
        waiting = self._of_run.get(run.row.n, {}).get(pending.key)
        also = [] if waiting is None else [ItemDropped(SPACE, waiting.item_key)]
        if waiting is not None:
            self._remove(waiting)
        row = StepRow(run.row.n, self._kernel.now(), Kind.WAIT_FOR_EVENT, pending.key, pending.step_id, pending.target,
                      status, payload)  # fmt: skip
        self._kernel.record_outcome(run, row, Outcome(status, payload), *also)

    def _add(self, waiting: Waiting) -> None:
        self._of_run.setdefault(waiting.run.row.n, {})[waiting.note.key] = waiting
        self.waiters.add(waiting.waiter)

    def _remove(self, waiting: Waiting) -> None:
        self.waiters.discard(waiting.waiter)
        of_run = self._of_run[waiting.run.row.n]
        del of_run[waiting.note.key]
        if not of_run:
            del self._of_run[waiting.run.row.n]

    def parse(self, match: str | None, where: str | None) -> Node | None:
        """Each text is parsed once; of texts that are made anew each time, a thousand are remembered."""
        texts = (match, where)
        if not all(text is None or isinstance(text, str) for text in texts):  # pyright: ignore[reportUnnecessaryIsInstance]
            return condition(match, where)  # which refuses it; it need not even have a hash
        if texts not in self._parsed:
            if len(self._parsed) >= _MOST_PARSED:
                self._parsed.clear()
            self._parsed[texts] = condition(match, where)
        return self._parsed[texts]


def of_event(name: str) -> str:
    """Many replicas: how the keys of the items begin that wait for this event, for whoever looks for them in the store."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{digest}:"


def item_key(run: Run, key: bytes) -> str:
    """A run may wait with several steps."""
    return f"{run.row.n}:{key.hex()}"
