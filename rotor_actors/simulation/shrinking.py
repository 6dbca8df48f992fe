"""Making a failing universe smaller: zeros into its choices, piece by piece, for as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.running import Outcome

MOST_RUNS = 120


def shrink(
    first: Outcome, run: Callable[[dict[str, list[int]]], Outcome], most_runs: int = MOST_RUNS
) -> tuple[Outcome, int]:
    """The smallest failing universe that was found, and how many were tried.

    Args:
        first: one that failed.
        run: runs the universe of these choices.
    """
    search = _Shrinking(first, run, most_runs)
    search.run()
    return search.best, search.runs


class _Shrinking:
    def __init__(self, first: Outcome, run: Callable[[dict[str, list[int]]], Outcome], most_runs: int) -> None:
        self.best = first
        self.runs = 0
        self._run = run
        self._left = most_runs
        self._kind = kind_of(first.failure)

    def run(self) -> None:
        """Whole tapes first, then halves of what is left, down to single choices."""
        for purpose in list(self.best.choices):
            self._try_without(purpose, [at for at, choice in enumerate(self.best.choices[purpose]) if choice])
        for purpose in list(self.best.choices):
            self._shrink_tape(purpose)

    def _shrink_tape(self, purpose: str) -> None:
        size = max(1, len(self._drawn(purpose)) // 2)
        while self._left:
            start = 0
            while (chunk := self._drawn(purpose)[start : start + size]) and self._left:
                if not self._try_without(purpose, chunk):
                    start += size
            if size == 1:
                return
            size //= 2

    def _drawn(self, purpose: str) -> list[int]:
        return [at for at, choice in enumerate(self.best.choices.get(purpose, ())) if choice]

    def _try_without(self, purpose: str, positions: list[int]) -> bool:
        if not positions or not self._left:
            return False
        self._left -= 1
        self.runs += 1
        tape = list(self.best.choices[purpose])
        for at in positions:
            tape[at] = 0
        outcome = self._run({**self.best.choices, purpose: tape})
        if outcome.failure is None or kind_of(outcome.failure) != self._kind:
            return False
        self.best = outcome
        return True


def kind_of(failure: BaseException | None) -> tuple[str, str]:
    """Failures of one kind are taken to be one bug."""
    return type(failure).__name__, failure.invariant if isinstance(failure, InvariantError) else ""
