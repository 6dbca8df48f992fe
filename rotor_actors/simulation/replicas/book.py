"""The books of a replicated universe: what the database holds, in its order, and what its replicas believe by now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from rotor_actors.records import (
    STICKY_FLAGS,
    CancelRequested,
    EndSeen,
    Entry,
    Fact,
    FlagsAdded,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRested,
    RunRow,
    RunsCancelled,
    RunsReleased,
    RunStatus,
    StepRecorded,
    StepRow,
    Together,
    flatten,
)
from rotor_actors.simulation.ledger import Account, Ledger

# Its end has no place, or none yet, in the history of its parent, and is numbered by whoever owned it.
_NO_END_TO_PARENT = RunFlag.UNSEEN | RunFlag.RELEASED | RunFlag.WITHDRAWN


class Transition(msgspec.Struct, frozen=True):
    """A run has ended: accepted by the database, from this replica."""

    run_id: str
    status: RunStatus
    replica: int


class ReplicaLedger(Ledger):
    """A ledger whose entries come from several replicas, each of which numbers them for itself.

    Attributes:
        owners: of each run that has not ended the replica that may record something of it, or None.
        cancels: runs that whoever owns them is to cancel.
        withdrawn: runs whose awaiting scope is over.
        seen: of runs that ended apart from their parents: those whose end the parent has been told.
        positions: of each run the newest entry in the order of its own history.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[int, int | None] = {}
        self.cancels: set[int] = set()
        self.withdrawn: set[int] = set()
        self.seen: set[int] = set()
        self.positions: defaultdict[int, int] = defaultdict(int)
        self.transitions: list[Transition] = []
        self._by: int = 0
        self._apart: set[int] = set()

    def add(self, replica: int, entry: Entry) -> None:
        self._by = replica
        facts = list(leaves(entry))
        self._apart = {fact.n for fact, _ in facts if isinstance(fact, FlagsAdded) and fact.flags & RunFlag.UNSEEN}
        for fact, seq in facts:
            self._apply(fact, seq)

    def own(self, replica: int, ns: list[int]) -> None:
        for n in ns:
            self.owners[n] = replica

    def begin(self, ns: list[int], at: float) -> None:
        """By being claimed."""
        for n in ns:
            account = self.accounts[n]
            account.row = account.row.copy()
            account.row.status, account.row.attempt_at = RunStatus.RUNNING, at

    def forget_owner(self, replica: int) -> None:
        """The replica has no row any more."""
        for n, owner in self.owners.items():
            if owner == replica:
                self.owners[n] = None

    def is_awaited_end(self, n: int) -> bool:
        """Its parent has been told of its end, or was there when it ended."""
        account = self.accounts[n]
        return account.has_ended and (n in self.seen or not account.row.flags & RunFlag.UNSEEN)

    def _apply(self, fact: Fact, seq: int) -> None:
        match fact:
            case RunCreated():
                super()._apply(RunCreated(fact.run.copy()), seq)
                self.owners[fact.run.n] = self._by
            case RunChanged():
                run = self._with_sticky_flags(fact.run)
                self._note_end(run)
                super()._apply(RunChanged(run), seq)
            case RunsCancelled():
                for n in fact.ns:
                    self._note_cancelled(n)
                super()._apply(fact, seq)
            case RunsReleased():
                for n in fact.ns:
                    self.owners[n] = None
            case CancelRequested():
                self._request_cancel(fact)
            case FlagsAdded():
                self._flag(fact.n, fact.flags)
            case EndSeen():
                self._see_end(fact)
            case _:
                super()._apply(fact, seq)

    def _with_sticky_flags(self, run: RunRow) -> RunRow:
        run = run.copy()
        run.flags |= self.accounts[run.n].row.flags & STICKY_FLAGS
        return run

    def _note_end(self, run: RunRow) -> None:
        if run.status.is_terminal and not self.accounts[run.n].has_ended:
            self.transitions.append(Transition(run.run_id, run.status, self._by))
            self.owners[run.n] = None

    def _note_cancelled(self, n: int) -> None:
        self.transitions.append(Transition(self.accounts[n].row.run_id, RunStatus.CANCELLED, self._by))
        self.owners[n] = None

    def _request_cancel(self, fact: CancelRequested) -> None:
        self.cancels.update(n for n in fact.ns if n in self.accounts)
        if fact.withdrawn is not None:
            self.withdrawn.add(fact.withdrawn)
            account = self.accounts[fact.withdrawn]
            if not account.has_ended or account.row.flags & RunFlag.UNSEEN:
                self._flag(fact.withdrawn, RunFlag.WITHDRAWN)

    def _flag(self, n: int, flags: int) -> None:
        account = self.accounts.get(n)
        if account is not None:
            account.row = account.row.copy()
            account.row.flags |= flags

    def _see_end(self, fact: EndSeen) -> None:
        account = self.accounts[fact.n]
        self.seen.add(fact.n)
        parent = self.accounts.get(account.row.parent_n or 0)
        account.row = account.row.copy()
        account.row.flags &= ~RunFlag.UNSEEN
        account.row.end_seq = fact.end_seq
        if parent is not None:
            parent.newest_seq = fact.end_seq
            self.positions[parent.row.n] = max(self.positions[parent.row.n], fact.end_seq)

    def _create(self, row: RunRow, seq: int) -> None:
        super()._create(row, seq)
        self.accounts[row.n].newest_seq = 0  # the number is its creator's: who owns it may begin with smaller ones

    def _record(self, step: StepRow, seq: int) -> None:
        super()._record(step, seq)
        self.positions[step.n] = max(self.positions[step.n], step.seq)

    def _end(self, account: Account, seq: int) -> None:
        account.end_seq = account.newest_seq = seq
        parent = self.accounts.get(account.row.parent_n or 0)
        is_apart = account.row.flags & _NO_END_TO_PARENT or account.row.n in self._apart
        if parent is not None and not is_apart:
            parent.newest_seq = seq
            self.positions[parent.row.n] = max(self.positions[parent.row.n], seq)


