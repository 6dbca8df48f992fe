"""Starts that become one run: debounced ones, of which the last gives the data, and batches, of which all do.

The run is there from the first of them, queued. What the others bring is appended to it; it enters its line when it is
complete, and its arrival is then.
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from typing import Any

import msgspec

from rotor_actors.durations import seconds
from rotor_actors.errors import PayloadError
from rotor_actors.flow.creating import arrival_at
from rotor_actors.flow.options import Batch, Debounce
from rotor_actors.flow.passes import ticket_item
from rotor_actors.flow.paths import Input, own_name
from rotor_actors.flow.ticket import Ticket, make_ticket
from rotor_actors.kernel import Kernel
from rotor_actors.records import (
    Entry,
    ItemDropped,
    ItemPut,
    ItemRow,
    ItemsDropped,
    RunAmended,
    RunCreated,
    RunRow,
    RunsReleased,
    RunStatus,
    Together,
)
from rotor_actors.run import Phase, Run
from rotor_actors.workflows import Workflow

MERGE_SPACE = "flow.merge"
ELEMENT_SPACE = "flow.batch"

# What a list's own header takes, at most.
_HEADER = 5


class Forming(msgspec.Struct, frozen=True):
    """Durable, as an item that the run owns: it is not complete before `due`."""

    name: str
    first_at: float
    workflow_id: str = ""


class Merging:
    """All runs that are not complete yet."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_name: dict[str, Merged] = {}
        self._elsewhere: dict[int, str] = {}
        """Many replicas: runs that form, and are not here yet, with their workflows."""

    def find(self, name: str) -> Merged | None:
        merged = self._by_name.get(name)
        return None if merged is None or merged.run.is_doomed else merged

    # Debounce

    def debounce(
        self, row: RunRow, workflow: Workflow[Any, Any], rule: Debounce, context: contextvars.Context | None
    ) -> Run:
        """Take a start, as the row its run would have: it is another's last, or the first of one."""
        kernel, now = self._kernel, self._kernel.now()
        name = own_name(workflow.id, rule.key, Input(row.input))
        merged = self.find(name)
        first_at = now if merged is None else merged.forming.first_at
        due = now + seconds(rule.period, name="period")
        if rule.max_wait is not None:
            due = min(due, first_at + seconds(rule.max_wait, name="max_wait"))
        if merged is None:
            return self._form(row, workflow, context, Forming(name, first_at, workflow.id), due, "debounce").run
        run = merged.run
        run.row.input, run.row.headers, run.row.event = row.input, row.headers, row.event
        run.caller_context = None if context is None else context.copy()
        kernel.append(run, Together([RunAmended(run.snapshot()), merged.item(due)]))
        kernel.features.run_amended(run)
        kernel.timers.add(merged, due)
        merged.due = due
        return run

    # Batch

    def batch(
        self,
        row: RunRow,
        workflow: Workflow[Any, Any],
        rule: Batch,
        context: contextvars.Context | None,
        element: bytes,
    ) -> Run:
        """Take one element; `row` is that of its batch, should it be the first. A batch that is full is complete."""
        kernel, now = self._kernel, self._kernel.now()
        name = own_name(workflow.id, rule.key, Input(element))
        merged = self.find(name)
        if merged is not None and merged.size + len(element) > kernel.options.payload_limit:
            self.complete(merged)
            merged = None
        if merged is None:
            row.input = as_list([element])
            due = now + seconds(rule.timeout, name="timeout")
            first = ItemPut(_element(row.n, 0, element))
            merged = self._form(row, workflow, context, Forming(name, now, workflow.id), due, "batch", [first])
        else:
            kernel.append(merged.run, ItemPut(_element(merged.run.row.n, len(merged.elements), element)))
        merged.add(element)
        if len(merged.elements) >= rule.max_size:
            self.complete(merged)
        return merged.run

    # Forming and completing

    def _form(
        self, row: RunRow, workflow: Workflow[Any, Any], context: contextvars.Context | None, forming: Forming,
        due: float, kind: str, also: Sequence[Entry] = (),
    ) -> Merged:  # fmt: skip
        kernel = self._kernel
        row.status, row.attempt_at = RunStatus.QUEUED, None
        merged = Merged(self, forming, row.n, due)
        kernel.journal.append(Together([RunCreated(row), merged.item(due), *also]))
        merged.run = kernel.create(row, workflow, None, context, Ticket(is_complete=False))
        self._hold(merged, kind)
        return merged

    def _hold(self, merged: Merged, kind: str) -> None:
        self._by_name[merged.forming.name] = merged
        self._kernel.gate.hold(merged.run, f"{kind}: more may come", merged.forget)
        self._kernel.timers.add(merged, merged.due)

    def complete(self, merged: Merged) -> None:
        """Nothing more comes to it: it stands in line from now on."""
        kernel, run = self._kernel, merged.run
        self.forget(merged)
        workflow = run.workflow
        assert workflow is not None
        entries: list[Entry] = [ItemDropped(MERGE_SPACE, merged.forming.name)]
        if merged.elements:
            run.row.input = as_list(merged.elements)
            entries = [RunAmended(run.snapshot()), ItemsDropped([run.row.n])]
        ticket = (
            Ticket()
            if workflow.rules is None
            else make_ticket(workflow.id, workflow.rules, None, run.row.input, is_lenient=True)
        )
        arrival = kernel.tree.next_n() if kernel.sharing is None else arrival_at(kernel.now())
        ticket = msgspec.structs.replace(ticket, arrival=arrival)
        with kernel.journal.one_act():
            kernel.append(run, Together([*entries, ticket_item(run.row.n, ticket)]))
            kernel.features.run_amended(run)
            kernel.gate.release(run, ticket)
        kernel.queue_of_runs.poke()

    def forget(self, merged: Merged) -> None:
        self._kernel.timers.discard(merged)
        if self._by_name.get(merged.forming.name) is merged:
            del self._by_name[merged.forming.name]

    # Many replicas

    @property
    def is_incomplete(self) -> bool:
        """Runs that are forming have yet to come to this replica, which decides what becomes part of them."""
        return any(self._kernel.registry.get(workflow_id) is not None for workflow_id in self._elsewhere.values())

    def taken_in(self, forming: list[ItemRow], elements: list[ItemRow]) -> None:
        """Runs that form are the coordinator's; who has claimed one and is not that gives it away again."""
        kernel = self._kernel
        runs = [run for item in forming if (run := kernel.tree.get(item.n or 0)) is not None]
        for run in runs:
            run.owns_items = True
            self._elsewhere.pop(run.row.n, None)
            run.phase = Phase.HELD
        if kernel.gate.is_deciding:
            self.open(forming, elements)
        else:
            for run in runs:
                if kernel.admission.is_held(run):
                    kernel.admission.leave(run)
                kernel.gate.hold(run, "debounce or batch: the coordinator takes it over", lambda: None)
            if runs and not (kernel.sharing is not None and kernel.sharing.is_coordinator):
                kernel.in_background(self._give_away(runs))

    def is_gone(self, n: int) -> None:
        """It has ended, wherever it was."""
        self._elsewhere.pop(n, None)

    async def _give_away(self, runs: list[Run]) -> None:
        """Not within the act that took them in."""
        kernel = self._kernel
        for run in runs:
            if not run.is_doomed and kernel.tree.get(run.row.n) is run and not kernel.gate.is_deciding:
                kernel.journal.append(RunsReleased([run.row.n], to_coordinator=True))
                kernel.features.released([run])
                run.phase = Phase.REMOTE
                kernel.tree.remove(run)
        kernel.journal.kick()

    def lead(self, forming: list[ItemRow], elements: list[ItemRow]) -> None:
        """What forms, and is here already; the rest is claimed next, or has been."""
        tree = self._kernel.tree
        self._elsewhere = {item.n: "" for item in forming if item.n is not None and tree.get(item.n) is None}
        for item in forming:
            if item.n in self._elsewhere:
                note = msgspec.msgpack.decode(item.body or b"", type=Forming)
                self._elsewhere[item.n] = note.workflow_id
        self.open([item for item in forming if item.n not in self._elsewhere], elements)

    # Going on where the last process stopped

    def open(self, forming: list[ItemRow], elements: list[ItemRow]) -> None:
        """Take over the runs that were not complete, with what had come to them."""
        kernel, by_n = self._kernel, dict[int, Merged]()
        for item in forming:
            run = None if item.n is None else kernel.tree.get(item.n)
            if run is not None:
                merged = Merged(
                    self, msgspec.msgpack.decode(item.body or b"", type=Forming), run.row.n, item.due or 0.0
                )
                merged.run = by_n.setdefault(run.row.n, merged).run = run
                if kernel.admission.is_held(run):
                    kernel.admission.leave(run)  # nothing in it waits for a place yet
                self._hold(merged, "debounce or batch")
        for item in elements:  # in their order
            if item.n in by_n:
                by_n[item.n].add(item.body or b"")

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        """Those that could not be completed, because their workflow was not there, can be now."""
        for merged in list(self._by_name.values()):
            if merged.run.row.workflow_id == workflow.id and merged.run.workflow is None:
                merged.run.workflow = workflow
                self._kernel.timers.add(merged, merged.due)


