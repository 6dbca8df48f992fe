"""What a supervisor is made with, checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from supervisors.spec import ChildSpec, Strategy

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a `Supervisor` is made with; its docstring says what each is for. Raises as that says."""

    name: str
    strategy: Strategy
    max_restarts: int
    max_seconds: float
    kill_seconds: float
    clock: Callable[[], float]
    children: tuple[ChildSpec, ...]

    def __post_init__(self) -> None:
        if self.strategy not in tuple(Strategy):
            raise TypeError(f"strategy must be a Strategy such as Strategy.ONE_FOR_ONE, not {self.strategy!r}")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts must be 0 or more, not {self.max_restarts!r}")
        for parameter in ("max_seconds", "kill_seconds"):
            seconds: float = getattr(self, parameter)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{parameter} must be a positive number of seconds, not {seconds!r}")
