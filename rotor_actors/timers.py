"""Who is to be woken when: one heap of due times and one timer of the clock."""

from __future__ import annotations

from typing import Protocol

from rotor_actors.alarms import Alarms
from rotor_actors.clock import Cancellable, Clock

# Ten thousand runs may wake at one moment: after so many, let the loop have its turn.
_ALARMS_PER_CALL = 256


class Sleeper(Protocol):
    """What can be woken."""

    def alarm(self, now: float) -> None: ...


class Timers:
    """Calls `alarm(now)` of each sleeper, not before its time; each sleeper has at most one time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alarms: Alarms[Sleeper] = Alarms()
        self._armed: Cancellable | None = None
        self._armed_for = 0.0
        self._is_stopped = False

    def add(self, sleeper: Sleeper, due: float) -> None:
        self._alarms.add(sleeper, due)
        if self._armed is None or due < self._armed_for:
            self._arm(due)

    def discard(self, sleeper: Sleeper) -> None:
        self._alarms.discard(sleeper)

    def due_of(self, sleeper: Sleeper) -> float | None:
        return self._alarms.due_of(sleeper)

    def next_due(self) -> float | None:
        return self._alarms.next_due()

    def stop(self) -> None:
        self._is_stopped = True
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None

    def _arm(self, due: float) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed = None if self._is_stopped else self._clock.call_at(due, self._ring)
        self._armed_for = due

    def _ring(self) -> None:
        self._armed = None
        now = self._clock.now()
        try:
            for _ in range(_ALARMS_PER_CALL):
                sleeper = self._alarms.pop_due(now)
                if sleeper is None:
                    break
                sleeper.alarm(now)
        finally:  # an error of one sleeper must not leave the others asleep
            due = self._alarms.next_due()
            if due is not None:
                self._arm(due)  # whatever an alarm may have armed meanwhile: the nearest is what counts
