"""A thread of the store's own that holds its connections: blocking calls from other threads are made there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rotor_actors.errors import StoreError

T = TypeVar("T")

_ROUNDS = 5


class IOThread:
    """One daemon thread with an event loop, from `start` to `stop`. Any thread may `call` into it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._door = threading.Lock()
        """What comes in, comes in before the loop is told to stop, or not at all: nobody waits for what nobody does."""

    @property
    def is_running(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        loop = self._loop = asyncio.SelectorEventLoop()
        # A process that ends without closing need not wait for it: what it does survives being cut off.
        self._thread = threading.Thread(target=self._run, args=(loop,), name=self._name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work in the thread, and wait for what it gives or raises.

        Raises:
            StoreError: the thread is not running, or ended before the work did.
        """
        try:
            return self.submit(work).result()
        except concurrent.futures.CancelledError as error:
            raise StoreError(f"{self._name}: the store was closed meanwhile") from error

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Begin the work in the thread. Raises StoreError when it is not running."""
        with self._door:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise StoreError(f"{self._name}: the store is closed")

    def soon(self, act: Callable[[], object]) -> None:
        """Have `act` called in the thread; if it has ended, not at all."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(act)
            except RuntimeError:
                pass  # it has just ended

    def stop(self) -> None:
        """End it, and what is under way in it. Stopping twice is fine."""
        with self._door:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(loop.stop)
        if loop is not None and self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(_pass())  # who waits for what has just been done is told so
            for _ in range(_ROUNDS):  # what is cancelled may begin something: asyncpg has the server told of it
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                if not left:
                    break
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()


async def _pass() -> None:
    """Let the loop go round, for what was done in its last round to be handed on."""
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
