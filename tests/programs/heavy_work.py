"""A step in another process, for a test that kills the program while it is executed.

    python heavy_work.py STORE PIDS

It prints the result and ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from rotor_actors import Context, Runtime, workflow
from rotor_actors.runners import ProcessPoolRunner


def heavy(pids: str) -> int:
    """The first execution never ends."""
    with open(pids, "a") as file:
        file.write(f"{os.getpid()}\n")
    with open(pids) as file:
        executions = len(file.read().split())
    if executions == 1:
        time.sleep(300)
    return executions


@workflow(id="heavy")
async def heavy_run(ctx: Context, pids: str) -> list[int]:
    first = await ctx.step.run("heavy", heavy, pids, runner="cpu")
    return [first, await ctx.step.run("next", heavy, pids, runner="cpu")]


async def main(store: str, pids: str) -> None:
    runners = {"cpu": ProcessPoolRunner(max_workers=1)}
    async with Runtime(store, workflows=[heavy_run], step_runners=runners) as runtime:
        print(await runtime.execute(heavy_run, pids, run_id="heavy"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
