"""How many begin within a period: the times of the last ones. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Window:
    """A sliding window: within any period, wherever it begins, at most `rate` begin. No burst at its edges.

    It remembers as many times as the rate, not as many as there were.
    """

    __slots__ = ("_times",)

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._times: deque[float] = deque(sorted(times))

    def opens_at(self, now: float, rate: int, period: float) -> float:
        """When the next one may begin: `now`, or later."""
        times = self._times
        while times and (len(times) > rate or times[0] + period <= now):
            times.popleft()
        return now if len(times) < rate else times[0] + period

    def count(self, at: float) -> None:
        """One has begun."""
        self._times.append(at)

    def forget_newest(self) -> None:
        """That one did not begin after all."""
        self._times.pop()

    def forgets_at(self, now: float, period: float) -> float:
        """When the newest of them is a period ago."""
        return self._times[-1] + period if self._times else now

    def __len__(self) -> int:
        return len(self._times)
