"""A store that can be written but not read stops the runtime by name: no step waits for ever, none is told a wrong end."""

from __future__ import annotations

import pytest
from kit import FragileStore, World

from rotor_actors import Context, Event, workflow
from rotor_actors.errors import StoreError, WorkflowFailedError
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


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> str:
    await ctx.step.sleep("long", "1d")
    return "slept"


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


_SEND = pytest.param("send", marks=pytest.mark.one_owner("events are looked up by the coordinator, not by the step"))


@pytest.mark.parametrize("how", [_SEND, "start", "invoke", "cancel", "join"])
async def test_an_error_of_ours_in_a_look_up_fails_the_run_that_waits_for_it_by_name_and_no_other(
    how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow(id="asks more", retries=0)
    async def asks_more(ctx: Context) -> str:
        await ctx.step.sleep("until it is bad", "1m")
        if how == "cancel":
            await ctx.step.cancel("ask", run_id="nobody")
        elif how == "join":
            await ctx.step.join("ask", run_id="nobody", timeout="1h")
        return "went on"

    async with World(asks, asks_more, leaf, sleeper) as world:
        other = await world.runtime.start(sleeper, run_id="other")
        handle = await (
            world.runtime.start(asks_more, run_id="r")
            if how in ("cancel", "join")
            else world.runtime.start(asks, how, run_id="r")
        )
        store = world.store

        def broken(*_: object) -> None:
            raise KeyError("a bug")

        for verb in ("find", "item"):
            monkeypatch.setattr(store, verb, broken)
        await world.clock.advance("2m")
        monkeypatch.undo()
        assert "looking something up in the store failed: KeyError('a bug')" in caplog.text
        with pytest.raises(WorkflowFailedError, match="internal error: 'a bug'"):
            await world.result(handle.run_id)
        assert await world.result(other) == "slept"
