"""How much a replica has to do, and whether more of it should go to others. Pure looks at counts: O(1)."""

from __future__ import annotations

from rotor_actors.kernel import Kernel


class Room:
    """Counts what is at work: about to begin, ready to go on, or with a step in flight. Runs at rest take no room:
    where they wait for children that others run, counting them would let all replicas wait for each other.

    Args:
        spill_above: so much may be at work here before new runs are left to others; None for any number.
    """

    def __init__(self, kernel: Kernel, spill_above: int | None) -> None:
        self._kernel = kernel
        self._spill_above = spill_above

    @property
    def at_work(self) -> int:
        return self._kernel.queue_of_runs.length + self._kernel.steps.count

    def free(self, most: int) -> int:
        """How many more runs there is room for."""
        return most if self._spill_above is None else max(0, min(most, self._spill_above - self.at_work))

    @property
    def is_full(self) -> bool:
        return self._spill_above is not None and self.at_work >= self._spill_above
