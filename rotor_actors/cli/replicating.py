"""`rotor serve --replicas N`: so many processes of one app, over the store that they share."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from rotor_actors.cli.main import DONE, FAILED, LAST_PORT, USAGE, UsageError
from rotor_actors.cli.processes import CannotBeginError, Processes, said
from rotor_actors.cli.stopping import stopping
from rotor_actors.runtime import Runtime
from rotor_actors.stores.shared import is_shared
from supervisors import MaxRestartsExceeded


def serve_replicas(runtime: Runtime, options: argparse.Namespace) -> int:
    """Keep them alive until SIGTERM or Ctrl-C, then let all of them drain at once.

    `runtime` is what the app makes: it says what they would share, and is not opened here.
    """
    _check_can_be_replicated(runtime, options)
    processes = Processes(options.replicas, lambda number: _command(options, number), "replica-{}".format)
    logging.getLogger("supervisors").disabled = True  # what it would say is said in one line
    return asyncio.run(_keep(processes, options))


async def _keep(processes: Processes, options: argparse.Namespace) -> int:
    async with stopping(processes.kill) as stop:
        print(f"{options.replicas} replicas of {options.app}, pid {os.getpid()}", file=sys.stderr, flush=True)
        try:
            await processes.run(stop)
        except MaxRestartsExceeded as error:
            print(f"rotor: gave up after {error.restarts} ends within {error.max_seconds:g} s; all replicas are stopped",
                  file=sys.stderr)  # fmt: skip
            return FAILED
        except CannotBeginError as error:
            print(f"rotor: gave up: {error} cannot begin, and would not if it were tried again; all replicas are stopped",
                  file=sys.stderr)  # fmt: skip
            return USAGE
    in_bad_order = {number: status for number, status in processes.statuses.items() if status != DONE}
    for number, status in sorted(in_bad_order.items()):
        print(f"replica-{number} {said(status)}", file=sys.stderr)
    return FAILED if in_bad_order else DONE


def _check_can_be_replicated(runtime: Runtime, options: argparse.Namespace) -> None:
    if options.replicas < 1:
        raise UsageError(f"--replicas must be at least 1, got {options.replicas}")
    if options.port and (last := options.port + options.replicas - 1) > LAST_PORT:
        raise UsageError(
            f"--port {options.port} with --replicas {options.replicas}: the last one's, {last}, is no port"
        )
    if options.replicas == 1:
        return
    for store in runtime.stores:
        if not is_shared(store) or store.is_inline:
            where = getattr(store, "path", "memory")
            raise UsageError(
                f"--replicas {options.replicas}: the store {where} ({type(store).__name__}) has one owner, so it serves "
                f"one process; give one that replicas share, e.g. --store postgresql://…"
            )


def _command(options: argparse.Namespace, number: int) -> list[str]:
    command = [sys.executable, "-u", "-m", "rotor_actors", "serve", options.app, "--store", options.store,
               "--host", options.host, "--supervised"]  # fmt: skip
    if options.port is not None:
        command += ["--port", str(options.port + number - 1 if options.port else 0)]
    return command
