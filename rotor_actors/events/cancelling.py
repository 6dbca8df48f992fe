"""`cancel_on`: runs that an event cancels. What they wait for follows from their row and their workflow's definition."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import Any

from rotor_actors.errors import ExpressionError
from rotor_actors.events.expression import condition
from rotor_actors.events.own import bound, own_values
from rotor_actors.events.waiters import Waiter, Waiters
from rotor_actors.features import Feature
from rotor_actors.kernel import Kernel
from rotor_actors.run import Run
from rotor_actors.workflows import CancelOn

_logger = logging.getLogger("rotor_actors")


class CancelOns(Feature):
    """The runs that events can cancel. After a restart the workflow's definition of then holds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._of_run: dict[int, list[Waiter[Run]]] = {}
        self.waiters: Waiters[Run] = Waiters()

    def run_known(self, run: Run) -> None:
        if run.workflow is not None and run.workflow.cancel_on:
            for on in run.workflow.cancel_on:
                self._watch(run, on)

    def run_amended(self, run: Run) -> None:
        """Its own event is another: so may be what it matches."""
        self.run_ended(run)
        self.run_known(run)

    @property
    def concerned(self) -> Sized:
        return self._of_run

    def run_ended(self, run: Run) -> None:
        for waiter in self._of_run.pop(run.row.n, ()):
            self.waiters.discard(waiter)

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self.run_ended(run)

    def _watch(self, run: Run, on: CancelOn) -> None:
        node = condition(on.match, on.where)
        try:
            values = own_values(node, run, self._kernel.registry.codecs.of(Any), on.match)
        except ExpressionError as error:
            _logger.warning("%s cannot be cancelled by event %r: %s", run.where, on.event, error,
                            extra={"run_id": run.row.run_id})  # fmt: skip
            return
        within = on.within_seconds()
        until = None if within is None else run.row.created_at + within
        waiter = Waiter(run, on.event, bound(node, values), until)
        self._of_run.setdefault(run.row.n, []).append(waiter)
        self.waiters.add(waiter)
