"""Deleting runs that have ended: a tree as a whole, in slices, and the disk space given back."""

from __future__ import annotations

from functools import partial

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import RunStatusError
from rotor_actors.records import ItemDropped, ItemPut, ItemRow, RunRow, RunsDeleted, RunStatus
from rotor_actors.replicas.taking_back import TakingBack
from rotor_actors.stores.base import EndedRootsQuery, StoreReader

RUNS_PER_ENTRY = 500
TREES_PER_LOOK = 50
PAGES_PER_CALL = 1_000


DELETING = "deleting"
"""The space of items that name trees of which a part is gone, by the id of their root."""


def is_half_deleted(store: StoreReader, run: RunRow) -> bool:
    """Is the deletion of its tree under way, or was it cut off by a crash?"""
    return store.item(DELETING, run.root_run_id) is not None


class PruneReport(msgspec.Struct):
    """What `prune` did, or with `dry_run` would do.

    Attributes:
        run_ids: the top-level runs whose trees were deleted, those that ended first before the others.
        runs: how many runs in all. kept: top-level runs that were due, but below which something still runs.
    """

    run_ids: list[str] = []
    runs: int = 0
    kept: list[str] = []


class Pruning:
    """Deletes trees. Nothing of a tree goes while a run of it has not ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._taking = None if engine.sharing is None else TakingBack(engine, engine.sharing)

    async def is_live(self, root: RunRow) -> bool:
        """Does something of its tree run?"""
        if self._taking is not None:
            return await self._taking.is_live(root.root_n)
        return any(run.row.root_n == root.n for run in self._engine.tree)

    async def delete_tree(self, root: RunRow) -> int:
        """Delete a tree that has ended, children before their parents; gives how many runs it had.

        Each entry takes a slice of it: a tree of a million does not keep commits waiting. A crash in between leaves
        its upper part, which can be deleted again; until then an item says so. It is durable when this returns.
        """
        engine, count = self._engine, 0
        ports, key = engine.ports, root.root_run_id
        is_marked = await ports.reader.call(partial(is_half_deleted, ports.store, root))
        while True:
            await engine.journal.durable(engine.journal.last_seq)
            found = await ports.reader.call(partial(ports.store.tree_numbers, root.root_n, RUNS_PER_ENTRY + 1))
            ns, is_last = found[:RUNS_PER_ENTRY], len(found) <= RUNS_PER_ENTRY
            if not ns:
                return count
            if self._taking is not None and not await self._taking.take_ended(ns):
                raise RunStatusError(
                    f"run {root.run_id} of workflow {root.workflow_id!r} cannot be deleted: another replica brings back, or "
                    f"deletes, a part of its tree; look at it again", run_id=root.run_id, status=root.status.value,
                )  # fmt: skip
            rows = await ports.reader.call(partial(ports.store.rows, ns)) if engine.features.keep_ended_runs else []
            with engine.journal.one_act():
                if is_last and is_marked:
                    engine.journal.append(ItemDropped(DELETING, key))
                elif not is_last and not is_marked:
                    engine.journal.append(ItemPut(ItemRow(DELETING, key)))
                is_marked = not is_last
                engine.journal.append(RunsDeleted(ns))
                for entry in engine.features.runs_deleted([row.run_id for row in rows]):
                    engine.journal.append(entry)
            count += len(ns)

    async def tree_size(self, root: RunRow) -> int:
        """How many runs a tree has."""
        ports = self._engine.ports
        return sum((await ports.reader.call(lambda: ports.store.count_by_status(root.root_n))).values())

    async def prune(
        self,
        statuses: tuple[RunStatus, ...],
        before: float,
        workflow_id: str | None,
        limit: int,
        *,
        dry_run: bool = False,
    ) -> PruneReport:
        """Delete the trees whose top-level run ended before a time, at most so many."""
        engine, report = self._engine, PruneReport()
        query = EndedRootsQuery(statuses, before, workflow_id, TREES_PER_LOOK)
        ports = engine.ports
        while len(report.run_ids) < limit:
            await engine.journal.durable(engine.journal.last_seq)
            rows = await ports.reader.call(lambda q=query: ports.store.ended_roots(q))  # type: ignore[misc]
            for row in rows[: limit - len(report.run_ids)]:
                await self._prune_tree(row, report, dry_run)
            if len(rows) < TREES_PER_LOOK:
                break
            query = msgspec.structs.replace(query, after=(rows[-1].ended_at or 0.0, rows[-1].n))
        return report

    async def _prune_tree(self, row: RunRow, report: PruneReport, dry_run: bool) -> None:
        async with self._engine.claims.hold(row.run_id):
            if await self.is_live(row):
                report.kept.append(row.run_id)
                return
            try:
                size = await (self.tree_size(row) if dry_run else self.delete_tree(row))
            except RunStatusError:
                report.kept.append(row.run_id)
                return
        if size:
            report.run_ids.append(row.run_id)
            report.runs += size

    async def give_back(self) -> None:
        """Give disk space back that is no longer in use, in slices: commits go on in between."""
        engine = self._engine
        left: int | None = None
        while left != 0:
            before = left
            async with engine.journal.commit_lock.writer_lock:
                left = await engine.ports.writer.call(lambda: engine.ports.store.free(PAGES_PER_CALL))
            if before is not None and left >= before:
                return  # a file of an older make, which cannot give back by slices: `compact` does
