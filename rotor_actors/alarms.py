"""Things that are due at a time, in the order in which they are."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")

_Entry = tuple[float, int]
"""When it is due, and the how manieth it was to be added."""

_MOST_QUEUES = 4
_COMPACT_ABOVE = 64
_NEVER = float("-inf")


class Alarms(Generic[K]):
    """Due times by key (hashable), each key at most once. Pure: whoever owns it asks when to wake up.

    Most are added in the order in which they are due, as timeouts of one length are: such stand in a queue, and
    setting and withdrawing one of a million is a step each. There are a few queues, for timeouts of a few lengths; what
    fits behind none of them goes to a heap.
    """

    __slots__ = ("_heap", "_order", "_queues")

    def __init__(self) -> None:
        self._queues: list[_Queue[K]] = []
        self._heap: _Heap[K] | None = None
        self._order = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues)) + (0 if self._heap is None else len(self._heap.due))

    def __contains__(self, key: K) -> bool:
        return self.due_of(key) is not None

    def add(self, key: K, due: float) -> None:
        """Set the due time of `key`, replacing an earlier one. Equal times surface in the order they were added."""
        if self._heap is not None:
            self._heap.discard(key)
        for queue in self._queues:
            if key in queue:
                self.discard(key)
        self._order = order = self._order + 1
        for queue in self._queues:
            if due >= queue.newest:
                break
        else:
            if len(self._queues) >= _MOST_QUEUES:
                if self._heap is None:
                    self._heap = _Heap()
                self._heap.add(key, (due, order))
                return
            queue = _Queue[K]()
            self._queues.append(queue)
        queue.newest = due
        queue[key] = (due, order)

    def discard(self, key: K) -> None:
        for queue in self._queues:
            if queue.pop(key, None) is not None:
                if not queue:
                    queue.newest = _NEVER
                return
        if self._heap is not None:
            self._heap.discard(key)

    def due_of(self, key: K) -> float | None:
        for queue in self._queues:
            if (entry := queue.get(key)) is not None:
                return entry[0]
        entry = None if self._heap is None else self._heap.due.get(key)
        return None if entry is None else entry[0]

    def next_due(self) -> float | None:
        """The earliest due time, or None when nothing is waiting."""
        first = self._first()
        return None if first is None else first[0][0]

    def pop_due(self, now: float) -> K | None:
        """Take out the earliest key that is due at `now`, or None."""
        first = self._first()
        if first is None or first[0][0] > now:
            return None
        self.discard(first[1])
        return first[1]

    def _first(self) -> tuple[_Entry, K] | None:
        found = None if self._heap is None else self._heap.first()
        for queue in self._queues:
            if queue:
                key = next(iter(queue))
                entry = queue[key]
                if found is None or entry < found[0]:
                    found = (entry, key)
        return found


class _Queue(OrderedDict[K, _Entry]):
    """Due times that never go back."""

    __slots__ = ("newest",)

    def __init__(self) -> None:
        self.newest = _NEVER


class _Heap(Generic[K]):
    """A heap that forgets what was withdrawn.

    Entries that were discarded stay in the heap until they surface, or until they are the larger half of it.
    """

    __slots__ = ("_heap", "due")

    def __init__(self) -> None:
        self.due: dict[K, _Entry] = {}
        self._heap: list[tuple[_Entry, K]] = []

    def add(self, key: K, entry: _Entry) -> None:
        self.due[key] = entry
        heapq.heappush(self._heap, (entry, key))

    def discard(self, key: K) -> None:
        if self.due.pop(key, None) is not None and len(self._heap) > 2 * len(self.due) + _COMPACT_ABOVE:
            self._heap = [(entry, key) for key, entry in self.due.items()]
            heapq.heapify(self._heap)

    def first(self) -> tuple[_Entry, K] | None:
        heap = self._heap
        while heap:
            entry, key = heap[0]
            if self.due.get(key) == entry:
                return heap[0]
            heapq.heappop(heap)
        return None
