"""The executor port: where blocking calls are made, so that the event loop is not blocked by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Executor(Protocol):
    """Makes blocking calls one after the other, in the order in which they were asked for."""

    async def call(self, function: Callable[[], T]) -> T:
        """Make the call and give its result. Cancelling the waiter does not stop the call."""
        ...

    def close(self) -> None: ...


class ThreadExecutor:
    """One thread of its own."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class InlineExecutor:
    """Makes the call at once, on the loop's own thread: for stores without a disk."""

    async def call(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None: ...
