"""`cancel_on`: runs that an event cancels. What they wait for follows from their row and their workflow's definition."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sized
from typing import Any

import msgspec

from rotor_actors.errors import ExpressionError
from rotor_actors.events.own import bound, own_values
from rotor_actors.events.parsing import condition
from rotor_actors.events.waiters import Waiter, Waiters
from rotor_actors.events.waiting import of_event
from rotor_actors.features import Feature
from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemRow
from rotor_actors.run import Run
from rotor_actors.workflows import CancelOn

_logger = logging.getLogger("rotor_actors")


CANCEL_SPACE = "cancel-on"


class CancelOnNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """Many replicas: the body of an item of a run that an event cancels; see `WaiterNote`."""

    event: str
    match: str | None = None
    where: str | None = None
    own: bytes | None = None


class CancelOns(Feature):
    """The runs that events can cancel. After a restart the workflow's definition of then holds.

    With many replicas an item of each run says so, too, for whoever delivers the event need not own the run.
    """

    spaces = (CANCEL_SPACE,)

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._noted: dict[int, dict[str, bytes]] = {}
        self._of_run: dict[int, list[Waiter[Run]]] = {}
        self.waiters: Waiters[Run] = Waiters()

    def run_known(self, run: Run) -> None:
        if run.workflow is not None and run.workflow.cancel_on:
            for number, on in enumerate(run.workflow.cancel_on):
                self._watch(run, number, on)

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[CANCEL_SPACE]:
            if item.n is not None:
                self._noted.setdefault(item.n, {})[item.key] = item.body or b""

    def run_amended(self, run: Run) -> None:
        """Its own event is another: so may be what it matches."""
        for waiter in self._of_run.pop(run.row.n, ()):
            self.waiters.discard(waiter)
        self.run_known(run)

    @property
    def concerned(self) -> Sized:
        return self._of_run

    def run_ended(self, run: Run) -> None:
        self._noted.pop(run.row.n, None)
        for waiter in self._of_run.pop(run.row.n, ()):
            self.waiters.discard(waiter)

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self.run_ended(run)

    def _watch(self, run: Run, number: int, on: CancelOn) -> None:
        node = condition(on.match, on.where)
        codec = self._kernel.registry.codecs.of(Any)
        try:
            values = own_values(node, run, codec, on.match)
        except ExpressionError as error:
            _logger.warning("%s cannot be cancelled by event %r: %s", run.where, on.event, error,
                            extra={"run_id": run.row.run_id})  # fmt: skip
            return
        within = on.within_seconds()
        until = None if within is None else run.row.created_at + within
        waiter = Waiter(run, on.event, bound(node, values), until)
        self._of_run.setdefault(run.row.n, []).append(waiter)
        self.waiters.add(waiter)
        if self._kernel.sharing is not None:
            own = codec.encode(values) if values else None
            self._note(run, number, CancelOnNote(on.event, on.match, on.where, own), until)

    def _note(self, run: Run, number: int, note: CancelOnNote, until: float | None) -> None:
        """Unless it is in the store as it is."""
        key, body = f"{of_event(note.event)}{run.row.n}:{number}", msgspec.msgpack.encode(note)
        noted = self._noted.setdefault(run.row.n, {})
        if noted.get(key) != body:
            noted[key] = body
            self._kernel.append(run, self._kernel.put_item(ItemRow(CANCEL_SPACE, key, body, due=until), run))
