"""`rotor runs cancel`, `restart`, `resume`, `rotor send`, `rotor signal`.

A file has one owner. Where a process has it open, that process is asked; where none has, it is opened here. A database
that replicas share is told: by a replica that runs nothing, for as long as that takes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from rotor_actors.cli.main import DONE, FAILED
from rotor_actors.cli.output import parse_data, print_one, print_rows
from rotor_actors.cli.stores import has_one_owner, stores_of
from rotor_actors.cli.targets import load_runtime
from rotor_actors.control import ControlError, ControlTimeoutError, ask
from rotor_actors.errors import StoreLockedError
from rotor_actors.runtime import Runtime, visitor

_USUAL, _LONG = "60s", "10m"
_LONG_VERBS = frozenset({"cancel", "delete", "prune"})


def _perform(options: argparse.Namespace, verb: str, **arguments: object) -> Any:
    """Ask the owner; without one, be it for a moment. Where replicas share the store, be one of them for a moment."""
    if not has_one_owner(options.store):
        return asyncio.run(_visit(options, verb, arguments))
    try:
        return ask(options.store, verb, within=_LONG if verb in _LONG_VERBS else _USUAL, **arguments)
    except ControlTimeoutError:
        raise  # somebody has it open, and may yet do it
    except ControlError as error:
        if error.error:
            raise

    async def here() -> Any:
        target = getattr(options, "app", None)
        runtime = load_runtime(target, options.store) if target else Runtime(options.store, drain_timeout="1s")
        async with runtime:
            return await runtime.perform(verb, arguments)

    try:
        return asyncio.run(here())
    except StoreLockedError as error:
        raise ControlError(f"{error}; and that process does not answer at its control socket") from error


async def _visit(options: argparse.Namespace, verb: str, arguments: dict[str, object]) -> Any:
    target = getattr(options, "app", None)
    workflows = load_runtime(target, options.store).workflows if target else ()
    async with visitor(stores_of(options.store), workflows=workflows) as runtime:
        return await runtime.perform(verb, arguments)


def cancel(options: argparse.Namespace) -> int:
    """Cancel a run and all below it."""
    report = _perform(options, "cancel", run_id=options.run_id, reason=options.reason)
    if options.output != "table":
        print_one(report, options.output)
    else:
        print(f"cancelled {_runs(len(report['cancelled']))} in {report['seconds']:.2f} s", file=sys.stderr)
        for run_id in report["already_ended"]:
            print(f"{run_id} had ended already", file=sys.stderr)
        for stuck in report["stuck"]:
            print(f"stuck: {stuck}", file=sys.stderr)
    return FAILED if report["stuck"] else DONE


def restart(options: argparse.Namespace) -> int:
    """Run it again from zero."""
    return _again(options, "restart")


def resume(options: argparse.Namespace) -> int:
    """Let it go on from where it failed."""
    return _again(options, "resume")


def fork(options: argparse.Namespace) -> int:
    """Run it again from a step."""
    return _again(options, "fork", from_step=options.from_step)


def _again(options: argparse.Namespace, verb: str, **arguments: object) -> int:
    run_id = _perform(options, verb, run_id=options.run_id, **arguments)
    print_one({"run_id": run_id}, options.output)
    return DONE


def delete(options: argparse.Namespace) -> int:
    """Delete a run's tree."""
    count = _perform(options, "delete", run_id=options.run_id)
    print(f"deleted {_runs(count)}", file=sys.stderr)
    return DONE


def prune(options: argparse.Namespace) -> int:
    """Delete what ended long ago."""
    report = _perform(options, "prune", older_than=options.older_than, dry_run=options.dry_run)
    print_one(report, options.output)
    return DONE


def pause(options: argparse.Namespace) -> int:
    """Pause a key."""
    _perform(options, "pause_key", key=options.key)
    print(f"paused {options.key}; those that run go on", file=sys.stderr)
    return DONE


def unpause(options: argparse.Namespace) -> int:
    """Let a paused key go on."""
    _perform(options, "resume_key", key=options.key)
    print(f"{options.key} goes on", file=sys.stderr)
    return DONE


def send(options: argparse.Namespace) -> int:
    """Send an event."""
    started = _perform(options, "send", name=options.event, data=parse_data(options.data), id=options.id)
    if started or options.output != "table":
        print_rows([{"run_id": run_id} for run_id in started], ["run_id"], options.output)
    else:
        print(f"sent {options.event}; it started no run", file=sys.stderr)
    return DONE


def signal(options: argparse.Namespace) -> int:
    """Signal the run that waits for it."""
    _perform(options, "signal", name=options.signal, data=parse_data(options.data))
    print(f"signalled {options.signal}", file=sys.stderr)
    return DONE


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
