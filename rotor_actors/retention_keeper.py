"""The service that deletes runs which are too old, in slices."""

from __future__ import annotations

import asyncio
import logging

from rotor_actors.durations import seconds
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.pruning import Pruning
from rotor_actors.retention import Retention

_logger = logging.getLogger("rotor_actors")

_TREES_PER_SLICE = 100


class RetentionKeeper:
    """Looks now and then for what is too old."""

    def __init__(self, engine: Engine, retention: Retention) -> None:
        self._engine = engine
        self._retention = retention
        self._pruning = Pruning(engine)

    async def serve(self) -> None:
        """Look again and again, for as long as the runtime is open."""
        while True:
            sharing = self._engine.sharing
            try:
                if sharing is None or sharing.is_coordinator:  # of many replicas one is enough
                    await self._prune()
            except StoreError as error:
                if self._engine.journal.failure is not None:
                    return  # the runtime stops, and says so itself
                _logger.error("retention: %s; it is looked at again in its time", error)
            await self._pause()

    async def _prune(self) -> None:
        deleted = 0
        for status, age in self._retention.ages():
            while True:
                before = self._engine.now() - age
                report = await self._pruning.prune((status,), before, None, _TREES_PER_SLICE)
                deleted += report.runs
                if len(report.run_ids) < _TREES_PER_SLICE:
                    break
        if deleted:
            await self._pruning.give_back()
            _logger.info("retention: deleted %d runs that ended long enough ago", deleted)

    async def _pause(self) -> None:
        clock, over = self._engine.ports.clock, asyncio.Event()
        alarm = clock.call_at(clock.now() + seconds(self._retention.every, name="every"), over.set)
        try:
            await over.wait()
        finally:
            alarm.cancel()
