"""What a run that has not ended waits for, in words: the answer to "why does it stand still?". Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from rotor_actors.durations import humanize
from rotor_actors.errors import ErrorInfo
from rotor_actors.records import RunFlag, RunRow, RunStatus

_MOST_NAMED = 3


class Reason(StrEnum):
    """Why a run does not go on by itself."""

    ADMISSION = "admission"
    FLOW = "flow control"
    """Queued; `name` says what for."""
    WORKFLOW = "workflow"
    """No workflow of its id is registered."""
    PROBATION = "probation"
    """It seems to end the process each time it is recovered."""
    TURN = "turn"
    HISTORY = "history"
    RETRY = "retry"
    DISK = "disk"
    """A step that begins when what led to it is durable."""
    STEP = "step"
    WORKER = "worker"
    """A step that its runner has not begun."""
    STEP_RETRY = "step-retry"
    CHILD = "child"
    SLEEP = "sleep"
    EVENT = "event"
    SIGNAL = "signal"
    TIMER = "timer"
    CLEANUP = "cleanup"
    OWNER = "owner"
    """Nothing is known but its row: the process that owns the run knows more."""


class Wait(msgspec.Struct, frozen=True):
    """One thing that a run waits for.

    Attributes:
        name: the step's id. kind: of a step that has no reason of its own, what it is.
        since, due: from when, and until when at most; epoch seconds.
        run_id, workflow_id: of a child. target: the event, the signal, or the step's runner.
        count: executions so far, or how many stand before it.
        limit: of admission; 0 where it is not known what holds it.
    """

    reason: Reason | str
    name: str = ""
    since: float | None = None
    due: float | None = None
    run_id: str = ""
    workflow_id: str = ""
    count: int = 0
    limit: int = 0
    target: str = ""


def brief(waits: list[Wait]) -> str:
    """For a column of a list: `step 'fetch'`, `child 'invoke-it'`, `retry`, … and how many more."""
    if not waits:
        return ""
    first = waits[0]
    if first.reason is Reason.FLOW:
        return f"{first.reason}: {first.name}"
    named = f"{first.reason} {first.name!r}" if first.name else str(first.reason)
    return named if len(waits) == 1 else f"{named} and {len(waits) - 1} more"


def sentence(row: RunRow, waits: list[Wait], now: float) -> str:
    """One sentence: what it waits for, since when, and what happens next."""
    about = f"run {row.run_id} of workflow {row.workflow_id!r}"
    if row.status.is_terminal:
        return f"{about} {_ended(row, now)}"
    if not waits:
        return f"{about} is between two steps; it goes on at once"
    named = "; and ".join(_described(row, wait, now) for wait in waits[:_MOST_NAMED])
    more = f"; and for {len(waits) - _MOST_NAMED} more" if len(waits) > _MOST_NAMED else ""
    return f"{about} {named}{more}"


def _ended(row: RunRow, now: float) -> str:
    at = "" if row.ended_at is None else f" {_moment(row.ended_at, now)}"
    match row.status:
        case RunStatus.COMPLETED:
            return f"completed{at}; it waits for nothing"
        case RunStatus.FAILED:
            error = _error(row)
            attempts = "" if row.attempt == 1 else f" in attempt {row.attempt}"
            return (
                f"failed{at}{attempts} with {error}; runtime.resume goes on from the failed step, restart from the top"
            )
        case _:
            reason = msgspec.msgpack.decode(row.error, type=str) if row.error else ""
            why = f": {reason}" if reason else ""
            what = "withdrawn by the scope that awaited it" if row.flags & RunFlag.WITHDRAWN else "cancelled"
            return f"was {what}{at}{why}; it waits for nothing"


def _described(row: RunRow, wait: Wait, now: float) -> str:
    since = "" if wait.since is None else f" since {_moment(wait.since, now)}"
    until = "" if wait.due is None else f", until {_moment(wait.due, now)} at most"
    match wait.reason:
        case Reason.ADMISSION if not wait.limit:
            return (
                f"waits to be admitted{since}: by max_active_runs or flow control; its place is known to its owner only"
            )
        case Reason.ADMISSION:
            ahead = "it is next" if not wait.count else f"{wait.count} stand before it"
            return (f"waits for admission{since}: max_active_runs={wait.limit} are under way, {ahead}; it begins when "
                    f"one of them ends")  # fmt: skip
        case Reason.FLOW:
            return f"is queued{since}: {wait.name}; it begins when that is over, in its order"
        case Reason.WORKFLOW:
            return (f"is left untouched{since}: no workflow of that id is registered; it goes on when "
                    f"Runtime(workflows=[…]) names it")  # fmt: skip
        case Reason.PROBATION:
            ahead = "it is recovered alone now" if not wait.count else f"{wait.count} suspects are recovered before it"
            return (f"is on probation: the process ended {row.recoveries} times in a row while it was being "
                    f"recovered; {ahead}")  # fmt: skip
        case Reason.TURN:
            return f"waits for its turn{since}: others are being served; it goes on in a moment"
        case Reason.HISTORY:
            return "is being loaded from the store; it goes on in a moment"
        case Reason.RETRY:
            failed = f" with {_error(row)}" if row.error is not None else ""
            when = "next" if wait.due is None else _moment(wait.due, now)
            return f"failed in attempt {row.attempt - 1}{failed}; attempt {row.attempt} begins {when}"
        case Reason.DISK:
            return f"begins step {wait.name!r} as soon as what led to it is on the disk"
        case Reason.STEP:
            again = "" if wait.count <= 1 else f" (execution {wait.count})"
            by = f" by runner {wait.target!r}" if wait.target else ""
            return f"executes step {wait.name!r}{by}{again}{since}{until}"
        case Reason.WORKER:
            again = "" if wait.count <= 1 else f" (execution {wait.count})"
            return f"waits for a free worker of runner {wait.target!r} for step {wait.name!r}{again}{since}"
        case Reason.STEP_RETRY:
            when = "next" if wait.due is None else _moment(wait.due, now)
            return f"waits to try step {wait.name!r} again: it failed {_times(wait.count)}; execution {wait.count + 1} begins {when}"  # noqa: E501
        case Reason.CHILD:
            return f"waits for child {wait.run_id} of workflow {wait.workflow_id!r} (step {wait.name!r}){since}{until}"
        case Reason.SLEEP:
            when = "" if wait.due is None else f" until {_moment(wait.due, now)}"
            return f"sleeps in step {wait.name!r}{when}"
        case Reason.EVENT | Reason.SIGNAL:
            return f"waits for {wait.reason} {wait.target!r} (step {wait.name!r}){since}{until}"
        case Reason.TIMER:
            when = "" if wait.due is None else f" at {_moment(wait.due, now)}"
            return f"waits for a timer of its body (asyncio.sleep, a timeout), due{when}"
        case Reason.CLEANUP:
            return "was cancelled and cleans up"
        case Reason.OWNER:
            due = "" if wait.due is None else f"; it is due next {_moment(wait.due, now)}"
            return f"is under way{since}; what it does right now is known only to the process that owns it{due}"
        case _:
            return f"waits in step {wait.name!r} ({wait.reason}){since}{until}"


def _error(row: RunRow) -> str:
    if row.error is None:
        return "an error that is not recorded"
    info = msgspec.msgpack.decode(row.error, type=ErrorInfo)
    return f"{info.type}: {info.message}" if info.message else info.type


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _moment(at: float, now: float) -> str:
    """A time of day, with its distance from now."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    distance = abs(at - now)
    if distance < 1:
        return f"{moment} (now)"
    away = humanize(float(round(distance)))
    return f"{moment} ({away} ago)" if at < now else f"{moment} (in {away})"
