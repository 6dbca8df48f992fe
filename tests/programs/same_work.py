"""Work that is done in real processes and in the simulator alike: `python same_work.py STORE EFFECTS [--limit BYTES]`.

It goes on where the last process ended, prints the result and ends. With a limit no file may become longer than that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import StoreError, WorkflowFailedError

CHILDREN = 4
RETRIES = RetryPolicy(1, initial="1ms", maximum="1ms")
STORE_FAILED = 7

effects = -1


def write_down(name: str) -> None:
    """In the simulator there is nobody to write for."""
    if effects >= 0:
        os.write(effects, f"{name}\n".encode())
        os.fsync(effects)


async def square(run_id: str, i: int) -> int:
    write_down(f"{run_id} square {i}")
    await asyncio.sleep(0.002)
    return i * i


async def refuse(run_id: str) -> None:
    write_down(f"{run_id} refuse")
    raise LookupError("never")


@workflow(id="part", retries=0)
async def part(ctx: Context, i: int) -> int:
    total = await ctx.step.run("first", square, ctx.run_id, i)
    await ctx.step.sleep("pause", 0.002)
    total += await ctx.step.run("second", square, ctx.run_id, i + 1)
    if i == CHILDREN - 1:
        await ctx.step.run("refused", refuse, ctx.run_id, retries=0)
    return total


@workflow(id="whole", retries=RETRIES)
async def whole(ctx: Context) -> list[str]:
    before = await ctx.step.run("before", square, ctx.run_id, 10)
    ends = [ctx.step.invoke(f"part {i}", workflow=part, data=i, timeout="1h") for i in range(CHILDREN)]
    found = [str(before)]
    for end in await asyncio.gather(*ends, return_exceptions=True):
        if isinstance(end, WorkflowFailedError):
            found.append(end.error.message)
        elif isinstance(end, BaseException):
            raise end
        else:
            found.append(str(end.result))
    await asyncio.sleep(0.002)
    return found


async def main(store: str) -> None:
    async with Runtime(store, workflows=[whole, part], drain_timeout=0) as runtime:
        result = await runtime.execute(whole, run_id="whole")
        print(result, flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    effects = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if "--limit" in sys.argv:
        import resource

        limit = int(sys.argv[sys.argv.index("--limit") + 1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        asyncio.run(main(sys.argv[1]))
    except StoreError as error:
        print(error, file=sys.stderr)
        sys.exit(STORE_FAILED)
