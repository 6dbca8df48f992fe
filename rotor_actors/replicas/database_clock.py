"""The clock of an engine whose store is shared: the database's. Each replica's own may be hours away from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rotor_actors.clock import Cancellable, Clock

# The database's time may be set, or another server may have taken over: a timer is late by no more than this.
_RECHECK_SECONDS = 30.0
# An answer that took longer to come than the best one says less of the time; by so much its clock may have gone off since.
_DRIFT = 0.001
_AS_GOOD = 0.05


class DatabaseClock:
    """The loop's monotonic time, and by how much the database's is ahead of it: that comes with each heartbeat.

    Args:
        own: this machine's clock, for measuring.
    """

    def __init__(self, own: Clock) -> None:
        self.monotonic = own.monotonic
        self._loop = asyncio.get_running_loop()
        self._ahead = own.now() - self._loop.time()
        self._within = float("inf")
        self._set_at = self._loop.time()

    def set(self, now: float, sent_at: float, answered_at: float) -> None:
        """The database's clock showed `now` at some moment between sending and answer, by the loop's clock: in the middle,
        for all we know. One that took seconds does not take the place of one that did not."""
        within = (answered_at - sent_at) / 2
        if within <= self._within + (answered_at - self._set_at) * _DRIFT + _AS_GOOD:
            self._ahead, self._within, self._set_at = now - (sent_at + answered_at) / 2, within, answered_at

    def now(self) -> float:
        return self._loop.time() + self._ahead

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        return _Timer(self, when, callback)


class _Timer:
    __slots__ = ("_callback", "_clock", "_handle", "_when")

    def __init__(self, clock: DatabaseClock, when: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._when = when
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        delay = min(max(self._when - self._clock.now(), 0.0), _RECHECK_SECONDS)
        self._handle = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        if self._clock.now() >= self._when:
            self._callback()
        else:
            self._arm()

    def cancel(self) -> None:
        self._handle.cancel()


def clock_for_replica(own: Clock) -> Clock:
    """The clock that counts: the database's in place of this machine's; one that a test moves by hand stays what it is."""
    return DatabaseClock(own) if getattr(own, "is_of_this_machine", False) else own
