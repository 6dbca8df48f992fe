"""Cancel a tree of N children whose steps are running on the host's loop, beside cancelling N bare tasks.

    python benchmarks/bench_cancel.py [--n 1000]

Two shapes: all children under the root, and in groups of about the square root. `survivors` counts step bodies that
still run, runs that are not over, and what the report calls stuck, all looked at when `cancel` returns: it must be 0.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from common import emit, median, options, parse, tell
from disk import new_store, scratch
from host import Setup, Stopwatch, in_fresh_process, run

from rotor_actors import Context, RunStatus, Runtime, Workflow, workflow


class Sleepers:
    """Counts step bodies that are under way."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.running = 0
        self.all_run = asyncio.Event()

    async def sleep(self) -> None:
        self.running += 1
        if self.running == self.expected:
            self.all_run.set()
        try:
            await asyncio.sleep(3600)
        finally:
            self.running -= 1


@dataclass
class Measured:
    durable: list[float]
    bare: list[float]
    runs: int = 0
    interrupted_steps: int = 0
    survivors: int = 0


def sizes(n: int, shape: str) -> list[list[int]]:
    """How many leaves each group has; one group without a parent of its own when the shape is flat."""
    if shape == "flat":
        return [[n]]
    width = max(1, math.isqrt(n))
    return [[min(width, n - first)] for first in range(0, n, width)]


def make_tree(sleepers: Sleepers) -> Workflow[list[list[int]], None]:
    @workflow(id="leaf")
    async def leaf(ctx: Context) -> None:
        await ctx.step.run("sleep", sleepers.sleep, timeout="2h")

    @workflow(id="group")
    async def group(ctx: Context, leaves: int) -> None:
        await asyncio.gather(
            *(ctx.step.invoke(f"leaf {i}", workflow=leaf, data=None, timeout="3h") for i in range(leaves))
        )

    @workflow(id="tree")
    async def tree(ctx: Context, groups: list[list[int]]) -> None:
        if len(groups) == 1:
            leaves = range(groups[0][0])
            await asyncio.gather(
                *(ctx.step.invoke(f"leaf {i}", workflow=leaf, data=None, timeout="3h") for i in leaves)
            )
            return
        await asyncio.gather(
            *(
                ctx.step.invoke(f"group {i}", workflow=group, data=leaves, timeout="4h")
                for i, (leaves,) in enumerate(groups)
            )
        )

    return tree


def measure(setup: Setup, n: int, shape: str) -> Measured:
    return run(setup, _measure(setup, n, shape))


async def _measure(setup: Setup, n: int, shape: str) -> Measured:
    measured = Measured([], [])
    for _ in range(setup.repeat):
        await _durable(setup, n, shape, measured)
        measured.bare.append(await _bare(n))
    return measured


async def _durable(setup: Setup, n: int, shape: str, measured: Measured) -> None:
    sleepers = Sleepers(n)
    with scratch(setup) as directory:
        async with Runtime(new_store(setup, directory)) as runtime:
            handle = await runtime.start(make_tree(sleepers), sizes(n, shape))
            await sleepers.all_run.wait()
            watch = Stopwatch()
            report = await handle.cancel("enough")
            measured.durable.append(watch())
            still_running = sleepers.running
            counts = await runtime.count()
    alive = sum(count for status, count in counts.items() if not status.is_terminal)
    measured.survivors += still_running + alive + len(report.stuck)
    measured.runs, measured.interrupted_steps = counts[RunStatus.CANCELLED], report.interrupted_steps


async def _bare(n: int) -> float:
    sleepers = Sleepers(n)
    tasks = [asyncio.create_task(sleepers.sleep()) for _ in range(n)]
    await sleepers.all_run.wait()
    watch = Stopwatch()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return watch()


def main() -> None:
    args, setup = parse(options(__doc__, n=[1_000], repeat=5))
    for n in args.n:
        for shape in ("flat", "groups"):
            measured = in_fresh_process(measure, setup, n, shape)
            seconds, bare = median(measured.durable), median(measured.bare)
            emit(
                "cancel", n, measured.durable, setup,
                shape=shape, survivors=measured.survivors, cancelled_runs=measured.runs,
                interrupted_steps=measured.interrupted_steps,
                bare_seconds=bare, ratio_to_bare=seconds / bare,
            )  # fmt: skip
            tell(
                f"cancel {n}, {shape}: {seconds * 1e3:.0f} ms, {measured.survivors} survivors, "
                f"{seconds / bare:.0f} times bare tasks"
            )


if __name__ == "__main__":
    main()
