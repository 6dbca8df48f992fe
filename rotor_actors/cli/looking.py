"""`rotor runs ls`, `show`, `tree`, `export`: reads the store's file, whoever owns it."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from rotor_actors.cli.main import DONE, UsageError
from rotor_actors.cli.output import as_json, colored, print_one, print_rows
from rotor_actors.cli.stores import stores_of
from rotor_actors.durations import seconds
from rotor_actors.errors import DurationError
from rotor_actors.exports import each_run, export_tree
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.views import RunInfo
from rotor_actors.waits import Reason

_COLUMNS = ("run_id", "workflow_id", "status", "created_at", "took", "note")


def ls(options: argparse.Namespace) -> int:
    """List runs."""

    async def read() -> list[RunInfo]:
        async with RuntimeView(stores_of(options.store)) as view:
            return await view.runs(
                status=options.status,
                workflow=options.workflow,
                parent=options.parent,
                root=options.root,
                since=when(options.since),
                until=when(options.until),
                id_prefix=options.id,
                error=options.error,
                limit=options.limit,
                after=options.after,
            )

    try:
        runs = asyncio.run(read())
    except ValueError as error:
        if isinstance(error, DurationError):
            raise
        raise UsageError(str(error)) from error
    columns = (*_COLUMNS[:-1], "owner", "note") if any(run.owner is not None for run in runs) else _COLUMNS
    print_rows([row_of(run) for run in runs], columns, options.output)
    return DONE


def show(options: argparse.Namespace) -> int:
    """Show one run with its steps and children."""

    async def read() -> dict[str, Any]:
        async with RuntimeView(stores_of(options.store)) as view:
            run = await view.info(options.run_id)
            steps = await view.steps(options.run_id)
            children = await view.runs(parent=options.run_id, limit=1000)
            why = await view.why(options.run_id)
        return {
            **row_of(run),
            "why": why,
            "steps": [msgspec.to_builtins(step, enc_hook=str) for step in steps],
            "children": [{"run_id": each.run_id, "step_id": each.parent_step_id, "workflow_id": each.workflow_id,
                          "status": each.status.value} for each in children],
        }  # fmt: skip

    found = asyncio.run(read())
    if options.output == "table":
        found["steps"] = "\n".join(
            f"{each['status']:<10} {each['kind']:<8} {each['step_id']}" for each in found["steps"]
        )
        found["children"] = "\n".join(
            f"{each['status']:<10} {each['step_id']} -> {each['workflow_id']} {each['run_id']}"
            for each in found["children"]
        )
        if found["error"] is not None:
            found["error"] = found["error"]["traceback"] or f"{found['error']['type']}: {found['error']['message']}"
        found = {name: value for name, value in found.items() if value not in (None, "", {}, [])}
    print_one(found, options.output)
    return DONE


def tree(options: argparse.Namespace) -> int:
    """Show a run and all below it."""

    async def read() -> Any:
        async with RuntimeView(stores_of(options.store)) as view:
            return await view.tree(options.run_id)

    found = asyncio.run(read())
    rows = [(depth, cast(RunInfo, run)) for depth, run in each_run(found)]
    if options.output == "table":
        for depth, run in rows:
            step = f"{run.parent_step_id}: " if run.parent_step_id and depth else ""
            status = colored(run.status.value, sys.stdout)
            print(f"{'  ' * depth}{status} {step}{run.workflow_id} {run.run_id} {took(run)}".rstrip())
    else:
        print_rows([{**row_of(run), "below": depth} for depth, run in rows], _COLUMNS, options.output)
    return DONE


def export(options: argparse.Namespace) -> int:
    """Write a run's tree as one file."""

    async def read() -> Any:
        async with RuntimeView(stores_of(options.store)) as view:
            return await view.tree(options.run_id)

    text = export_tree(asyncio.run(read()), options.format)
    if options.to is None:
        sys.stdout.write(text)
    else:
        try:
            Path(options.to).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--to: {error}") from error
        print(f"wrote {options.to}", file=sys.stderr)
    return DONE


def row_of(run: RunInfo) -> dict[str, Any]:
    """All of a run, and what a table has room for."""
    error = f"{run.error.type}: {run.error.message}" if run.error is not None else ""
    return {
        **msgspec.to_builtins(run, enc_hook=str, builtin_types=(datetime,)),
        "took": took(run),
        "note": error or run.reason or ("" if run.waiting_for == Reason.OWNER else run.waiting_for),
    }


def took(run: RunInfo) -> str:
    """How long it has worked so far."""
    if run.started_at is None:
        return ""
    elapsed = (run.ended_at or datetime.now(UTC)) - run.started_at
    return f"{elapsed.total_seconds():.2f}s"


def when(text: str | None) -> datetime | None:
    """A date, a time with or without a zone (this machine's), or how long ago: `2h`. Raises UsageError."""
    if text is None:
        return None
    if re.fullmatch(r"(\d+(\.\d+)?[a-z]+)+", text):
        try:
            return datetime.now(UTC) - timedelta(seconds=seconds(text, name="time"))
        except DurationError as error:
            raise UsageError(str(error)) from error
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no time: give 2026-01-31, 2026-01-31T12:00+01:00, or 2h for two hours ago"
        ) from error
    return moment.astimezone() if moment.tzinfo is None else moment


def printed(value: Any) -> str:
    """A result for stdout."""
    return as_json(value)
