"""Runs that nobody invoked: started by a caller, an event, a schedule."""

from __future__ import annotations

import contextvars
from typing import Any

import msgspec

from rotor_actors.kernel import Kernel, Started
from rotor_actors.records import EventNote, RunCreated, RunRow, RunStatus
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
) -> Started:
    """Append a run at the top of a tree of its own; it begins when it is admitted. By the workflow's rules it may be
    another run that the start leads to; unless `merges`, rules by which several starts become one are not asked.

    Raises:
        PayloadError: the data does not fit the rules.
    """
    now, n = kernel.now(), kernel.tree.next_n()
    is_queued = kernel.admission.is_full_up
    row = RunRow(
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
    if workflow.rules is not None:
        return kernel.start_by_rules(row, workflow, context, merges=merges)
    with kernel.journal.one_act():  # with what features keep of it
        seq = kernel.journal.append(RunCreated(row))
        run = kernel.create(row, workflow, None, context)
    run.seen_seq = seq
    return Started(run_id, seq, is_new=True)
