"""The host's loop keeps its turn while runs are busy: counted in passes of the loop, never in time."""

from __future__ import annotations

import asyncio

import pytest
from cancel_kit import SlicingClock
from kit import World

from rotor_actors import Context, Runtime, workflow

pytestmark = pytest.mark.asyncio

CHILDREN = 3_000


async def work(number: int) -> int:
    return number


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", work, number)


@workflow(id="fan-out")
async def fan_out(ctx: Context, width: int) -> int:
    invokes = (ctx.step.invoke("c", workflow=child, data=number, timeout="1h") for number in range(width))
    return sum(each.result for each in await asyncio.gather(*invokes))


class Passes:
    """A callback of the host's that calls itself again with each pass of the loop, and notes what had happened."""

    def __init__(self, runtime: Runtime) -> None:
        self._engine = runtime._engine  # pyright: ignore[reportPrivateUsage]
        self.entries: list[int] = []
        self._is_over = False

    def __enter__(self) -> Passes:
        asyncio.get_running_loop().call_soon(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True

    def _call(self) -> None:
        if not self._is_over:
            self.entries.append(self._engine.journal.last_seq)
            asyncio.get_running_loop().call_soon(self._call)

    @property
    def most_in_one_pass(self) -> int:
        """How many entries were appended between two calls, at most."""
        return max(after - before for before, after in zip(self.entries, self.entries[1:], strict=False))


async def test_a_host_callback_is_called_often_during_a_fan_out() -> None:
    """With a clock on which each look costs a quarter of a slice, a slice can hold a few actors and no more."""
    async with World(clock=SlicingClock()) as world:
        with Passes(world.runtime) as passes:
            handle = await world.runtime.start(fan_out, CHILDREN)
            assert await handle.result() == sum(range(CHILDREN))
        # The turn of the body that asks for all children is one message, and its effects are performed in slices.
        assert passes.most_in_one_pass < CHILDREN / 5, "no pass holds a great part of the work"
        assert len(passes.entries) > CHILDREN / 10


async def test_a_host_callback_is_called_often_while_a_wide_tree_is_cancelled() -> None:
    @workflow(id="sleeping")
    async def sleeping(ctx: Context, number: int) -> None:
        await ctx.step.sleep("nap", "12h")

    @workflow(id="wide")
    async def wide(ctx: Context) -> None:
        invokes = (ctx.step.invoke("c", workflow=sleeping, data=n, timeout="24h") for n in range(CHILDREN))
        await asyncio.gather(*invokes)

    async with World(clock=SlicingClock()) as world:
        handle = await world.runtime.start(wide)
        await world.settle()
        with Passes(world.runtime) as passes:
            report = await handle.cancel()
        assert len(report.cancelled) == CHILDREN + 1
        assert len(passes.entries) > CHILDREN / 10, "their tasks are interrupted in slices"


async def test_a_body_that_never_rests_does_not_stop_the_host() -> None:
    @workflow(id="spinning")
    async def spinning(ctx: Context) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async with World(clock=SlicingClock()) as world:
        handle = await world.runtime.start(spinning)
        with Passes(world.runtime) as passes:
            while len(passes.entries) < 100:  # noqa: ASYNC110
                await asyncio.sleep(0)
            report = await handle.cancel()
        assert report.cancelled == [handle.run_id]


async def test_other_runs_go_on_beside_a_body_that_never_rests() -> None:
    @workflow(id="spinning")
    async def spinning(ctx: Context) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async with World(clock=SlicingClock()) as world:
        spinner = await world.runtime.start(spinning)
        assert await world.runtime.execute(fan_out, 20) == sum(range(20))
        await spinner.cancel()
