"""What to do when a child has ended: OTP's rules as two tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from supervisors.exits import Exit, ExitKind
from supervisors.spec import ChildId, Restart, Strategy

__all__ = ["Decision", "affected", "decide"]


class Decision(Enum):
    """What becomes of a child that has ended."""

    RESTART = "restart"
    """Start it again, and whom the strategy names with it."""
    KEEP = "keep"
    """Leave it ended; its specification stays, so that it can be restarted or deleted by hand."""
    FORGET = "forget"
    """Drop it and its specification."""


# supervisor(3), child specification: a permanent child process is always restarted; a temporary one never, not even
# when a sibling's death under rest_for_one or one_for_all has it terminated; a transient one only if it terminates
# abnormally, that is, with an exit reason other than normal, shutdown or {shutdown,Term}.
_ENDED_BY_ITSELF: Final = {
    (Restart.PERMANENT, ExitKind.NORMAL): Decision.RESTART,
    (Restart.PERMANENT, ExitKind.SHUTDOWN): Decision.RESTART,
    (Restart.PERMANENT, ExitKind.ERROR): Decision.RESTART,
    (Restart.TRANSIENT, ExitKind.NORMAL): Decision.KEEP,
    (Restart.TRANSIENT, ExitKind.SHUTDOWN): Decision.KEEP,
    (Restart.TRANSIENT, ExitKind.ERROR): Decision.RESTART,
    (Restart.TEMPORARY, ExitKind.NORMAL): Decision.FORGET,
    (Restart.TEMPORARY, ExitKind.SHUTDOWN): Decision.FORGET,
    (Restart.TEMPORARY, ExitKind.ERROR): Decision.FORGET,
}

# supervisor:terminate_child/2: the process is terminated and, unless it is a temporary child, its specification is
# kept by the supervisor.
_ASKED_TO_STOP: Final = {
    Restart.PERMANENT: Decision.KEEP,
    Restart.TRANSIENT: Decision.KEEP,
    Restart.TEMPORARY: Decision.FORGET,
}


def decide(restart: Restart, exit: Exit) -> Decision:
    """Say what becomes of a child of this restart type that ended this way."""
    return _ASKED_TO_STOP[restart] if exit.is_requested else _ENDED_BY_ITSELF[restart, exit.kind]


def affected(strategy: Strategy, started: Sequence[ChildId], child_id: ChildId) -> Sequence[ChildId]:
    """Name the children to stop and start again when `child_id` is restarted, itself included.

    Args:
        strategy: the supervisor's restart strategy.
        started: ids of all children in start order.
        child_id: the one that ended; must be in `started`.

    Returns:
        Their ids in start order. They are stopped in the reverse of it.
    """
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (child_id,)
        case Strategy.REST_FOR_ONE:
            return started[started.index(child_id) :]
        case Strategy.ONE_FOR_ALL:
            return started
