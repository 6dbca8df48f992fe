"""One replica's store in a PostgreSQL database that others may share."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import ReplicaFencedError, StoreError, StoreUnavailableError
from rotor_actors.records import Entry, MailKind
from rotor_actors.stores.base import LiveRun
from rotor_actors.stores.postgres import claiming, queries
from rotor_actors.stores.postgres.address import parsed, within
from rotor_actors.stores.postgres.encoding import arguments_of
from rotor_actors.stores.postgres.faults import may_be_made_again, taken_name, translated
from rotor_actors.stores.postgres.functions import COMMIT_PARAMETERS
from rotor_actors.stores.postgres.hints import Hints
from rotor_actors.stores.postgres.io_thread import IOThread
from rotor_actors.stores.postgres.link import Link, driver
from rotor_actors.stores.postgres.migrating import checked_schema, migrate
from rotor_actors.stores.postgres.reader import PostgresReader
from rotor_actors.stores.postgres.texts import escaped
from rotor_actors.stores.postgres.transacting import Transacting
from rotor_actors.stores.shared import LEASE_SECONDS, Claim, Claimed, ClaimQuery, Declared, Mail
from rotor_actors.stores.sqlite_files import refuse_existing
from rotor_actors.stores.transaction import TransactionCall

_logger = logging.getLogger("rotor_actors")

T = TypeVar("T")

_ARGUMENTS = ", ".join(f"${place}" for place in range(1, len(COMMIT_PARAMETERS) + 2))
_COMMIT = f"SELECT @.rotor_commit({_ARGUMENTS})"
_BEAT = """
    UPDATE @.rotor_replicas SET lease_until = @.rotor_now() + $2::float8 WHERE number = $1
    RETURNING @.rotor_now()"""
_DRAIN = "UPDATE @.rotor_replicas SET is_draining = true WHERE number = $1 RETURNING true"

_ATTEMPTS = 10
_RUNS_PER_FREEING = 5_000
_REAPS_PER_TIDYING = 60
_CONFLICTS = ("rotor_runs_by_id", "rotor_mail_once")
_SHORTEST_LEASE = 1.0
"""A lease that ends between two beats of a loaded machine is none."""


class PostgresStore(PostgresReader):
    """A store in a PostgreSQL database (14 or newer), which any number of replicas may open at a time.

    Args:
        url: `postgresql://user:password@host:port/database`; its options are libpq's, and two of ours: `schema=` and
            `pgbouncer=1`.
        schema: where its tables are; it is created when missing. The first of the user's search path if not given.
        lease: after how long without a sign of life others take over what this replica owns; at least a second.
        timeout: after how long a call that got no answer is given up.
        pgbouncer: connections go through PgBouncer in transaction mode. Replicas then look for messages each second,
            instead of being told.

    `open` registers a new replica, and `close` gives back all that it owns. Backups are SQLite files; PostgreSQL's own
    tools copy the database as it is. There is nothing to compact: PostgreSQL's autovacuum does that.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        lease: Duration = LEASE_SECONDS,
        timeout: Duration = "60s",
        pgbouncer: bool | None = None,
    ) -> None:
        super().__init__(parsed(url, schema, pgbouncer), seconds(timeout, name="timeout", exclusive=True))
        self.lease = seconds(lease, name="lease", minimum=_SHORTEST_LEASE)
        self._hint: Callable[[], None] = _no_hint
        self._reaps = 0

    def _hang_up(self) -> None:
        super()._hang_up()
        self._heart = IOThread("rotor-postgres-heartbeat")
        self._writer: Link | None = None
        self._user: Link | None = None
        self._pulse: Link | None = None
        self._hints: Hints | None = None
        self._number: int | None = None

    def again(self) -> PostgresStore:
        other = copy.copy(self)
        other._hang_up()
        return other

    @property
    def replica(self) -> int:
        if self._number is None:
            raise StoreError(f"{self.name} is closed")
        return self._number

    def listen(self, hint: Callable[[], None]) -> None:
        self._hint = hint

    # Opening and closing

    def open(self) -> None:
        if self._io.is_running:
            raise StoreError(
                f"{self.name} is open already, as replica {self._number}: give each runtime a store of its own"
            )
        driver()
        for thread in (self._io, self._heart):
            thread.start()
        try:
            self._io.call(self._open())
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        writer = self._writer = Link(self._address, "writer", self._timeout)
        number = self._number = await writer.use("open", self._enter)
        await writer.use("open", lambda link: writer.rename(link, f"writer {number}"))
        self._reader = Link(self._address, f"reader {number}", self._timeout)
        self._user = Link(self._address, f"transactions {number}", self._timeout, is_cached=False, is_ours=False)
        self._pulse = Link(self._address, f"heartbeat {number}", max(self.lease / 3, 0.1))
        if not self._address.is_pooled:
            self._hints = Hints(self._address, self._schema, number, lambda: self._hint())
            await self._hints.start()

    async def _enter(self, connection: Any) -> int:
        self._schema = await checked_schema(connection, self.name, self._address.schema)
        await migrate(connection, self.name, self._schema)
        number: int = await connection.fetchval(within("SELECT @.rotor_enter($1)", self._schema), self.lease)
        return number

    def close(self) -> None:
        number, self._number = self._number, None
        if self._heart.is_running and self._pulse is not None:
            self._heart.call(self._pulse.close())
        self._heart.stop()
        if self._io.is_running:
            self._io.call(self._close(number))
        self._io.stop()

    async def _close(self, number: int | None) -> None:
        hints, self._hints = self._hints, None
        if number is not None and self._writer is not None:
            try:
                await self._writer.use(
                    "leave", lambda link: link.execute(self._sql("SELECT @.rotor_leave($1)"), number)
                )
                if hints is not None:
                    hints.tell([0])
                    await hints.sent()
            except (StoreError, ValueError) as error:
                _logger.warning("%s; others take over when its lease has run out, in %g s", error, self.lease)
        if hints is not None:
            await hints.stop()
        links, self._writer, self._reader, self._user = (self._writer, self._reader, self._user), None, None, None
        for link in links:
            if link is not None:
                await link.close()

    # Writing

    def commit(self, entries: list[Entry]) -> None:
        self._commit(entries, is_conditional=False)

    def try_commit(self, entries: list[Entry]) -> bool:
        return self._commit(entries, is_conditional=True)

    def _commit(self, entries: list[Entry], *, is_conditional: bool) -> bool:
        me, writer = self.replica, self._open_writer
        arguments = arguments_of(entries)
        sql = self._sql(_COMMIT)

        async def commit(connection: Any) -> Any:
            return await connection.fetchval(sql, me, *arguments)

        try:
            hints = self._io.call(_again(lambda: writer.raw(commit)))
        except Exception as error:
            if is_conditional and taken_name(error) in _CONFLICTS:
                return False
            raise translated("commit to", self.name, error) from error
        if hints is None:
            raise self._fenced(me)
        self._tell(hints)
        return True

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        me, user = self.replica, self._user
        if user is None:
            raise StoreError(f"{self.name} is closed")
        connection = self._io.call(user.use("transaction in", _itself))
        transacting = Transacting(self.name, self._io.submit, self._schema, is_named=self._address.schema is not None)
        return transacting.transact(connection, me, n, key, call)

    # Replicas

    def last_numbers(self) -> tuple[int, int]:
        return self.replica << 32, 0

    def declare(self, label: str, declared: list[Declared]) -> None:
        rows = [(escaped(each.workflow_id), each.versions and [*map(escaped, each.versions)]) for each in declared]
        self._change("declare to", "SELECT @.rotor_declare($1, $2, $3)", escaped(label), rows)

    def drain(self) -> None:
        self._change("drain", _DRAIN)

    def beat(self) -> float | None:
        me, pulse = self.replica, self._pulse
        assert pulse is not None
        now: float | None = self._heart.call(
            pulse.use("beat", lambda link: link.fetchval(self._sql(_BEAT), me, self.lease))
        )
        return now

    def reap(self) -> int:
        gone = self._write("reap", lambda link: link.fetch(self._sql(claiming.REAP_REPLICAS)))
        tidies = bool(gone) or self._reaps % _REAPS_PER_TIDYING == 0
        self._reaps += 1
        freed = 0
        sql = self._sql("SELECT @.rotor_free($1, $2)")
        while True:
            some: int = self._write("reap", lambda link: link.fetchval(sql, _RUNS_PER_FREEING, tidies))
            freed += some
            if some < _RUNS_PER_FREEING:
                break
        if freed:
            self._tell([0])
        return freed

    def claim(self, query: ClaimQuery) -> Claim:
        me = self.replica
        sql = self._sql("SELECT * FROM @.rotor_claim($1, $2, $3)")
        found = self._write("claim from", lambda link: link.fetch(sql, me, query.limit, query.coordinates))
        if not found:
            raise self._fenced(me)
        first, *rows = found
        return Claim(self._decoded(rows, self._claimed), first["is_mine"])

    def _claimed(self, row: Any) -> Claimed:
        return Claimed(self._decoding.live(row), row["cancel"], row["begins"], row["is_below"])

    def take(self, ns: list[int]) -> list[LiveRun]:
        if not self._change("take from", "SELECT @.rotor_take($1, $2)", ns):
            return []
        by_number = {each.live.row.n: each.live for each in self._owned(ns)}
        return [by_number[n] for n in ns]

    def _owned(self, ns: list[int]) -> list[Claimed]:
        live = self._decoding.live
        return self._all(queries.OWNED, (ns,), lambda row: Claimed(live(row), row[-1]))

    def mail(self, after: int, limit: int) -> list[Mail]:
        found = self._all(queries.MAIL, (self.replica, after, limit), tuple)
        return [Mail(number, to, MailKind(kind), body) for number, to, kind, body in found]

    # Copies

    def backup(self, path: str | os.PathLike[str]) -> None:
        from rotor_actors.stores.postgres.copying import copy as copy_of  # here: hardly anybody needs it

        target = Path(path).absolute()
        refuse_existing(target)
        link = Link(self._address, "backup", 24 * 3600.0)

        async def write() -> None:
            try:
                await link.use("backup of", lambda link: copy_of(link, self._schema, self._decoding, target))
            finally:
                await link.close()

        thread = IOThread("rotor-postgres-backup")  # reading and writing files, it would keep the others waiting
        thread.start()
        try:
            thread.call(write())
        finally:
            thread.stop()

    def compact(self) -> None: ...

    def free(self, pages: int) -> int:
        return 0

    # How

    @property
    def _open_writer(self) -> Link:
        if self._writer is None:
            raise StoreError(f"{self.name} is closed")
        return self._writer

    def _sql(self, sql: str) -> str:
        return within(sql, self._schema)

    def _write(self, doing: str, act: Callable[[Any], Awaitable[Any]]) -> Any:
        writer = self._open_writer
        try:
            return self._io.call(_again(lambda: writer.raw(act)))
        except Exception as error:
            raise translated(doing, self.name, error) from error

    def _change(self, doing: str, sql: str, *arguments: Any) -> Any:
        """Call what gives NULL, or no row, when this replica is gone."""
        me = self.replica
        done = self._write(doing, lambda link: link.fetchval(self._sql(sql), me, *arguments))
        if done is None:
            raise self._fenced(me)
        return done

    def _fenced(self, me: int) -> ReplicaFencedError:
        return ReplicaFencedError(
            f"{self.name}: replica {me} has no lease any more: its runs were given to others; it begins anew as another one"
        )

    def _tell(self, targets: list[int]) -> None:
        hints = self._hints
        if targets and hints is not None:
            self._io.soon(lambda: hints.tell(targets))


async def _again(act: Callable[[], Awaitable[T]]) -> T:
    """What the server undid because of others is done again."""
    for attempt in range(_ATTEMPTS):
        try:
            return await act()
        except Exception as error:
            if not may_be_made_again(error) or attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.005 * 2**attempt)
    raise StoreUnavailableError("unreachable")


async def _itself(connection: Any) -> Any:
    return connection


def _no_hint() -> None: ...
