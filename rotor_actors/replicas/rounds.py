"""Work that comes round: when there is a hint, and after a while in any case, for a hint may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Rounds:
    """A service of a replica.

    Args:
        work: one round; told whether it is one that comes in any case.
        poll: seconds from one of those to the next; a little chance keeps replicas from coming all at once.
        chance: gives a number from 0 to 1.
    """

    def __init__(self, work: Callable[[bool], Awaitable[None]], poll: float, chance: Callable[[], float]) -> None:
        self._work = work
        self._poll = poll
        self._chance = chance
        self._wanted = asyncio.Event()
        self._is_working = False
        self._is_due = True

    def wake(self, *, is_due: bool = False) -> None:
        """There is a hint; or the time is to be taken as over."""
        self._is_due = self._is_due or is_due
        self._wanted.set()

    @property
    def is_idle(self) -> bool:
        return not self._wanted.is_set() and not self._is_working

    async def serve(self) -> None:
        """Round after round, for as long as the incarnation lives."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._until(due)
            self._wanted.clear()
            is_due, self._is_due = self._is_due or loop.time() >= due, False
            if is_due:
                due = loop.time() + self._poll * (0.75 + 0.5 * self._chance())
            self._is_working = True
            try:
                await self._work(is_due)
            finally:
                self._is_working = False

    async def _until(self, due: float) -> None:
        try:
            async with asyncio.timeout_at(due):
                await self._wanted.wait()
        except TimeoutError:
            pass
