"""Run ids of someone's choice: of two who choose one at once, the later waits to learn of the earlier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Claims:
    """Who is about to use which run id."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def hold(self, run_id: str) -> AsyncGenerator[None, None]:
        """Hold a run id from looking it up until its run is in the store: in between, neither place knows of it."""
        while (other := self._held.get(run_id)) is not None:
            await other.wait()
        self._held[run_id] = released = asyncio.Event()
        try:
            yield
        finally:
            del self._held[run_id]
            released.set()
