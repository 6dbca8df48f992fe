"""From a commit's entries to rows: what is written several times within one commit is written once. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from rotor_actors.records import (
    Entry,
    ItemDropped,
    ItemFact,
    ItemPut,
    ItemRow,
    ItemsDropped,
    ItemsExpired,
    RunAmended,
    RunChanged,
    RunCreated,
    RunRested,
    RunRow,
    RunsCancelled,
    RunsDeleted,
    StepRecorded,
    StepRow,
    flatten,
)


class RowBatch:
    """The rows of one commit, at most one of each kind for each run.

    Written in the order deleted, created, amended, changed, rested, cancelled, they come to what the entries say in theirs.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.created: dict[int, RunRow] = {}
        self.amended: dict[int, RunRow] = {}
        self.changed: dict[int, RunRow] = {}
        self.steps: list[StepRow] = []
        self.rested: dict[int, RunRested] = {}
        self.cancelled: dict[int, RunsCancelled] = {}
        self.deleted: dict[int, None] = {}
        self.items = ItemBatch()
        self.last_seq = max((entry.seq for entry in entries), default=0)
        for entry in flatten(entries):
            match entry:
                case RunCreated():
                    self.created[entry.run.n] = entry.run
                case RunAmended():
                    self._amend(entry.run)
                case RunChanged():
                    self._change(entry.run)
                case StepRecorded():
                    self.steps.append(entry.step)
                case RunsCancelled():
                    self.cancelled.update(dict.fromkeys(entry.ns, entry))
                case RunRested():
                    self.rested[entry.n] = entry
                case RunsDeleted():
                    self._delete(entry.ns)
                case ItemPut() | ItemDropped() | ItemsDropped() | ItemsExpired():
                    self.items.add(entry)
                case _:
                    pass  # what only shared stores know

    def _amend(self, run: RunRow) -> None:
        created = self.created.get(run.n)
        if created is None:
            self.amended[run.n] = run
        else:
            self.created[run.n] = created = created.copy()
            created.input, created.headers, created.event = run.input, run.headers, run.event

    def _change(self, run: RunRow) -> None:
        rows = self.created if run.n in self.created else self.changed
        rows[run.n] = run
        # The snapshot is newer than these.
        if self.rested:
            self.rested.pop(run.n, None)
        if self.cancelled:
            self.cancelled.pop(run.n, None)

    def _delete(self, ns: list[int]) -> None:
        """What else this commit holds of them came before, and is not written at all."""
        gone = set(ns)
        self.deleted.update(dict.fromkeys(ns))
        self.steps = [step for step in self.steps if step.n not in gone]
        for n in ns:
            for rows in (self.created, self.amended, self.changed, self.rested, self.cancelled):
                rows.pop(n, None)

    @property
    def last_n(self) -> int:
        return max(*self.created, *self.deleted, 0, 0)


class ItemBatch:
    """The items of one commit. Written in the order owners, expired, dropped, put, they come to what the entries say."""

    def __init__(self) -> None:
        self.owners: dict[int, None] = {}
        self.expired: dict[str, float] = {}
        self.dropped: dict[tuple[str, str], None] = {}
        self.put: dict[tuple[str, str], ItemRow] = {}

    def add(self, entry: ItemFact) -> None:
        match entry:
            case ItemPut():
                self.put[entry.item.space, entry.item.key] = entry.item
            case ItemDropped():
                self._drop(entry.space, entry.key)
            case ItemsDropped():
                self.owners.update(dict.fromkeys(entry.ns))
                gone = set(entry.ns)
                self._drop_each(item for item in self.put.values() if item.n in gone)
            case ItemsExpired():
                upto = self.expired[entry.space] = max(entry.upto, self.expired.get(entry.space, entry.upto))
                mine = (item for item in self.put.values() if item.space == entry.space)
                self._drop_each(item for item in mine if item.due is not None and item.due <= upto)

    def _drop_each(self, items: Iterable[ItemRow]) -> None:
        for item in list(items):
            self._drop(item.space, item.key)

    def _drop(self, space: str, key: str) -> None:
        # An older item of this key may be in the store, whatever this commit did to it before.
        self.put.pop((space, key), None)
        self.dropped[space, key] = None


def crc(*payloads: bytes | None) -> int:
    """SQLite does not notice a flipped bit in a payload: this does."""
    value = 0
    for payload in payloads:
        if payload:
            value = zlib.crc32(payload, value)
    return value
