"""The waterfall: what a run did when, waiting and working apart, each try a bar of its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from rotor_actors.records import Kind, OutcomeStatus, RunRow, StepRow


class Span(msgspec.Struct):
    """A bar. It waits from `waits_from` to `works_from`, then works until `ends`; times in seconds since the epoch."""

    label: str
    kind: str
    status: str
    waits_from: float
    works_from: float | None
    ends: float | None
    attempt: int = 1
    run_id: str | None = None


def spans(run: RunRow, steps: Iterable[StepRow], children: Iterable[RunRow]) -> list[Span]:
    """The run's attempts first, then its steps and children in the order in which they began."""
    rows, runs = list(steps), list(children)
    invoked = {child.parent_key for child in runs}  # whose own bar says more than their invoke's
    below = [
        *_step_spans([row for row in rows if row.key not in invoked]),
        *(_child_span(child) for child in runs),
    ]
    below.sort(key=lambda span: span.waits_from)
    return [*_attempt_spans(run, rows), *below]


def _attempt_spans(run: RunRow, rows: list[StepRow]) -> list[Span]:
    failed = [row for row in rows if row.kind is Kind.ATTEMPT]
    bars: list[Span] = []
    # When the first attempt began is known only while it is the current one.
    waits_from = run.created_at
    began = run.created_at if failed else run.attempt_at
    for number, row in enumerate(failed, start=1):
        bars.append(Span(run.workflow_id, "attempt", "failed", waits_from, began, row.at, number))
        waits_from = row.at
        began = row.due if row.due is not None else row.at
    last = len(failed) + 1
    if not run.status.is_terminal or run.ended_at != waits_from:
        works = run.attempt_at
        bars.append(Span(run.workflow_id, "attempt", run.status.value, waits_from, works, run.ended_at, last))
    return bars


def _step_spans(rows: list[StepRow]) -> list[Span]:
    bars: list[Span] = []
    last_failure: dict[bytes, StepRow] = {}
    for row in rows:
        if row.kind is Kind.STEP_RETRY:
            bars.append(_try(row, last_failure.get(row.key), "failed"))
            last_failure[row.key] = row
        elif row.kind not in (Kind.ATTEMPT, Kind.TIMER) and row.step_id:
            status = "completed" if row.status is OutcomeStatus.COMPLETED else row.status.value
            bars.append(_try(row, last_failure.pop(row.key, None), status))
    for row in last_failure.values():
        bars.append(Span(row.step_id, "run", "running", row.at, None, None, row.attempts + 1))
    return bars


def _try(row: StepRow, failure: StepRow | None, status: str) -> Span:
    began = row.began_at if row.began_at is not None else row.at
    if failure is None:
        return Span(row.step_id, row.kind.value, status, began, began, row.at, row.attempts)
    due = failure.due if failure.due is not None else failure.at
    return Span(row.step_id, "run", status, failure.at, min(due, row.at), row.at, row.attempts)


def _child_span(child: RunRow) -> Span:
    works = child.attempt_at if child.attempt_at is not None else child.ended_at
    label = f"{child.parent_step_id}: {child.workflow_id}"
    status = child.status.value
    return Span(label, "invoke", status, child.created_at, works, child.ended_at, child.attempt, child.run_id)
