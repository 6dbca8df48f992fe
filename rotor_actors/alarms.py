"""Things that are due at a time, in the order in which they are."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")

_COMPACT_ABOVE = 64


class Alarms(Generic[K]):
    """Due times by key (hashable), each key at most once. Pure: whoever owns it asks when to wake up.

    Most are added in the order in which they are due, as timeouts of one length are: these stand in a queue, and
    setting and withdrawing one of a million is a step each. What is due before something that was added earlier goes
    to a heap.
    """

    __slots__ = ("_heap", "_newest", "_queue")

    def __init__(self) -> None:
        self._queue: OrderedDict[K, float] = OrderedDict()
        self._heap: _Heap[K] | None = None
        self._newest = float("-inf")
        """Nothing in the queue is due later. It stays while the heap holds something: then, of two that are due at one
        time, the one in the queue was added first."""

    def __len__(self) -> int:
        return len(self._queue) + (0 if self._heap is None else len(self._heap))

    def __contains__(self, key: K) -> bool:
        return key in self._queue or (self._heap is not None and key in self._heap)

    def add(self, key: K, due: float) -> None:
        """Set the due time of `key`, replacing an earlier one. Equal times surface in the order they were added."""
        if key in self._queue or self._heap is not None:
            self.discard(key)
        if due >= self._newest:
            self._newest = due
            self._queue[key] = due
            return
        if self._heap is None:
            self._heap = _Heap()
        self._heap.add(key, due)

    def discard(self, key: K) -> None:
        if self._queue.pop(key, None) is None and self._heap is not None:
            self._heap.discard(key)
        if not self._queue and not self._heap:
            self._newest, self._heap = float("-inf"), None

    def due_of(self, key: K) -> float | None:
        due = self._queue.get(key)
        return due if due is not None or self._heap is None else self._heap.due_of(key)

    def next_due(self) -> float | None:
        """The earliest due time, or None when nothing is waiting."""
        due = next(iter(self._queue.values())) if self._queue else None
        other = None if self._heap is None else self._heap.next_due()
        return other if due is None or (other is not None and other < due) else due

    def pop_due(self, now: float) -> K | None:
        """Take out the earliest key that is due at `now`, or None."""
        due = self.next_due()
        if due is None or due > now:
            return None
        key = next(iter(self._queue)) if self._queue else None
        if key is None or self._queue[key] != due:
            assert self._heap is not None
            key = self._heap.first()
        self.discard(key)
        return key


class _Heap(Generic[K]):
    """A heap that forgets what was withdrawn.

    Entries that were discarded stay in the heap until they surface, or until they are the larger half of it.
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
        heap = self._heap
        while heap:
            due, order, key = heap[0]
            if self._due.get(key) == (due, order):
                return due
            heapq.heappop(heap)
        return None

    def first(self) -> K:
        """The key that is due first; `next_due` has just been asked for."""
        return self._heap[0][2]
