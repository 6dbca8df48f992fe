"""In place of `MemoryStore`: a store in a PostgreSQL server, of which each runtime is the only replica.

A suite opens thousands of stores. So connections are made once for all of them, a schema is emptied for the next store
once nobody holds the one before, and what only other replicas could have changed is not asked for again and again.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any

from postgres_kit import HELD, WIPE, a_url

from rotor_actors.errors import StoreError
from rotor_actors.records import Entry, ItemRow, RunRow, StepRow
from rotor_actors.stores.base import ItemQuery, RunQuery
from rotor_actors.stores.postgres.address import parsed, within
from rotor_actors.stores.postgres.faults import taken_name
from rotor_actors.stores.postgres.io_thread import IOThread
from rotor_actors.stores.postgres.link import Link
from rotor_actors.stores.postgres.store import PostgresStore
from rotor_actors.stores.shared import Claim, ClaimQuery

_LOOKS_PER_REAPING = 20

_TIME = """
CREATE TABLE IF NOT EXISTS @.test_time(at float8);
DELETE FROM @.test_time;
INSERT INTO @.test_time VALUES (NULL);
CREATE OR REPLACE FUNCTION @.rotor_now() RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT at FROM @.test_time), extract(epoch FROM clock_timestamp())::float8) $$;
"""
_OTHER_TABLES = r"SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename !~ '^(rotor_|test_time$)'"
_MOVE = "UPDATE @.test_time SET at = $1"


class _Connections:
    """Of all stand-ins of this process: what a server's process knows of a schema, it knows for the next test, too."""

    def __init__(self) -> None:
        self.url = a_url()
        self.thread = IOThread("rotor-postgres-tests")
        self.thread.start()
        address = parsed(self.url, None, None)
        self.links = [Link(address, purpose, 60.0) for purpose in ("writer", "reader")]
        self.user = Link(address, "transactions", 60.0, is_cached=False)
        self.made: set[str] = set()
        self.free: list[str] = []
        self._numbers = count(1)

    def take_schema(self) -> str:
        return self.free.pop() if self.free else f"s{os.getpid()}_{next(self._numbers)}"


@cache
def _connections() -> _Connections:
    return _Connections()


class StandInStore(PostgresStore):
    """What it holds outlives the runtime, as what a `MemoryStore` holds does, and goes with this object.

    Its calls are made on the event loop's thread: time that is moved by hand need not wait for other threads. Closed, it
    is opened for as long as a call takes. Its copy is a copy of what it holds.

    Attributes:
        time: what the database takes for the time; None for its own.
    """

    is_inline = True

    def __init__(self) -> None:
        self._shared = _connections()
        super().__init__(self._shared.url, schema=self._shared.take_schema(), lease=1e9)
        weakref.finalize(self, self._shared.free.append, self.schema)
        self._is_ours = False
        self._door = threading.RLock()
        self._looks = 0
        self._told: float | None = None
        self.time: Callable[[], float] | None = None

    def open(self) -> None:
        with self._door:
            if self._number is not None:
                raise StoreError(f"{self.name} is open already, as replica {self._number}")
            self._io = self._heart = self._shared.thread
            writer, self._reader = self._shared.links
            self._writer = self._pulse = writer
            self._user = self._shared.user
            self._number = self._io.call(writer.use("open", self._enter))

    async def _enter(self, connection: Any) -> int:
        if self.schema not in self._shared.made:
            await super()._enter(connection)
            self._shared.made.add(self.schema)
            await connection.execute(within(_TIME, self.schema))
        if not self._is_ours:
            self._is_ours = True
            await connection.execute(within(WIPE, self.schema))
            for (table,) in await connection.fetch(_OTHER_TABLES, self.schema):
                await connection.execute(f"DROP TABLE {self.schema}.{table}")
            await connection.execute(within(_MOVE, self.schema), None)
        number: int = await connection.fetchval(within("SELECT @.rotor_enter($1)", self.schema), self.lease)
        return number

    def close(self) -> None:
        with self._door:
            number, self._number = self._number, None
            if number is not None:
                sql = within("SELECT @.rotor_leave($1)", self.schema)
                self._io.call(self._shared.links[0].use("leave", lambda link: link.execute(sql, number)))
            self._writer = self._reader = self._user = self._pulse = None

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

    # It is alone: nobody else's lease can run out, and its own lasts for as long as any test.

    def beat(self) -> float | None:
        return super().beat() if self.time is None else self.time()

    def reap(self) -> int:
        looks, self._looks = self._looks, self._looks + 1
        return 0 if looks % _LOOKS_PER_REAPING else super().reap()

    def claim(self, query: ClaimQuery) -> Claim:
        now = None if self.time is None else self.time()
        if now != self._told:
            sql = within(_MOVE, self.schema)
            self._write("tell the time to", lambda link: link.execute(sql, now))
            self._told = now
        return super().claim(query)

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

    def __deepcopy__(self, memo: object) -> StandInStore:
        found = StandInStore()
        found.__class__ = type(self)
        vars(found).update({name: value for name, value in vars(self).items() if name not in vars(found)})
        with self._opened(), found._opened():
            sql = "".join(
                f"INSERT INTO {found.schema}.rotor_{table} OVERRIDING SYSTEM VALUE "
                f"SELECT * FROM {self.schema}.rotor_{table};"
                for table in HELD
            )
            sql += f"UPDATE {found.schema}.rotor_runs SET owner = NULL"
            found._write("copy to", lambda link: link.execute(sql))
        return found

    # What some tests look at, and do to it.

    def damage_item(self, space: str, key: str) -> None:
        key_is = "split_part(item_key, chr(31), 1) = $2"
        sql = within(f"UPDATE @.rotor_items SET body = body || '\\x00' WHERE space = $1 AND {key_is}", self.schema)
        with self._opened():
            self._write("damage", lambda link: link.execute(sql, space, key))

    def look(self, sql: str) -> list[tuple[Any, ...]]:
        """Into tables of users."""
        return self._all(f"SELECT * FROM ({sql.replace(' FROM ', f' FROM {self.schema}.')}) AS t", (), tuple)

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
