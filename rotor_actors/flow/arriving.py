"""What becomes of a start of a workflow that has rules: a run, a part of one, or the one that is there already."""

from __future__ import annotations

import contextvars
import heapq
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from rotor_actors.durations import seconds
from rotor_actors.errors import PayloadError
from rotor_actors.features import Feature
from rotor_actors.finishing import Finishing
from rotor_actors.flow.creating import create_with_ticket
from rotor_actors.flow.gate import PAUSE_SPACE, RATE_SPACE, Begun
from rotor_actors.flow.merging import ELEMENT_SPACE, MERGE_SPACE, Merging, elements_of
from rotor_actors.flow.options import FlowControl
from rotor_actors.flow.paths import Input, own_name
from rotor_actors.flow.rules import Rules
from rotor_actors.flow.ticket import SPACE, Ticket, make_ticket
from rotor_actors.kernel import Kernel
from rotor_actors.records import Entry, ItemPut, ItemRow, ItemsExpired, RunFlag, RunRow, RunStatus
from rotor_actors.workflow import Workflow

ONCE_SPACE = "flow.once"

_PUTS_PER_PURGE = 500


class Arrived(NamedTuple):
    """The run that a start led to, when it is durable, and whether the start made it."""

    run_id: str
    seq: int
    is_new: bool


