"""Taking in runs that were claimed: what recovery does when a store is opened, for some runs at a time.

First all is read, then all of them come into the tree in one act. A child of theirs that ends meanwhile elsewhere is
not missed: its message stays in the store until somebody who has its parent in his tree takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.engine import Engine
from rotor_actors.records import STICKY_FLAGS, CancelNote, ItemRow, RunFlag, RunRow, RunStatus
from rotor_actors.recovery import Recovery
from rotor_actors.replicas.legible import legible_rows
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import Claimed, RemoteChild, SharedStore

_logger = logging.getLogger("rotor_actors")


_OUTLIVES = RunFlag.RELEASED | RunFlag.ABANDON | RunFlag.WITHDRAWN


class _Surroundings(msgspec.Struct):
    """What the store holds around the runs."""

    children: list[RemoteChild]
    items: list[ItemRow]
    above: dict[int, int]
    """Of a run that has outlived its parent: the nearest one above it that has not ended."""
    left: dict[int, str]
    """Runs that should have ended with their parent, and how that one has."""


class TakingIn:
    """Makes claimed runs ours."""

    def __init__(self, engine: Engine, sharing: Sharing, recovery: Recovery) -> None:
        self._engine = engine
        self._sharing = sharing
        self._recovery = recovery
        assert engine.finishing.remote is not None
        self._remote = engine.finishing.remote

    async def take_in(self, claimed: list[Claimed]) -> None:
        """The runs of one claim, parents before children. Raises StoreError: then the incarnation is over."""
        engine = self._engine
        around = _Surroundings([], [], {}, {})
        # Of a child that begins there is nothing to read: so most of those that were spilled begin without a further look.
        unclear = [each for each in claimed if not (each.begins and each.is_below)]
        if unclear:
            known = {each.live.row.parent_n for each in unclear if each.live.row.parent_n is not None}
            living = {n for n in known if engine.tree.get(n) is not None} | {each.live.row.n for each in claimed}
            read = partial(_surroundings, self._sharing.store, unclear, frozenset(living))
            around = await engine.ports.reader.call(read)
        with engine.journal.one_act():
            self._take_in(claimed, around)
        engine.queue_of_runs.poke()

    def _take_in(self, claimed: list[Claimed], around: _Surroundings) -> None:
        engine, recovery = self._engine, self._recovery
        engine.journal.witness(max(map(_newest_seen, claimed)))
        runs = [self._place(each) for each in claimed]
        for child in around.children:
            self._link(child)
        self._adopt(runs, around.above)
        spaces: dict[str, list[ItemRow]] = {}
        for item in recovery.intact(around.items):
            spaces.setdefault(item.space, []).append(item)
        engine.features.taken_in(runs, spaces)
        engine.observers.taken_in([run.snapshot() for run in runs])
        for run in runs:
            if run.workflow is not None:
                engine.features.run_known(run)
        recovery.set_aside_damaged([each.live for each in claimed])
        self._cancel(claimed, around.left)
        self._go_on(claimed)
        engine.admit_held()

    def _place(self, claimed: Claimed) -> Run:
        """A stub of ours becomes the run itself, where it stands."""
        stub = self._engine.tree.get(claimed.live.row.n)
        if stub is None:
            return self._recovery.place(claimed.live)
        claimed.live.row.flags |= stub.row.flags & STICKY_FLAGS  # what was said of it since it was claimed
        stub.row, stub.phase = claimed.live.row, Phase.STORED
        stub.seen_seq = max(stub.seen_seq, claimed.live.newest_seq)
        stub.workflow = self._engine.registry.get(stub.row.workflow_id)
        if stub.workflow is None:
            stub.phase = Phase.HELD
            self._engine.tree.add_orphan(stub)
        return stub

    def _link(self, child: RemoteChild) -> None:
        """A child of one that was taken in: it is ours already, or lives elsewhere."""
        tree, row = self._engine.tree, child.row
        parent = None if row.parent_n is None else tree.get(row.parent_n)
        if parent is None or row.flags & RunFlag.WITHDRAWN:
            return
        known = tree.get(row.n)
        if known is None:
            self._remote.stub(row, parent)
        elif known.parent is None and row.parent_key is not None and parent.child(row.parent_key) is None:
            known.parent = parent
            parent.add_child(row.parent_key, known)

    def _adopt(self, runs: Iterable[Run], above: dict[int, int]) -> None:
        tree = self._engine.tree
        for run in runs:
            adopter = tree.get(above.get(run.row.n, 0))
            if adopter is not None and adopter.phase is not Phase.REMOTE and run.parent is None:
                tree.adopt(run, adopter)

    def _cancel(self, claimed: list[Claimed], left: dict[int, str]) -> None:
        engine = self._engine
        for each in claimed:
            run = engine.tree.get(each.live.row.n)
            if each.cancel is not None and run is not None and not run.is_doomed:
                note = msgspec.msgpack.decode(each.cancel, type=CancelNote)
                withdrawn = run if note.is_withdrawn else None
                Cancellation(engine, engine.finishing, [run], note.reason, withdrawn=withdrawn).begin()
            elif run is not None and not run.is_doomed and run.row.n in left:
                # Spawned in the moment in which its parent ended, by a replica that did not live to see it.
                reason = f"its parent ended ({left[run.row.n]})"
                Cancellation(engine, engine.finishing, [run], reason).begin()

    def _go_on(self, claimed: list[Claimed]) -> None:
        engine, under_way = self._engine, list[Run]()
        for each in claimed:
            run = engine.tree.get(each.live.row.n)
            if run is None or run.is_doomed or run.phase is not Phase.STORED:
                continue
            if each.begins or _is_new(run.row):
                engine.witness_time(run.row.attempt_at)
                run.phase = Phase.FRESH
                engine.queue(run)
            elif self._recovery.is_under_way(run, each.live):
                under_way.append(run)
            else:
                self._recovery.arm(run)
        self._recovery.replay(under_way)
        _logger.info("took in %d runs, %d of them were under way", len(claimed), len(under_way))


def _newest_seen(claimed: Claimed) -> int:
    """The newest entry that its row knows of, too: a run that rested until then would sleep over what comes before."""
    row = claimed.live.row
    return max(claimed.live.newest_seq, row.rest_seq, row.attempt_seq)


def _is_new(row: RunRow) -> bool:
    """Left to others, and in no line: nothing of it has begun."""
    return row.status is RunStatus.QUEUED and row.attempt == 1 and row.attempt_at is None and row.wake_at is None


def _surroundings(store: SharedStore, claimed: list[Claimed], living: frozenset[int]) -> _Surroundings:
    ns = [each.live.row.n for each in claimed if not each.begins]
    left: dict[int, str] = {}
    above = _climb(store, [each.live.row for each in claimed], living, left)
    _spare_the_released(store, left)
    return _Surroundings(store.remote_children(ns) if ns else [], store.items_of(ns) if ns else [], above, left)


def _spare_the_released(store: SharedStore, left: dict[int, str]) -> None:
    """A parent may have let go of a run, and ended, after the run was claimed: the row that was claimed does not say so.
    What is read now does, for it is read after the parent's end."""
    if left:
        for row in legible_rows(store, sorted(left)):
            if row.flags & _OUTLIVES:
                del left[row.n]


def _climb(store: SharedStore, rows: list[RunRow], living: frozenset[int], left: dict[int, str]) -> dict[int, int]:
    """Of each run whose parent has ended: the nearest one above it that has not."""
    outlives = {row.n for row in rows if row.flags & _OUTLIVES}
    climbing = {row.n: row.parent_n for row in rows if row.parent_n is not None and row.parent_n not in living}
    found: dict[int, int] = {}
    is_first = True
    while climbing:
        above = {row.n: row for row in legible_rows(store, sorted(set(climbing.values())))}
        higher: dict[int, int] = {}
        for n, ancestor in climbing.items():
            row = above.get(ancestor)
            if row is not None and row.ended_at is not None and is_first and n not in outlives:
                left[n] = row.status.value
            if row is not None and row.ended_at is None:
                found[n] = ancestor
            elif row is not None and row.parent_n is not None:
                higher[n] = row.parent_n
        climbing, is_first = higher, False
    return found
