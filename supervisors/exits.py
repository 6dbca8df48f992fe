"""How a child ended, judged by two questions: was it asked to, and how did it end?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from supervisors.errors import ExitShutdown

__all__ = ["STOPPED", "Ending", "Exit", "ExitKind", "classify"]


class Ending(Enum):
    """What was seen of a child's end."""

    RETURNED = "returned"
    RAISED = "raised"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    """It did not end: it refused every cancellation until its last deadline, and is waited for no more."""


class ExitKind(Enum):
    """What an end means to its supervisor (OTP: exit reasons `normal`, `shutdown` and the rest)."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of one life of a child.

    Attributes:
        kind: what the end means.
        ending: what was seen of it.
        error: the exception it ended with, if any. One raised while it was being stopped is kept here, too.
        is_requested: whether its supervisor, or a caller through it, had asked it to stop.
        chain: where an abandoned child stood, outermost await first; else empty.
    """

    kind: ExitKind
    ending: Ending
    error: BaseException | None = None
    is_requested: bool = False
    chain: tuple[str, ...] = ()


def classify(ending: Ending, error: BaseException | None = None, *, is_requested: bool) -> ExitKind:
    """Say what an end means.

    A child that was asked to stop has been shut down, whatever it did about it. A child nobody asked to stop that
    ends as cancelled was cancelled behind its supervisor's back, which is an error.
    """
    if is_requested or isinstance(error, ExitShutdown):
        return ExitKind.SHUTDOWN
    return ExitKind.NORMAL if ending is Ending.RETURNED else ExitKind.ERROR


STOPPED = Exit(ExitKind.SHUTDOWN, Ending.CANCELLED, is_requested=True)
"""The end of a child that was asked to stop, when no more needs to be known of it."""