class Books:
    """What the database holds, and over it what each replica has appended that is not there yet.

    Attributes:
        durable: the database.
        view: the same with what is pending of all replicas that are not over: what their runs may have seen.
    """

    def __init__(self) -> None:
        self.durable = ReplicaLedger()
        self.view = ReplicaLedger()
        self.history: list[tuple[int, Entry]] = []
        self._pending: dict[int, list[Entry]] = {}
        self._over: set[int] = set()

    def is_over(self, replica: int) -> bool:
        """Nothing that it does counts any more."""
        return replica in self._over

    def appended(self, replica: int, entry: Entry) -> None:
        self._pending.setdefault(replica, []).append(entry)
        self.view.add(replica, entry)

    def committed(self, replica: int, entries: list[Entry]) -> bool:
        """Gives whether the view has to be made anew: this was not known to be on its way."""
        pending = self._pending.get(replica, [])
        ids = {id(entry) for entry in _parts(entries)}
        known = {id(entry) for entry in _parts(pending)}
        self._pending[replica] = [entry for entry in pending if not _is_within(entry, ids)]
        for entry in entries:
            self.history.append((replica, entry))
            self.durable.add(replica, entry)
        unknown = any(id(entry) not in known for entry in _parts(entries) if _counts(entry))
        if unknown:
            self.rebuild()
        return unknown

    def over(self, replica: int) -> set[str]:
        """What it had appended is lost, unless the database gets it late. Gives the runs that have lost something."""
        self._over.add(replica)
        lost_entries = self._pending.pop(replica, [])
        if not lost_entries:
            return set()
        lost = {account.row.run_id for account in _concerned(self.view, lost_entries)}
        self.rebuild()
        return lost

    def rebuild(self) -> None:
        self.view = ReplicaLedger()
        for replica, entry in self.history:
            self.view.add(replica, entry)
        self.view.owners.update(self.durable.owners)  # who claimed what is in no entry
        for replica, entries in self._pending.items():
            for entry in entries:
                self.view.add(replica, entry)


def leaves(entry: Entry, seq: int = 0) -> Iterator[tuple[Fact, int]]:
    """Its facts, each with the number of the entry that it was appended by."""
    seq = entry.seq or seq
    if isinstance(entry, Together):
        for inner in entry.entries:
            yield from leaves(inner, seq)
    else:
        yield entry, seq


def _parts(entries: list[Entry]) -> Iterator[Entry]:
    """Entries, and what they were before they were made one act."""
    for entry in entries:
        yield entry
        inner = getattr(entry, "entries", None)
        if inner is not None:
            yield from _parts(inner)


def _is_within(entry: Entry, ids: set[int]) -> bool:
    return any(id(part) in ids for part in _parts([entry]))


def _counts(entry: Entry) -> bool:
    """Notes of rest are written beside what was appended, and concern no history."""
    return not isinstance(entry, RunRested | Together)


def _concerned(ledger: Ledger, entries: list[Entry]) -> Iterator[Account]:
    """The runs of which they tell, and their parents, who may have seen it."""
    for fact in flatten(entries):
        for n in _numbers(fact):
            account = ledger.accounts.get(n)
            if account is not None:
                yield account
                parent = ledger.accounts.get(account.row.parent_n or 0)
                if parent is not None:
                    yield parent


def _numbers(fact: Fact) -> list[int]:
    match fact:
        case RunCreated() | RunChanged():
            return [fact.run.n]
        case StepRecorded():
            return [fact.step.n]
        case RunsCancelled() | CancelRequested():
            return fact.ns
        case EndSeen() | FlagsAdded():
            return [fact.n]
        case _:
            return []
