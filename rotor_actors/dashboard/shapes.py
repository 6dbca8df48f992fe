"""Rows as the page wants them. Payloads are text: they are shown, never interpreted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from rotor_actors.errors import ErrorInfo
from rotor_actors.payload_json import to_json
from rotor_actors.records import RunFlag, RunRow, RunStatus

Redact: TypeAlias = Callable[[str, str, Any], Any]
"""Is given a workflow's id, what it is (`"input"`, `"result"`, `"headers"`, `"error"`, `"progress"`) and the JSON-like value;
answers what may be shown."""

_MARKS = {
    RunFlag.RELEASED: "timed out on, runs on",
    RunFlag.ABANDON: "abandoned by its parent's end",
    RunFlag.WITHDRAWN: "withdrawn",
    RunFlag.DIVERGED: "code changed",
    RunFlag.HANDLER: "handler",
    RunFlag.DAMAGED: "damaged",
}
LONGEST_PAYLOAD = 2**20


class RunJson(msgspec.Struct):
    """One run, in a list."""

    run_id: str
    workflow_id: str
    status: str
    attempt: int
    depth: int
    parent_run_id: str | None
    parent_step_id: str | None
    root_run_id: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    waiting_for: str
    marks: list[str]
    error: ErrorInfo | None
    reason: str
    owner: str = ""
    """The replica that owns it, on a shared store."""


def run_json(row: RunRow, redact: Redact | None = None, owner: str = "") -> RunJson:
    """A row as the page wants it."""
    return RunJson(
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        status=row.status.value,
        attempt=row.attempt,
        depth=row.depth,
        parent_run_id=row.parent_run_id,
        parent_step_id=row.parent_step_id,
        root_run_id=row.root_run_id,
        created_at=row.created_at,
        started_at=row.attempt_at,
        ended_at=row.ended_at,
        waiting_for=_waiting_for(row),
        marks=marks_of(row),
        error=_error(row, redact),
        reason=_reason(row),
        owner=owner,
    )


def marks_of(row: RunRow) -> list[str]:
    """What is special about a run, in words."""
    marks = [text for flag, text in _MARKS.items() if row.flags & flag]
    return [*marks, "recovered"] if row.recoveries else marks


def _error(row: RunRow, redact: Redact | None) -> ErrorInfo | None:
    if row.error is None or row.status is RunStatus.CANCELLED:
        return None
    info = msgspec.msgpack.decode(row.error, type=ErrorInfo)
    if redact is None:
        return info
    shown = redact(row.workflow_id, "error", {"type": info.type, "message": info.message, "traceback": info.traceback})
    return msgspec.convert(shown, ErrorInfo) if isinstance(shown, dict) else ErrorInfo(info.type, str(shown))


def _reason(row: RunRow) -> str:
    return msgspec.msgpack.decode(row.error, type=str) if row.status is RunStatus.CANCELLED and row.error else ""


def _waiting_for(row: RunRow) -> str:
    if row.status is RunStatus.QUEUED:
        return "queued"
    if row.status is RunStatus.RUNNING and row.attempt_at is None:
        return "its next attempt"
    return ""


def payload_text(row: RunRow, what: str, blob: bytes | None, redact: Redact | None, *, indent: int | None = 2) -> str:
    """A payload as JSON, indented unless `indent` is None."""
    if blob is None:
        return ""
    value = to_json(blob)
    if redact is not None:
        value = redact(row.workflow_id, what, value)
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_PAYLOAD else f"{text[:LONGEST_PAYLOAD]}\n… cut off: {len(text)} characters"