class Arriving(Feature):
    """All starts of workflows with rules, and what is kept of them."""

    spaces = (SPACE, RATE_SPACE, PAUSE_SPACE, MERGE_SPACE, ELEMENT_SPACE, ONCE_SPACE)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self.merging = Merging(kernel)
        self._once = Once()

    def start(
        self, workflow: Workflow[object, object], data: bytes, headers: bytes | None = None, *, run_id: str | None = None,
        context: contextvars.Context | None = None, flow_control: FlowControl | None = None,
        started_by: tuple[str, str] | None = None,
    ) -> Arrived:  # fmt: skip
        """Start a run by the workflow's rules. Nothing is durable before the entry that is given is.

        Args:
            started_by: run id and step id of the run that starts it.

        Raises:
            PayloadError: the data does not fit the rules.
        """
        rules = workflow.rules or Rules()
        now = self._kernel.now()
        ticket = make_ticket(workflow.id, rules, flow_control, data)
        once = self._once_name(workflow, data)
        if once is not None and (known := self._once.find(once, now)) is not None:
            return self._there(known)
        rival = self._kernel.gate.rival(ticket)
        if rival is not None and not rival.is_doomed and not ticket.replaces:
            if once is not None:
                self._kernel.journal.append(self._remember(once, rival.row.run_id, rules, now))
            return self._there(rival.row.run_id)
        if rules.batch is not None:
            return self._batch(workflow, rules, data, headers, context)
        return self._create(workflow, rules, ticket, once, data, headers, run_id, context, started_by)

    def _create(
        self, workflow: Workflow[object, object], rules: Rules, ticket: Ticket, once: str | None, data: bytes,
        headers: bytes | None, run_id: str | None, context: contextvars.Context | None,
        started_by: tuple[str, str] | None,
    ) -> Arrived:  # fmt: skip
        kernel, now = self._kernel, self._kernel.now()
        debounced = None if rules.debounce is None else self.merging.find(
            own_name(workflow.id, rules.debounce.key, Input(data)))  # fmt: skip
        row = self._row(workflow, data, headers, run_id) if debounced is None else debounced.run.snapshot()
        row.input, row.headers = data, headers
        if started_by is not None:
            row.parent_run_id, row.parent_step_id = started_by
            row.flags |= RunFlag.STARTED
        also: list[Entry] = [] if once is None else [self._remember(once, row.run_id, rules, now)]
        if rules.debounce is not None:
            run = self.merging.debounce(row, workflow, rules.debounce, context, also)
        else:
            run = create_with_ticket(kernel, self._finishing, row, workflow, ticket, context=context, also=also)
        kernel.queue_of_runs.poke()
        return Arrived(run.row.run_id, run.seen_seq, debounced is None)

    def _batch(
        self, workflow: Workflow[object, object], rules: Rules, data: bytes, headers: bytes | None,
        context: contextvars.Context | None,
    ) -> Arrived:  # fmt: skip
        assert rules.batch is not None
        elements = elements_of(data)
        if not elements:
            raise PayloadError(
                f"workflow {workflow.id!r} takes batches: a start brings a list with at least one element"
            )
        make_row = partial(self._row, workflow, data, headers, None)
        last_n = self._kernel.tree.last_n
        run = None
        for element in elements:
            run = self.merging.batch(make_row, workflow, rules.batch, context, element)
        assert run is not None
        self._kernel.queue_of_runs.poke()
        return Arrived(run.row.run_id, run.seen_seq, run.row.n > last_n)

    def _row(
        self, workflow: Workflow[object, object], data: bytes, headers: bytes | None, run_id: str | None
    ) -> RunRow:
        kernel = self._kernel
        now, n = kernel.now(), kernel.tree.next_n()
        if run_id is None:
            run_id = kernel.ports.ids.new_run_id(now)
        return RunRow(
            n=n, run_id=run_id, workflow_id=workflow.id, root_n=n, root_run_id=run_id, created_at=now, input=data,
            headers=headers, status=RunStatus.QUEUED,
        )  # fmt: skip

    def _there(self, run_id: str) -> Arrived:
        """Whatever is known of it is in the journal already."""
        return Arrived(run_id, self._kernel.journal.last_seq, is_new=False)

    # Idempotency

    def _once_name(self, workflow: Workflow[object, object], data: bytes) -> str | None:
        rule = None if workflow.rules is None else workflow.rules.idempotency
        return None if rule is None else own_name(workflow.id, rule.key, Input(data))

    def _remember(self, name: str, run_id: str, rules: Rules, now: float) -> ItemPut:
        assert rules.idempotency is not None
        due = now + seconds(rules.idempotency.period, name="period")
        if self._once.remember(name, run_id, due, now) % _PUTS_PER_PURGE == 0:
            self._kernel.journal.append(ItemsExpired(ONCE_SPACE, now))
        return ItemPut(ItemRow(ONCE_SPACE, name, msgspec.msgpack.encode(run_id), due=due))

    # As a feature

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        kernel, gate = self._kernel, self._kernel.gate
        begun = (msgspec.msgpack.decode(item.body or b"", type=Begun) for item in items[RATE_SPACE])
        gate.remember(begun, [item.key for item in items[PAUSE_SPACE]])
        for item in items[ONCE_SPACE]:
            run_id = msgspec.msgpack.decode(item.body or b"", type=str)
            self._once.remember(item.key, run_id, item.due or 0.0, kernel.now())
        for item in sorted(items[SPACE], key=lambda item: item.n or 0):
            run = kernel.tree.get(item.n or 0)
            if run is not None:
                if run.row.status is RunStatus.QUEUED and run.row.parent_n is None:
                    kernel.admission.leave(run)  # it stands in line, not before the runtime's door
                gate.restore(run, Ticket.decoded(item.body or b""))
        self.merging.open(items[MERGE_SPACE], items[ELEMENT_SPACE])
        gate.go_on()

    def workflow_known(self, workflow: Workflow[object, object]) -> None:
        self.merging.workflow_known(workflow)


class Once:
    """Idempotency keys that are remembered, each with its run."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._dues: list[tuple[float, str]] = []
        self._count = 0

    def find(self, name: str, now: float) -> str | None:
        known = self._known.get(name)
        return None if known is None or known[1] <= now else known[0]

    def remember(self, name: str, run_id: str, due: float, now: float) -> int:
        """Remember a key until `due`, forget those that are over; gives how many were ever remembered."""
        self._known[name] = (run_id, due)
        heapq.heappush(self._dues, (due, name))
        while self._dues[0][0] <= now:
            over = heapq.heappop(self._dues)
            if self._known.get(over[1], ("", 0.0))[1] == over[0]:
                del self._known[over[1]]
            if not self._dues:
                break
        self._count += 1
        return self._count
