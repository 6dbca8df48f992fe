"""The store that many replicas share, held against both suites, on each server that this machine has."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from conformance import MakeStore, StoreConformance
from postgres_kit import a_store, a_url, emptied_schema, execute, versions
from shared_conformance import MakeReplica, SharedStoreConformance

from rotor_actors.stores.base import Store
from rotor_actors.stores.shared import SharedStore


class TestPostgresStore(StoreConformance):
    @pytest.fixture(params=versions())
    def make_store(self, request: pytest.FixtureRequest) -> MakeStore:
        schema = emptied_schema(a_url(request.param))
        return lambda: a_store(schema, request.param)

    def check_numbers(self, store: Store, expected: tuple[int, int]) -> None:
        """Each opening has numbers of its own."""
        assert store.last_numbers() == (cast(SharedStore, store).replica << 32, 0)


class TestPostgresReplicas(SharedStoreConformance):
    @pytest.fixture(params=versions())
    def make_replica(self, request: pytest.FixtureRequest) -> MakeReplica:
        self.url = a_url(request.param)
        self.schema = emptied_schema(self.url)
        return lambda: a_store(self.schema, request.param)

    def expire(self, store: SharedStore) -> None:
        sql = f"UPDATE {self.schema}.rotor_replicas SET lease_until = 0 WHERE number = {store.replica}"
        asyncio.run(execute(self.url, sql))
