"""`rotor run`: a workflow to its end, with a live tree on stderr and its result on stdout."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import msgspec

from rotor_actors.cli.live import follow
from rotor_actors.cli.main import CANCELLED, DONE, FAILED
from rotor_actors.cli.output import as_json, parse_data
from rotor_actors.cli.stores import stores_of
from rotor_actors.cli.targets import load_runtime, load_workflow, runners_beside, workflows_beside
from rotor_actors.control import ask
from rotor_actors.errors import StoreLockedError
from rotor_actors.records import RunStatus
from rotor_actors.runtime import shell
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.views import RunInfo


def run(options: argparse.Namespace) -> int:
    """Run a workflow. Where another process has the store open, that one runs it."""
    workflow, data = load_workflow(options.workflow), parse_data(options.data)
    workflows = [workflow, *(each for each in workflows_beside(options.workflow) if each is not workflow)]
    app = None if options.app is None else load_runtime(options.app, options.store)
    runners = runners_beside(options.workflow) if app is None else app.given_runners()

    async def here() -> RunInfo:
        async with shell(stores_of(options.store), workflows=workflows, step_runners=runners) as runtime:
            handle = await runtime.start_from_json(workflow, data, run_id=options.run_id)
            print(f"run {handle.run_id}", file=sys.stderr)
            return await follow(runtime, handle.run_id, plain=options.plain)

    async def there() -> RunInfo:
        run_id = ask(options.store, "start", workflow=workflow.id, data=data, run_id=options.run_id)
        print(f"run {run_id}, in the process that has {options.store} open", file=sys.stderr)
        async with RuntimeView(stores_of(options.store), workflows=workflows) as view:
            return await follow(view, run_id, plain=options.plain)

    try:
        ended = asyncio.run(here())
    except StoreLockedError:
        ended = asyncio.run(there())
    return say_end(ended)


def say_end(ended: RunInfo) -> int:
    """The result to stdout, what went wrong to stderr; the exit status."""
    if ended.status is RunStatus.COMPLETED:
        print(as_json(_plain(ended.result), indent=2))
        return DONE
    if ended.status is RunStatus.CANCELLED:
        print(f"cancelled{f': {ended.reason}' if ended.reason else ''}", file=sys.stderr)
        return CANCELLED
    if ended.error is not None:
        print(ended.error.traceback or f"{ended.error.type}: {ended.error.message}", file=sys.stderr)
    return FAILED


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, enc_hook=str)
    except (TypeError, ValueError):
        return repr(value)
