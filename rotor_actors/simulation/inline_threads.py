"""`anyio.to_thread` inside a universe: inline, after a virtual while. It does not go by way of `run_in_executor`."""

from __future__ import annotations

import contextvars
from asyncio import events
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio._backends._asyncio import AsyncIOBackend

from rotor_actors.simulation.loop import SimulationLoop


@contextmanager
def inline_threads() -> Generator[None, None, None]:
    """While it is entered, anyio's worker threads are none for code that runs on a `SimulationLoop`."""
    real = AsyncIOBackend.__dict__["run_sync_in_worker_thread"]

    async def run_sync_in_worker_thread(
        cls: type[AsyncIOBackend],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool = False,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> Any:
        loop = events._get_running_loop()
        if not isinstance(loop, SimulationLoop):
            return await real.__func__(cls, func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        async with limiter or cls.current_default_thread_limiter():
            future = loop.run_in_executor(None, contextvars.copy_context().run, func, *args)
            with anyio.CancelScope(shield=not abandon_on_cancel):
                return await future

    AsyncIOBackend.run_sync_in_worker_thread = classmethod(run_sync_in_worker_thread)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        AsyncIOBackend.run_sync_in_worker_thread = real  # type: ignore[method-assign]
