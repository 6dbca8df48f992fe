"""The shared store without a database: for tests and simulation. The same verbs and rules, over one object in memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from rotor_actors.errors import ReplicaFencedError, StoreError
from rotor_actors.records import (
    COORDINATOR,
    STICKY_FLAGS,
    CancelRequested,
    ChildRow,
    EndSeen,
    Entry,
    FlagsAdded,
    History,
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
    SharedFact,
    StepRow,
    flatten,
)
from rotor_actors.stores.base import EndedRootsQuery, EndsQuery, ItemQuery, LiveRun, RunQuery
from rotor_actors.stores.memory import MemoryStore
from rotor_actors.stores.shared import (
    LEASE_SECONDS,
    Claim,
    Claimed,
    ClaimQuery,
    Declared,
    Mail,
    OwnershipCount,
    RemoteChild,
    ReplicaRow,
)
from rotor_actors.stores.transaction import TransactionCall

_SHARED = (MailSent, MailTaken, RunsReleased, CancelRequested, FlagsAdded, EndSeen, RunWatched)


class _Standing(msgspec.Struct):
    """What the database keeps of a run beside its row."""

    owner: int | None = None
    is_parked: bool = False
    to_coordinator: bool = False
    cancel: bytes | None = None


class SharedDatabase(MemoryStore):
    """The database that replicas in one process share: give each a `SharedMemoryStore(database)`.

    Args:
        clock: the database's own clock, seconds since the epoch: the only one that decides leases and due times.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self.rows_of_replicas: dict[int, ReplicaRow] = {}
        self.coordinator: int | None = None
        self.standings: dict[int, _Standing] = {}
        self.unowned_ns: dict[int, None] = {}
        self.letters: dict[int, Mail] = {}
        self._letters_to: dict[int, dict[int, None]] = {}
        self._once: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        self.watches: dict[int, set[int]] = {}
        self.hints: dict[int, Callable[[], None]] = {}
        self._last_replica = 0
        self._last_letter = 0

    # Replicas

    def enter(self, lease: float) -> int:
        self._last_replica += 1
        number, now = self._last_replica, self.clock()
        self.rows_of_replicas[number] = ReplicaRow(number, f"replica-{number}", now, now + lease)
        return number

    def leave(self, number: int) -> None:
        if self.rows_of_replicas.pop(number, None) is not None:
            self._free()

    def check(self, number: int) -> ReplicaRow:
        row = self.rows_of_replicas.get(number)
        if row is None:
            raise ReplicaFencedError(
                f"replica {number} has no lease any more: its runs were given to others; it begins anew as another one"
            )
        return row

    def reap(self) -> int:
        now = self.clock()
        for number in [row.number for row in self.rows_of_replicas.values() if row.lease_until < now]:
            del self.rows_of_replicas[number]
        return self._free()

    def _free(self) -> int:
        freed = [n for n, each in self.standings.items() if each.owner not in (None, *self.rows_of_replicas)]
        for n in freed:
            self._give(n, None)
        if self.coordinator not in self.rows_of_replicas:
            self.coordinator = None
        for letter in [each for each in self.letters.values() if self._is_dead(each.to)]:
            self._drop_letter(letter.id)
        if freed:
            self._hint(None)
        return len(freed)

    def _give(self, n: int, owner: int | None) -> None:
        self.standings[n].owner = owner
        if owner is None:
            self.unowned_ns[n] = None
        else:
            self.unowned_ns.pop(n, None)

    def _is_dead(self, to: int) -> bool:
        if to < COORDINATOR:
            return -to not in self.rows_of_replicas
        return to != COORDINATOR and (to not in self._runs or self._runs[to].ended_at is not None)

    # Commits

    def apply(self, number: int, entries: list[Entry]) -> None:
        """A commit of this replica's; the fence first."""
        self.check(number)
        facts = list(flatten(entries))
        self._keep_sticky(facts)
        super().commit([fact for fact in facts if not isinstance(fact, _SHARED)])
        self._last_seq = 0
        for fact in facts:
            if isinstance(fact, RunCreated):
                self.standings[fact.run.n] = _Standing(number)
            elif isinstance(fact, RunsDeleted):
                for n in fact.ns:
                    self._forget(n)
        for fact in facts:
            if isinstance(fact, _SHARED):
                self._apply_shared(fact)
        for fact in facts:
            if isinstance(fact, RunChanged):
                self._settle(fact.run.n)
            elif isinstance(fact, RunsCancelled):
                for n in fact.ns:
                    self._settle(n)

    def conflicts(self, entries: list[Entry]) -> bool:
        facts = list(flatten(entries))
        ids = Counter(fact.run.run_id for fact in facts if isinstance(fact, RunCreated))
        names = Counter(fact.once for fact in facts if isinstance(fact, MailSent) and fact.once is not None)
        return any(times > 1 or run_id in self._by_id for run_id, times in ids.items()) or any(
            times > 1 or name in self._once for name, times in names.items()
        )

    def _keep_sticky(self, facts: Iterable[object]) -> None:
        for fact in facts:
            known = self._runs.get(fact.run.n) if isinstance(fact, RunChanged) else None
            if isinstance(fact, RunChanged) and known is not None and known.flags & STICKY_FLAGS & ~fact.run.flags:
                fact.run = fact.run.copy()
                fact.run.flags |= known.flags & STICKY_FLAGS

    def _apply_shared(self, fact: SharedFact) -> None:
        match fact:
            case MailSent():
                self._send(fact.to, fact.kind, fact.body, fact.once)
            case MailTaken():
                for each in fact.ids:
                    self._drop_letter(each)
            case RunsReleased():
                for n in fact.ns:
                    self._give(n, None)
                    standing = self.standings[n]
                    standing.is_parked, standing.to_coordinator = fact.is_parked, fact.to_coordinator
                self._hint(None)
            case CancelRequested():
                self._request_cancel(fact)
            case FlagsAdded():
                self._runs[fact.n].flags |= fact.flags
            case EndSeen():
                run = self._runs[fact.n]
                run.flags &= ~RunFlag.UNSEEN
                run.end_seq = fact.end_seq
            case RunWatched():
                run = self._runs[fact.n]
                if run.ended_at is not None:
                    self._send(fact.to, MailKind.ENDED, msgspec.msgpack.encode(fact.n))
                else:
                    self.watches.setdefault(fact.n, set()).add(fact.to)

    def _request_cancel(self, fact: CancelRequested) -> None:
        for n in fact.ns:
            run = self._runs[n]
            if run.ended_at is None:
                standing = self.standings[n]
                standing.cancel = standing.cancel or fact.body
                if n == fact.withdrawn:
                    run.flags |= RunFlag.WITHDRAWN
                self._send(n, MailKind.CANCEL, fact.body)

    def _send(self, to: int, kind: MailKind, body: bytes | None, once: str | None = None) -> None:
        if self._is_dead(to):
            return
        self._last_letter += 1
        self.letters[self._last_letter] = Mail(self._last_letter, to, kind, body)
        self._letters_to.setdefault(to, {})[self._last_letter] = None
        if once is not None:
            self._once[once] = self._last_letter
            self._name_of[self._last_letter] = once
        self._hint(self._reader_of(to))

    def _drop_letter(self, number: int) -> None:
        letter = self.letters.pop(number, None)
        if letter is not None:
            of_reader = self._letters_to[letter.to]
            del of_reader[number]
            if not of_reader:
                del self._letters_to[letter.to]
            self._once.pop(self._name_of.pop(number, ""), None)

    def _reader_of(self, to: int) -> int | None:
        """Which replica it is for; None where anyone may claim the run."""
        if to < COORDINATOR:
            return -to
        return self.coordinator if to == COORDINATOR else self.standings[to].owner

    def _settle(self, n: int) -> None:
        """If the run has ended, nobody owns it any more, and whoever watches it is told."""
        if self._runs[n].ended_at is None:
            return
        self.standings[n] = _Standing()
        self.unowned_ns.pop(n, None)
        for letter in tuple(self._letters_to.get(n, ())):
            self._drop_letter(letter)
        for to in sorted(self.watches.pop(n, ())):
            self._send(to, MailKind.ENDED, msgspec.msgpack.encode(n))

    def _forget(self, n: int) -> None:
        for known in (self.standings, self.unowned_ns, self.watches):
            known.pop(n, None)

    def _hint(self, replica: int | None) -> None:
        for number, hint in tuple(self.hints.items()):
            if replica in (None, number):
                hint()

    # Claims

    def claim_for(self, number: int, query: ClaimQuery) -> Claim:
        me = self.check(number)
        if query.coordinates and self.coordinator is None:
            self.coordinator = number
        wanted = [self._runs[n] for n in self.unowned_ns if self._is_claimable(self._runs[n], me)]
        wanted.sort(key=lambda run: (run.root_n, run.depth, run.n))
        chosen = {run.n: run for run in wanted[: query.limit]}
        whole = {run.root_n for run in chosen.values() if run.flags & RunFlag.WHOLE}
        chosen.update({run.n: run for run in wanted if run.root_n in whole})
        claim = Claim(is_coordinator=self.coordinator == number)
        for n, run in sorted(chosen.items(), key=lambda item: (item[1].depth, item[0])):
            self._give(n, number)
            standing = self.standings[n]
            standing.is_parked = False
            claim.runs.append(Claimed(self._live(run), standing.cancel))
        return claim

    def _is_claimable(self, run: RunRow, me: ReplicaRow) -> bool:
        standing = self.standings[run.n]
        if standing.to_coordinator and self.coordinator != me.number and standing.cancel is None:
            return False
        if not _can_run(me, run) and (standing.cancel is None or self._is_declared(run)):
            return False
        if not standing.is_parked or standing.cancel is not None:
            return True
        is_due = run.wake_at is not None and run.wake_at <= self.clock()
        return is_due or run.n in self._letters_to

    def _is_declared(self, run: RunRow) -> bool:
        return any(_can_run(row, run) for row in self.rows_of_replicas.values())

    def take_for(self, number: int, ns: list[int]) -> list[LiveRun]:
        self.check(number)
        standings = [self.standings.get(n) for n in ns]
        if any(each is None or each.owner not in (None, number) for each in standings):
            return []
        for n in ns:
            self._give(n, number)
        return [self._live(self._runs[n]) for n in ns]

    # Reading

    def mail_for(self, number: int, after: int, limit: int) -> list[Mail]:
        found = (each for each in self.letters.values() if each.id > after and self._is_for(each.to, number))
        return [msgspec.structs.replace(each) for each, _ in zip(found, range(limit), strict=False)]

    def _is_for(self, to: int, number: int) -> bool:
        return self._reader_of(to) == number if to <= COORDINATOR or to in self.standings else False

    def remote_children(self, ns: list[int]) -> list[RemoteChild]:
        return [
            RemoteChild(child.copy(), self.standings[child.n].owner)
            for n in ns
            for child in self._children_of(n)
            if child.ended_at is None or child.flags & RunFlag.UNSEEN
        ]

    def items_of(self, ns: list[int]) -> list[ItemRow]:
        wanted = set(ns)
        found = [item for items in self._items.values() for item in items.values() if item.n in wanted]
        found.sort(key=lambda item: (item.space, item.ord, item.key))
        return [msgspec.structs.replace(item) for item in found]

    def replicas(self) -> list[ReplicaRow]:
        owned = Counter(each.owner for each in self.standings.values())
        return [
            msgspec.structs.replace(row, is_coordinator=row.number == self.coordinator, owned=owned[row.number])
            for row in self.rows_of_replicas.values()
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
        return list(counts.values())


class SharedMemoryStore:
    """One replica's way to a `SharedDatabase`. Opened again, it is another replica.

    Args:
        database: what the replicas share.
        lease: seconds without a `beat` after which others may take over.
    """

    is_inline = True

    def __init__(self, database: SharedDatabase, *, lease: float = LEASE_SECONDS) -> None:
        self.database = database
        self.lease = lease
        self._number: int | None = None
        self._hint: Callable[[], None] = _no_hint

    @property
    def replica(self) -> int:
        if self._number is None:
            raise StoreError("the store is closed")
        return self._number

    def open(self) -> None:
        self._number = self.database.enter(self.lease)
        self.database.hints[self._number] = lambda: self._hint()

    def close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            self.database.hints.pop(number, None)
            self.database.leave(number)

    def listen(self, hint: Callable[[], None]) -> None:
        self._hint = hint

    def declare(self, label: str, declared: list[Declared]) -> None:
        row = self.database.check(self.replica)
        row.label, row.declared = label, list(declared)

    def drain(self) -> None:
        self.database.check(self.replica).is_draining = True

    def beat(self) -> float | None:
        row = self.database.rows_of_replicas.get(self.replica)
        if row is None:
            return None
        now = self.database.clock()
        row.lease_until = now + self.lease
        return now

    def commit(self, entries: list[Entry]) -> None:
        self.database.apply(self.replica, entries)

    def try_commit(self, entries: list[Entry]) -> bool:
        self.database.check(self.replica)
        if self.database.conflicts(entries):
            return False
        self.database.apply(self.replica, entries)
        return True

    def claim(self, query: ClaimQuery) -> Claim:
        return self.database.claim_for(self.replica, query)

    def take(self, ns: list[int]) -> list[LiveRun]:
        return self.database.take_for(self.replica, ns)

    def mail(self, after: int, limit: int) -> list[Mail]:
        return self.database.mail_for(self.replica, after, limit)

    def last_numbers(self) -> tuple[int, int]:
        return self.replica << 32, 0

    # What is read is the same for all

    def live_runs(self) -> list[LiveRun]:
        return self.database.live_runs()

    def histories(self, ns: list[int]) -> dict[int, History]:
        return self.database.histories(ns)

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        return self.database.child_ends(query)

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        return self.database.parents_of(ns)

    def find(self, run_id: str) -> RunRow | None:
        return self.database.find(run_id)

    def rows(self, ns: list[int]) -> list[RunRow]:
        return self.database.rows(ns)

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        return self.database.tree_numbers(root_n, limit)

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        return self.database.ended_roots(query)

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        return self.database.list_runs(query)

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        return self.database.count_by_status(root_n)

    def steps(self, n: int) -> list[StepRow]:
        return self.database.steps(n)

    def items(self, query: ItemQuery) -> list[ItemRow]:
        return self.database.items(query)

    def item(self, space: str, key: str) -> ItemRow | None:
        return self.database.item(space, key)

    def items_of(self, ns: list[int]) -> list[ItemRow]:
        return self.database.items_of(ns)

    def remote_children(self, ns: list[int]) -> list[RemoteChild]:
        return self.database.remote_children(ns)

    def replicas(self) -> list[ReplicaRow]:
        return self.database.replicas()

    def owners(self, ns: list[int]) -> dict[int, int | None]:
        return self.database.owners(ns)

    def unowned(self) -> list[OwnershipCount]:
        return self.database.unowned()

    def reap(self) -> int:
        return self.database.reap()

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        self.database.check(self.replica)
        return self.database.transact(n, key, call)

    def backup(self, path: str | os.PathLike[str]) -> None:
        self.database.backup(path)

    def compact(self) -> None: ...

    def free(self, pages: int) -> int:
        return 0


def _can_run(replica: ReplicaRow, run: RunRow) -> bool:
    return any(each.fits(run) for each in replica.declared)


def _no_hint() -> None: ...
