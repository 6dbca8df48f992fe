"""The report of a universe that failed: which one, what broke, the schedule, the timeline, how to see it again."""

from __future__ import annotations

import asyncio
import inspect
import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import apsw

from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.running import Outcome
from rotor_actors.simulation.schedule import VARIABLE, Schedule, count
from rotor_actors.simulation.timeline import timeline

_NOT_THE_USERS = (str(Path(__file__).parent.parent), str(Path(asyncio.__file__).parent))
_MOST_CHOICES = 24


def report(
    name: str, outcome: Outcome, first: Outcome, *, number: int, of: str, shrinking_runs: int, command: str
) -> str:
    """Everything about a failure, as text."""
    failure = outcome.failure
    schedule = Schedule(outcome.seed, outcome.point, outcome.choices)
    broken = failure.invariant if isinstance(failure, InvariantError) else type(failure).__name__
    lines = [
        f"{name} failed in universe {number} of {of}",
        f"seed:     {outcome.seed}" + ("" if outcome.point is None else f", crash {outcome.point}"),
        f"versions: {versions()}",
        f"broken:   {broken}: {failure}",
        *_place_of(failure),
        f"schedule: {count(first.choices)} choices, shrunk to {count(outcome.choices)} in {shrinking_runs} runs"
        f"{_choices(outcome.choices)}",
        f"faults:   {', '.join(f'{kind} {times}' for kind, times in outcome.fired.items()) or 'none'}",
        "timeline:",
        *timeline(outcome.trace),
        "replay:",
        f"  {VARIABLE}='{schedule}' {command}",
    ]
    return "\n".join(lines)


def _place_of(failure: BaseException | None) -> list[str]:
    """The innermost line of user code that it came from."""
    frames = traceback.extract_tb(None if failure is None else failure.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    return [f"at:       {os.path.relpath(own[-1].filename)}:{own[-1].lineno}: {own[-1].line}"] if own else []


def versions() -> str:
    """Of all that a seed depends on."""
    return (
        f"rotor-actors {_version('rotor-actors')}, Python {platform.python_version()}, anyio {_version('anyio')}, "
        f"SQLite {apsw.sqlitelibversion()}"
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def command_of(test: Callable[..., Any]) -> str:
    """The command that runs a test."""
    running = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if not running:
        file = inspect.getsourcefile(test) or "?"
        running = f"{os.path.relpath(file)}::{test.__qualname__.replace('.', '::')}"
    quoted = f"'{running}'" if "[" in running else running
    return f"{'python' if 'python' in sys.executable else sys.executable} -m pytest {quoted}"


def _choices(choices: dict[str, list[int]]) -> str:
    drawn = [
        f"{purpose}[{at}]={choice}" for purpose, tape in choices.items() for at, choice in enumerate(tape) if choice
    ]
    if not drawn:
        return ""
    more = f", … {len(drawn) - _MOST_CHOICES} more" if len(drawn) > _MOST_CHOICES else ""
    return f": {', '.join(drawn[:_MOST_CHOICES])}{more}"
