"""Which started runs may be under way: top-level runs up to a limit, their children always."""

from __future__ import annotations

from rotor_actors.records import RunStatus
from rotor_actors.run import Phase, Run


class Admission:
    """Counts the top-level runs under way and holds the others back, in order.

    Children belong to an admitted run and never wait: a parent that waits for its children cannot keep them out.

    Args:
        limit: how many top-level runs may be under way; None for any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._active = 0
        self._held: dict[int, Run] = {}

    @property
    def is_full_up(self) -> bool:
        return self._limit is not None and self._active >= self._limit

    def take(self, run: Run) -> None:
        """A run that is under way already."""
        self._active += 1

    def hold(self, run: Run) -> None:
        run.phase = Phase.HELD
        self._held[run.row.n] = run

    def is_held(self, run: Run) -> bool:
        return run.row.n in self._held

    def held_before(self, run: Run) -> int:
        """How many stand before a run that is held."""
        return next((ahead for ahead, n in enumerate(self._held) if n == run.row.n), 0)

    def admit(self, run: Run) -> bool:
        """Say whether a new run may begin; if not, it is held."""
        if run.row.status is RunStatus.QUEUED and self.is_full_up:
            self.hold(run)
            return False
        self._active += 1
        return True

    def leave(self, run: Run) -> None:
        """A top-level run has ended."""
        if self._held.pop(run.row.n, None) is None:
            self._active -= 1

    def first_held(self) -> Run | None:
        """The oldest run that is held and whose workflow is known; None when there is none."""
        return next((run for run in self._held.values() if run.workflow is not None), None)

    def let_in(self, run: Run) -> None:
        """A run that was held is under way."""
        del self._held[run.row.n]
        self._active += 1
