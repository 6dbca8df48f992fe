"""When the simulated process dies: at places that are named, or by chance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.tape import Tape

Place = Literal["before", "at", "after"]
PLACES: tuple[Place, ...] = ("before", "at", "after")


class CrashPoint(msgspec.Struct, frozen=True):
    """Around which commit of a universe the process dies, counted from 1 over all its lives."""

    commit: int
    place: Place

    def __str__(self) -> str:
        return f"{self.place}-commit-{self.commit}"

    @staticmethod
    def parse(text: str) -> CrashPoint:
        place, _, commit = text.partition("-commit-")
        if place not in PLACES or not commit.isdecimal():
            raise ValueError(f"a crash point reads like 'after-commit-3', got {text!r}")
        return CrashPoint(int(commit), place)


def every_point(commits: int) -> Iterator[CrashPoint]:
    """Before, at and after each of so many commits."""
    for commit in range(1, commits + 1):
        for place in PLACES:
            yield CrashPoint(commit, place)


class CrashPlan:
    """Says where the process dies.

    Args:
        tape: chance, for `faults.crash`.
        point: the one place that is sure.
    """

    def __init__(self, tape: Tape, faults: Faults, point: CrashPoint | None = None) -> None:
        self._tape = tape
        self._faults = faults
        self._point = point
        self._left = faults.most_crashes
        self.is_healed = False

    def at_commit(self, number: int) -> Place | None:
        """Where around this commit it dies."""
        point = self._point
        if point is not None and point.commit == number:
            return point.place
        if self._draws():
            return PLACES[2 - self._tape.choose(3)]
        return None

    def at_call(self) -> bool:
        """Whether it dies before this other call of the store."""
        return self._draws()

    def is_power_cut(self) -> bool:
        return self._tape.chance(self._faults.power_cut)

    def _draws(self) -> bool:
        if self.is_healed or not self._faults.crash or not self._left:
            return False
        if not self._tape.chance(self._faults.crash):
            return False
        self._left -= 1
        return True
