"""The part of a cancellation that is not ours to carry out: runs that other replicas own, or nobody does.

Whoever owns a run cancels it with all that he has below it, and asks the owners of the rest, in one entry. So a
cancellation goes from owner to owner, and none of them has to know the whole. What could escape is what hangs on a
cancelled run by runs that have ended: children that have outlived their parents. Whoever waits for the cancellation
looks for such in the store until there are none; should he be gone before, the coordinator does it (`SweepNote`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import msgspec

from rotor_actors.errors import StoreError
from rotor_actors.kernel import Kernel
from rotor_actors.records import (
    COORDINATOR,
    Entry,
    MailKind,
    MailSent,
    RunFlag,
    RunRow,
    RunStatus,
    RunWatched,
    Together,
)
from rotor_actors.replicas.remote import RemoteRuns
from rotor_actors.stores.base import RunQuery, StoreReader

_RUNS_PER_READ = 500
# All replicas go by the database's clock, as far as they can tell: one that is kept from running can be wrong by more.
_CLOCKS_DIFFER, CLOCKS_DIFFER_AT_MOST = 1.0, 30.0
_LIVING = (RunStatus.QUEUED, RunStatus.RUNNING)


class SweepNote(msgspec.Struct, frozen=True):
    """What the coordinator sees through, whatever becomes of the replica that began it.

    `tops` were cancelled, `asked` are to be: other replicas' runs below them.
    """

    root_n: int
    tops: list[int]
    asked: list[int]
    reason: str
    at: float


class Elsewhere:
    """What one cancellation asks of other owners.

    Args:
        row: of any run of the tree.
        tops: runs that were cancelled here, with all of ours below them.
        asked: the runs of others that are to be cancelled; below the tops, or by themselves.
    """

    def __init__(self, kernel: Kernel, remote: RemoteRuns, row: RunRow, tops: list[int], asked: list[int],
                 reason: str) -> None:  # fmt: skip
        self._kernel = kernel
        self._remote = remote
        self._root_n = row.root_n
        self._tops = set(tops)
        self._asked = asked
        self._reason = reason
        self._pending: set[int] = set()
        self.began_at = kernel.now()
        self.is_over = False
        self._is_begun = False
        self.seq = 0
        self.report: list[str] = []
        self.done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    def entries(self, *, is_withdrawn: bool = False) -> list[Entry]:
        """What goes into the entry of the cancellation."""
        entries: list[Entry] = []
        if self._asked:
            withdrawn = self._asked[0] if is_withdrawn else None
            entries += self._remote.cancel_entries(self._asked, self._reason, withdrawn)
        if self._tops:
            note = SweepNote(self._root_n, sorted(self._tops), self._asked, self._reason, self.began_at)
            entries.append(MailSent(COORDINATOR, MailKind.CANCEL, msgspec.msgpack.encode(note)))
        return entries

    async def over(self) -> list[str]:
        """Wait until nothing of it runs any more. Gives the ids of the runs that were cancelled, here too, parents
        before children; those that have ended otherwise are not among them."""
        if not self._is_begun:
            self._is_begun = True
            self._kernel.cancellations[self] = None
            self._watch(self._asked)
            if not self._asked:
                self._look()
        cancelled = await asyncio.shield(self.done)
        if not self.is_over and self._kernel.journal.failure is not None:
            raise self._kernel.journal.failure
        return cancelled

    def cut_off(self) -> None:
        """The runtime has closed: the owners go on, and the coordinator sees to it. `is_over` says no."""
        self._kernel.cancellations.pop(self, None)
        if not self.done.done():
            self.done.set_result(self.report)

    def _watch(self, ns: list[int]) -> None:
        for n in ns:
            self._pending.add(n)
            self._remote.when_ended(n, self._ended)
            self._kernel.journal.append(RunWatched(n, self._remote.address))
        self._kernel.journal.kick()

    def _ended(self, row: RunRow) -> None:
        self._pending.discard(row.n)
        if row.status is RunStatus.CANCELLED:
            self._tops.add(row.n)
        if not self._pending:
            self._look()

    def _look(self) -> None:
        if not self.done.done():
            self._kernel.in_background(self._sweep())

    async def _sweep(self) -> None:
        kernel = self._kernel
        store, tops = kernel.ports.store, frozenset(self._tops)
        try:
            await kernel.journal.durable(kernel.journal.last_seq)
            found = await kernel.ports.reader.call(partial(survivors, store, self._root_n, tops, self.began_at))
            if not found:
                error = msgspec.msgpack.encode(self._reason) if self._reason else None
                cancelled = partial(cancelled_since, store, self._root_n, tops, self.began_at, error)
                self.report = await kernel.ports.reader.call(cancelled)
        except StoreError as error:
            kernel.journal.fail(error)
            self.cut_off()  # the loss may have been dealt with before this began: nobody else would do it
            return
        if found:
            kernel.journal.append(Together(self._remote.cancel_entries(found, self._reason)))
            self._watch(found)
        else:
            self.is_over = True
            self.cut_off()


def survivors(store: StoreReader, root_n: int, tops: frozenset[int], at: float) -> list[int]:
    """Runs of the tree that have not ended and hang on one of the `tops`, cancelled at `at`, by runs that have."""
    rows = [row for row in _pages(store, RunQuery(root_n=root_n, statuses=_LIVING))]
    living = {row.n for row in rows}
    climbing = {
        row.n: row.parent_n
        for row in rows
        if row.parent_n is not None and row.parent_n not in living and not _was_resumed(row, at)
    }
    found: list[int] = []
    while climbing:
        found += [n for n, ancestor in climbing.items() if ancestor in tops]
        higher = {n: ancestor for n, ancestor in climbing.items() if ancestor not in tops}
        above = store.parents_of(sorted(set(higher.values())))
        climbing = {
            n: grandparent
            for n, ancestor in higher.items()
            if (grandparent := above.get(ancestor)) is not None and grandparent not in living
        }
    return sorted(found)


def cancelled_since(store: StoreReader, root_n: int, tops: frozenset[int], at: float, error: bytes | None) -> list[str]:
    """The ids of the `tops` and of what was cancelled with them; `error` is the reason, as it is recorded."""

    def is_of_it(row: RunRow) -> bool:
        differ = _CLOCKS_DIFFER if row.error != error else CLOCKS_DIFFER_AT_MOST
        return row.n in tops or ((row.ended_at or 0.0) >= at - differ and not row.flags & RunFlag.WITHDRAWN)

    rows = filter(is_of_it, _pages(store, RunQuery(root_n=root_n, statuses=(RunStatus.CANCELLED,))))
    below = set(tops)
    found: list[str] = []
    for row in sorted(rows, key=lambda row: (row.depth, row.n)):
        if row.n in tops or row.parent_n in below:
            below.add(row.n)
            found.append(row.run_id)
    return found


def _was_resumed(row: RunRow, at: float) -> bool:
    """After all was cancelled: somebody wants it to go on."""
    return row.attempts_before > 0 and max(row.attempt_at or 0.0, row.wake_at or 0.0) > at


def _pages(store: StoreReader, query: RunQuery) -> Iterator[RunRow]:
    query = msgspec.structs.replace(query, limit=_RUNS_PER_READ)
    while True:
        rows = store.list_runs(query)
        yield from rows
        if len(rows) < _RUNS_PER_READ:
            return
        query = msgspec.structs.replace(query, before_n=rows[-1].n, before_at=rows[-1].created_at)
