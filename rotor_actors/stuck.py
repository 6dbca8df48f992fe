"""What was abandoned and has not ended: it is kept from being collected, for a collected coroutine runs its `finally`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any


class Stuck:
    """Keeps tasks until they end after all; bodies for good: nobody drives an abandoned body, so it never ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bodies: list[object] = []

    def __len__(self) -> int:
        return len(self._tasks) + len(self._bodies)

    @property
    def bodies(self) -> Iterator[object]:
        """The actors whose bodies were abandoned, in that order."""
        return iter(self._bodies)

    def keep_task(self, task: asyncio.Task[Any] | None) -> None:
        """Keep the task of an execution; None if that has ended already."""
        if task is not None and not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def keep_body(self, actor: object) -> None:
        self._bodies.append(actor)
