"""How a child that does not stop is pressed harder: pure arithmetic over seconds.

asyncio has no kill. The strongest one can do is to cancel again, which cuts short whatever clean-up the last
cancellation set off, and in the end to leave the task to itself.
"""

from __future__ import annotations

from typing import Final

from supervisors.spec import Shutdown, ShutdownSpec

__all__ = ["escalation"]

_KILL_ROUNDS: Final = 10


def escalation(shutdown: ShutdownSpec, kill_seconds: float) -> tuple[float | None, ...]:
    """Give the seconds to wait for a child's end after each cancellation of it.

    The first wait is its grace. When that is over the killing begins: cancellations at doubling distances, so that a
    child cleaning up in many small steps is cut off fast and a refusing one costs next to nothing. Once the last wait
    is over the child is abandoned: `kill_seconds` after its grace.

    Args:
        shutdown: seconds of grace, or a `Shutdown`.
        kill_seconds: how long the killing may take.

    Returns:
        One wait for each cancellation; None is for ever.
    """
    if shutdown is Shutdown.INFINITY:
        return (None,)
    first_gap = kill_seconds / (2**_KILL_ROUNDS - 1)
    killing = tuple(first_gap * 2**round for round in range(_KILL_ROUNDS))
    return killing if isinstance(shutdown, Shutdown) else (shutdown, *killing)
