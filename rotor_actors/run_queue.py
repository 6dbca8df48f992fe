"""The one queue in which all that is ready to go on stands, worked off in slices so that the host's loop breathes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

_logger = logging.getLogger("rotor_actors")

SLICE_SECONDS = 0.002
# A released step is cheap to start but then runs in the loop's next pass, outside of any slice: so many a slice.
STARTS_PER_SLICE = 32
LOOKS_PER_SLICE = 2_000


class Runnable(Protocol):
    """Something that can go on; it is in the queue at most once."""

    def go_on(self, is_over: Callable[[], bool]) -> bool:
        """Go on until there is nothing to do (False), or until `is_over()`, and then be queued again (True)."""
        ...


class Fresh(Runnable, Protocol):
    """Something that has not begun."""

    seen_seq: int
    """The newest entry in its past."""


class RunQueue:
    """Works off actors and released effects from callbacks of the host's loop.

    Args:
        monotonic: the clock that slices are measured by.
        may_begin: says whether this, which is fresh, may begin.
        slice_ended: called each time a slice ends, so that what it appended can be committed; it is told whether
            there is more to do at once.
        on_error: called with an exception that escaped from an actor; the others go on.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        may_begin: Callable[[Fresh], bool],
        slice_ended: Callable[[bool], None],
        on_error: Callable[[Runnable, BaseException], None],
    ) -> None:
        self._monotonic = monotonic
        self._may_begin = may_begin
        self._slice_ended = slice_ended
        self._on_error = on_error
        self._ready: deque[Runnable] = deque()
        self._fresh: deque[Fresh] = deque()
        self._starts: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        self._is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._ends_at = 0.0
        self._looks_left = 0
        self._starts_left = 0
        self._owes_fresh = False

    def push(self, runnable: Runnable) -> None:
        self._ready.append(runnable)
        if not self._is_scheduled:
            self._schedule()

    def push_fresh(self, runnable: Fresh) -> None:
        """Queue what has not begun yet. It begins when its past is durable, or while few effects wait for the disk:
        so a fan-out of a million children has some dozens of half-done ones in memory, not a million."""
        self._fresh.append(runnable)
        if not self._is_scheduled:
            self._schedule()

    def start(self, effect: Callable[[], None]) -> None:
        """Begin an effect whose past is durable, before the slice ends."""
        self._starts.append(effect)
        self._schedule()

    def released(self, effects: list[Callable[[], None]]) -> None:
        """A commit has made durable what these waited for: begin them, as many as a slice does at once.

        Called from no actor's turn: what an effect sets off may come at once.
        """
        self._starts.extend(effects)
        if not self._is_scheduled and not self._is_stopped:
            self._begin_slice()
            self._begin_starts()
        self._schedule()

    def poke(self) -> None:
        """See to it that a slice ends soon: something was appended from outside of one."""
        self._schedule()

    @property
    def is_idle(self) -> bool:
        return not self._ready and not self._starts and not self._fresh and not self._is_scheduled

    @property
    def length(self) -> int:
        """How many stand here: ready to go on, or about to begin."""
        return len(self._ready) + len(self._fresh)

    def stop(self) -> None:
        """Take up nothing any more."""
        self._is_stopped = True
        self._ready.clear()
        self._fresh.clear()
        self._starts.clear()

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_stopped:
            self._is_scheduled = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        self._is_scheduled = False
        if self._is_stopped:
            return
        self._begin_slice()
        self._begin_starts()
        while (runnable := self._next()) is not None:
            try:
                if runnable.go_on(self._is_over):
                    self._ready.append(runnable)
            except Exception as error:
                self._on_error(runnable, error)
            if self._is_over():
                break
        self._begin_starts()
        is_busy = bool(self._ready or self._starts or self._can_begin)
        if is_busy:
            self._schedule()
        self._slice_ended(is_busy)

    def _begin_slice(self) -> None:
        self._ends_at = self._monotonic() + SLICE_SECONDS
        self._looks_left = LOOKS_PER_SLICE
        self._starts_left = STARTS_PER_SLICE
        self._owes_fresh = True

    def _next(self) -> Runnable | None:
        # One that is fresh in each slice, whatever stands in the queue: a body that never rests must not keep it out.
        if self._ready and not (self._owes_fresh and self._can_begin):
            return self._ready.popleft()
        self._owes_fresh = False
        if self._can_begin:
            return self._fresh.popleft()
        return None

    @property
    def _can_begin(self) -> bool:
        """What begins soon has effects to begin: not more of it than those effects keep up with."""
        return bool(self._fresh) and len(self._starts) < STARTS_PER_SLICE and self._may_begin(self._fresh[0])

    def _begin_starts(self) -> None:
        while self._starts and self._starts_left > 0:
            self._starts_left -= 1
            self._starts.popleft()()

    def _is_over(self) -> bool:
        # The count is for clocks that stand still, such as one that a test moves by hand.
        self._looks_left -= 1
        return self._looks_left <= 0 or self._monotonic() >= self._ends_at
