"""Memory of a run that waits: live in the process that started it, and after recovery.

    python benchmarks/bench_memory.py [--n 10000]

`sleeping` is a run in a durable sleep; `awaiting` is a run that waits for a child, which sleeps: its figures are for
the pair. `bytes_per_run` is what the process has grown by, after a collection; `objects_per_run` how many more objects
the collector has to visit (atomic ones, which it does not track, are not counted). `seconds` is the time to start
them, or to open the store.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from pathlib import Path

from common import emit, median, options, parse, tell
from disk import new_store, scratch
from host import Setup, Stopwatch, in_fresh_process, resident_bytes, run

from rotor_actors import Context, Runtime, workflow

AT_ONCE = 500
WARM_UP = 50


@workflow(id="sleeping")
async def sleeping(ctx: Context, number: int) -> None:
    await ctx.step.sleep("long", "6h")


@workflow(id="awaiting")
async def awaiting(ctx: Context, number: int) -> None:
    await ctx.step.invoke("child", workflow=sleeping, data=number, timeout="12h")


WAITING = {"sleeping": sleeping, "awaiting": awaiting}


@dataclass
class Grown:
    seconds: float
    bytes: int
    objects: int


class Growth:
    """What the process grows by. Made before the work; `stop_watch` when it is done, `grown` when all is at rest."""

    def __init__(self) -> None:
        gc.collect()
        self._objects, self._resident = len(gc.get_objects()), resident_bytes()
        self._watch = Stopwatch()
        self._seconds = 0.0

    def stop_watch(self) -> None:
        self._seconds = self._watch()

    def grown(self) -> Grown:
        gc.collect()
        return Grown(self._seconds, resident_bytes() - self._resident, len(gc.get_objects()) - self._objects)


async def _start(runtime: Runtime, what: str, n: int) -> None:
    for first in range(0, n, AT_ONCE):  # so that it is not the starting that the memory is for
        numbers = range(first, min(first + AT_ONCE, n))
        await asyncio.gather(*(runtime.start(WAITING[what], number) for number in numbers))


async def _warm_up(setup: Setup, what: str) -> None:
    """Have allocated what is allocated once, by the first few; then by the first few that are recovered."""
    with scratch(setup) as directory:
        store = new_store(setup, directory)
        async with Runtime(store, drain_timeout=0) as runtime:
            await _start(runtime, what, WARM_UP)
            await store.commits.rest()
        async with Runtime(store, workflows=WAITING.values(), drain_timeout=0):
            await asyncio.sleep(0.1)


def measure_live(setup: Setup, directory: Path, what: str, n: int) -> Grown:
    """Start them, and leave them in the store."""

    async def measure() -> Grown:
        await _warm_up(setup, what)
        store = new_store(setup, directory)
        async with Runtime(store, drain_timeout=0) as runtime:
            growth = Growth()
            await _start(runtime, what, n)
            growth.stop_watch()
            await store.commits.rest()
            return growth.grown()

    return run(setup, measure())


def measure_recovered(setup: Setup, directory: Path, what: str) -> Grown:
    async def measure() -> Grown:
        await _warm_up(setup, what)
        growth = Growth()
        async with Runtime(new_store(setup, directory), workflows=WAITING.values(), drain_timeout=0):
            growth.stop_watch()
            await asyncio.sleep(1.0)  # whatever it would load, it has loaded
            return growth.grown()

    return run(setup, measure())


def report(name: str, n: int, grown: list[Grown], setup: Setup) -> None:
    middle = median([each.bytes for each in grown]) / n
    objects = median([each.objects for each in grown]) / n
    emit(
        name, n, [each.seconds for each in grown], setup,
        bytes_per_run=middle, bytes_per_run_max=max(each.bytes for each in grown) / n, objects_per_run=objects,
    )  # fmt: skip
    tell(f"{name} {n}: {middle:,.0f} bytes, {objects:.1f} objects each")


def main() -> None:
    args, setup = parse(options(__doc__, n=[10_000]))
    for n in args.n:
        for what in WAITING:
            live: list[Grown] = []
            recovered: list[Grown] = []
            for _ in range(setup.repeat):
                with scratch(setup) as directory:
                    live.append(in_fresh_process(measure_live, setup, directory, what, n))
                    if setup.store == "sqlite":
                        recovered.append(in_fresh_process(measure_recovered, setup, directory, what))
            report(f"memory_{what}_live", n, live, setup)
            if recovered:
                report(f"memory_{what}_recovered", n, recovered, setup)


if __name__ == "__main__":
    main()
