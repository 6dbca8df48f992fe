"""One replica of a service, as a process: for tests that kill, pause, cut off and upgrade it.

    python -m programs.replica URL LEDGER --label a [--lease 3] [--spill-above 50] [--version 1] [--skew 3600] [--no-hints]

It takes commands as JSON lines on stdin and answers each with one on stdout. Its workflows are in `replica_work.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from programs.replica_work import ALL, DECODED, versioned, world

from rotor_actors import PostgresStore, Runtime, SystemClock, Workflow
from rotor_actors.errors import WorkflowCancelledError
from rotor_actors.replicas.lease import Lease
from rotor_actors.runners import ProcessPoolRunner
from rotor_actors.stores.postgres import migrating

# What the next release might bring.
NEXT_STEP = """
    ALTER TABLE @.rotor_runs ADD COLUMN colour text;
    ALTER TABLE @.rotor_mail ADD COLUMN colour text;
    CREATE INDEX rotor_runs_by_colour ON @.rotor_runs(colour) WHERE colour IS NOT NULL;
"""


class SkewedClock(SystemClock):
    """A machine whose wall clock is wrong."""

    def __init__(self, skew: float) -> None:
        def now() -> float:
            return time.time() + skew

        self.now = now


class Commands:
    """What the test asks for."""

    def __init__(self, runtime: Runtime, known: dict[str, Workflow[Any, Any]]) -> None:
        self._runtime = runtime
        self._known = known

    async def start(self, workflow: str, data: Any = None, run_id: str | None = None) -> str:
        data = DECODED.get(workflow, lambda given: given)(data)
        handle = await self._runtime.start(self._known[workflow], data, run_id=run_id)
        return handle.run_id

    async def result(self, run_id: str, timeout: float = 120.0) -> Any:
        try:
            return await self._runtime.run(run_id).result(timeout)
        except WorkflowCancelledError:
            return "cancelled"

    async def cancel(self, run_id: str) -> list[str]:
        return (await self._runtime.cancel(run_id, "the test says so")).cancelled

    async def block(self, seconds: float) -> None:
        """Keep the event loop from running."""
        time.sleep(seconds)  # noqa: ASYNC251

    async def ping(self) -> str:
        return world.label


async def serve(runtime: Runtime, known: dict[str, Workflow[Any, Any]], stopped: asyncio.Event) -> None:
    commands = Commands(runtime, known)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        asked = json.loads(line)
        command: Callable[..., Awaitable[Any]] = getattr(commands, asked["verb"])
        task = asyncio.create_task(answer(asked["id"], command(**asked["with"])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    stopped.set()


async def answer(number: int, doing: Awaitable[Any]) -> None:
    try:
        said = {"id": number, "value": await doing}
    except Exception as error:
        said = {"id": number, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)


async def main(options: argparse.Namespace) -> None:
    current = versioned(options.version, tuple(filter(None, options.takes_over.split(","))))
    workflows: list[Workflow[Any, Any]] = [*ALL, current]
    store = PostgresStore(options.url, lease=options.lease, pgbouncer=options.no_hints)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Runtime(
        store, workflows=workflows, label=world.label, spill_above=options.spill_above, drain_timeout=options.drain,
        clock=SkewedClock(options.skew), step_runners={"cpu": ProcessPoolRunner(max_workers=2)},
    ) as runtime:  # fmt: skip
        print(json.dumps({"id": 0, "value": os.getpid()}), flush=True)
        serving = asyncio.create_task(serve(runtime, {each.id: each for each in workflows}, stopped))
        await stopped.wait()
        serving.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ledger")
    parser.add_argument("--label", default="a")
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--hold", type=float, default=0.0)
    parser.add_argument("--spill-above", type=int, default=50)
    parser.add_argument("--version", default="1")
    parser.add_argument("--takes-over", default="")
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--drain", type=float, default=1.0)
    parser.add_argument("--no-hints", action="store_true")
    parser.add_argument("--no-fence", action="store_true", help="believe in the lease whatever happens")
    parser.add_argument("--newer-schema", action="store_true", help="be a program that has one more migration")
    given = parser.parse_args()
    world.open(given.ledger, given.label, given.hold)
    if given.no_fence:
        Lease.check = lambda self: True  # type: ignore[method-assign]
        Lease.lose = lambda self, error: None  # type: ignore[method-assign]
    if given.newer_schema:
        steps = (*migrating.STEPS_TO_VERSION, NEXT_STEP)
        migrating.__dict__.update(STEPS_TO_VERSION=steps, SCHEMA_VERSION=len(steps))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {given.label} %(name)s %(message)s")
    asyncio.run(main(given))
