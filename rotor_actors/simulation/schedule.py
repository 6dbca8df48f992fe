"""Which universe it was: seed, crash point and choices, as a text for the environment, and back."""

from __future__ import annotations

import msgspec

from rotor_actors.simulation.crashes import CrashPoint

VARIABLE = "ROTOR_SIM_SEED"
_LONGEST = 4_000


class Schedule(msgspec.Struct, frozen=True):
    """A universe of a test.

    Example:
        >>> Schedule.parse("7/after-commit-3/latency:2=5,9=1+crash:0=1").choices
        {'latency': [0, 0, 5, 0, 0, 0, 0, 0, 0, 1], 'crash': [1]}
        >>> str(Schedule(7, None, {"latency": [0, 0, 5]}))
        '7/-/latency:2=5'
    """

    seed: int
    point: CrashPoint | None = None
    choices: dict[str, list[int]] | None = None

    def __str__(self) -> str:
        point = "-" if self.point is None else str(self.point)
        if self.choices is not None:
            text = f"{self.seed}/{point}/{_as_text(self.choices)}"
            if len(text) <= _LONGEST:
                return text
        return str(self.seed) if self.point is None else f"{self.seed}/{point}"

    @staticmethod
    def parse(text: str) -> Schedule:
        """Raises ValueError, which shows a right one."""
        seed, *rest = text.strip().split("/", 2)
        try:
            point = CrashPoint.parse(rest[0]) if rest and rest[0] != "-" else None
            return Schedule(int(seed), point, _choices(rest[1]) if len(rest) > 1 else None)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{VARIABLE}={text!r} is no schedule: expected a seed, such as '7', or what a failed test has printed "
                f"('7/after-commit-3/latency:2=5'): {error}"
            ) from error


def count(choices: dict[str, list[int]]) -> int:
    """How many of the choices are not the dull one."""
    return sum(1 for tape in choices.values() for choice in tape if choice)


def _as_text(choices: dict[str, list[int]]) -> str:
    parts: list[str] = []
    for purpose, tape in choices.items():
        drawn = [f"{position}={choice}" for position, choice in enumerate(tape) if choice]
        if drawn:
            parts.append(f"{purpose}:{','.join(drawn)}")
    return "+".join(parts) or "dull"


def _choices(text: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for part in text.split("+"):
        if part == "dull":
            continue
        purpose, _, drawn = part.partition(":")
        pairs = [pair.split("=") for pair in drawn.split(",")]
        numbers = {int(position): int(choice) for position, choice in pairs}
        found[purpose] = [numbers.get(position, 0) for position in range(max(numbers) + 1)]
    return found
