"""Sync step functions in worker threads, under a limiter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

WORKER_THREADS = 40


class Threads:
    """Worker threads for step bodies: at most `limit` at a time, the others wait their turn."""

    def __init__(self, limit: int = WORKER_THREADS) -> None:
        self._limit = limit
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def are_running(self) -> bool:
        """Some step holds a thread, or waits for one."""
        return self._limiter is not None and self._limiter.borrowed_tokens > 0

    def slot(self) -> anyio.CapacityLimiter:
        """A free thread, to be held with `async with` for as long as the call lasts."""
        if self._limiter is None:  # made late: it belongs to the loop that runs then
            self._limiter = anyio.CapacityLimiter(self._limit)
        return self._limiter


class ThreadCall:
    """A call in a worker thread. Cancelled, it is abandoned: a thread cannot be interrupted."""

    __slots__ = ("_args", "_fn", "is_running")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._fn = fn
        self._args = args
        self.is_running = False

    async def result(self) -> Any:
        unlimited = anyio.CapacityLimiter(math.inf)  # the slot limits already
        return await anyio.to_thread.run_sync(self._run, abandon_on_cancel=True, limiter=unlimited)

    def _run(self) -> Any:
        self.is_running = True
        try:
            return self._fn(*self._args)
        finally:
            self.is_running = False
