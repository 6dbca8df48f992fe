"""The owner task's mailbox: a deque and a wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

M = TypeVar("M")


class Inbox(Generic[M]):
    """Messages for one reader, in order. Not for use across threads.

    Closing goes ahead of everything: the reader is told at once and the rest is left for `drain`. A reader that is
    cancelled loses nothing, because a message leaves the deque only in the step that returns it.
    """

    __slots__ = ("_is_closed", "_messages", "_waiter")

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def put(self, message: M) -> bool:
        """Add a message; False, and nothing added, if closed."""
        if self._is_closed:
            return False
        self._messages.append(message)
        self._wake()
        return True

    def close(self) -> None:
        """Take no more messages and tell the reader. Harmless when repeated."""
        self._is_closed = True
        self._wake()

    async def get(self) -> M | None:
        """The next message, or None as soon as the inbox is closed."""
        while not self._is_closed:
            if self._messages:
                return self._messages.popleft()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None

    def drain(self) -> list[M]:
        """Take out what nobody has read."""
        rest = list(self._messages)
        self._messages.clear()
        return rest

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
