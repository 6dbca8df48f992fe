"""One replica of a service, as a process: for tests that kill, pause, cut off and upgrade it.

    python replica.py URL LEDGER --label a [--lease 3] [--spill-above 50] [--version 1] [--skew 3600] [--no-hints]

It takes commands as JSON lines on stdin and answers each with one on stdout. Each execution of a step's body appends
a line to LEDGER, in one write: `run_id key label`.
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

from rotor_actors import Context, PostgresStore, Runtime, SystemClock, Workflow, workflow
from rotor_actors.errors import WorkflowCancelledError
from rotor_actors.replicas.lease import Lease

ledger = -1
label = ""
hold_seconds = 0.0


def note(run_id: str, key: str) -> None:
    """What the world sees of a step."""
    os.write(ledger, f"{run_id} {key} {label}\n".encode())


@workflow(id="leaf")
async def leaf(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", work, ctx.run_id, number)


async def work(run_id: str, number: int) -> int:
    note(run_id, "work")
    if hold_seconds:
        await asyncio.sleep(hold_seconds)
    return number


@workflow(id="fan-out", retries=0)
async def fan_out(ctx: Context, count: int) -> int:
    invoked = [ctx.step.invoke(f"leaf {n}", workflow=leaf, data=n, timeout="1h", placement="any") for n in range(count)]
    outcomes = await asyncio.gather(*invoked)
    return sum(outcome.result for outcome in outcomes)


@workflow(id="local-fan-out", retries=0)
async def local_fan_out(ctx: Context, count: int) -> int:
    invoked = [ctx.step.invoke(f"leaf {n}", workflow=leaf, data=n, timeout="1h") for n in range(count)]
    return sum(each.result for each in await asyncio.gather(*invoked))


@workflow(id="deep", retries=0)
async def deep(ctx: Context, shape: list[int]) -> int:
    """A tree: so many children at each level, each wherever there is room."""
    if not shape:
        await ctx.step.run("work", work, ctx.run_id, 1)
        await ctx.step.sleep("stay", "1h")
        return 1
    below = [
        ctx.step.invoke(f"child {n}", workflow=deep, data=shape[1:], timeout="2h", placement="any")
        for n in range(shape[0])
    ]
    return sum(each.result for each in await asyncio.gather(*below))


@workflow(id="sleeper", retries=0)
async def sleeper(ctx: Context, seconds: float) -> int:
    await ctx.step.run("before", work, ctx.run_id, 1)
    await ctx.step.sleep("rest", seconds)
    return await ctx.step.run("after", work, ctx.run_id, 2)


def versioned(version: str, takes_over: tuple[str, ...]) -> Workflow[Any, Any]:
    @workflow(id="versioned", version=version, takes_over=takes_over, retries=0)
    async def body(ctx: Context, seconds: float) -> str:
        await ctx.step.sleep("rest", seconds)
        return await ctx.step.run("say", say_version, version)

    return body


async def say_version(version: str) -> str:
    return version


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
        return label


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
    workflows: list[Workflow[Any, Any]] = [leaf, fan_out, local_fan_out, deep, sleeper, current]
    store = PostgresStore(options.url, lease=options.lease, pgbouncer=options.no_hints)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Runtime(
        store, workflows=workflows, label=label, spill_above=options.spill_above, drain_timeout=options.drain,
        clock=SkewedClock(options.skew),
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
    given = parser.parse_args()
    label, hold_seconds = given.label, given.hold
    if given.no_fence:
        Lease.check = lambda self: True  # type: ignore[method-assign]
        Lease.lose = lambda self, error: None  # type: ignore[method-assign]
    ledger = os.open(given.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {label} %(name)s %(message)s")
    asyncio.run(main(given))
