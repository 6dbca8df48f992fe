"""What the page shows of the running program: its workflows, its services, what was done from here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from rotor_actors.dashboard.reading import Reader
from rotor_actors.records import RunRow, RunStatus
from rotor_actors.stores.base import RunQuery, StoreReader
from rotor_actors.workflows import Cron, Workflow

MINUTES = 60
NEWEST = 10_000
_ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class WorkflowStats(msgspec.Struct):
    """How a workflow does; counts, rates and latencies are of the newest runs."""

    workflow_id: str
    registered: bool
    trigger: str
    counts: dict[str, int]
    per_minute: list[int]
    p50: float | None
    p95: float | None


async def workflows(
    read: Reader, registered: Callable[[], Iterable[Workflow[Any, Any]]], now: Callable[[], float]
) -> dict[str, Any]:
    """Statistics of each workflow, of the newest runs: what is older costs nothing."""

    def newest(store: StoreReader) -> list[RunRow]:
        return store.list_runs(RunQuery(limit=NEWEST))

    rows = await read(newest)
    known = {workflow.id: workflow for workflow in registered()}
    return {"workflows": stats(rows, known, now()), "minutes": MINUTES, "of_newest": NEWEST}


def stats(rows: Iterable[RunRow], known: dict[str, Workflow[Any, Any]], now: float) -> list[WorkflowStats]:
    """Pure."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    ends: dict[str, list[int]] = defaultdict(lambda: [0] * MINUTES)
    latencies: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        counts[row.workflow_id][row.status.value] += 1
        if row.ended_at is None:
            continue
        minute = int((now - row.ended_at) // 60)
        if 0 <= minute < MINUTES:
            ends[row.workflow_id][MINUTES - 1 - minute] += 1
            if row.status is RunStatus.COMPLETED:
                latencies[row.workflow_id].append(row.ended_at - row.created_at)
    return [
        WorkflowStats(
            workflow_id=id,
            registered=id in known,
            trigger=_trigger(known.get(id)),
            counts=dict(counts[id]),
            per_minute=ends[id],
            p50=_quantile(latencies[id], 0.5),
            p95=_quantile(latencies[id], 0.95),
        )
        for id in sorted({*known, *counts})
    ]


def _trigger(workflow: Workflow[Any, Any] | None) -> str:
    match None if workflow is None else workflow.on:
        case None:
            return "a call"
        case Cron() as cron:
            return f"the clock: {cron.expression} {cron.timezone}"
        case str() as name:
            return f"event {name}"


def _quantile(values: list[float], part: float) -> float | None:
    if not values:
        return None
    values.sort()
    return values[min(len(values) - 1, int(part * len(values)))]
