"""Stores in a PostgreSQL server of the tests' own: one server for the session, one schema for each test."""

from __future__ import annotations

import atexit
import os
from functools import cache
from itertools import count
from typing import Any

from postgres_server import PostgresServer, all_binaries

from rotor_actors.stores.postgres.store import PostgresStore

_numbers = count(1)


@cache
def server(version: int | None = None) -> PostgresServer | None:
    """The server of this version, or of the newest that there is; None if there is none. It ends with the process."""
    binaries = all_binaries()
    if version is None:
        version = next(iter(binaries), None)
    if version not in binaries:
        return None
    found = PostgresServer(binaries[version])
    atexit.register(found.remove)
    found.start()
    return found


def url(version: int | None = None) -> str:
    """Of a database on which each test takes a schema of its own; empty if there is no server."""
    given = os.environ.get("ROTOR_TEST_POSTGRES", "")
    if given and version is None:
        return given
    found = server(version)
    return "" if found is None else found.url


def new_schema() -> str:
    """A name that no other test has."""
    return f"t{os.getpid()}_{next(_numbers)}"


def a_store(schema: str | None = None, version: int | None = None, **options: Any) -> PostgresStore:
    """A store in a schema of its own."""
    return PostgresStore(url(version), schema=schema or new_schema(), **options)
