"""The database of a universe: the shared store's model, which tells what is done to it, in its order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from rotor_actors.records import Entry, MailTaken, RunFlag, flatten
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.replicas.events import Gone, LeaseRenewed, MailStolen, Owned, TimerStolen
from rotor_actors.stores.base import LiveRun, RunQuery, Store
from rotor_actors.stores.shared import Claim, ClaimQuery, Mail
from rotor_actors.stores.shared_database import SharedDatabase

_ALL = 2**62


class SimDatabase(SharedDatabase):
    """What is done is told when it is done, whether or not the one who asked for it ever hears of that.

    It takes the place of a disk: what it holds survives everything.

    Args:
        clock: its own, which is the universe's.
        now, tell: the universe's time, and who is told.
    """

    def __init__(
        self, clock: Callable[[], float], now: Callable[[], float], tell: Callable[[t.TraceEvent], None]
    ) -> None:
        super().__init__(clock)
        self.fired: Counter[str] = Counter()
        self.on_open: Callable[[Store], None] = lambda store: None
        self._time = now
        self._tell = tell

    def enter(self, lease: float) -> int:
        number = super().enter(lease)
        self.renewed(number)
        return number

    def renewed(self, number: int) -> None:
        row = self.replica_rows[number]
        self._tell(LeaseRenewed(self._time(), number, row.lease_until))

    def leave(self, number: int) -> None:
        was_there = set(self.replica_rows)
        super().leave(number)
        self._tell_gone(was_there)

    def expire_replicas(self) -> None:
        was_there = set(self.replica_rows)
        super().expire_replicas()
        self._tell_gone(was_there)

    def _tell_gone(self, was_there: set[int]) -> None:
        for number in sorted(was_there - set(self.replica_rows)):
            self._tell(Gone(self._time(), number))

    def apply(self, number: int, entries: list[Entry]) -> None:
        stolen = list(self._stolen(number, entries))
        super().apply(number, entries)
        for letter in stolen:
            self._tell(MailStolen(self._time(), number, letter.id, letter.to))
        self._tell(t.Committed(self._time(), number, entries))

    def _stolen(self, number: int, entries: list[Entry]) -> Iterator[Mail]:
        for fact in flatten(entries):
            if isinstance(fact, MailTaken):
                letters = (self.office.letters.get(each) for each in fact.ids)
                yield from (letter for letter in letters if letter is not None and self._reader_of(letter.to) != number)

    def claim_for(self, number: int, query: ClaimQuery) -> Claim:
        asleep = dict(self._asleep())
        claim = super().claim_for(number, query)
        for each in claim.runs:
            if each.live.row.n in asleep:
                self._tell(TimerStolen(self._time(), number, each.live.row.n, asleep[each.live.row.n]))
        if claim.runs:
            begins = tuple(each.live.row.n for each in claim.runs if each.begins)
            self._tell(Owned(self._time(), number, [each.live.row.n for each in claim.runs], begins, self.clock()))
        return claim

    def _asleep(self) -> Iterator[tuple[int, float]]:
        """The parked runs that are nobody's to claim, and for how long."""
        for n in self.unowned_ns:
            standing, row = self.standings[n], self._runs[n]
            has_reason = standing.cancel is not None or self.office.has_mail(n) or row.flags & RunFlag.WHOLE
            if standing.is_parked and not has_reason and (row.wake_at is None or row.wake_at > self.clock()):
                yield n, (row.wake_at or 0.0) - self.clock()

    def take_for(self, number: int, ns: list[int]) -> list[LiveRun]:
        taken = super().take_for(number, ns)
        if taken:
            self._tell(Owned(self._time(), number, ns))
        return taken

    def copies(self) -> list[Any]:
        """All that it holds."""
        rows = self.list_runs(RunQuery(limit=_ALL))
        return [(row, self.steps(row.n)) for row in rows]

    # As a disk

    def new_store(self) -> Store:
        raise NotImplementedError("a replica has a link to it")

    def arm_cut(self) -> None: ...

    def power_cut(self) -> None: ...

    def die(self) -> None: ...

    def heal(self) -> None: ...

    def digest(self) -> str:
        return hashlib.sha256(msgspec.msgpack.encode(self.copies())).hexdigest()
