"""Looking at the runs of an open runtime: what is durable of them, and what those in memory wait for."""

from __future__ import annotations

from functools import partial

from rotor_actors.access import Access
from rotor_actors.introspection import Introspection
from rotor_actors.live_waits import read_stored_waits, waits_of
from rotor_actors.records import RunRow
from rotor_actors.registry import Registry
from rotor_actors.run import Phase
from rotor_actors.waits import Wait


class Looking(Access, Introspection):
    """The methods of `Runtime` that look and change nothing."""

    @property
    def _registry(self) -> Registry:
        return self._engine.registry

    def _now(self) -> float:
        return self._engine.now()

    def _known_waits(self, row: RunRow) -> list[Wait]:
        run = None if row.status.is_terminal else self._engine.tree.get(row.n)
        if run is None or run.phase is Phase.REMOTE:
            return []
        assert self._service is not None
        return waits_of(self._engine, run, self._service.suspects_before)

    async def _waits(self, row: RunRow) -> list[Wait]:
        """Of a run that another replica owns: what its row and its children say."""
        if self._engine.sharing is None or row.status.is_terminal or self._is_here(row):
            return self._known_waits(row)
        return await self._read(partial(read_stored_waits, row))

    def _is_here(self, row: RunRow) -> bool:
        run = self._engine.tree.get(row.n)
        return run is not None and run.phase is not Phase.REMOTE

    def orphans(self) -> list[str]:
        """Ids of unfinished runs that are left untouched, because no workflow of their id is registered."""
        return [run.row.run_id for run in self._engine.tree.orphans]
