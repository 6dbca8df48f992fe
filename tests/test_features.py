"""What holds for the steps of every feature, shown with signals: loading, attempts, replay, changed code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from kit import FragileStore, World

from rotor_actors import Context, RetryPolicy, workflow
from rotor_actors.errors import NonDeterminismError, WorkflowFailedError
from rotor_actors.records import History, ItemPut

pytestmark = pytest.mark.asyncio


class SlowReadingStore(FragileStore):
    """Something happens while a history is being read."""

    def __init__(self) -> None:
        super().__init__()
        self.while_reading: Callable[[], object] = lambda: None

    def histories(self, ns: list[int]) -> dict[int, History]:
        found = super().histories(ns)
        happening, self.while_reading = self.while_reading, lambda: None
        happening()
        return found


@workflow(id="two", retries=0)
async def two(ctx: Context) -> list[str]:
    return list(
        await asyncio.gather(
            ctx.step.wait_for_signal("a", signal="x", timeout="1h", returns=str),
            ctx.step.wait_for_signal("b", signal="y", timeout="1h", returns=str),
        )
    )


async def test_an_outcome_that_comes_while_the_history_is_read_is_not_waited_for_again() -> None:
    store = SlowReadingStore()
    async with World(two, store=store) as world:
        handle = await world.runtime.start(two)
        await world.settle()
        await world.reopen()
        engine = world.runtime._engine  # pyright: ignore[reportPrivateUsage]
        second = engine.codec_of(str).encode("second")
        store.while_reading = lambda: engine.signals.send("y", second)
        await world.runtime.signal("x", "first")
        assert await world.result(handle.run_id) == ["first", "second"]
        assert len(store.committed(ItemPut)) == 2


async def test_an_outcome_that_comes_before_the_next_attempt_asks_is_no_divergence_on_replay() -> None:
    @workflow(id="kept", retries=RetryPolicy(3, initial="10m", jitter=False))
    async def kept(ctx: Context) -> str:
        if ctx.attempt > 1:
            await ctx.step.sleep("first of all", "10m")
        waiting = asyncio.ensure_future(ctx.step.wait_for_signal("s", signal="x", timeout="2h", returns=str))
        if ctx.attempt == 1:
            await ctx.step.sleep("a while", "1m")
            raise RuntimeError("first")
        await ctx.step.sleep("then", "1m")
        return await waiting

    async with World(kept, strict_replay=True) as world:
        handle = await world.runtime.start(kept)
        await world.clock.advance("12m")
        await world.runtime.signal("x", "hello")
        await world.clock.advance("1m")
        await world.reopen()
        assert await world.result(handle.run_id) == "hello"
        assert len(world.store.committed(ItemPut)) == 1


async def test_changed_code_is_found_out_while_the_step_still_waits() -> None:
    @workflow(id="changing", retries=0)
    async def old(ctx: Context) -> None:
        await asyncio.gather(ctx.step.wait_for_signal("s", signal="x", timeout="1h"), ctx.step.sleep("a while", "10m"))

    @workflow(id="changing", retries=0)
    async def new(ctx: Context) -> None:
        await asyncio.gather(ctx.step.sleep("s", "1h"), ctx.step.sleep("a while", "10m"))

    async with World() as world:
        await world.close()
        await world.open(old)
        handle = await world.runtime.start(old)
        await world.settle()
        await world.close()
        await world.open(new)
        with pytest.raises(WorkflowFailedError, match=rf"{NonDeterminismError.__name__}.*wait-for-signal step"):
            await world.result(handle.run_id)


async def test_a_damaged_item_fails_its_run_by_name_and_no_other() -> None:
    async with World(two) as world:
        handle = await world.runtime.start(two)
        await world.settle()
        world.store.damage_item("signal-waiters", "x")
        await world.reopen()
        with pytest.raises(WorkflowFailedError, match="StoreCorruptedError"):
            await world.result(handle.run_id)
        other = await world.runtime.start(two)  # its names are free
        await world.settle()
        await world.runtime.signal("x", "1")
        await world.runtime.signal("y", "2")
        assert await world.result(other) == ["1", "2"]
