"""The shared store in memory, held against both suites: that for all stores, and that for shared ones."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from conformance import MakeStore, StoreConformance
from shared_conformance import MakeReplica, SharedStoreConformance, claim, created

from rotor_actors.errors import ReplicaFencedError
from rotor_actors.records import RunWatched
from rotor_actors.stores.base import Store
from rotor_actors.stores.shared import SharedStore
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore


class TestSharedMemoryStore(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        database = SharedDatabase()
        return lambda: SharedMemoryStore(database)

    def check_numbers(self, store: Store, expected: tuple[int, int]) -> None:
        """Each opening has numbers of its own."""
        assert store.last_numbers() == (cast(SharedStore, store).replica << 32, 0)


class TestSharedMemoryReplicas(SharedStoreConformance):
    @pytest.fixture
    def make_replica(self, tmp_path: Path) -> MakeReplica:
        self.database = SharedDatabase()
        return lambda: SharedMemoryStore(self.database)

    def expire(self, store: SharedStore) -> None:
        self.database.replica_rows[store.replica].lease_until = 0.0


def test_only_the_clock_of_the_database_decides_a_lease() -> None:
    now = 1_000.0
    database = SharedDatabase(lambda: now)
    a, b = SharedMemoryStore(database, lease=10.0), SharedMemoryStore(database, lease=10.0)
    a.open()
    b.open()
    [run] = created(a, 1)
    now = 1_010.0
    assert b.reap() == 0  # not before it is over
    b.beat()
    now = 1_010.5
    assert b.reap() == 1
    with pytest.raises(ReplicaFencedError):
        claim(a)
    assert b.owners([run.n]) == {run.n: None}


def test_no_watch_outlives_who_watches() -> None:
    database = SharedDatabase()
    a, b = SharedMemoryStore(database), SharedMemoryStore(database)
    a.open()
    b.open()
    [run] = created(a, 1)
    b.commit([RunWatched(run.n, -b.replica)])
    assert database.office.watches
    b.close()
    assert not database.office.watches
