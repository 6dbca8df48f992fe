"""The engine's ports as they are inside a universe: its clock, and the executors that its store is called in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rotor_actors.clock import Cancellable
from rotor_actors.simulation.loop import Life, SimulationLoop
from rotor_actors.simulation.tape import Tape

T = TypeVar("T")

EPOCH = 1_700_000_000.0

# A store answers in a fraction of a millisecond to some milliseconds, and now and then much later.
_QUICKEST, _USUAL, _SLOWEST = 0.000_2, 0.004, 0.5
_SLOW_ONES = 16
_CHOICES = 1024
# After so many looks a slice of the run queue is over. Few: turns are cut in the middle.
_LOOKS = (200, 40, 8, 2)
_SLICE = 0.002


class UniverseClock:
    """Wall time and monotonic time of a universe: those of its loop."""

    def __init__(self, loop: SimulationLoop, tape: Tape) -> None:
        self._loop = loop
        self._origin = EPOCH - loop.time() if not loop.steps else EPOCH - 1_000.0
        self._per_look = _SLICE / _LOOKS[tape.choose(len(_LOOKS))]
        self._worked = 0.0

    def now(self) -> float:
        return self._origin + self._loop.time()

    def monotonic(self) -> float:
        self._worked += self._per_look
        return self._loop.time() + self._worked

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        return self._loop.call_at(when - self._origin, callback)


class UniverseExecutor:
    """Makes blocking calls inline, one after the other, each after a while; the answer takes a while, too."""

    def __init__(self, loop: SimulationLoop, tape: Tape, life: Life) -> None:
        self._loop = loop
        self._tape = tape
        self._life = life
        self._free_at = 0.0
        self._answered_at = 0.0

    async def call(self, function: Callable[[], T]) -> T:
        future = self._loop.create_future()
        self._free_at = self._after(self._free_at)
        self._loop.call_at(self._free_at, self._perform, function, future)
        result: T = await future
        return result

    def _perform(self, function: Callable[[], Any], future: Any) -> None:
        if self._life.is_dead:
            return
        result, error = None, None
        try:
            result = function()
        except Exception as raised:
            error = raised
        if not self._life.is_dead:
            self._answered_at = self._after(self._answered_at)
            self._loop.call_at(self._answered_at, _answer, future, result, error)

    def _after(self, last: float) -> float:
        return max(self._loop.time() + self._latency(), last + 1e-6)

    def _latency(self) -> float:
        choice = self._tape.choose(_CHOICES)
        if choice >= _CHOICES - _SLOW_ONES:
            return _SLOWEST * (choice - _CHOICES + _SLOW_ONES + 1) / _SLOW_ONES
        return _QUICKEST + (_USUAL - _QUICKEST) * choice / _CHOICES

    def close(self) -> None: ...


def _answer(future: Any, result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
