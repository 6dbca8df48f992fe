"""Going on where the last process stopped.

Every run that has not ended gets its place in the tree. Only those that were in the middle of something are replayed:
what waited for a child or a timer is loaded when that reaches it. A run that seems to kill the process each time it is
recovered is put on probation, one at a time, so that it does not take the others with it, and then set aside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import ErrorInfo
from rotor_actors.messages import AttemptDue
from rotor_actors.records import ItemRow, RunFlag, RunStatus
from rotor_actors.run import Phase, Run
from rotor_actors.stores.base import LiveRun, Store

T = TypeVar("T")

_logger = logging.getLogger("rotor_actors")

# A store may hold a hundred thousand unfinished runs: after so many, let the host's loop have its turn.
_RUNS_PER_PASS = 500

# After so many recoveries in a row without progress, a run is recovered alone.
SUSPECT_AFTER = 3
PROBATION_SECONDS = 5.0


class Recovery:
    """Takes over what a store holds: `begin` once, before the runtime serves; or, of a store that is shared, run by run
    as they are claimed (`replicas.taking_in`)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._suspects: list[Run] = []
        self._on_probation: Run | None = None
        self._survivors: list[Run] = []
        self._adopters: dict[int, int | None] = {}

    async def begin(
        self, live: list[LiveRun], adopters: dict[int, int | None], items: dict[str, list[ItemRow]]
    ) -> None:
        """Build the tree and let go on what was under way; for `adopters` see `find_adopters`.

        It goes in passes. Nothing moves before every run has its place: a body that is replayed finds its children.
        """
        self._adopters = adopters
        async for part in _in_passes(live):
            for found in part:
                self.place(found)
        under_way: list[Run] = []
        resting: list[Run] = []
        async for part in _in_passes(live):
            for found in part:
                run = self._engine.tree.get(found.row.n)
                if run is not None:
                    (under_way if self.is_under_way(run, found) else resting).append(run)
        self._engine.features.open({space: self.intact(items[space]) for space in items})
        for recovered in self._engine.tree:
            if recovered.workflow is not None:
                self._engine.features.run_known(recovered)
        self.set_aside_damaged(live)
        self.replay(under_way)
        self._engine.admit_held()
        self._report(len(live), len(under_way))
        async for still in _in_passes(resting):
            for each in still:
                self.arm(each)

    def place(self, found: LiveRun) -> Run:
        """Give a run its place in the tree; its parent, if it is there, came before it."""
        engine, row = self._engine, found.row
        parent = None if row.parent_n is None else engine.tree.get(row.parent_n)
        if parent is not None and parent.phase is Phase.REMOTE:
            parent = None  # a stub of ours: whoever owns the parent is told of the end by mail
        if parent is not None and row.parent_key is not None and parent.child(row.parent_key) is not None:
            parent = (
                None  # a scope withdrew it after it was claimed, and another is awaited by its key: it is cancelled
            )
        run = Run(engine, row, parent, Phase.STORED)
        run.workflow = engine.registry.get(row.workflow_id)
        run.seen_seq = found.newest_seq
        engine.tree.add(run)
        adopter = self._adopters.get(row.n)
        if adopter is not None:
            engine.tree.adopt(run, engine.tree.get(adopter))
        if row.parent_n is None:
            self._admit(run)
        if run.workflow is None:
            run.phase = Phase.HELD
            engine.tree.add_orphan(run)
        return run

    def _admit(self, run: Run) -> None:
        """Those that had begun stay admitted, whatever the limit is now."""
        if run.row.status is RunStatus.QUEUED:
            run.phase = Phase.HELD
            self._engine.admission.hold(run)
        else:
            self._engine.admission.take(run)

    def is_under_way(self, run: Run, found: LiveRun) -> bool:
        """Was it in the middle of something, or has its time come?"""
        row = found.row
        if run.phase is not Phase.STORED:
            return False
        if row.wake_at is not None and row.wake_at <= self._engine.now():
            return True  # what it does on waking may be what ended the process
        return row.attempt_at is not None and (not row.rest_seq or found.newest_seq > row.rest_seq)

    def arm(self, run: Run) -> None:
        """A run at rest is woken when its time comes."""
        if run.phase is Phase.STORED and run.row.wake_at is not None:
            self._engine.timers.add(run, run.row.wake_at)

    def intact(self, items: list[ItemRow]) -> list[ItemRow]:
        """Items whose owner runs, or that need none. One that is damaged fails its owner, and nothing is read from it."""
        kept: list[ItemRow] = []
        for item in items:
            run = None if item.n is None else self._engine.tree.get(item.n)
            if run is not None:
                run.owns_items = True
            if item.is_damaged:
                _logger.error("item %r of %r does not match its checksum: the file was damaged", item.key, item.space)
                if run is not None:
                    run.row.flags |= RunFlag.DAMAGED
            elif run is not None or item.n is None:
                kept.append(item)
        return kept

    # Poison

    def replay(self, runs: list[Run]) -> None:
        """Let them go on; those that seem to end the process one after the other, or not at all."""
        engine = self._engine
        for run in runs:
            if run.phase is not Phase.STORED:
                continue  # damaged
            if run.row.recoveries >= engine.options.max_recoveries:
                self._set_aside(run)
            elif run.row.recoveries >= SUSPECT_AFTER:
                self._suspects.append(run)
            else:
                run.row.recoveries += 1
                engine.append_change(run)
                run.post(AttemptDue(0.0))
                self._survivors.append(run)
        if self._survivors and engine.timers.due_of(self) is None:
            engine.timers.add(self, engine.now() + PROBATION_SECONDS)
        engine.on_progress = self._progressed
        self._next_suspect()

    def _next_suspect(self) -> None:
        engine = self._engine
        if self._on_probation is not None or not self._suspects:
            return
        run = self._on_probation = self._suspects.pop(0)
        if run.phase is Phase.ENDED or run.is_doomed:
            self._on_probation = None
            self._next_suspect()
            return
        run.row.recoveries += 1
        engine.append_change(run)
        run.post(AttemptDue(0.0))
        engine.timers.add(self, engine.now() + PROBATION_SECONDS)

    def _progressed(self, run: Run) -> None:
        if run is self._on_probation:
            self._on_probation = None
            self._next_suspect()

    def suspects_before(self, run: Run) -> int | None:
        """How many are recovered before this run, which is on probation; None of one that is not."""
        if run is self._on_probation:
            return 0
        ahead = next((ahead for ahead, suspect in enumerate(self._suspects) if suspect is run), None)
        return None if ahead is None else ahead + (self._on_probation is not None)

    def alarm(self, now: float) -> None:
        """The process has lived through the probation: what it recovered did not kill it."""
        engine = self._engine
        survivors, self._survivors = self._survivors, []
        if self._on_probation is not None:
            survivors.append(self._on_probation)
            self._on_probation = None
        for run in survivors:
            if run.phase is not Phase.ENDED and not run.is_doomed and run.row.recoveries:
                run.row.recoveries = 0
                engine.append_change(run)
        engine.queue_of_runs.poke()
        self._next_suspect()

    def wait_no_longer(self) -> None:
        """The runtime is closing: there is no need to live through the rest of the probation."""
        self._engine.timers.discard(self)
        self._suspects.clear()

    def set_aside_damaged(self, live: list[LiveRun]) -> None:
        """Nothing is replayed from a payload that does not match its checksum; the other runs go on."""
        for found in live:
            run = self._engine.tree.get(found.row.n)
            if found.row.flags & RunFlag.DAMAGED and run is not None and not run.is_doomed:
                message = "its row does not match its checksum: the store's file was damaged; restore a backup"
                _logger.error("%s: %s", run.where, message)
                info = ErrorInfo("StoreCorruptedError", f"{run.where}: {message}")
                self._engine.ending.end(run, RunStatus.FAILED, error=msgspec.msgpack.encode(info))

    def _set_aside(self, run: Run) -> None:
        message = (
            f"set aside: the process ended {run.row.recoveries} times in a row while this run was being recovered, "
            f"before it recorded anything; look for a crash in its code, then start it anew"
        )
        _logger.error("%s: %s", run.where, message)
        info = ErrorInfo("PoisonRun", message)
        self._engine.ending.end(run, RunStatus.FAILED, error=msgspec.msgpack.encode(info))

    def _report(self, unfinished: int, under_way: int) -> None:
        if unfinished:
            _logger.info("recovered %d unfinished runs, %d of them were under way", unfinished, under_way)
        orphans = self._engine.tree.orphans
        for run in orphans[:10]:
            _logger.warning(
                "%s is left untouched: no workflow of that id is registered; name it in Runtime(workflows=[…])",
                run.where, extra={"run_id": run.row.run_id},
            )  # fmt: skip
        if len(orphans) > 10:
            _logger.warning("… and %d more runs of workflows that are not registered", len(orphans) - 10)


async def _in_passes(items: list[T]) -> AsyncIterator[list[T]]:
    for first in range(0, len(items), _RUNS_PER_PASS):
        yield items[first : first + _RUNS_PER_PASS]
        await asyncio.sleep(0)


def find_adopters(store: Store, live: list[LiveRun]) -> dict[int, int | None]:
    """Of each run that has outlived its parent: the nearest one above it that has not ended, or None."""
    living = {found.row.n for found in live}
    rows = (found.row for found in live)
    above = {row.n: row.parent_n for row in rows if row.parent_n is not None and row.parent_n not in living}
    adopters: dict[int, int | None] = {}
    while above:
        parents = store.parents_of(sorted(set(above.values())))
        climbing: dict[int, int] = {}
        for n, ended in above.items():
            parent = parents.get(ended)
            if parent is None or parent in living:
                adopters[n] = parent
            else:
                climbing[n] = parent
        above = climbing
    return adopters
