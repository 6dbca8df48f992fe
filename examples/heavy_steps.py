"""Heavy steps elsewhere: the arithmetic is done by other processes, and this one stays free for everything else.

python examples/heavy_steps.py [STORE]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import WorkerLostError
from rotor_actors.runners import ProcessPoolRunner


def count_primes(first: int, end: int) -> int:
    """Busy work, as an image or a model would be. At the top of a module, where other processes find it."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(2, first), end))


def crash_once(marker: str) -> str:
    """A library that takes its whole process down, the first time."""
    if not os.path.exists(marker):
        with open(marker, "w"):
            os._exit(1)
    return "survived"


@workflow(id="primes")
async def primes(ctx: Context, until: int) -> int:
    """Four parts at once, as many at a time as there are workers."""
    part = until // 4
    counts = [
        ctx.step.run(f"from {first}", count_primes, first, first + part, runner="cpu")
        for first in range(0, until, part)
    ]
    return sum(await asyncio.gather(*counts))


@workflow(id="fragile", retries=0)
async def fragile(ctx: Context, marker: str) -> str:
    """Only the step's own process dies of it."""
    try:
        return await ctx.step.run("crash", crash_once, marker, runner="cpu")
    except WorkerLostError as lost:
        ctx.logger.info("the worker left with exit code %s", lost.exit_code)
    return await ctx.step.run("again", crash_once, marker, runner="cpu", retries=RetryPolicy(2, initial="100ms"))


async def main(store: str | os.PathLike[str] = ":memory:") -> tuple[int, str]:
    runners = {"cpu": ProcessPoolRunner(max_workers=2)}
    async with Runtime(store, workflows=[primes, fragile], step_runners=runners) as runtime:
        counted = await runtime.execute(primes, 20_000)
        with tempfile.TemporaryDirectory() as scratch:
            return counted, await runtime.execute(fragile, f"{scratch}/crashed")


if __name__ == "__main__":  # the workers import this file, and must not open a runtime of their own
    print(*asyncio.run(main(*sys.argv[1:2])))
