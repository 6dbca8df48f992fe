"""Events that a step sent on their way to the other shards: an outbox in the entry of the step, emptied until it is empty.

A crash leaves them in the outbox, and they are sent again: once only, for each has the id that its step gave it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from rotor_actors.errors import RotorError
from rotor_actors.events.outbox import SPACE
from rotor_actors.records import Entry, ItemDropped, ItemRow, Together
from rotor_actors.sharding.part import Part
from rotor_actors.step_specs import EventRecord
from rotor_actors.stores.base import ItemQuery

_logger = logging.getLogger("rotor_actors")

LOOK_SECONDS = 5.0
_MOST = 500


class Forwarding:
    """Sends on what the steps of one shard send, to all others."""

    def __init__(self) -> None:
        self._part: Part | None = None
        self._others: Sequence[Part] = ()
        self._is_due = asyncio.Event()

    def begin(self, part: Part, others: Sequence[Part]) -> None:
        """All shards are open."""
        self._part, self._others = part, others

    def wake(self) -> None:
        """A step has sent something."""
        self._is_due.set()

    async def serve(self) -> None:
        """Until cancelled. What a replica that is gone has left is looked for now and then."""
        self._is_due.set()
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):  # not `wait_for`: Python 3.11's may swallow a cancellation
                    await self._is_due.wait()
            except TimeoutError:
                pass
            self._is_due.clear()
            try:
                await self.forward()
            except RotorError as error:
                _logger.warning("events wait to be sent to the other shards: %s", error)

    async def forward(self) -> None:
        """Send on what is there. What cannot be sent now stays."""
        part = self._part
        assert part is not None
        while items := await part.read(lambda store: store.items(ItemQuery(SPACE, limit=_MOST))):
            for item in items:
                events = _events_of(item)
                for other in self._others:
                    await other.deliver(events)
            dropped: list[Entry] = [ItemDropped(SPACE, item.key) for item in items]
            await part.append(Together(dropped))


def _events_of(item: ItemRow) -> tuple[EventRecord, ...]:
    if item.is_damaged:
        # It goes all the same: nothing can be read from it any more, and it must not keep the others waiting.
        _logger.error(
            "events that a step sent (item %r of %r) are lost to the other shards: the item does not match its checksum, "
            "the database was damaged; restore a backup, or send them again",
            item.key, SPACE,
        )  # fmt: skip
    return msgspec.msgpack.decode(item.body or b"\x90", type=tuple[EventRecord, ...])
