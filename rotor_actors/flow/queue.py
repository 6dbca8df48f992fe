"""Who waits, in order: a heap from which anyone may leave. Pure."""

from __future__ import annotations

import heapq

Place = tuple[int, int, int]
"""Priority (the smaller is first), arrival, run number."""

_COMPACT_ABOVE = 64


class WaitingLine:
    """Run numbers by place. Joining, leaving and taking the first cost the logarithm of its length."""

    __slots__ = ("_heap", "_places")

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._heap: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, n: int) -> bool:
        return n in self._places

    def join(self, place: Place) -> None:
        self._places[place[2]] = place
        heapq.heappush(self._heap, place)

    def leave(self, n: int) -> None:
        """Those who left stay in the heap until they surface, or until they are the larger half of it."""
        if self._places.pop(n, None) is not None and len(self._heap) > 2 * len(self._places) + _COMPACT_ABOVE:
            self._heap = list(self._places.values())
            heapq.heapify(self._heap)

    def first(self) -> Place | None:
        heap = self._heap
        while heap:
            if self._places.get(heap[0][2]) == heap[0]:
                return heap[0]
            heapq.heappop(heap)
        return None

    def place(self, n: int) -> Place:
        return self._places[n]

    def in_order(self) -> list[int]:
        """All of them; for looking at."""
        return [place[2] for place in sorted(self._places.values())]
