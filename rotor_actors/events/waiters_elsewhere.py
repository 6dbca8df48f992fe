"""Many replicas: steps that wait for events in runs that others own, and runs of theirs that an event cancels.

The coordinator does not know them: it reads the items of those that wait for an event when that comes, by its name, and
tells their owners by mail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from rotor_actors.errors import ExpressionError
from rotor_actors.events.cancelling import CANCEL_SPACE, CancelOnNote
from rotor_actors.events.expression import holds
from rotor_actors.events.own import bound
from rotor_actors.events.parsing import condition
from rotor_actors.events.waiting import SPACE, WaiterNote, of_event
from rotor_actors.kernel import Kernel
from rotor_actors.records import CancelNote, CancelRequested, ItemRow, MailKind, MailSent
from rotor_actors.run import Phase
from rotor_actors.stores.base import ItemQuery, StoreReader

_logger = logging.getLogger("rotor_actors")


class EventGiven(msgspec.Struct, frozen=True):
    """To a run: this event is for its step of this key, if that waits still."""

    key: bytes
    event: bytes


class WaitersElsewhere:
    """What waits in the store when a round of events is delivered."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiters: dict[str, list[ItemRow]] = {}
        self._cancels: dict[str, list[ItemRow]] = {}

    async def read(self, names: Iterable[str]) -> None:
        """Read what waits for events of these names. What begins to wait later came too late for these events, or is
        this replica's own."""
        store, wanted = self._kernel.ports.store, sorted(set(names))
        self._waiters, self._cancels = await self._kernel.ports.reader.call(
            lambda: (_by_name(store, SPACE, wanted), _by_name(store, CANCEL_SPACE, wanted))
        )

    def cancel(self, event: dict[str, Any], now: float, reason: str) -> None:
        """Have runs cancelled, by whoever owns them."""
        ns = {
            n: None
            for n, item in self._of_others(self._cancels.get(event["name"], []), now)
            if self._is_cancelled(item, event)
        }
        if ns:
            note = msgspec.msgpack.encode(CancelNote(reason))
            self._kernel.journal.append(CancelRequested([*ns], note))

    def give(self, event: dict[str, Any], now: float, stored: bytes) -> None:
        """Have it given to steps, by whoever owns their runs."""
        for n, item in self._of_others(self._waiters.get(event["name"], []), now):
            note = msgspec.msgpack.decode(item.body or b"", type=WaiterNote)
            if note.event == event["name"] and self._fits(note.match, note.where, note.own, event):
                body = msgspec.msgpack.encode(EventGiven(note.key, stored))
                self._kernel.journal.append(MailSent(n, MailKind.EVENT, body))

    def _of_others(self, items: list[ItemRow], now: float) -> Iterator[tuple[int, ItemRow]]:
        for item in items:
            run = None if item.n is None else self._kernel.tree.get(item.n)
            is_ours = run is not None and run.phase is not Phase.REMOTE
            if item.n is not None and not is_ours and not item.is_damaged and (item.due is None or now < item.due):
                yield item.n, item

    def _is_cancelled(self, item: ItemRow, event: dict[str, Any]) -> bool:
        note = msgspec.msgpack.decode(item.body or b"", type=CancelOnNote)
        return note.event == event["name"] and self._fits(note.match, note.where, note.own, event)

    def _fits(self, match: str | None, where: str | None, own: bytes | None, event: dict[str, Any]) -> bool:
        values: list[Any] = [] if own is None else self._kernel.registry.codecs.of(Any).decode(own)
        try:
            node = bound(condition(match, where), values)
        except ExpressionError as error:
            _logger.error("an expression of a run elsewhere is none any more: %s", error)
            return False
        return node is None or holds(node, event)


def _by_name(store: StoreReader, space: str, names: list[str]) -> dict[str, list[ItemRow]]:
    return {name: store.items(ItemQuery(space, prefix=of_event(name))) for name in names}
