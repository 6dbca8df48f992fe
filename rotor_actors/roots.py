"""Runs that nobody invoked: started by a caller, an event, a schedule."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.kernel import Kernel, Started
from rotor_actors.records import Entry, EventNote, RunCreated, RunRow, RunsReleased, RunStatus, Together
from rotor_actors.replicas.room import Placement
from rotor_actors.run import Run
from rotor_actors.workflows import Workflow


def start_root(
    kernel: Kernel,
    workflow: Workflow[Any, Any],
    data: bytes | None,
    run_id: str,
    *,
    headers: bytes | None = None,
    event: EventNote | None = None,
    context: contextvars.Context | None = None,
    retries: bytes | None = None,
    origin_run_id: str | None = None,
    flags: int = 0,
    merges: bool = True,
    placement: Placement | None = None,
) -> Started:
    """Append a run at the top of a tree of its own; it begins when it is admitted. By the workflow's rules it may be
    another run that the start leads to; unless `merges`, rules by which several starts become one are not asked.

    Raises:
        PayloadError: the data does not fit the rules.
    """
    row = root_row(kernel, workflow, data, run_id, headers=headers, event=event, retries=retries,
                   origin_run_id=origin_run_id, flags=flags)  # fmt: skip
    if workflow.rules is not None:
        return kernel.start_by_rules(row, workflow, context, merges=merges)
    may_leave = workflow.budget is None and not workflow.cancel_on
    if kernel.sharing is not None and may_leave and kernel.sharing.leaves_to_others(placement):
        return Started(run_id, kernel.journal.append(left_to_others(row)), is_new=True)
    with kernel.journal.one_act():  # with what features keep of it
        seq = kernel.journal.append(RunCreated(row))
        run = kernel.create(row, workflow, None, context)
    run.seen_seq = seq
    return Started(run_id, seq, is_new=True)


def left_to_others(row: RunRow) -> Together:
    """A run that nobody owns, and that whoever claims it begins."""
    row.status, row.attempt_at = RunStatus.QUEUED, None
    return Together([RunCreated(row), RunsReleased([row.n])])


async def start_root_as(
    kernel: Kernel,
    row: RunRow,
    workflow: Workflow[Any, Any],
    context: contextvars.Context | None,
    *also: Entry,
    then: Callable[[Run], None] = lambda run: None,
) -> bool:
    """Start a run whose id others may choose, too, elsewhere, in this moment. False: somebody did.

    Args:
        also: goes into the same entry. then: is called with the run, which begins in that moment.

    Cancelling the caller does not undo it. Raises StoreError: whether it is there is unknown.
    """
    created = RunCreated(row)

    def begin() -> None:
        with kernel.journal.one_act():
            run = kernel.create(row, workflow, None, context)
            run.seen_seq = created.seq
            then(run)

    return await kernel.journal.attempt([created, *also], begin)


def root_row(
    kernel: Kernel,
    workflow: Workflow[Any, Any],
    data: bytes | None,
    run_id: str,
    *,
    headers: bytes | None = None,
    event: EventNote | None = None,
    retries: bytes | None = None,
    origin_run_id: str | None = None,
    flags: int = 0,
) -> RunRow:
    """The row of a run at the top of a tree, which begins at once if the runtime has room for it."""
    now, n = kernel.now(), kernel.tree.next_n()
    is_queued = kernel.admission.is_full_up
    return RunRow(
        n=n,
        run_id=run_id,
        workflow_id=workflow.id,
        root_n=n,
        root_run_id=run_id,
        created_at=now,
        input=data,
        headers=headers,
        retries=retries,
        version=workflow.version,
        origin_run_id=origin_run_id,
        flags=flags,
        event=None if event is None else msgspec.msgpack.encode(event),
        status=RunStatus.QUEUED if is_queued else RunStatus.RUNNING,
        attempt_at=None if is_queued else now,
    )
