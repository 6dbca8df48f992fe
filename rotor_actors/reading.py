"""What looks at a store stands on: a way to read it, whoever owns it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from rotor_actors.errors import RunNotFoundError
from rotor_actors.records import RunRow
from rotor_actors.stores.base import StoreReader

T = TypeVar("T")


class Reading(ABC):
    """A reader of runs: `Runtime`, for which it is its own store, or a view of somebody else's."""

    @abstractmethod
    async def _read(self, read: Callable[[StoreReader], T]) -> T:
        """Call `read` where it blocks nobody."""

    async def _row(self, run_id: str) -> RunRow:
        row = await self._read(lambda store: store.find(run_id))
        if row is None:
            raise RunNotFoundError(f"no run has the id {run_id!r} in this store")
        return row
