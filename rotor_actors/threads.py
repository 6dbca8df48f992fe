"""Sync step functions in worker threads, under a limiter."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread

_logger = logging.getLogger("rotor_actors")

WORKER_THREADS = 40


class Threads:
    """Worker threads for step bodies: at most `limit` at a time, the others wait their turn.

    A thread cannot be interrupted. One that is abandoned (its step timed out, or was cancelled) gives back its place,
    and runs on beside the others. Of more than `limit` such threads each takes a place away, down to the last one: so
    functions that never return slow the others down, and neither stop them nor pile up threads without end.
    """

    def __init__(self, limit: int = WORKER_THREADS) -> None:
        self._limit = limit
        self._limiter: anyio.CapacityLimiter | None = None
        self._abandoned: dict[ThreadCall, str] = {}
        self._elsewhere = 0

    @property
    def are_running(self) -> bool:
        """Some step holds a thread, or waits for one, or is with a runner: nothing that happens on the loop ends it."""
        return self._elsewhere > 0 or (self._limiter is not None and self._limiter.borrowed_tokens > 0)

    @contextmanager
    def elsewhere(self) -> Generator[None, None, None]:
        """A step is with a runner for as long as this is entered."""
        self._elsewhere += 1
        try:
            yield
        finally:
            self._elsewhere -= 1

    def slot(self) -> anyio.CapacityLimiter:
        """A free thread, to be held with `async with` for as long as the call lasts."""
        if self._limiter is None:  # made late: it belongs to the loop that runs then
            self._limiter = anyio.CapacityLimiter(self._limit)
        return self._limiter

    def abandon(self, call: ThreadCall, where: str, ended: Callable[[], None]) -> None:
        """Nobody waits for this call any more; `ended` is called on the loop when the thread is through with it."""

        def is_through() -> None:
            if self._abandoned.pop(call, None) is not None:
                self._set_places()
                ended()

        self._abandoned[call] = where
        self._set_places()
        if len(self._abandoned) > self._limit:
            _logger.error(
                "%s: %d worker threads that nobody waits for have not ended; from %d on each takes a place away from "
                "steps that are sync functions: give what they call a timeout of its own", where, len(self._abandoned),
                self._limit,
            )  # fmt: skip
        call.abandon(is_through)

    def _set_places(self) -> None:
        places = max(1, self._limit - max(0, len(self._abandoned) - self._limit))
        if self.slot().total_tokens != places:
            self.slot().total_tokens = places

    def report_left(self) -> None:
        """The runtime is closed: name what still runs."""
        for where in self._abandoned.values():
            _logger.warning("%s: still runs in a worker thread; the process does not end before it does", where)


class ThreadCall:
    """A call in a worker thread. Cancelled, it is abandoned: a thread cannot be interrupted."""

    __slots__ = ("_args", "_fn", "_is_abandoned", "_loop", "_told", "is_running")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._fn = fn
        self._args = args
        self._loop = asyncio.get_running_loop()
        self._told: Callable[[], None] | None = None
        self._is_abandoned = False
        self.is_running = False

    async def result(self) -> Any:
        unlimited = anyio.CapacityLimiter(math.inf)  # the slot limits already
        return await anyio.to_thread.run_sync(self._run, abandon_on_cancel=True, limiter=unlimited)

    def abandon(self, ended: Callable[[], None]) -> None:
        """Have `ended` called on the loop when the thread is through with it."""
        self._told = ended
        self._is_abandoned = True
        if not self.is_running:  # it ended just now; else the thread, which looks after this, sees that it shall tell
            self._loop.call_soon(ended)

    def _run(self) -> Any:
        if self._is_abandoned:
            return None
        self.is_running = True
        try:
            return self._fn(*self._args)
        finally:
            self.is_running = False
            if self._told is not None:
                try:
                    self._loop.call_soon_threadsafe(self._told)
                except RuntimeError:
                    pass  # the loop is closed: nobody is interested any more
