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
from rotor_actors.records import Entry, RunCreated, RunRow, RunStatus, Together
from rotor_actors.run import Run
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
    row.status, row.attempt_at = RunStatus.QUEUED, None
    rival = kernel.gate.rival(ticket)
    if rival is not None:
        ticket = msgspec.structs.replace(ticket, follows=kernel.gate.last_of(rival))
    entries: list[Entry] = [RunCreated(row), ticket_item(row.n, ticket), *also]
    if rival is not None and not rival.is_doomed:
        reason = f"singleton: replaced by run {row.run_id}"
        Cancellation(kernel, finishing, [rival], reason).begin(entries, parent)
    elif parent is not None:
        kernel.append(parent, Together(entries))
    else:
        kernel.journal.append(Together(entries))
    return kernel.create(row, workflow, parent, context, ticket)
