"""The words in which a child and a supervisor are described: pure values."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

__all__ = ["ChildId", "ChildSpec", "ChildType", "Restart", "Shutdown", "ShutdownSpec", "Strategy"]

ChildId: TypeAlias = Hashable
"""What a child is known by within its supervisor; usually a string. OTP: any term."""


class Restart(Enum):
    """When a child that has ended is started again (OTP: restart type). `decision.decide` is the table."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only after an error."""
    TEMPORARY = "temporary"
    """Never, and its specification is forgotten when it ends."""


class Strategy(Enum):
    """Who is restarted along with a child that is (OTP: restart strategy)."""

    ONE_FOR_ONE = "one_for_one"
    """Nobody."""
    ONE_FOR_ALL = "one_for_all"
    """All its siblings."""
    REST_FOR_ONE = "rest_for_one"
    """The siblings that were started after it."""


class Shutdown(Enum):
    """The two ways to stop a child that are no number of seconds."""

    BRUTAL_KILL = "brutal_kill"
    """No grace: cancelled over and over from the start, at growing distances, then abandoned."""
    INFINITY = "infinity"
    """Cancelled once and waited for, however long it takes. For supervisors, whose own children have deadlines."""


ShutdownSpec: TypeAlias = float | Shutdown
"""Seconds of grace between the first cancellation and the next, or a `Shutdown`."""


class ChildType(Enum):
    """What a child is; only told apart in `count_children` and `which_children`, as in OTP."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, restart and stop one child (OTP: child specification).

    Args:
        id: name of the child, unique within its supervisor.
        start: called with `args` for each life of the child. The coroutine it returns is that life: returning from
            it is a normal exit. A `start` that raises before there is a coroutine is a failure to start.
        args: positional arguments for `start`.
        restart: when to start it again; permanent unless told otherwise, as in OTP.
        shutdown: seconds it may take to clean up after it was cancelled, before it is cancelled again and at last
            abandoned; or a `Shutdown`.
        type: worker or supervisor.

    Raises:
        TypeError: `id` is not hashable, `start` not callable, or `restart`, `shutdown` or `type` of another type.
        ValueError: `shutdown` is negative or not finite.
    """

    id: ChildId
    start: Callable[..., Coroutine[Any, Any, object]]
    args: tuple[Any, ...] = ()
    restart: Restart = Restart.PERMANENT
    shutdown: ShutdownSpec = 5.0
    type: ChildType = ChildType.WORKER

    def __post_init__(self) -> None:
        hash(self.id)  # here, where the caller sees why, rather than in the owner's task
        if not callable(self.start):
            raise TypeError(f"start must be an async callable, not {self.start!r}; hand over the function, uncalled")
        _expect("restart", self.restart, Restart)
        _expect("type", self.type, ChildType)
        if not isinstance(self.shutdown, Shutdown):
            _check_grace(self.shutdown)


def _expect(parameter: str, value: object, kind: type[Enum]) -> None:
    if not isinstance(value, kind):
        choices = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
        raise TypeError(f"{parameter} must be one of {choices}, not {value!r}")


def _check_grace(seconds: object) -> None:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"shutdown must be seconds such as 5.0, or a Shutdown, not {seconds!r}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"shutdown must be 0 or more seconds, or Shutdown.INFINITY for no deadline, not {seconds!r}")
