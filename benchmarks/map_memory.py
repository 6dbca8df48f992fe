"""Memory and time of one durable map over N items: live, and when a parent with N finished children is recovered.

    python benchmarks/map_memory.py 10000 100000

Each child does nothing. Both phases run in a process of their own, so that each peak is its own. In the second phase
the parent is loaded and replayed from the store: all ends of its children pass through its body once more.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rotor_actors import Context, Runtime, workflow

WINDOW = 1_000
LOOK_SECONDS = 0.05

passed: list[int] = []
"""What the parent has added up, each time its body has passed the map."""


@workflow(id="nothing", retries=0)
async def nothing(ctx: Context, number: int) -> int:
    return number


async def hold() -> None:
    await asyncio.sleep(3600)


@workflow(id="many", retries=0)
async def many(ctx: Context, count: int) -> int:
    total = 0
    async for outcome in ctx.step.map("n", workflow=nothing, items=range(count), timeout="24h", concurrency=WINDOW):
        total += outcome.body or 0
    passed.append(total)
    await ctx.step.run("hold", hold, timeout="1h")  # in flight when the process ends: so recovery replays it at once
    return total


async def until_passed(path: str, count: int) -> float:
    """From opening the store until the parent's body has passed the map."""
    began = time.perf_counter()
    async with Runtime(path, workflows=[many, nothing], drain_timeout=0) as runtime:
        await runtime.start(many, count, run_id="many")
        while not passed:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - began
    assert passed == [count * (count - 1) // 2]
    return seconds


def phase(path: str, count: int) -> None:
    seconds = asyncio.run(until_passed(path, count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak)}))


def main(counts: list[int]) -> None:
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("live", "recovered"):
                command = [sys.executable, __file__, name, str(Path(folder) / "map.db"), str(count)]
                found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                rate = count / found["seconds"]
                print(f"{count:>9} {name:<10} {found['seconds']:8.2f} s {rate:9.0f}/s  peak {found['peak_mib']} MiB")


if __name__ == "__main__":
    if sys.argv[1] in ("live", "recovered"):
        phase(sys.argv[2], int(sys.argv[3]))
    else:
        main([int(each) for each in sys.argv[1:]])
