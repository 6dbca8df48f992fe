"""What goes wrong with replicas, drawn: each kind from a tape of its own, so that one can be taken out of a failure."""

from __future__ import annotations

from collections import Counter

from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.tape import Tapes

_DAY = 86_400.0
# How long it lasts, the short ones first: below the lease of ten seconds, and above.
_SECONDS: dict[str, tuple[float, ...]] = {
    "pause": (0.3, 2.0, 7.0, 11.0, 15.0, 25.0, 90.0),
    "blocked_loop": (0.3, 2.0, 7.0, 11.0, 15.0, 25.0, 60.0),
    "partition": (0.1, 1.0, 4.0, 9.0, 12.0, 40.0),
    "database_restart": (0.05, 0.5, 3.0, 12.0),
    "late_statement": (0.001, 0.01, 0.1, 1.0, 4.0),
    "slow_reply": (0.2, 0.5, 1.0, 3.0),
    "late_hint": (0.05, 0.3, 1.5, 4.0),
}
_MOST_OF_A_KIND = 8
_UNLIMITED = ("lost_hint", "late_hint", "spurious_hint", "double_hint")


class Outages:
    """Draws them.

    Attributes:
        fired: how often each kind happened.
        is_healed: nothing goes wrong any more.
    """

    def __init__(self, tapes: Tapes, faults: Faults) -> None:
        self._tapes = tapes
        self._faults = faults
        self.fired: Counter[str] = Counter()
        self.is_healed = False

    def happens(self, kind: str) -> bool:
        """Whether it does, here and now."""
        probability: float = getattr(self._faults, kind)
        if self.is_healed or not probability or self.fired[kind] >= _MOST_OF_A_KIND:
            return False
        if not self._tapes.tape(f"fault:{kind}").chance(probability):
            return False
        self.fired[kind] += 1
        return True

    def seconds(self, kind: str) -> float:
        """How long it lasts."""
        return self._tapes.tape(f"fault:{kind}").pick(_SECONDS[kind])

    def hint(self) -> str:
        """What becomes of a hint: "" when all is well."""
        probability = self._faults.bad_hint
        tape = self._tapes.tape("fault:hint")
        if self.is_healed or not probability or not tape.chance(probability):
            return ""
        kind = tape.pick(_UNLIMITED)
        self.fired[kind] += 1
        return kind

    def skew(self) -> float:
        """By how many seconds a replica's own clock is wrong."""
        if not self._faults.skew:
            return 0.0
        tape = self._tapes.tape("fault:skew")
        if not tape.chance(self._faults.skew):
            return 0.0
        self.fired["skew"] += 1
        return tape.between(-_DAY, _DAY)
