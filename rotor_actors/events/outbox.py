"""Events that steps have sent and that must go further than this store: an item each, in the entry of the step."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemPut, ItemRow
from rotor_actors.step_specs import EventRecord

SPACE = "events-out"


def put_out(kernel: Kernel, events: Sequence[EventRecord]) -> None:
    """Append the events, which have ids, if anybody is to send them on."""
    if kernel.options.forward is None or not events:
        return
    seq = kernel.journal.next_seq
    item = ItemRow(SPACE, f"{seq}:{events[0].id}", msgspec.msgpack.encode(tuple(events)), ord=seq)
    kernel.journal.append(ItemPut(item))
    kernel.options.forward()
