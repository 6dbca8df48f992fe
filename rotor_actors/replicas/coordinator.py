"""Becoming the coordinator: what belongs to all replicas is read, and is in this one's hands from then on.

Until it is read, mail to the coordinator waits in the store. What the one before had not committed never was: of each
message either all that follows from it is in the store, or the message is.
"""

from __future__ import annotations

import logging

import msgspec

from rotor_actors.errors import StoreError
from rotor_actors.flow.arriving import Arriving
from rotor_actors.flow.passes import PLACE_SPACE
from rotor_actors.flow.ticket import SPACE
from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemRow, RunRow
from rotor_actors.replicas.legible import legible_items, legible_rows
from rotor_actors.replicas.lines import ancestors, awaited
from rotor_actors.sharing import Sharing
from rotor_actors.stores.base import StoreReader

_logger = logging.getLogger("rotor_actors")


class _Common(msgspec.Struct):
    items: dict[str, list[ItemRow]]
    rows: list[RunRow]
    """The runs that stand in lines, or have places."""
    above: dict[int, list[int]]


class Coordinator:
    """See the module."""

    def __init__(self, kernel: Kernel, sharing: Sharing, arriving: Arriving) -> None:
        self._kernel = kernel
        self._sharing = sharing
        self._arriving = arriving
        sharing.coordinating.append(self)

    def begin_coordinating(self) -> None:
        self._kernel.in_background(self._begin())

    async def _begin(self) -> None:
        kernel = self._kernel
        journal, ports, spaces = kernel.journal, kernel.ports, kernel.features.common
        try:
            await journal.durable(journal.last_seq)
            common = await ports.reader.call(lambda: _read(ports.store, spaces))
        except StoreError as error:
            journal.fail(error)
            return
        with journal.one_act():
            self._arriving.lead(common.items, common.rows, common.above)
            kernel.features.begin_coordinating(common.items)
        waiting = sum(not each.has_begun for each in kernel.gate.passes.values())
        _logger.info("coordinating: %d runs wait in lines, %d have places", waiting, len(kernel.gate.passes) - waiting)
        kernel.queue_of_runs.poke()
        journal.kick()
        self._sharing.wake()


def _read(store: StoreReader, spaces: list[str]) -> _Common:
    items = {space: legible_items(store, space) for space in spaces}
    numbers = {int(item.key) for space in (SPACE, PLACE_SPACE) for item in items[space]}
    rows = legible_rows(store, sorted(numbers))
    live = [row for row in rows if row.ended_at is None]
    return _Common(items, live, ancestors(store, awaited(live)))
