"""What the tests of cancellation share: trees that wait, a clock that ends slices, and questions about what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from kit import World

from rotor_actors import Context, Duration, ManualClock, RunInfo, RunStatus, Runtime, workflow
from rotor_actors.durations import seconds

T = TypeVar("T")


class SlicingClock(ManualClock):
    """Each look at it costs a millisecond of the slice under way, so that slices end where they may."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks * 0.001


class SteadyWorld(World):
    """Its clock does not run on by days when the store fails: what was in flight then has time left after a crash."""

    async def wait(self, work: Awaitable[T], within: Duration = "3d") -> T:
        task = asyncio.ensure_future(work)
        end = self.clock.now() + seconds(within, name="within")
        await self.settle()
        while not task.done() and self.clock.now() < end:
            await self.clock.advance("20m")
            await asyncio.sleep(0)  # for when the store has failed: then nothing settles, and nobody waits for it
        assert task.done() or task.cancel() is False, f"still waiting after {within} of the world's time"
        return await task


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.step.sleep("nap", "12h")


@workflow(id="branch")
async def branch(ctx: Context, widths: list[int]) -> None:
    """A tree: `widths[0]` children, each of them with `widths[1]`, and so on; the leaves sleep."""
    if not widths:
        await ctx.step.sleep("nap", "12h")
        return
    children = (ctx.step.invoke("child", workflow=branch, data=widths[1:], timeout="24h") for _ in range(widths[0]))
    await asyncio.gather(*children)


async def everything(runtime: Runtime) -> list[RunInfo]:
    """All runs of the store, oldest first."""
    return (await runtime.runs(limit=100_000))[::-1]


async def unfinished(runtime: Runtime) -> list[str]:
    """Ids of the runs that have not ended."""
    return [run.run_id for run in await everything(runtime) if run.status in (RunStatus.QUEUED, RunStatus.RUNNING)]


async def by_workflow(runtime: Runtime) -> dict[str, RunStatus]:
    """The status of each run, where each workflow has one."""
    return {run.workflow_id: run.status for run in await everything(runtime)}


def other_tasks() -> set[asyncio.Task[object]]:
    """The tasks of the host's loop, without the one that asks."""
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


async def no_task_is_left(before: set[asyncio.Task[object]]) -> bool:
    """Nothing runs on the host's loop that did not run `before`. What has just ended may need a pass to be gone."""
    for _ in range(3):
        await asyncio.sleep(0)
    return other_tasks() <= before


def is_about(seconds: float, expected: float) -> bool:
    """Times are floats with a large start."""
    return abs(seconds - expected) < 1e-3


async def child_ids(world: World, parent: str) -> list[str]:
    """The children of a run, oldest first."""
    return [run.run_id for run in await world.runtime.runs(parent=parent, limit=10_000)][::-1]
