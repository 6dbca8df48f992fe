"""A server, and clusters over it. `ROTOR_TEST_REPLICAS=long` (`make test-replicas`) runs all, at full size."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from failures.cluster import Cluster
from failures.proxy import Proxy
from postgres_server import PostgresServer, all_binaries

IS_LONG = os.environ.get("ROTOR_TEST_REPLICAS") == "long"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not IS_LONG and item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.skip(reason="takes minutes: make test-replicas"))


@pytest.fixture(scope="session")
def size() -> int:
    """How many children a fan-out has."""
    return 3_000 if IS_LONG else 150


@pytest.fixture(scope="session")
def durable_server() -> Iterator[PostgresServer]:
    """One that keeps what it acknowledged, over kill -9 too."""
    server = PostgresServer(next(iter(all_binaries().values())), "fsync=on", "synchronous_commit=on")
    server.start()
    yield server
    server.remove()


@pytest.fixture
def cluster(durable_server: PostgresServer, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(durable_server.url, f"t{uuid.uuid4().hex[:12]}", tmp_path)
    yield made
    made.close()


@pytest.fixture
def proxy(durable_server: PostgresServer) -> Iterator[Proxy]:
    made = Proxy(durable_server.port)
    yield made
    made.close()