class Merged:
    """One run that is not complete yet, as something that can be woken."""

    __slots__ = ("_merging", "_n", "due", "elements", "forming", "run", "size")

    run: Run

    def __init__(self, merging: Merging, forming: Forming, n: int, due: float) -> None:
        self._merging = merging
        self._n = n
        self.forming = forming
        self.due = due
        self.elements: list[bytes] = []
        self.size = _HEADER

    def item(self, due: float) -> ItemPut:
        body = msgspec.msgpack.encode(self.forming)
        return ItemPut(ItemRow(MERGE_SPACE, self.forming.name, body, n=self._n, due=due))

    def add(self, element: bytes) -> None:
        self.elements.append(element)
        self.size += len(element)

    def forget(self) -> None:
        self._merging.forget(self)

    def alarm(self, now: float) -> None:
        if not self.run.is_doomed and self.run.workflow is not None:
            self._merging.complete(self)


def elements_of(blob: bytes) -> list[bytes]:
    """The elements of a stored list.

    Raises:
        PayloadError: it is none.
    """
    try:
        return [bytes(raw) for raw in msgspec.msgpack.decode(blob, type=list[msgspec.Raw])]
    except msgspec.MsgspecError as error:
        raise PayloadError(f"a start of a batch brings a list of elements: {error}") from error


def as_list(elements: list[bytes]) -> bytes:
    """A stored list of stored elements."""
    return msgspec.msgpack.encode([msgspec.Raw(element) for element in elements])


def _element(n: int, position: int, blob: bytes) -> ItemRow:
    return ItemRow(ELEMENT_SPACE, f"{n}#{position}", blob, n=n, ord=position)
