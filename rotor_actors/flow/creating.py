"""Creating a run that has a ticket: with it, and with the end of the one that it replaces, in one act."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from typing import Any

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.finishing import Finishing
from rotor_actors.flow.passes import ticket_item
from rotor_actors.flow.ticket import Ticket
from rotor_actors.kernel import Kernel
from rotor_actors.records import CancelNote, CancelRequested, Entry, RunCreated, RunRow, RunStatus, Together
from rotor_actors.run import Phase, Run
from rotor_actors.workflows import Workflow


def create_with_ticket(
    kernel: Kernel,
    finishing: Finishing,
    row: RunRow,
    workflow: Workflow[Any, Any],
    ticket: Ticket,
    *,
    parent: Run | None = None,
    context: contextvars.Context | None = None,
    also: Sequence[Entry] = (),
) -> Run:
    """Append the run, and let it stand in line; `also` goes into the same entry.

    It is queued first, whatever comes: its begin is an entry of its own, which says when and in whose place.
    """
    ticket = queued(kernel, row, ticket)
    rival = kernel.gate.rival(ticket)
    if rival is not None:
        ticket = msgspec.structs.replace(ticket, follows=kernel.gate.last_of(rival))
    entries: list[Entry] = [RunCreated(row), ticket_item(row.n, ticket), *also]
    with kernel.journal.one_act():
        if rival is not None and not rival.is_doomed:
            replace(kernel, finishing, rival, row.run_id, entries, parent)
        elif parent is not None:
            kernel.append(parent, Together(entries))
        else:
            kernel.journal.append(Together(entries))
        return kernel.create(row, workflow, parent, context, ticket)


def queued(kernel: Kernel, row: RunRow, ticket: Ticket) -> Ticket:
    """The ticket of a run that is about to be created, and stands in line first of all: its row says so from now on."""
    row.status, row.attempt_at = RunStatus.QUEUED, None
    if kernel.sharing is not None and not ticket.arrival:
        return msgspec.structs.replace(ticket, arrival=arrival_at(row.created_at))
    return ticket


def enter_created(
    kernel: Kernel, finishing: Finishing, row: RunRow, workflow: Workflow[Any, Any], ticket: Ticket, parent: Run
) -> Run:
    """A run that is durable, with its ticket: let it stand in line. What it replaces ends in an entry of its own, for whom
    it meets is only known now."""
    rival = kernel.gate.rival(ticket)
    with kernel.journal.one_act():
        if rival is not None and ticket.replaces:
            ticket = msgspec.structs.replace(ticket, follows=kernel.gate.last_of(rival))
            entries: list[Entry] = [ticket_item(row.n, ticket)]
            if rival.is_doomed:
                kernel.append(parent, entries[0])
            else:
                replace(kernel, finishing, rival, row.run_id, entries, parent)
        return kernel.create(row, workflow, parent, parent.context, ticket)


def replace(
    kernel: Kernel, finishing: Finishing, rival: Run, run_id: str, entries: list[Entry], parent: Run | None = None
) -> None:
    """Cancel the run of a singleton for a newer one; `entries` go into the same entry."""
    reason = f"singleton: replaced by run {run_id}"
    if rival.phase is Phase.REMOTE:
        rival.is_doomed = True
        entries.append(CancelRequested([rival.row.n], msgspec.msgpack.encode(CancelNote(reason))))
        seq = kernel.journal.append(Together(entries))
        if parent is not None:
            parent.seen_seq = seq
    else:
        Cancellation(kernel, finishing, [rival], reason).begin(entries, parent)


def arrival_at(at: float) -> int:
    """A place in line that is the same whichever replica gives it: run numbers of several say nothing of time."""
    return int(at * 1e6)
