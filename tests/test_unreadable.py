"""A store that can be written but not read stops the runtime by name: no step waits for ever, none is told a wrong end."""

from __future__ import annotations

import pytest
from kit import FragileStore, World

from rotor_actors import Context, Event, workflow
from rotor_actors.errors import StoreError
from rotor_actors.records import ItemRow, RunRow

pytestmark = pytest.mark.asyncio


class Unreadable(FragileStore):
    """Its disk has a bad spot."""

    is_bad = False

    def item(self, space: str, key: str) -> ItemRow | None:
        self._look()
        return super().item(space, key)

    def find(self, run_id: str) -> RunRow | None:
        self._look()
        return super().find(run_id)

    def _look(self) -> None:
        if self.is_bad:
            raise StoreError("read failed: a bad spot")


@workflow(id="leaf")
async def leaf(ctx: Context) -> str:
    return "leaf"


@workflow(id="asks", retries=0)
async def asks(ctx: Context, how: str) -> str:
    await ctx.step.sleep("until it is bad", "1m")
    if how == "send":
        await ctx.step.send_event("ask", Event("e", id="once"))
    elif how == "start":
        await ctx.step.start("ask", workflow=leaf, data=None, run_id="mine")
    else:
        await ctx.invoke("ask", workflow=leaf, body=None, workflow_run_id="mine")
    return "went on"


@pytest.mark.parametrize("how", ["send", "start", "invoke"])
async def test_a_step_that_must_look_into_an_unreadable_store_stops_the_runtime_and_goes_on_later(how: str) -> None:
    store = Unreadable()
    async with World(asks, leaf, store=store) as world:
        handle = await world.runtime.start(asks, how, run_id="r")
        await world.settle()
        store.is_bad = True
        await world.clock.advance("2m")
        with pytest.raises(StoreError, match="a bad spot"):
            await world.runtime.start(leaf)
        store.is_bad = False
        await world.reopen()
        assert await world.result(handle.run_id) == "went on"


async def test_an_error_of_ours_beside_the_run_queue_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise KeyError("a bug")

    async with World(leaf) as world:
        world.runtime._engine.in_background(broken())  # pyright: ignore[reportPrivateUsage]
        await world.settle()
        assert "looking something up in the store failed: KeyError('a bug')" in caplog.text
