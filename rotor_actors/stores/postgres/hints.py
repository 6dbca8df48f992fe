"""Hints between replicas: NOTIFY beside the commits, never within them.

A commit that notifies holds a lock of the whole database while it waits for its disk. So what a commit is to tell is
told after it, on another connection, gathered, and at most every few milliseconds. A hint that gets lost with the
process, or the connection, costs the others up to one poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from rotor_actors.stores.postgres.address import Address, channel
from rotor_actors.stores.postgres.link import CONNECT_SECONDS, driver

_logger = logging.getLogger("rotor_actors")

EVERYBODY = 0
_GATHER_SECONDS = 0.003
_RETRY_SECONDS = 1.0
_ANSWER_SECONDS = 2.0


class Hints:
    """Listens, and tells others. Lives on the loop of the store's thread.

    Args:
        hint: called, in that thread, when somebody says that there may be something to do.
    """

    def __init__(self, address: Address, schema: str, replica: int, hint: Callable[[], None]) -> None:
        self._address = address
        self._schema = schema
        self._replica = replica
        self._hint = hint
        self._connection: Any = None
        self._targets: set[int] = set()
        self._sending: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._listening = asyncio.ensure_future(self._listen())

    async def stop(self) -> None:
        for task in (self._listening, self._sending):
            if task is not None:
                task.cancel()
        if self._connection is not None:
            self._connection.terminate()

    def tell(self, targets: Iterable[int]) -> None:
        """There may be something to do for these replicas; `EVERYBODY` for all of them."""
        wanted = set(targets)
        if self._replica in wanted:
            wanted.discard(self._replica)
            self._hint()
        self._targets |= wanted
        if self._targets and (self._sending is None or self._sending.done()):
            self._sending = asyncio.ensure_future(self._send())

    async def sent(self) -> None:
        """Wait until all that was told is on its way."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        while self._targets and self._connection is not None:
            targets, self._targets = self._targets, set()
            channels = [channel(self._schema, each) for each in sorted(targets)]
            connection = self._connection
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT pg_notify(c, '') FROM unnest($1::text[]) AS c", channels)
            except Exception as error:  # dropped on its way without a word, perhaps: then another is made
                _logger.debug("a hint to other replicas got lost: %r", error)
                connection.terminate()
                return
            await asyncio.sleep(_GATHER_SECONDS)

    async def _listen(self) -> None:
        """Until it is stopped; a lost connection is made anew, and what may have been missed meanwhile hinted at."""
        while True:
            try:
                await self._listen_once()
            except Exception as error:
                _logger.debug("listening for hints of other replicas: %s", error)
            finally:  # it may be there still: it could not listen, or came when this was stopped already
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _listen_once(self) -> None:
        is_lost = asyncio.Event()
        self._connection = connection = await driver().connect(
            self._address.dsn, timeout=CONNECT_SECONDS, server_settings={"application_name": "rotor hints"}
        )

        def lost(_: object) -> None:
            is_lost.set()

        def heard(*_: object) -> None:
            self._hint()

        connection.add_termination_listener(lost)
        for each in (EVERYBODY, self._replica):
            await connection.add_listener(channel(self._schema, each), heard)
        self._hint()
        await is_lost.wait()
