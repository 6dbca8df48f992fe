"""How long runs are kept after their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rotor_actors.durations import Duration, seconds
from rotor_actors.records import RunStatus


@dataclass(frozen=True)
class Retention:
    """How long runs are kept after their end, by how it came; None for ever.

    The age of a tree of runs is that of its top-level run's end, and it goes as a whole, when all of it has ended.

    Args:
        completed, failed, cancelled: for how long. every: how often to look.

    Raises:
        DurationError: not a duration. ValueError: nothing would ever be deleted.

    Example:
        >>> Retention(completed="7d", failed="30d")
        Retention(completed='7d', failed='30d', cancelled=None, every='10m')
    """

    completed: Duration | None = None
    failed: Duration | None = None
    cancelled: Duration | None = None
    every: Duration = "10m"

    def __post_init__(self) -> None:
        seconds(self.every, name="every", exclusive=True)
        if not list(self.ages()):
            raise ValueError("Retention() keeps everything: say what is to go when, e.g. Retention(completed='7d')")

    def ages(self) -> Iterator[tuple[RunStatus, float]]:
        """Each status whose runs go, and after how many seconds."""
        for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED):
            age: Duration | None = getattr(self, status.value)
            if age is not None:
                yield status, seconds(age, name=status.value)
