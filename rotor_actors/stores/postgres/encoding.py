"""From a commit's entries to the arguments of `rotor_commit`. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import astuple

from rotor_actors.records import (
    CancelRequested,
    EndSeen,
    Entry,
    FlagsAdded,
    ItemRow,
    MailSent,
    MailTaken,
    RunFlag,
    RunRow,
    RunsCancelled,
    RunsReleased,
    RunWatched,
    StepRow,
    flatten,
)
from rotor_actors.stores import schema
from rotor_actors.stores.batch import RowBatch, crc
from rotor_actors.stores.postgres.functions import (
    CANCEL_COLUMNS,
    COMMIT_PARAMETERS,
    IS_LEFT,
    IS_PARKED,
    TO_COORDINATOR,
)
from rotor_actors.stores.postgres.texts import TextColumns, escaped

_mutable_values = operator.attrgetter("n", *schema.MUTABLE_FIELDS)
_RUN_TEXTS = TextColumns(schema.RUN_COLUMNS)
_STEP_TEXTS = TextColumns(schema.STEP_COLUMNS)
_ITEM_TEXTS = TextColumns(schema.ITEM_COLUMNS)

Rows = list[tuple[Any, ...]]


class Shared:
    """What the entries of one commit say beyond its own runs."""

    def __init__(self, entries: list[Entry]) -> None:
        self.sent: Rows = []
        self.taken: list[int] = []
        self.released: dict[int, tuple[Any, ...]] = {}
        self.requested: dict[int, tuple[Any, ...]] = {}
        self.flagged: dict[int, int] = {}
        self.seen: dict[int, int] = {}
        self.watched: dict[tuple[int, int], None] = {}
        for entry in flatten(entries):
            match entry:
                case MailSent():
                    once = None if entry.once is None else escaped(entry.once)
                    self.sent.append((entry.to, entry.kind, entry.body, once))
                case MailTaken():
                    self.taken += entry.ids
                case RunsReleased():
                    self.released.update({n: (n, entry.is_parked, entry.to_coordinator) for n in entry.ns})
                case CancelRequested():
                    self._request(entry)
                case FlagsAdded():
                    self.flagged[entry.n] = self.flagged.get(entry.n, 0) | entry.flags
                case EndSeen():
                    self.seen[entry.n] = entry.end_seq
                case RunWatched():
                    self.watched[entry.n, entry.to] = None
                case _:
                    pass

    def _request(self, entry: CancelRequested) -> None:
        for n in entry.ns:
            flags = int(RunFlag.WITHDRAWN) if n == entry.withdrawn else 0
            _, body, before = self.requested.get(n, (n, entry.body, 0))
            self.requested[n] = (n, body, before | flags)

    @property
    def foreign(self) -> set[int]:
        """Runs that others may be changing at the same time."""
        return {*self.requested, *self.flagged, *self.seen, *(n for n, _ in self.watched)}


def arguments_of(entries: list[Entry]) -> list[Any]:
    """In the order of `COMMIT_PARAMETERS`."""
    batch, shared = RowBatch(entries), Shared(entries)
    ended = [run.n for run in batch.changed.values() if run.ended_at is not None]
    ended += batch.cancelled
    standings = {n: _standing(*shared.released.pop(n)) for n in [*shared.released] if n in batch.created}
    touched: set[int] = shared.foreign
    if touched:
        touched |= {*batch.changed, *batch.amended, *batch.rested, *batch.cancelled, *shared.released, *batch.deleted}
        touched -= batch.created.keys()
    found: dict[str, Any] = {
        "touched": sorted(touched),
        "deleted": list(batch.deleted),
        "created": _RUN_TEXTS.escape([_created_values(row, standings) for row in batch.created.values()]),
        "amended": _in_order(batch.amended, _amended_values),
        "changed": _in_order(batch.changed, _changed_values),
        "recorded": _STEP_TEXTS.escape(_rows(batch.steps, _step_values)),
        "rested": [(n, batch.rested[n].rest_seq, batch.rested[n].wake_at) for n in sorted(batch.rested)],
        "cancelled": [_cancelled_values(n, batch.cancelled[n]) for n in sorted(batch.cancelled)],
        "ended": ended,
        "owners": list(batch.items.owners),
        "expired": [(escaped(space), upto) for space, upto in batch.items.expired.items()],
        "dropped": [(escaped(space), escaped(key)) for space, key in batch.items.dropped],
        "put": _ITEM_TEXTS.escape(_rows(batch.items.put.values(), _item_values)),
        "taken": shared.taken,
        "sent": shared.sent,
        "released": list(shared.released.values()),
        "requested": list(shared.requested.values()),
        "flagged": list(shared.flagged.items()),
        "seen": list(shared.seen.items()),
        "watched": list(shared.watched),
    }
    return [found[name] or None for name in COMMIT_PARAMETERS]


def _rows(rows: Iterable[Any], values_of: Callable[[Any], tuple[Any, ...]]) -> Rows:
    return [values_of(row) for row in rows]


def _in_order(rows: dict[int, RunRow], values_of: Callable[[RunRow], tuple[Any, ...]]) -> Rows:
    """Rows that exist are locked in the order in which they come."""
    return [values_of(rows[n]) for n in sorted(rows)]


def _created_values(row: RunRow, standings: dict[int, int]) -> tuple[Any, ...]:
    crcs = crc(row.input, row.headers, row.retries, row.event), crc(row.result, row.error)
    return (*astuple(row), *crcs, standings.get(row.n, 0))


def _standing(_: int, is_parked: bool, to_coordinator: bool) -> int:
    return IS_LEFT + is_parked * IS_PARKED + to_coordinator * TO_COORDINATOR


def _amended_values(row: RunRow) -> tuple[Any, ...]:
    return (row.n, row.input, row.headers, row.event, crc(row.input, row.headers, row.retries, row.event))


def _changed_values(row: RunRow) -> tuple[Any, ...]:
    return (*_mutable_values(row), crc(row.result, row.error))


def _step_values(row: StepRow) -> tuple[Any, ...]:
    return (*astuple(row), crc(row.payload))


def _item_values(row: ItemRow) -> tuple[Any, ...]:
    return (*astuple(row)[:-1], crc(row.body))


def _cancelled_values(n: int, entry: RunsCancelled) -> tuple[Any, ...]:
    flags = RunFlag.WITHDRAWN if n == entry.withdrawn else RunFlag.NONE
    values = (n, entry.at, entry.seq, entry.error, crc(entry.error), flags)
    assert len(values) == len(CANCEL_COLUMNS)
    return values
