"""A connection of a PostgreSQL store that is made while the store is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rotor_actors.errors import StoreError
from rotor_actors.stores.postgres.address import parsed
from rotor_actors.stores.postgres.link import Link


class Connection:
    def __init__(self) -> None:
        self.is_terminated = False

    def is_closed(self) -> bool:
        return self.is_terminated

    def terminate(self) -> None:
        self.is_terminated = True


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
