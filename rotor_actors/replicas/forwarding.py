"""Starts that the coordinator decides on: they may lead to another run than their own (singleton, idempotency, debounce,
batch). It creates the run, and owns it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec

from rotor_actors.budget import Budget
from rotor_actors.budgets import Budgets
from rotor_actors.durations import seconds
from rotor_actors.errors import PayloadError, RunExistsError
from rotor_actors.flow.arriving import Arriving
from rotor_actors.kernel import Kernel, Started
from rotor_actors.messages import Pending
from rotor_actors.records import MailKind, RunRow, RunStatus
from rotor_actors.replicas.asking import Asker, Asking
from rotor_actors.run import Run
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import Mail
from rotor_actors.workflows import Workflow

_logger = logging.getLogger("rotor_actors")


class StartNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """A start, as the row that its run would have. `is_chosen`: the run id is one of the caller's choice."""

    asker: Asker
    run_id: str
    workflow_id: str
    data: bytes | None = None
    headers: bytes | None = None
    retries: bytes | None = None
    event: bytes | None = None
    parent_run_id: str | None = None
    parent_step_id: str | None = None
    origin_run_id: str | None = None
    version: str | None = None
    flags: int = 0
    merges: bool = True
    is_chosen: bool = False
    budget: bytes | None = None


class Forwarding:
    """Puts starts to the coordinator, and decides on them where this replica is the coordinator."""

    def __init__(
        self, kernel: Kernel, sharing: Sharing, arriving: Arriving, asking: Asking, budgets: Budgets
    ) -> None:  # fmt: skip
        self._kernel = kernel
        self._budgets = budgets
        self._arriving = arriving
        self.asking = asking
        self._there: dict[str, RunRow] = {}
        self._unknown: set[str] = set()
        self._is_prepared = False
        sharing.handlers[MailKind.START] = self._start
        sharing.preparers[MailKind.START] = self._prepare

    async def start(self, workflow: Workflow[Any, Any], note: StartNote) -> Started:
        """Have the coordinator start it; durable when it returns.

        Raises:
            PayloadError: the data does not fit the rules. RunExistsError: the id is that of a run of other content.
            AnswerTimeoutError: nobody has decided on it yet.
        """
        what = f"the start of a run of workflow {workflow.id!r} (id {note.run_id})"
        make = partial(msgspec.structs.replace, note)
        value = await self.asking.ask_coordinator(what, MailKind.START, lambda asker: make(asker=asker))
        run_id, is_new = msgspec.msgpack.decode(value, type=tuple[str, bool])
        return Started(run_id, self._kernel.journal.durable_seq, is_new)

    def is_needed(self, workflow: Workflow[Any, Any], *, merges: bool = True, is_chosen: bool = False) -> bool:
        """Must the coordinator decide on its starts?"""
        return self._arriving.must_be_decided(workflow, merges=merges, is_chosen=is_chosen)

    def start_for(self, run: Run, pending: Pending, row: RunRow, *, is_chosen: bool) -> None:
        """The same, for a step: it has its outcome when the answer comes."""
        note = note_of(row, is_chosen=is_chosen)
        make = partial(msgspec.structs.replace, note)
        self.asking.begin(run, pending, MailKind.START, lambda asker: make(asker=asker))

    # The coordinator's side

    async def _prepare(self, mails: list[Mail]) -> None:
        self._there.clear()
        notes = [_decoded(mail) for mail in mails]
        chosen = [note.run_id for note in notes if note.is_chosen]
        self._is_prepared = self._arriving.is_ready
        if chosen and self._is_prepared:
            ports = self._kernel.ports
            await self._kernel.journal.durable(self._kernel.journal.last_seq)
            rows = await ports.reader.call(lambda: [ports.store.find(run_id) for run_id in chosen])
            self._there = {row.run_id: row for row in rows if row is not None}

    def _start(self, mail: Mail, run: Run | None) -> bool:
        if not self._is_prepared:
            return False
        note, kernel = _decoded(mail), self._kernel
        workflow = kernel.registry.get(note.workflow_id)
        if workflow is None:
            self._cannot(note.workflow_id)
            return False
        live = kernel.tree.find(note.run_id)
        there = live.row if live is not None else self._there.get(note.run_id)
        try:
            if there is not None:
                self._check_same(there, note, workflow)
                value = there.run_id, False
            else:
                started = kernel.start_by_rules(self._row(note), workflow, None, merges=note.merges)
                value = started.run_id, started.is_new
                new = kernel.tree.find(started.run_id) if started.is_new else None
                if new is not None and note.budget is not None:
                    self._budgets.give(new, Budget(**msgspec.msgpack.decode(note.budget)))
        except (PayloadError, RunExistsError) as error:
            self.asking.answer(note.asker, error=error)
        else:
            self._answer(note, value)
        return True

    def _answer(self, note: StartNote, value: tuple[str, bool]) -> None:
        # A step's outcome is the run's id alone, as it is where nobody has to be asked.
        self.asking.answer(note.asker, value[0] if note.asker.key else value)

    def _row(self, note: StartNote) -> RunRow:
        n = self._kernel.tree.next_n()
        return RunRow(
            n=n, run_id=note.run_id, workflow_id=note.workflow_id, root_n=n, root_run_id=note.run_id,
            created_at=self._kernel.now(), parent_run_id=note.parent_run_id, parent_step_id=note.parent_step_id,
            input=note.data, headers=note.headers, retries=note.retries, version=note.version,
            origin_run_id=note.origin_run_id, event=note.event, flags=note.flags, status=RunStatus.QUEUED,
        )  # fmt: skip

    def _check_same(self, there: RunRow, note: StartNote, workflow: Workflow[Any, Any]) -> None:
        codec = self._kernel.registry.data_codec(workflow)
        if there.workflow_id != note.workflow_id or not codec.gives_same(there.input, note.data):
            raise RunExistsError(
                f"run id {note.run_id!r} belongs to a run of workflow {there.workflow_id!r} with other input; the same "
                f"id is for starting the same again: choose another"
            )

    def _cannot(self, workflow_id: str) -> None:
        if workflow_id not in self._unknown:
            self._unknown.add(workflow_id)
            _logger.warning(
                "starts of workflow %r wait: by its rules the coordinator decides on them, which is this replica, and it "
                "does not know that workflow; name it in Runtime(workflows=[…]) of every replica", workflow_id,
            )  # fmt: skip


def note_of(row: RunRow, *, merges: bool = True, is_chosen: bool = False) -> StartNote:
    """The start of a run that would have this row."""
    return StartNote(
        Asker(), row.run_id, row.workflow_id, row.input, row.headers, row.retries, row.event, row.parent_run_id,
        row.parent_step_id, row.origin_run_id, row.version, row.flags, merges, is_chosen,
    )  # fmt: skip


def stored_budget(budget: Budget) -> bytes:
    """A budget given with a start."""
    limit = None if budget.deadline is None else seconds(budget.deadline, name="deadline")
    return msgspec.msgpack.encode(msgspec.structs.replace(budget, deadline=limit, units=dict(budget.units)))


def _decoded(mail: Mail) -> StartNote:
    return msgspec.msgpack.decode(mail.body or b"", type=StartNote)
