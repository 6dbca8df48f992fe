"""What a store must do. `tests/stores/conformance.py` says the same in tests, and any store can be held against it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

import msgspec

from rotor_actors.ids import is_map_child
from rotor_actors.records import ChildRow, Entry, History, ItemRow, RunRow, RunStatus, StepRow


class LiveRun(msgspec.Struct):
    """A run that has not ended, as recovery finds it; `newest_seq` is its newest journal row or child's end."""

    row: RunRow
    newest_seq: int


class RunQuery(msgspec.Struct, frozen=True):
    """Which runs to list, newest first.

    `since` and `until` (exclusive) are times of creation; `error` is a text in the recorded error. `before_n` and
    `before_at` continue after the last row of the page before: its number and its time of creation.
    """

    statuses: tuple[RunStatus, ...] = ()
    workflow_id: str | None = None
    parent_n: int | None = None
    root_n: int | None = None
    limit: int = 100
    before_n: int | None = None
    since: float | None = None
    until: float | None = None
    id_prefix: str | None = None
    error: str | None = None
    before_at: float | None = None
    is_root: bool = False
    """Top-level runs only."""
    is_lean: bool = False
    """Inputs and results are not needed: a store may leave them out, together with their checksums."""

    @property
    def is_by_time(self) -> bool:
        """The order is that of creation times, and of numbers only where they are equal."""
        return self.since is not None or self.until is not None


class EndedRootsQuery(msgspec.Struct, frozen=True):
    """Which top-level runs that have ended to list, by the time of their end.

    `before` is that time; `after` continues behind the last of the page before: its end and its number.
    """

    statuses: tuple[RunStatus, ...]
    before: float
    workflow_id: str | None = None
    limit: int = 100
    after: tuple[float, int] = (-1e300, 0)

    def chooses(self, run: RunRow) -> bool:
        return (
            run.parent_n is None
            and run.ended_at is not None
            and run.status in self.statuses
            and self.workflow_id in (None, run.workflow_id)
            and run.ended_at <= self.before
            and (run.ended_at, run.n) > self.after
        )


class ItemQuery(msgspec.Struct, frozen=True):
    """Which items to read, in order of `ord` and then `key`. `after` continues behind the last of the page before.

    `prefix`: only those whose keys begin with it; they are found without a look at the others of the space.
    """

    space: str
    limit: int | None = None
    after: tuple[int, str] | None = None
    prefix: str = ""


class EndsQuery(msgspec.Struct, frozen=True):
    """A page of the ends of a run's map children, in the order in which they were recorded.

    Attributes:
        n: the parent.
        after: entry number and run number of the last row of the page before.
        upto_seq: the newest entry that is wanted.
        prefix: the key of one map; empty for all maps of the run.
        limit: how many rows at most.
    """

    n: int
    after: tuple[int, int]
    upto_seq: int
    prefix: bytes = b""
    limit: int = 500


class StoreReader(Protocol):
    """What can be asked of a store, by its owner and by whoever only looks."""

    def last_numbers(self) -> tuple[int, int]:
        """The largest run number and the largest entry number in use, or 0."""
        ...

    def live_runs(self) -> list[LiveRun]:
        """All runs that have not ended, by number."""
        ...

    def histories(self, ns: list[int]) -> dict[int, History]:
        """Journal rows and children of each of the runs; of a map's children only those that have not ended."""
        ...

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        """The ends of map children that the query chooses: child rows by `end_seq` and number, and the journal rows
        of those that were timed out on by `seq`, both in one order."""
        ...

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        """The number of the parent of each of the runs, None for a top-level one."""
        ...

    def find(self, run_id: str) -> RunRow | None:
        """The run of this id."""
        ...

    def rows(self, ns: list[int]) -> list[RunRow]:
        """The runs of these numbers, by number; those that are not there are left out."""
        ...

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        """The numbers of a tree's runs, newest first: children before their parents."""
        ...

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        """The top-level runs that the query chooses, those that ended first before the others."""
        ...

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        """The runs that the query chooses, newest first."""
        ...

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        """How many runs have each status, in one tree or in all."""
        ...

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        """The journal rows of a run in their order; the first so many of them."""
        ...

    def items(self, query: ItemQuery) -> list[ItemRow]:
        """The items that the query chooses, in order of `ord` and then `key`."""
        ...

    def item(self, space: str, key: str) -> ItemRow | None:
        """The item of this space and key."""
        ...


class StoreView(StoreReader, Protocol):
    """A store as seen by somebody who does not own it: it is read, and nothing else."""

    is_inline: bool
    """As `Store.is_inline`."""

    def open(self) -> None:
        """Look whether it is one of ours, and connect.

        Raises:
            StoreError: it is not there, or of an older version that no owner has opened since.
            StoreVersionError, StoreCorruptedError: a newer program wrote it; it is not one of ours.
        """
        ...

    def close(self) -> None:
        """Closing twice is fine."""
        ...


class Store(StoreReader, Protocol):
    """Where entries go. Plain blocking calls: the runtime makes them where they block nobody.

    `commit` is called by one thread at a time; the reading verbs by another, at the same time. What is read is of one
    moment, and a copy. A payload that does not match its checksum is never given: `find`, `histories` and `steps`
    raise StoreCorruptedError naming it; `live_runs` and `list_runs`, where one run must not hide the others, leave it
    out and mark the run with `RunFlag.DAMAGED`, as `item` and `items` do with `ItemRow.is_damaged`.
    """

    is_inline: bool
    """The calls are short and may be made on the event loop's thread."""

    def open(self) -> None:
        """Take ownership, and create what is missing.

        Raises:
            StoreLockedError: another process owns it. StoreVersionError: a newer program wrote it.
            StoreCorruptedError: it is not one of ours, or damaged.
        """
        ...

    def close(self) -> None:
        """Give up ownership. Closing twice is fine."""
        ...

    def commit(self, entries: list[Entry]) -> None:
        """Make the entries durable, all or none, as if written one after the other.

        Raises:
            StoreFullError: there was no room; nothing was written, and the same call may be made again.
            StoreError: it is not known whether they are durable. No further call but `close` may be made.
        """
        ...

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy to `path`, which must not exist; it has that name only once it is whole."""
        ...

    def compact(self) -> None:
        """Give back disk space that is no longer in use, and put in order what is left."""
        ...

    def free(self, pages: int) -> int:
        """Give back up to so many pages of disk space that is no longer in use. Gives how many are left."""
        ...


def newest_seq(steps: Iterable[StepRow], end_seqs: Iterable[int | None]) -> int:
    """The newest entry that a run can have seen."""
    return max((*(step.seq for step in steps), *(seq or 0 for seq in end_seqs)), default=0)


def place_of(row: StepRow | ChildRow) -> tuple[int, int]:
    """Where a row stands among the ends of a run's children: entry number, then run number."""
    if isinstance(row, StepRow):
        return (row.seq, 0)
    return (row.end_seq or 0, row.n)


def merged_ends(query: EndsQuery, steps: Iterable[StepRow], children: Iterable[ChildRow]) -> list[StepRow | ChildRow]:
    """One page of two sorted halves, of which each holds as many rows as the page may."""
    rows: list[StepRow | ChildRow] = [*steps, *children]
    return sorted(rows, key=place_of)[: query.limit]


def is_wanted(query: EndsQuery, key: bytes, place: tuple[int, int]) -> bool:
    """Does the query choose a row of this key that stands in this place?"""
    return is_map_child(key) and key.startswith(query.prefix) and query.after < place and place[0] <= query.upto_seq
