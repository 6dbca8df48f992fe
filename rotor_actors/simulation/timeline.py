"""What happened in a universe, for readers: one line for each event that means something, runs by a name."""

from __future__ import annotations

from rotor_actors.records import (
    Entry,
    RunChanged,
    RunCreated,
    RunRow,
    RunsCancelled,
    RunStatus,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.simulation import trace as t

_MOST_LINES = 60
_LONGEST = 120
_LONGEST_ID = 24


def timeline(trace: list[t.TraceEvent], most_lines: int = _MOST_LINES) -> list[str]:
    """The last lines of it."""
    names = _Names()
    lines = [f"  {event.at:12.4f} s  {text}" for event in trace for text in _texts(event, names)]
    left_out = len(lines) - most_lines
    return [f"  … {left_out} earlier lines", *lines[left_out:]] if left_out > 0 else lines


class _Names:
    """A run is called by the id that its caller chose, or by its workflow and its number."""

    def __init__(self) -> None:
        self._by_n: dict[int, str] = {}
        self._by_id: dict[str, str] = {}

    def add(self, run: RunRow) -> str:
        name = run.run_id if len(run.run_id) <= _LONGEST_ID else f"{run.workflow_id}#{run.n}"
        self._by_n[run.n] = self._by_id[run.run_id] = name
        return name

    def of(self, n: int | None) -> str:
        return "?" if n is None else self._by_n.get(n, f"run {n}")

    def of_id(self, run_id: str) -> str:
        return self._by_id.get(run_id, run_id)


def _texts(event: t.TraceEvent, names: _Names) -> list[str]:
    match event:
        case t.Opened():
            return [f"life {event.incarnation} opens the store"]
        case t.Closed():
            return [f"life {event.incarnation} closes the store"]
        case t.Crashed():
            return [f"life {event.incarnation} DIES: {event.place}"]
        case t.Appended():
            return _entry(event.entry, names)
        case t.CommitFailed():
            return [f"commit of {_counted(event.entries)} failed: {event.error}"]
        case t.Committed():
            return [f"committed {_counted(event.entries)}"]
        case t.EffectBegun():
            again = f", execution {event.execution}" if event.execution > 1 else ""
            return [f"{names.of_id(event.run_id)} begins step {event.step_id!r}{again}"]
        case t.Asked():
            return [f"runtime.{event.verb}({names.of_id(event.run_id)})"]
        case t.Acknowledged():
            of = f"({names.of_id(event.run_id)})" if event.run_id else "()"
            return [f"runtime.{event.verb}{of} is answered: {event.outcome[:_LONGEST]}"]
        case t.Noted():
            return [f"-- {event.text}"]
        case _:
            line = event.line()
            return [line] if line else []


def _counted(entries: list[Entry]) -> str:
    return f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"


def _entry(entry: Entry, names: _Names) -> list[str]:
    match entry:
        case RunCreated():
            above = f", child of {names.of(entry.run.parent_n)}" if entry.run.parent_n is not None else ""
            return [f"{names.add(entry.run)} is created{above}"]
        case RunChanged():
            return [f"{names.add(entry.run)} {_state(entry.run)}"]
        case StepRecorded():
            return [f"{names.of(entry.step.n)} records {_outcome(entry.step)}"]
        case RunsCancelled():
            return [f"cancelled: {', '.join(map(names.of, entry.ns))}"]
        case Together():
            return [line for each in entry.entries for line in _entry(each, names)]
        case _:
            return []


def _state(run: RunRow) -> str:
    if run.status is not RunStatus.RUNNING:
        return f"is {run.status.value}"
    recovered = f", recovered {run.recoveries} times in a row" if run.recoveries else ""
    return f"runs, attempt {run.attempt}{recovered}"


def _outcome(step: StepRow) -> str:
    what = f"step {step.step_id!r}" if step.step_id else step.kind.name.lower()
    return f"{what}: {step.status.name.lower().replace('_', ' ')}"
