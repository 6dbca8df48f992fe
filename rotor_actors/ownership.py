"""Which replica owns what, as it stands in a shared store: read, and said in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeGuard

import msgspec

from rotor_actors.records import RunRow
from rotor_actors.stores.base import StoreReader
from rotor_actors.stores.shared import OwnershipCount, ReplicaRow, SharedReader

LOOK_AROUND_SECONDS = 2.0
"""How often what other replicas did is looked for by whoever shows it: nobody tells."""


class Ownership(msgspec.Struct):
    """What a shared store says of its replicas, at `now` by its own clock."""

    replicas: list[ReplicaRow]
    unowned: list[OwnershipCount]
    now: float

    def replica(self, number: int | None) -> ReplicaRow | None:
        return next((each for each in self.replicas if each.number == number), None)


def has_owners(store: StoreReader) -> TypeGuard[SharedReader]:
    """Is it one that replicas share?"""
    return hasattr(store, "owners")


def read_ownership(store: StoreReader, now: float) -> Ownership:
    """Nothing, at `now`, of a store with one owner. A store that knows its own time says it (`database_time`)."""
    if not has_owners(store):
        return Ownership([], [], now)
    clock: Callable[[], float] = getattr(store, "database_time", lambda: now)
    return Ownership(store.replicas(), store.unowned(), clock())


def read_owners(store: StoreReader, rows: Sequence[RunRow]) -> Mapping[int, int]:
    """The owners of those of the runs that have not ended and that somebody owns."""
    ns = [row.n for row in rows if not row.status.is_terminal] if has_owners(store) else []
    if not ns or not has_owners(store):
        return {}
    return {n: owner for n, owner in store.owners(ns).items() if owner is not None}


def owner_names(store: StoreReader, rows: Sequence[RunRow]) -> Mapping[int, str]:
    """The same, with what the replicas are called."""
    owners = read_owners(store, rows)
    if not owners or not has_owners(store):
        return {}
    labels = {each.number: each.label for each in store.replicas()}
    return {n: f"{labels.get(owner, 'gone')} ({owner})" for n, owner in owners.items()}


def whose(row: RunRow, owner: int | None, known: Ownership) -> str:
    """Half a sentence: who runs it, or why nobody does; "" of a run that has ended, or whose store has one owner."""
    if row.status.is_terminal or not (known.replicas or known.unowned):
        return ""
    replica = known.replica(owner)
    if replica is not None:
        left = replica.lease_until - known.now
        lease = f"{left:.0f} s are left of its lease" if left > 0 else "its lease has run out, and others take over"
        return f"replica {replica.label} ({replica.number}) owns it; {lease}"
    if owner is not None:
        return f"replica {owner} owned it and is gone; others take it over"
    if not any(each.fits(row) for replica in known.replicas for each in replica.declared):
        version = "" if row.version is None else f" in version {row.version!r}"
        return f"no replica owns it, and none that is alive can run workflow {row.workflow_id!r}{version}"
    return "no replica owns it yet: whichever has room claims it"


def without_undoing(names: Collection[str]) -> list[str]:
    """The ids of workflows to show: what undoes the steps of one comes with it, and is not worth the room."""
    return [name for name in names if not (name.endswith(".undo") and name.removesuffix(".undo") in names)]
