"""Callbacks and timers of a run loop."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.alarms import Alarms


class Handle(msgspec.Struct, eq=False):
    """A callback to be run. `asyncio.Handle` is the same with several times the work."""

    callback: Callable[..., object] | None
    args: Any
    context: contextvars.Context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class RunTimer(Handle, eq=False):
    """A timer, known by its number: the count of timers that its loop had set before it."""

    number: int
    due: float
    timers: RunTimers

    def when(self) -> float:
        return self.due

    def cancel(self) -> None:
        if self.callback is not None:
            super().cancel()
            self.timers.take(self.number)


class RunTimers:
    """The timers of one loop that are set and have not fired."""

    __slots__ = ("_alarms", "_set", "count")

    def __init__(self) -> None:
        self._alarms: Alarms[int] = Alarms()
        self._set: dict[int, RunTimer] = {}
        self.count = 0
        """How many there ever were."""

    def set(self, due: float, callback: Callable[..., object], args: Any, context: contextvars.Context) -> RunTimer:
        number, self.count = self.count, self.count + 1
        timer = self._set[number] = RunTimer(callback, args, context, number, due, self)
        self._alarms.add(number, due)
        return timer

    def next_due(self) -> float | None:
        return self._alarms.next_due()

    def pop_due(self, now: float) -> int | None:
        """The number of the timer that is due first; it is no longer looked for, and can still be taken."""
        return self._alarms.pop_due(now)

    def take(self, number: int) -> RunTimer | None:
        """Take out the timer of this number; None when it was cancelled or has fired."""
        self._alarms.discard(number)
        return self._set.pop(number, None)
