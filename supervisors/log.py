"""The lines a supervisor logs: each exception of a child once, with its traceback."""

from __future__ import annotations

import logging
from typing import Final

from supervisors.errors import ChildStartError, MaxRestartsExceeded
from supervisors.exits import Ending, Exit, ExitKind
from supervisors.spec import ChildId

__all__ = ["abandoned", "gave_up", "not_restarted", "not_started", "restarting", "stopped"]

_log: Final = logging.getLogger("supervisors")


def restarting(supervisor: str, child_id: ChildId, exit: Exit) -> None:
    """A child has ended and is about to be started again."""
    _log.warning(
        "supervisor %r: child %r ended (%s), restarting it",
        supervisor,
        child_id,
        exit.ending.value,
        exc_info=exit.error,
    )


def not_started(supervisor: str, error: ChildStartError) -> None:
    """A child could not be started, and no caller is there to be told."""
    _log.warning("supervisor %r: %s", supervisor, error, exc_info=error.__cause__)


def not_restarted(supervisor: str, child_id: ChildId, exit: Exit) -> None:
    """A child has ended for good. Only an error is worth a line."""
    if exit.kind is ExitKind.ERROR:
        text = "supervisor %r: child %r ended (%s) and is not restarted"
        _log.error(text, supervisor, child_id, exit.ending.value, exc_info=exit.error)


def stopped(supervisor: str, child_id: ChildId, exit: Exit) -> None:
    """A child was stopped. Only an exception it raised on the way is worth a line."""
    if exit.ending is Ending.RAISED:
        _log.warning("supervisor %r: child %r raised as it was stopped", supervisor, child_id, exc_info=exit.error)


def abandoned(supervisor: str, child_id: ChildId, chain: tuple[str, ...]) -> None:
    """A child refused to end."""
    text = "supervisor %r: child %r is stuck: it refused every cancellation and was abandoned at %s"
    _log.error(text, supervisor, child_id, " -> ".join(chain))


def gave_up(failure: MaxRestartsExceeded) -> None:
    """A child ended once too often."""
    _log.error("%s", failure, exc_info=failure.__cause__)
