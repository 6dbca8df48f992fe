"""What the page asks for, read from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from rotor_actors.dashboard.asgi import HttpError, Request
from rotor_actors.dashboard.shapes import Redact, RunJson, payload_text, run_json
from rotor_actors.dashboard.timeline import Span, spans
from rotor_actors.dashboard.trees import above, as_arrays, below, count_below
from rotor_actors.ownership import owner_names
from rotor_actors.progress import Report, reports_of
from rotor_actors.records import Kind, RunFlag, RunRow, RunStatus, StepRow
from rotor_actors.stores.base import RunQuery, StoreReader

LARGEST_PAGE = 500
LONGEST_TIMELINE = 5_000


class Reader(Protocol):
    """Reads the store where that blocks nobody, what was appended before the call included."""

    async def __call__(self, read: Callable[[StoreReader], Any], /) -> Any: ...


class StepJson(msgspec.Struct):
    """A step, or an invoke: then `child` is its run."""

    step_id: str
    kind: str
    status: str
    attempts: int
    began_at: float | None
    ended_at: float | None
    child: RunJson | None = None
    error: str = ""


class Detail(msgspec.Struct):
    """All about one run."""

    run: RunJson
    input: str
    result: str
    headers: Mapping[str, str]
    why: str
    breadcrumb: list[RunJson]
    steps: list[StepJson]
    steps_more: int
    below: int
    progress: str


class Reading:
    """The answers to questions.

    Args:
        read: the store's reader.
        why: one sentence about a run.
        redact: see `shapes.Redact`.
        now: the runtime's time.
    """

    def __init__(
        self, read: Reader, why: Callable[[str], Any], redact: Redact | None, now: Callable[[], float]
    ) -> None:
        self._read = read
        self._why = why
        self._redact = redact
        self._now = now

    async def row(self, run_id: str) -> RunRow:
        """The run of this id. Raises HttpError."""
        row: RunRow | None = await self._read(lambda store: store.find(run_id))
        if row is None:
            raise HttpError(404, f"no run has the id {run_id!r} in this store")
        return row

    async def runs(self, request: Request) -> dict[str, Any]:
        """A page of the run list."""
        limit = request.number("limit", 50, at_most=LARGEST_PAGE)
        after = request.query.get("after")
        last = await self.row(after) if after else None
        query = RunQuery(
            statuses=_statuses(request.query.get("status", "")),
            workflow_id=request.query.get("workflow") or None,
            since=request.moment("since"),
            id_prefix=request.query.get("id") or None,
            error=request.query.get("error") or None,
            is_root=request.query.get("top") == "1",
            limit=limit + 1,
            before_n=None if last is None else last.n,
            before_at=None if last is None else last.created_at,
        )

        def read(store: StoreReader) -> tuple[list[RunRow], dict[RunStatus, int], Mapping[int, str]]:
            rows = store.list_runs(query)
            return rows, store.count_by_status(None), owner_names(store, rows)

        rows, counts, owners = await self._read(read)
        return {
            "runs": [run_json(row, self._redact, owners.get(row.n, "")) for row in rows[:limit]],
            "next": rows[limit - 1].run_id if len(rows) > limit else None,
            "counts": {status.value: count for status, count in counts.items()},
        }

    async def detail(self, request: Request) -> Detail:
        """One run with its steps, its invoker and its children."""
        row = await self.row(request.text("id"))
        limit = request.number("steps", 200, at_most=20_000)

        def read(
            store: StoreReader,
        ) -> tuple[list[RunRow], list[StepRow], list[RunRow], int, dict[str, Report], Mapping[int, str]]:
            children = store.list_runs(RunQuery(parent_n=row.n, limit=limit + 1))
            reports = reports_of(store, row.n) if row.flags & RunFlag.REPORTS else {}
            steps = store.steps(row.n, limit + 1)
            return above(store, row), steps, children, count_below(store, row), reports, owner_names(store, [row])

        invokers, steps, children, count, reports, owners = await self._read(read)
        lines = _lines(steps, children, self._redact)
        return Detail(
            run=run_json(row, self._redact, owners.get(row.n, "")),
            input=payload_text(row, "input", row.input, self._redact),
            result=payload_text(row, "result", row.result, self._redact),
            headers=_headers(row, self._redact),
            why=await self._why(row.run_id),
            breadcrumb=[run_json(each, self._redact) for each in invokers],
            steps=lines[:limit],
            steps_more=len(lines) - min(len(lines), limit),
            below=count,
            progress=_progress(row, reports, self._redact),
        )

    async def tree(self, request: Request) -> dict[str, Any]:
        """The run and all below it, parents before their children, as arrays: a large tree is a long answer."""
        top = await self.row(request.text("id"))
        found: dict[str, Any] = await self._read(lambda store: as_arrays(below(store, top), top))
        return found

    async def timeline(self, request: Request) -> dict[str, Any]:
        """The bars of the waterfall."""
        row = await self.row(request.text("id"))
        query = RunQuery(parent_n=row.n, limit=LONGEST_TIMELINE)
        steps, children = await self._read(lambda store: (store.steps(row.n, LONGEST_TIMELINE), store.list_runs(query)))
        bars: list[Span] = spans(row, steps, children)
        return {"spans": bars[:LONGEST_TIMELINE], "now": self._now(), "left_out": max(0, len(bars) - LONGEST_TIMELINE)}


def _statuses(text: str) -> tuple[RunStatus, ...]:
    try:
        return tuple(RunStatus(each) for each in text.split(",") if each)
    except ValueError:
        raise HttpError(400, f"unknown status {text!r}: one of {', '.join(RunStatus)}") from None


def _progress(row: RunRow, reports: dict[str, Report], redact: Redact | None) -> str:
    """The newest value of each key, one a line."""
    lines: list[str] = []
    for key, report in sorted(reports.items()):
        value = payload_text(row, "progress", report.value, redact, indent=None)
        lines.append(f"{key}: {value}" if key else value)
    return "\n".join(lines)


def _headers(row: RunRow, redact: Redact | None) -> Mapping[str, str]:
    headers = {} if row.headers is None else msgspec.msgpack.decode(row.headers, type=dict[str, str])
    if redact is None or not headers:
        return headers
    try:
        return msgspec.convert(redact(row.workflow_id, "headers", headers), dict[str, str])
    except msgspec.ValidationError:
        return {"": "not shown"}


def _lines(steps: list[StepRow], children: list[RunRow], redact: Redact | None) -> list[StepJson]:
    """Steps and invokes in the order in which they began. The row of an invoke's end gives way to its child's."""
    invoked = {child.parent_key: child for child in children}
    lines: list[tuple[float, StepJson]] = []
    timed_out: set[bytes | None] = set()
    for step in steps:
        if not step.kind.is_outcome:
            continue
        began = step.began_at if step.began_at is not None else step.at
        line = StepJson(step.step_id, step.kind.value, step.status.value, step.attempts, began, step.at)
        if step.kind is Kind.INVOKE and (child := invoked.get(step.key)) is not None:
            line.child, line.began_at = run_json(child, redact), child.created_at
            timed_out.add(child.parent_key)
        lines.append((line.began_at or step.at, line))
    for child in children:
        if child.parent_key not in timed_out:
            shown = run_json(child, redact)
            lines.append(
                (child.created_at, StepJson(child.parent_step_id or "", "invoke", shown.status, child.attempt,
                                            child.created_at, child.ended_at, shown))
            )  # fmt: skip
    lines.sort(key=lambda pair: pair[0])
    return [line for _, line in lines]
