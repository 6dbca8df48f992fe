"""Restart intensity: how many restarts within which time are one too many. Pure; time is passed in."""

from __future__ import annotations

__all__ = ["add_restart"]


def add_restart(
    restarts: tuple[float, ...], now: float, max_restarts: int, period: float
) -> tuple[tuple[float, ...], bool]:
    """Count one more restart; say whether that exceeds the allowed intensity.

    OTP (Supervisor Behaviour, maximum restart intensity): if more than MaxR restarts occur within the last MaxT
    seconds, the supervisor stops all its children and then itself. A restart exactly MaxT seconds ago still counts.

    Args:
        restarts: times of earlier restarts, newest first, as returned by the last call; `()` at first.
        now: the present, in seconds of any clock that does not run backwards.
        max_restarts: how many restarts one window may hold. 0 allows none.
        period: the window, in seconds.

    Returns:
        The restarts that count, newest first and at most `max_restarts + 1` of them, and whether they are too many.
    """
    recent = (now, *(at for at in restarts if at >= now - period))
    return recent[: max_restarts + 1], len(recent) > max_restarts
