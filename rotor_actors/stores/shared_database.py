"""The database that replicas share, in memory: what PostgreSQL is to them, statement by statement, and its clock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import msgspec

from rotor_actors.errors import ReplicaFencedError
from rotor_actors.records import (
    COORDINATOR,
    STICKY_FLAGS,
    CancelRequested,
    EndSeen,
    Entry,
    Fact,
    FlagsAdded,
    ItemRow,
    MailKind,
    MailSent,
    MailTaken,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    RunsCancelled,
    RunsDeleted,
    RunsReleased,
    RunStatus,
    RunWatched,
    flatten,
)
from rotor_actors.stores.base import LiveRun, RunQuery
from rotor_actors.stores.memory import MemoryStore
from rotor_actors.stores.post_office import PostOffice
from rotor_actors.stores.shared import Claim, Claimed, ClaimQuery, Mail, OwnershipCount, RemoteChild, ReplicaRow
from rotor_actors.stores.transaction import TransactionCall


class Standing(msgspec.Struct):
    """What the database keeps of a run beside its row."""

    owner: int | None = None
    is_parked: bool = False
    to_coordinator: bool = False
    cancel: bytes | None = None
    said: int = 0
    """Marks that others than its owner have put on it: no snapshot of the owner's takes them away."""


class SharedDatabase(MemoryStore):
    """The database that replicas in one process share: give each a `SharedMemoryStore(database)`.

    Args:
        clock: the database's own clock, seconds since the epoch: the only one that decides leases and due times.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self.replica_rows: dict[int, ReplicaRow] = {}
        self.coordinator: int | None = None
        self.standings: dict[int, Standing] = {}
        self.unowned_ns: dict[int, None] = {}
        """Live runs without an owner."""
        self.office = PostOffice()
        self.hints: dict[int, Callable[[], None]] = {}
        self._last_replica = 0

    # Replicas

    def enter(self, lease: float) -> int:
        self._last_replica += 1
        number, now = self._last_replica, self.clock()
        self.replica_rows[number] = ReplicaRow(number, f"replica-{number}", now, now + lease)
        return number

    def leave(self, number: int) -> None:
        if self.replica_rows.pop(number, None) is not None:
            self.free_runs()

    def check(self, number: int) -> ReplicaRow:
        row = self.replica_rows.get(number)
        if row is None:
            raise ReplicaFencedError(
                f"replica {number} has no lease any more: its runs were given to others; it begins anew as another one"
            )
        return row

    def expire_replicas(self) -> None:
        """The first of the two statements of `reap`."""
        now = self.clock()
        for number in [row.number for row in self.replica_rows.values() if row.lease_until < now]:
            del self.replica_rows[number]

    def free_runs(self) -> int:
        """The second one: whatever the first has left, whoever made it, and however long ago."""
        gone = {each.owner for each in self.standings.values()} - {None, *self.replica_rows}
        freed = [n for n, each in self.standings.items() if each.owner in gone]
        for n in freed:
            self._give(n, None)
        if self.coordinator not in self.replica_rows:
            self.coordinator = None
        for address in self.office.addresses():
            if self._is_dead(address):
                self.office.close_address(address)
        if freed:
            self._hint(None)
        return len(freed)

    def _give(self, n: int, owner: int | None) -> None:
        standing = self.standings[n]
        standing.owner = owner
        if owner is not None:
            standing.is_parked = False
            self.unowned_ns.pop(n, None)
        elif not self._runs[n].status.is_terminal:
            self.unowned_ns[n] = None

    def _is_dead(self, to: int) -> bool:
        if to < COORDINATOR:
            return -to not in self.replica_rows
        return to != COORDINATOR and self._has_ended(to)

    def _has_ended(self, n: int) -> bool:
        """Or was deleted."""
        return n not in self._runs or self._runs[n].status.is_terminal

    # Commits

    def apply(self, number: int, entries: list[Entry]) -> None:
        """A commit of this replica's; the fence first."""
        self.check(number)
        facts = list(flatten(entries))
        self._refuse_known_ids(facts)
        for fact in facts:
            self._apply_of(number, fact)

    def try_apply(self, number: int, entries: list[Entry]) -> bool:
        """A conditional commit."""
        self.check(number)
        if self._conflicts(entries):
            return False
        self.apply(number, entries)
        return True

    def _conflicts(self, entries: list[Entry]) -> bool:
        facts = list(flatten(entries))
        names = Counter(fact.once for fact in facts if isinstance(fact, MailSent) and fact.once is not None)
        return self._known_id(facts) is not None or any(
            times > 1 or self.office.has_name(name) for name, times in names.items()
        )

    def _apply_of(self, number: int, fact: Fact) -> None:
        match fact:
            case RunCreated():
                self._apply(fact)
                self.standings[fact.run.n] = Standing(number)
                self._settle(fact.run.n)
            case RunChanged():
                self._apply(RunChanged(self._with_sticky_flags(fact.run), fact.seq))
                self._settle(fact.run.n)
            case RunsCancelled():
                self._apply(fact)
                for n in fact.ns:
                    self._settle(n)
            case RunsDeleted():
                for n in fact.ns:
                    self.standings.pop(n, None)
                    self.unowned_ns.pop(n, None)
                self._apply(fact)
            case _:
                self._apply_shared(fact)

    def _with_sticky_flags(self, run: RunRow) -> RunRow:
        standing = self.standings[run.n]
        if self._has_ended(run.n) and not run.status.is_terminal:
            standing.said = 0  # it is brought back
        known = standing.said & STICKY_FLAGS
        if known & ~run.flags:
            run = run.copy()
            run.flags |= known
        return run

    def _apply_shared(self, fact: Fact) -> None:
        match fact:
            case MailSent():
                self._send(fact.to, fact.kind, fact.body, fact.once)
            case MailTaken():
                for each in fact.ids:
                    self.office.take(each)
            case RunsReleased():
                self._release(fact)
            case CancelRequested():
                for n in fact.ns:
                    self._request_cancel(n, fact)
            case FlagsAdded():
                if fact.n in self._runs:
                    self._runs[fact.n].flags |= fact.flags
                    self.standings[fact.n].said |= fact.flags
            case EndSeen():
                run = self._runs.get(fact.n)
                if run is not None:
                    run.flags &= ~RunFlag.UNSEEN
                    run.end_seq = fact.end_seq
            case RunWatched():
                if self._has_ended(fact.n):
                    self._send(fact.to, MailKind.ENDED, msgspec.msgpack.encode(fact.n))
                elif not self._is_dead(fact.to):
                    self.office.watch(fact.n, fact.to)
            case _:
                self._apply(fact)

    def _release(self, fact: RunsReleased) -> None:
        for n in fact.ns:
            if not self._has_ended(n):
                self._give(n, None)
                standing = self.standings[n]
                standing.is_parked, standing.to_coordinator = fact.is_parked, fact.to_coordinator
        self._hint(None)

    def _request_cancel(self, n: int, fact: CancelRequested) -> None:
        run = self._runs.get(n)
        if run is not None and n == fact.withdrawn and (not self._has_ended(n) or run.flags & RunFlag.UNSEEN):
            run.flags |= RunFlag.WITHDRAWN
            self.standings[n].said |= RunFlag.WITHDRAWN
        if self._has_ended(n):
            return
        standing = self.standings[n]
        standing.cancel = standing.cancel or fact.body
        self._send(n, MailKind.CANCEL, fact.body)

    def _send(self, to: int, kind: MailKind, body: bytes | None, once: str | None = None) -> None:
        if not self._is_dead(to):
            self.office.post(to, kind, body, once)
            self._hint(self._reader_of(to))

    def _reader_of(self, to: int) -> int | None:
        """Which replica it is for; None where anyone may claim the run, or become the coordinator."""
        if to < COORDINATOR:
            return -to
        if to == COORDINATOR:
            return self.coordinator
        return None if to not in self.standings else self.standings[to].owner

    def _settle(self, n: int) -> None:
        """If the run has ended, nobody owns it any more, nothing is for it, and whoever watches it is told."""
        if not self._has_ended(n):
            return
        self.standings[n] = Standing(said=self.standings[n].said)
        self.unowned_ns.pop(n, None)
        self.office.close_address(n)
        for to in self.office.end_watch(n):
            self._send(to, MailKind.ENDED, msgspec.msgpack.encode(n))

    def _hint(self, replica: int | None) -> None:
        for number, hint in tuple(self.hints.items()):
            if replica in (None, number):
                hint()

    def transact_for(self, number: int, n: int, key: bytes, call: TransactionCall) -> bytes:
        self.check(number)
        return self.transact(n, key, call)

    # Claims

    def claim_for(self, number: int, query: ClaimQuery) -> Claim:
        me = self.check(number)
        if me.is_draining:
            return Claim(is_coordinator=self.coordinator == number)
        if query.coordinates and self.coordinator is None:
            self.coordinator = number
        unowned = [self._runs[n] for n in self.unowned_ns]
        whole = {run.root_n for run in unowned if run.flags & RunFlag.WHOLE}
        wanted = [run for run in unowned if self._is_claimable(run, me)]
        wanted.sort(key=lambda run: (run.root_n, run.depth, run.n))
        chosen = {run.n: run for run in wanted[: query.limit]}
        whole &= {run.root_n for run in chosen.values()}
        chosen.update({run.n: run for run in unowned if run.root_n in whole and self._may_run(run, me)})
        claim = Claim(is_coordinator=self.coordinator == number)
        for run in sorted(chosen.values(), key=lambda run: (run.depth, run.n)):
            begins = self._begins(run)
            self._give(run.n, number)
            if begins:
                run.status, run.attempt_at = RunStatus.RUNNING, self.clock()
            is_below = run.parent_n is not None and not self._has_ended(run.parent_n)
            claim.runs.append(Claimed(self._live(run), self.standings[run.n].cancel, begins, is_below))
        return claim

    def _begins(self, run: RunRow) -> bool:
        """A child that was left to others as it was created. What waits in a line owns an item, or is for the coordinator."""
        standing = self.standings[run.n]
        is_new = run.status is RunStatus.QUEUED and run.attempt == 1 and run.attempt_at is None and run.wake_at is None
        if not is_new or run.parent_n is None or standing.cancel is not None or standing.to_coordinator:
            return False
        return not any(item.n == run.n for items in self._items.values() for item in items.values())

    def _is_claimable(self, run: RunRow, me: ReplicaRow) -> bool:
        standing = self.standings[run.n]
        if not self._may_run(run, me):
            return False
        if not standing.is_parked or standing.cancel is not None or self.office.has_mail(run.n):
            return True
        return run.wake_at is not None and run.wake_at <= self.clock()

    def _may_run(self, run: RunRow, me: ReplicaRow) -> bool:
        standing = self.standings[run.n]
        if standing.to_coordinator and self.coordinator != me.number:
            return False
        return _can_run(me, run) or (standing.cancel is not None and not self._is_declared(run))

    def _is_declared(self, run: RunRow) -> bool:
        return any(_can_run(row, run) for row in self.replica_rows.values())

    def take_for(self, number: int, ns: list[int]) -> list[LiveRun]:
        self.check(number)
        standings = [self.standings.get(n) for n in ns]
        if any(each is None or each.owner not in (None, number) for each in standings):
            return []
        for n in ns:
            self._give(n, number)
        return [self._live(self._runs[n]) for n in ns]

    # Reading. Numbers of runs say who created them, not when: where time counts, it is looked at.

    def mail_for(self, number: int, after: int, limit: int) -> list[Mail]:
        found = (each for each in self.office.behind(after) if self._reader_of(each.to) == number)
        return [msgspec.structs.replace(each) for _, each in zip(range(limit), found, strict=False)]

    def remote_children(self, ns: list[int]) -> list[RemoteChild]:
        return [
            RemoteChild(child.copy(), self.standings[child.n].owner)
            for n in ns
            for child in self._children_of(n)
            if not child.status.is_terminal or child.flags & RunFlag.UNSEEN
        ]

    def items_of(self, ns: list[int]) -> list[ItemRow]:
        wanted = set(ns)
        found = [item for items in self._items.values() for item in items.values() if item.n in wanted]
        found.sort(key=lambda item: (item.space, item.ord, item.key))
        return [msgspec.structs.replace(item) for item in found]

    def live_runs(self) -> list[LiveRun]:
        return sorted(super().live_runs(), key=lambda live: live.row.n)

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        tree = [run for run in self._runs.values() if run.root_n == root_n]
        tree.sort(key=lambda run: (run.depth, run.n), reverse=True)
        return [run.n for run in tree[:limit]]

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        before = self._runs.get(query.before_n or 0)
        since = query.since if query.since is not None else -1e300
        before_at = query.before_at if query.before_at is not None or before is None else before.created_at
        return super().list_runs(msgspec.structs.replace(query, since=since, before_at=before_at))

    def _children_of(self, n: int) -> list[RunRow]:
        return sorted(super()._children_of(n), key=lambda child: child.n)

    def replicas(self) -> list[ReplicaRow]:
        owned = Counter(each.owner for n, each in self.standings.items() if not self._has_ended(n))
        return [
            msgspec.structs.replace(row, is_coordinator=row.number == self.coordinator, owned=owned[row.number])
            for row in self.replica_rows.values()
        ]

    def owners(self, ns: list[int]) -> dict[int, int | None]:
        return {n: self.standings[n].owner for n in ns if n in self.standings}

    def unowned(self) -> list[OwnershipCount]:
        counts: dict[tuple[str, str | None], OwnershipCount] = {}
        for n in self.unowned_ns:
            run = self._runs[n]
            key = run.workflow_id, run.version
            count = counts.setdefault(key, OwnershipCount(*key, 0, 0, self._is_declared(run)))
            count.unowned += 1
            count.parked += self.standings[n].is_parked
        return sorted(counts.values(), key=lambda count: (count.workflow_id, count.version or ""))


def _can_run(replica: ReplicaRow, run: RunRow) -> bool:
    return any(each.fits(run) for each in replica.declared)
