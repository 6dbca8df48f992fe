"""One life of the simulated process: a runtime on the universe's disk, and all that runs for it."""

from __future__ import annotations

import asyncio
import contextvars

from rotor_actors.engine import Engine
from rotor_actors.runtime import Runtime
from rotor_actors.simulation.loop import LIFE, SimulationTask


class Process:
    """What has its context belongs to it: tasks, callbacks and timers, down to those of user code in steps."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_dead = False
        self.is_condemned = False
        self.is_attached = False
        self.runtime: Runtime | None = None
        self._waiters: dict[asyncio.Future[None], None] = {}

    def __repr__(self) -> str:
        return f"<process {self.number}{' (dead)' if self.is_dead else ''}>"

    @property
    def engine(self) -> Engine | None:
        runtime = self.runtime
        service = None if runtime is None else runtime._service  # pyright: ignore[reportPrivateUsage]
        return None if service is None else service._engine  # pyright: ignore[reportPrivateUsage]

    @property
    def has_failed(self) -> bool:
        """Its runtime has stopped, for its store failed."""
        runtime = self.runtime
        service = None if runtime is None else runtime._service  # pyright: ignore[reportPrivateUsage]
        return service is not None and service._failure is not None  # pyright: ignore[reportPrivateUsage]

    def context(self) -> contextvars.Context:
        """The current context, as part of this process."""
        context = contextvars.copy_context()
        context.run(LIFE.set, self)
        return context

    async def outcome_of(self, task: SimulationTask) -> bool:
        """Wait until a task of this process has ended, or the process has died, and say which: True when it ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[ended] = None
        task.add_done_callback(lambda _: _wake(ended), context=contextvars.Context())
        try:
            if not self.is_dead and not task.done():
                await ended
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._waiters.pop(ended, None)
        return task.done()

    def tell_waiters(self) -> None:
        """Whoever waits for something of it waits in vain."""
        for waiter in tuple(self._waiters):
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
