"""What becomes of a start of a workflow that has rules: a run, a part of one, or the one that is there already."""

from __future__ import annotations

import contextvars
import heapq
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from rotor_actors.durations import seconds
from rotor_actors.errors import PayloadError
from rotor_actors.features import Feature
from rotor_actors.finishing import Finishing
from rotor_actors.flow.creating import create_with_ticket
from rotor_actors.flow.gate import PAUSE_SPACE
from rotor_actors.flow.merging import ELEMENT_SPACE, MERGE_SPACE, Merging, as_list, elements_of
from rotor_actors.flow.notes import RunsGone
from rotor_actors.flow.options import Batch
from rotor_actors.flow.passes import PLACE_SPACE, RATE_SPACE, Begun, Pass, ticket_item
from rotor_actors.flow.paths import Input, own_name
from rotor_actors.flow.rules import Rules
from rotor_actors.flow.ticket import SPACE, Ticket, make_ticket
from rotor_actors.kernel import Kernel, Started
from rotor_actors.records import (
    COORDINATOR,
    Entry,
    ItemDropped,
    ItemPut,
    ItemRow,
    ItemsExpired,
    MailKind,
    MailSent,
    RunRow,
    RunStatus,
)
from rotor_actors.run import Phase, Run
from rotor_actors.workflows import Workflow

ONCE_SPACE = "flow.once"
NIL = b"\xc0"

_PUTS_PER_PURGE = 500


