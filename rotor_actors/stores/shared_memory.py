"""The shared store without a database server: for tests and simulation. The same verbs and rules, over one object."""

from __future__ import annotations

import os
from collections.abc import Callable

from rotor_actors.errors import StoreError
from rotor_actors.records import ChildRow, Entry, History, ItemRow, RunRow, RunStatus, StepRow
from rotor_actors.stores.base import EndedRootsQuery, EndsQuery, ItemQuery, LiveRun, RunQuery
from rotor_actors.stores.shared import (
    LEASE_SECONDS,
    Claim,
    ClaimQuery,
    Declared,
    Mail,
    OwnershipCount,
    RemoteChild,
    ReplicaRow,
)
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.transaction import TransactionCall

__all__ = ["SharedDatabase", "SharedMemoryStore", "SharedMemoryView"]


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
        self.number: int | None = None
        self._hint: Callable[[], None] = _no_hint

    def again(self) -> SharedMemoryStore:
        return self  # its calls wait for nobody: none of the lost one's can come later

    @property
    def replica(self) -> int:
        if self.number is None:
            raise StoreError("the store is closed")
        return self.number

    def open(self) -> None:
        self.number = self.database.enter(self.lease)
        self.database.hints[self.number] = self._hint

    def close(self) -> None:
        number, self.number = self.number, None
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
        row = self.database.replica_rows.get(self.replica)
        if row is None:
            return None
        now = self.database.clock()
        row.lease_until = now + self.lease
        return now

    def commit(self, entries: list[Entry]) -> None:
        self.database.apply(self.replica, entries)

    def try_commit(self, entries: list[Entry]) -> bool:
        return self.database.try_apply(self.replica, entries)

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

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        return self.database.steps(n, limit)

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

    def database_time(self) -> float:
        return self.database.clock()

    def reap(self) -> int:
        self.database.expire_replicas()
        return self.database.free_runs()

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        return self.database.transact_for(self.replica, n, key, call)

    def backup(self, path: str | os.PathLike[str]) -> None:
        self.database.backup(path)

    def compact(self) -> None: ...

    def free(self, pages: int) -> int:
        return 0


class SharedMemoryView(SharedMemoryStore):
    """A `SharedDatabase` as seen by somebody who is no replica: for `RuntimeView`."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def replica_store(self) -> SharedMemoryStore:
        return SharedMemoryStore(self.database, lease=self.lease)


def _no_hint() -> None: ...
