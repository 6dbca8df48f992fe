"""Things that are due at a time: a heap that forgets what was withdrawn."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

K = TypeVar("K")

_COMPACT_ABOVE = 64


class Alarms(Generic[K]):
    """Due times by key (hashable), each key at most once. Pure: whoever owns it asks when to wake up.

    Entries that were discarded stay in the heap until they surface, or until they are the larger half of it: a
    million invokes of which each sets and withdraws a deadline then take no more memory than those in flight.
    """

    __slots__ = ("_due", "_heap", "_order")

    def __init__(self) -> None:
        self._due: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()

    def __contains__(self, key: K) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, due: float) -> None:
        """Set the due time of `key`, replacing an earlier one. Equal times surface in the order they were added."""
        order = next(self._order)
        self._due[key] = (due, order)
        heapq.heappush(self._heap, (due, order, key))

    def discard(self, key: K) -> None:
        if self._due.pop(key, None) is not None and len(self._heap) > 2 * len(self._due) + _COMPACT_ABOVE:
            self._heap = [(due, order, key) for key, (due, order) in self._due.items()]
            heapq.heapify(self._heap)

    def due_of(self, key: K) -> float | None:
        entry = self._due.get(key)
        return None if entry is None else entry[0]

    def next_due(self) -> float | None:
        """The earliest due time, or None when nothing is waiting."""
        heap = self._heap
        while heap:
            due, order, key = heap[0]
            if self._due.get(key) == (due, order):
                return due
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Take out the earliest key that is due at `now`, or None."""
        due = self.next_due()
        if due is None or due > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key
