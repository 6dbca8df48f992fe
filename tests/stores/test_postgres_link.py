"""Connections of a PostgreSQL store that are made while the store is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rotor_actors.errors import StoreError
from rotor_actors.stores.postgres import hints
from rotor_actors.stores.postgres.address import parsed
from rotor_actors.stores.postgres.link import Link


class Connection:
    def __init__(self) -> None:
        self.is_terminated = False

    def is_closed(self) -> bool:
        return self.is_terminated

    def terminate(self) -> None:
        self.is_terminated = True

    def add_termination_listener(self, lost: object) -> None:
        del lost

    async def add_listener(self, channel: str, heard: object) -> None:
        del channel, heard


class SlowLink(Link):
    """Connects when it is told to."""

    def __init__(self) -> None:
        super().__init__(parsed("postgresql://nobody@nowhere/nothing"), "test", 60.0)
        self.made = Connection()
        self.may_connect = asyncio.Event()

    async def _connect(self) -> Any:
        await self.may_connect.wait()
        return self.made


@pytest.mark.asyncio
async def test_a_connection_that_comes_after_the_closing_is_hung_up() -> None:
    link = SlowLink()

    async def act(connection: Any) -> None:
        pytest.fail("it is closed")

    using = asyncio.ensure_future(link.use("read", act))
    await asyncio.sleep(0)
    await link.close()
    link.may_connect.set()
    with pytest.raises(StoreError, match="closed meanwhile"):
        await using
    assert link.made.is_terminated


class LateDriver:
    """Its connection comes in the moment in which nobody wants it any more."""

    def __init__(self) -> None:
        self.made = Connection()

    async def connect(self, *_: object, **__: object) -> Connection:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return self.made


@pytest.mark.asyncio
async def test_a_connection_for_hints_that_comes_after_the_closing_is_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = LateDriver()
    monkeypatch.setattr(hints, "driver", lambda: driver)
    told = hints.Hints(parsed("postgresql://nobody@nowhere/nothing"), "some_schema", 1, lambda: None)
    before = asyncio.all_tasks()
    await told.start()
    (listening,) = asyncio.all_tasks() - before
    await asyncio.sleep(0)
    await told.stop()
    await asyncio.sleep(0)
    listening.cancel()  # as the store's thread does with whatever it has still under way at its end
    await asyncio.wait([listening])
    assert driver.made.is_terminated
