"""The executor port: where blocking calls are made, so that the event loop is not blocked by them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Executor(Protocol):
    """Makes blocking calls one after the other, in the order in which they were asked for."""

    async def call(self, function: Callable[[], T]) -> T:
        """Make the call and give its result. Cancelling the waiter does not stop the call."""
        ...

    def close(self) -> None: ...


_Call = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class ThreadExecutor:
    """One thread of its own, begun with the first call.

    Where a run waits for one commit after the other, the way there and back is felt: a pool's futures, and asyncio's
    around those, take several times as long.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def call(self, function: Callable[[], T]) -> T:
        if self._is_closed:
            raise RuntimeError(f"{self._name} is closed")
        if self._thread is None:
            # What it does survives being cut off: a process that ends without closing need not wait for it.
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((function, future))
        return await future

    def close(self) -> None:
        """Let what was asked for be done, and end. Closing twice is fine."""
        self._is_closed = True
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def leave(self) -> None:
        """End as `close` does, but wait for nothing: a call may hang."""
        self._is_closed = True
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            function, future = call
            try:
                result, error = function(), None
            except BaseException as raised:
                result, error = None, raised
            try:
                future.get_loop().call_soon_threadsafe(_deliver, future, result, error)
            except RuntimeError:
                pass  # the loop is closed, and so nobody waits any more
            del call, function, future, result, error  # not to be kept until the next call


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return  # its waiter was cancelled
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class InlineExecutor:
    """Makes the call at once, on the loop's own thread: for stores without a disk."""

    async def call(self, function: Callable[[], T]) -> T:
        return function()

    def close(self) -> None: ...
