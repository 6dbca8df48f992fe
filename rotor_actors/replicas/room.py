"""How much a replica has to do, and whether more of it should go to others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

Placement: TypeAlias = Literal["local", "any"]


class Room:
    """Counts what is at work: about to begin, ready to go on, or with a step in flight. Runs at rest take no room:
    where they wait for children that others run, counting them would let all replicas wait for each other.

    Args:
        at_work: how many runs are; a look at counters.
        spill_above: so many may be at work here before new runs are left to others; None for any number.
    """

    def __init__(self, at_work: Callable[[], int], spill_above: int | None) -> None:
        self._at_work = at_work
        self._spill_above = spill_above

    def free(self, most: int) -> int:
        """How many more runs there is room for."""
        return most if self._spill_above is None else max(0, min(most, self._spill_above - self._at_work()))

    @property
    def is_half_empty(self) -> bool:
        return self._spill_above is None or self._at_work() * 2 <= self._spill_above

    @property
    def is_full(self) -> bool:
        return self._spill_above is not None and self._at_work() >= self._spill_above
