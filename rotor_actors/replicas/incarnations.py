"""The lives of a runtime on a shared store: when one is lost, it begins anew as another replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from rotor_actors.errors import RuntimeStateError, StoreError
from rotor_actors.service import Service
from rotor_actors.stores.base import Store
from rotor_actors.stores.shared import is_shared
from rotor_actors.workflows import Workflow

_logger = logging.getLogger("rotor_actors")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Incarnations:
    """Keeps a service open. On a store with one owner there is one life, which ends with the first failure.

    Args:
        make: a service that has not been opened. became: told which one is used from now on.
        chance: gives a number from 0 to 1: many replicas that lost one database must not come back all at once.
    """

    def __init__(
        self, store: Store, make: Callable[[Callable[[StoreError], None] | None], Service],
        became: Callable[[Service], None], chance: Callable[[], float],
    ) -> None:  # fmt: skip
        self._make = make
        self._became = became
        self._chance = chance
        self.begins_anew = is_shared(store)
        self._service: Service | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_closing = False

    async def open(self, workflows: Iterable[Workflow[Any, Any]]) -> Service:
        """The first life. What keeps it from beginning is raised."""
        self._service = service = self._make(self._lost if self.begins_anew else None)
        self._became(service)
        await service.open(workflows)
        return service

    async def close(self) -> None:
        """The last one ends. Who waits for another is told so."""
        self._is_closing = True
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait([self._beginning])
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(RuntimeStateError("the runtime was closed before its database came back"))
        if self._service is not None:
            await self._service.close()

    # Anew

    def next_life(self, lost: Service) -> asyncio.Future[None] | None:
        """A future of the life after this one, which was lost; None where there is none, or this one lives.

        Raises RuntimeStateError, by the future, when the runtime is closed before."""
        if not self.begins_anew or self._is_closing or lost.failure is None:
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._service is not lost and self._beginning is None:
            waiter.set_result(None)
        else:
            self._waiters.add(waiter)
            waiter.add_done_callback(self._waiters.discard)
        return waiter

    def _lost(self, error: StoreError) -> None:
        if not self._is_closing and self._beginning is None:
            self._beginning = asyncio.get_running_loop().create_task(self._begin_anew())

    async def _begin_anew(self) -> None:
        lost = self._service
        assert lost is not None
        workflows = lost.known_workflows()
        try:
            await lost.close()
        except Exception:  # whatever is left of it, there must be another
            _logger.exception("what was lost could not be closed in good order")
        pause = 0.0
        while True:
            await asyncio.sleep(pause * (0.5 + self._chance()))
            pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, pause * 2))
            service = self._make(self._lost)
            try:
                await service.open(workflows)
            except Exception as error:  # of any driver, too
                _logger.warning("the store cannot be opened, it is tried again: %s", error)
                continue
            break
        self._service, self._beginning = service, None
        self._became(service)
        _logger.warning("began anew as replica %s: what ran here is taken up by whoever claims it", service.replica)
        if service.failure is not None:
            self._lost(service.failure)
            return
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
