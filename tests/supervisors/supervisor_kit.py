"""Children whose lives a test ends by hand, and a clock it moves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from supervisors import Child, ChildSpec, Restart, ShutdownSpec, Supervisor


class Puppet:
    """A child that lives until told how to end, and notes in `log` when it starts and stops."""

    def __init__(self, name: str, log: list[str] | None = None) -> None:
        self.name = name
        self.log: list[str] = [] if log is None else log
        self.starts = 0
        self.failures_to_start = 0
        self._end: asyncio.Future[None] | None = None

    def spec(self, restart: Restart = Restart.PERMANENT, shutdown: ShutdownSpec = 5.0) -> ChildSpec:
        return ChildSpec(self.name, self.start, restart=restart, shutdown=shutdown)

    def start(self) -> Coroutine[Any, Any, None]:
        if self.failures_to_start:
            self.failures_to_start -= 1
            raise OSError(f"{self.name} cannot start")
        self.starts += 1
        return self._live()

    async def _live(self) -> None:
        self.log.append(f"+{self.name}")
        self._end = asyncio.get_running_loop().create_future()
        try:
            await self._end
        finally:
            self.log.append(f"-{self.name}")

    async def finish(self) -> None:
        """Return from the child."""
        assert self._end is not None
        self._end.set_result(None)
        await settle()

    async def fail(self, error: Exception | None = None) -> None:
        """Raise in the child."""
        assert self._end is not None
        self._end.set_exception(error or RuntimeError(f"{self.name} failed"))
        await settle()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let everything happen that needs no time to pass."""
    for _ in range(50):
        await asyncio.sleep(0)


async def appears(supervisor: Supervisor, child_id: str) -> Child:
    """The child as soon as it is there, before it has taken its first step."""
    for _ in range(10):
        child = next((info.child for info in supervisor.which_children() if info.id == child_id), None)
        if child is not None:
            return child
        await asyncio.sleep(0)
    raise AssertionError(f"{child_id} did not appear")