class Arriving(Feature):
    """All starts of workflows with rules, and what is kept of them."""

    spaces = (SPACE, RATE_SPACE, PAUSE_SPACE, MERGE_SPACE, ELEMENT_SPACE, ONCE_SPACE)
    common = (*spaces, PLACE_SPACE)

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing
        self.merging = Merging(kernel)
        self._once = Once()

    def start(
        self, row: RunRow, workflow: Workflow[Any, Any], context: contextvars.Context | None, *, merges: bool = True
    ) -> Started:
        """Take a start, as the row that its run would have. Nothing is durable before the entry that is given is.

        Args:
            merges: ask the rules by which several starts become one; else it is a run of its own, in its line.

        Raises:
            PayloadError: the data does not fit the rules. Not for an event: it is found out by the run.
        """
        rules = workflow.rules or Rules()
        if not merges:
            rules = msgspec.structs.replace(rules, debounce=None, idempotency=None)
        now, is_event = self._kernel.now(), row.event is not None
        ticket = make_ticket(workflow.id, rules, None, row.input, is_lenient=is_event)
        once = self._once_name(workflow.id, rules, row.input)
        if once is not None and (known := self._once.find(once, now)) is not None:
            return self._there(known)
        rival = self._kernel.gate.rival(ticket)
        if rival is not None and not rival.is_doomed and not ticket.replaces:
            if once is not None:
                self._kernel.journal.append(self._remember(once, rival.row.run_id, rules, now))
            return self._there(rival.row.run_id)
        with self._kernel.journal.one_act():
            if rules.batch is not None and merges and self._fits(row, workflow):
                started = self._batch(row, workflow, rules.batch, context)
            else:
                started = self._create(row, workflow, rules, ticket, once, context)
        self._kernel.queue_of_runs.poke()
        return started

    def _create(
        self, row: RunRow, workflow: Workflow[Any, Any], rules: Rules, ticket: Ticket, once: str | None,
        context: contextvars.Context | None,
    ) -> Started:  # fmt: skip
        if rules.debounce is not None:
            run = self.merging.debounce(row, workflow, rules.debounce, context)
        else:
            run = create_with_ticket(self._kernel, self._finishing, row, workflow, ticket, context=context)
        if once is not None:
            self._kernel.append(run, self._remember(once, run.row.run_id, rules, self._kernel.now()))
        return Started(run.row.run_id, run.seen_seq, run.row.n == row.n)

    def _batch(
        self, row: RunRow, workflow: Workflow[Any, Any], rule: Batch, context: contextvars.Context | None
    ) -> Started:
        """An event is one element; whoever starts it by hand brings a list of them, as its type says."""
        elements = elements_of(row.input or b"") if row.event is None else [row.input or NIL]
        if not elements:
            raise PayloadError(f"workflow {workflow.id!r} takes batches: a start brings a list of at least one element")
        run, new = None, set[int]()
        for element in elements:
            run = self.merging.batch(row, workflow, rule, context, element)
            if run.row.n == row.n:
                new.add(row.n)
                row = self._another(row)
        assert run is not None
        return Started(run.row.run_id, run.seen_seq, run.row.n in new)

    def _fits(self, row: RunRow, workflow: Workflow[Any, Any]) -> bool:
        """An event whose data is no element is a run of its own, which finds that out: it spoils no batch."""
        if row.event is None:
            return True
        alone = as_list([row.input or NIL])
        try:
            self._kernel.registry.data_codec(workflow).decode(alone)
        except PayloadError:
            row.input = alone
            return False
        return True

    def _another(self, row: RunRow) -> RunRow:
        """The row of one more run, should one be needed."""
        n, run_id = self._kernel.tree.next_n(), self._kernel.ports.ids.new_run_id(self._kernel.now())
        return msgspec.structs.replace(row, n=n, root_n=n, run_id=run_id, root_run_id=run_id)

    def _there(self, run_id: str) -> Started:
        """Whatever is known of it is in the journal already."""
        return Started(run_id, self._kernel.journal.last_seq, is_new=False)

    # Idempotency

    def _once_name(self, workflow_id: str, rules: Rules, data: bytes | None) -> str | None:
        rule = rules.idempotency
        return None if rule is None else own_name(workflow_id, rule.key, Input(data))

    def _remember(self, name: str, run_id: str, rules: Rules, now: float) -> ItemPut:
        assert rules.idempotency is not None
        due = now + seconds(rules.idempotency.period, name="period")
        if self._once.remember(name, run_id, due, now) % _PUTS_PER_PURGE == 0:
            self._kernel.journal.append(ItemsExpired(ONCE_SPACE, now))
        return ItemPut(ItemRow(ONCE_SPACE, name, msgspec.msgpack.encode(run_id), due=due))

    @property
    def keeps_ended_runs(self) -> bool:
        return bool(self._once) or self._is_anothers

    @property
    def _is_anothers(self) -> bool:
        """Many replicas: there may be keys, and the coordinator is another."""
        kernel = self._kernel
        if kernel.sharing is None or kernel.gate.is_deciding:
            return False
        return any(each.rules is not None and each.rules.idempotency is not None for each in kernel.registry.all())

    def runs_deleted(self, run_ids: Iterable[str]) -> list[Entry]:
        """A key whose run is gone is free again: else a start would give the handle of nothing."""
        if self._is_anothers:
            return [MailSent(COORDINATOR, MailKind.LINE, msgspec.msgpack.encode(RunsGone(list(run_ids))))]
        return [ItemDropped(ONCE_SPACE, name) for run_id in run_ids for name in self._once.forget(run_id)]

    # Many replicas

    @property
    def is_ready(self) -> bool:
        """Starts can be decided on here, by all that is known of those before."""
        return self._kernel.gate.is_deciding and not self.merging.is_incomplete

    def must_be_decided(
        self, workflow: Workflow[Any, Any], *, merges: bool = True, is_chosen: bool = False
    ) -> bool:  # fmt: skip
        """Does a start of it have to be put to the coordinator? Whoever may simply stand in line is created here.

        Under an id of the caller's choice, which others may choose in this moment, all go the one way: the first counts.
        """
        rules = workflow.rules
        if self._kernel.sharing is None or rules is None:
            return False
        return is_chosen or rules.singleton is not None or (merges and (rules.merges or rules.idempotency is not None))

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        kernel = self._kernel
        for item in items[SPACE]:
            run = kernel.tree.get(item.n or 0)
            if run is not None:
                run.owns_items = True
                if run.row.status is RunStatus.QUEUED and run.row.parent_n is None and kernel.admission.is_held(run):
                    kernel.admission.leave(run)
                kernel.gate.take_in(run, Ticket.decoded(item.body or b""))
        self.merging.taken_in(items[MERGE_SPACE], items[ELEMENT_SPACE])

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._kernel.gate.released(run)

    def lead(self, items: Mapping[str, list[ItemRow]], rows: list[RunRow], above: Mapping[int, list[int]]) -> None:
        """The lines, and all that starts are held against, are in this replica's hands from now on.

        Args:
            items: of the `common` spaces. rows: of the runs of which there are tickets, and that have not ended.
            above: of each that is awaited, the numbers of those that await it.
        """
        kernel, gate, now = self._kernel, self._kernel.gate, self._kernel.now()
        gate.is_deciding = True
        begun = (msgspec.msgpack.decode(item.body or b"", type=Begun) for item in items[RATE_SPACE])
        gate.remember(begun, [item.key for item in items[PAUSE_SPACE]])
        for item in items[ONCE_SPACE]:
            self._once.remember(item.key, msgspec.msgpack.decode(item.body or b"", type=str), item.due or 0.0, now)
        tickets = {int(item.key): Ticket.decoded(item.body or b"") for item in items[SPACE]}
        places = {int(item.key) for item in items[PLACE_SPACE]}
        live = {row.n: row for row in rows if row.n in tickets}
        for n in sorted(places - live.keys()):  # its end is known, though not to the one before
            kernel.journal.append(ItemDropped(PLACE_SPACE, str(n)))
        in_order = sorted(live.values(), key=lambda row: (row.depth, tickets[row.n].arrival, row.n))
        known = [
            each for row in in_order
            if (each := self._stand_again(row, tickets[row.n], above.get(row.n), has_place=row.n in places)) is not None
        ]  # fmt: skip
        self.merging.lead(items[MERGE_SPACE], items[ELEMENT_SPACE])
        gate.go_on(known)

    def _stand_again(self, row: RunRow, ticket: Ticket, above: list[int] | None, *, has_place: bool) -> Pass | None:
        gate = self._kernel.gate
        if row.status is not RunStatus.QUEUED and not has_place:
            return None  # it was brought back, and its message says so
        each = gate.passes.get(row.n)
        if each is None:
            stub = Run(self._kernel, row, None, Phase.REMOTE)
            stub.workflow = self._kernel.registry.get(row.workflow_id)
            each = gate.passes[row.n] = Pass(stub, ticket, has_begun=False)
        each.ticket, each.above = ticket, above
        rival = gate.rival_of(each)
        if rival is not None and not has_place:
            each.ticket = msgspec.structs.replace(ticket, follows=gate.last_of(rival))
        gate.is_there(each)
        if has_place:
            gate.runs(each)
        return each

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

    def run_known(self, run: Run) -> None:
        """One that is under way without a ticket counts all the same: it was brought back after its end, or its workflow
        had no rules when it began."""
        rules = None if run.workflow is None else run.workflow.rules
        if rules is None or run.phase is Phase.FRESH or run.row.status is not RunStatus.RUNNING:
            return
        kernel = self._kernel
        if run.row.n in kernel.gate.passes:
            return
        ticket = make_ticket(run.row.workflow_id, rules, None, run.row.input, is_lenient=True)
        if kernel.sharing is None:
            kernel.gate.restore(run, ticket)
        else:
            run.owns_items = True
            kernel.append(run, ticket_item(run.row.n, ticket))
            kernel.gate.is_under_way(run, ticket)

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        self.merging.workflow_known(workflow)


class Once:
    """Idempotency keys that are remembered, each with its run."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._of_run: dict[str, set[str]] = {}
        self._dues: list[tuple[float, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._known)

    def find(self, name: str, now: float) -> str | None:
        known = self._known.get(name)
        return None if known is None or known[1] <= now else known[0]

    def remember(self, name: str, run_id: str, due: float, now: float) -> int:
        """Remember a key until `due`, forget those that are over; gives how many were ever remembered."""
        self._drop(name)
        self._known[name] = (run_id, due)
        self._of_run.setdefault(run_id, set()).add(name)
        heapq.heappush(self._dues, (due, name))
        while self._dues[0][0] <= now:
            over = heapq.heappop(self._dues)
            if self._known.get(over[1], ("", 0.0))[1] == over[0]:
                self._drop(over[1])
            if not self._dues:
                break
        self._count += 1
        return self._count

    def forget(self, run_id: str) -> list[str]:
        """Forget the keys of a run; gives them."""
        names = sorted(self._of_run.get(run_id, ()))
        for name in names:
            self._drop(name)
        return names

    def _drop(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            names = self._of_run[known[0]]
            names.discard(name)
            if not names:
                del self._of_run[known[0]]
