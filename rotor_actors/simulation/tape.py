"""All chance of a universe, recorded as lists of small numbers: one list for each purpose.

Each draw is one number, and 0 is always the dull choice: no fault, no delay, the first in line. So a failing universe
is made smaller by putting zeros into its lists, piece by piece, for as long as it still fails; and separate lists mean
that a crash which is taken out does not change the latencies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

_STEPS = 1024


class Tape:
    """The choices made for one purpose: fresh ones from a seed, or those of a recording, then zeros.

    Attributes:
        choices: all that were made, in order.

    Example:
        >>> first = Tape("7:latency")
        >>> drawn = [first.choose(10) for _ in range(5)]
        >>> again = Tape("7:latency", replay=first.choices)
        >>> drawn == [again.choose(10) for _ in range(5)]
        True
        >>> again.choose(10)
        0
    """

    __slots__ = ("_replay", "_rng", "choices")

    def __init__(self, seed: str, replay: Sequence[int] | None = None) -> None:
        self._rng = random.Random(seed)
        self._replay = None if replay is None else iter(replay)
        self.choices: list[int] = []

    def choose(self, n: int) -> int:
        """A number from 0 to n - 1."""
        choice = int(self._rng.random() * n) if self._replay is None else min(next(self._replay, 0), n - 1)
        self.choices.append(choice)
        return choice

    def chance(self, probability: float) -> bool:
        """True so often; a zero is False."""
        replay = self._replay
        choice = self._rng.random() < probability if replay is None else probability > 0 and next(replay, 0)
        self.choices.append(int(choice))
        return bool(choice)

    def between(self, low: float, high: float) -> float:
        """A number from low to high, in steps of a thousandth of their distance; a zero is `low`."""
        return low + (high - low) * self.choose(_STEPS) / (_STEPS - 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of them; a zero is the first."""
        return items[self.choose(len(items))]

    def fresh_rng(self) -> random.Random:
        """A generator for what needs one of its own: one choice is its seed."""
        return random.Random(self.choose(2**30))


class Tapes:
    """All tapes of one universe.

    Args:
        seed: of the fresh choices.
        replay: recorded choices by purpose, instead of fresh ones.
    """

    def __init__(self, seed: int | str, replay: Mapping[str, Sequence[int]] | None = None) -> None:
        self.seed = seed
        self._replay = replay
        self._tapes: dict[str, Tape] = {}

    def tape(self, purpose: str) -> Tape:
        """The one tape for a purpose, such as "latency", "ties", "crash", "user"."""
        tape = self._tapes.get(purpose)
        if tape is None:
            replay = None if self._replay is None else self._replay.get(purpose, ())
            tape = self._tapes[purpose] = Tape(f"{self.seed}:{purpose}", replay)
        return tape

    def recorded(self) -> dict[str, list[int]]:
        """What was chosen so far, by purpose."""
        return {purpose: list(tape.choices) for purpose, tape in self._tapes.items()}
