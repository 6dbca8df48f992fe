"""User code within a transaction of the database, on a connection of its own.

What differs from SQLite: other commits go on meanwhile; a statement that failed has undone the whole transaction, so
that nothing can be done after it; the runtime's tables are recognized by name in the text of a statement, and not in
what a function of yours does; and the time limit ends a statement where it stands.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from rotor_actors.errors import (
    ReplicaFencedError,
    StepRefusedError,
    StepTimeoutError,
    StoreCorruptedError,
    StoreError,
)
from rotor_actors.stores.batch import crc
from rotor_actors.stores.postgres.address import quoted, within
from rotor_actors.stores.postgres.faults import may_be_made_again, state_of, translated
from rotor_actors.stores.postgres.statements import allotted
from rotor_actors.stores.transaction import Bindings, Transaction, TransactionCall, UnwantedError, WorkError

T = TypeVar("T")
Submit = Callable[[Coroutine[Any, Any, Any]], "concurrent.futures.Future[Any]"]

_LOOK_SECONDS = 0.05
_MARGIN_SECONDS = 1.0
_ATTEMPTS = 5
_FIND = "SELECT payload, crc FROM @.rotor_transactions WHERE n = $1 AND step_key = $2"
_KEEP = "SELECT @.rotor_keep($1, $2, $3, $4, $5)"

# Integrity constraints, conflicts with others, errors that PL/pgSQL raises.
_REFUSALS = ("23", "40", "P0")
_OUTCOME_UNKNOWN = "40003"

KEEPING = """
CREATE FUNCTION @.rotor_keep(me bigint, of_run bigint, of_step bytea, kept bytea, checksum bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM @.rotor_replicas WHERE number = me FOR KEY SHARE;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO @.rotor_transactions VALUES (of_run, of_step, kept, checksum);
    RETURN true;
END $$;
"""


class PostgresTransaction(Transaction):
    """What the function of `step.transaction` writes with, where the store is a PostgreSQL database.

    Placeholders are `?` and `:name`, as in SQLite, or PostgreSQL's own `$1`. Names without a schema are looked up in the
    store's own schema first.
    """

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt
        self._changes = 0

    def execute(self, sql: str, bindings: Bindings = ()) -> list[tuple[Any, ...]]:
        """Execute one or more statements, and give all rows.

        Raises:
            StepRefusedError: what the transaction may not do, by name.
            StepTimeoutError: the transaction took longer than its `timeout`.
            asyncpg.PostgresError: what PostgreSQL has against it, e.g. `asyncpg.UniqueViolationError`; nothing more can be
                done in this transaction.
        """
        found: list[tuple[Any, ...]] = []
        for statement, text, arguments in allotted(sql, bindings):
            if statement.refusal:
                raise StepRefusedError(f"{self._attempt.call.where}: {statement.refusal}")
            rows, self._changes = self._attempt.fetch(text, arguments)
            found += rows
        return found

    def executemany(self, sql: str, rows: Iterable[Bindings]) -> None:
        """Execute a statement for each of the bindings. Raises as `execute` does."""
        for each in rows:
            self.execute(sql, each)

    @property
    def changes(self) -> int:
        """How many rows the newest statement changed."""
        return self._changes

    @property
    def last_rowid(self) -> int:
        """There is none here.

        Raises:
            StepRefusedError: always; it says what to write instead.
        """
        raise StepRefusedError(
            f"{self._attempt.call.where}: last_rowid is SQLite's; with PostgreSQL write INSERT … RETURNING id"
        )


class _Attempt:
    """One execution on a connection in a transaction; called from the store's writing thread."""

    def __init__(self, call: TransactionCall, connection: Any, submit: Submit) -> None:
        self.call = call
        self._connection = connection
        self._submit = submit
        self._deadline = call.monotonic() + call.timeout
        self._is_over = False

    def run(self) -> bytes:
        try:
            payload = self.call.work(PostgresTransaction(self))
            self._check()
            return payload
        except StoreError:
            raise
        except Exception as error:
            raise WorkError(error) from error
        finally:
            self._is_over = True

    def fetch(self, sql: str, arguments: list[Any]) -> tuple[list[tuple[Any, ...]], int]:
        if self._is_over:
            raise StepRefusedError(f"{self.call.where}: its transaction is over; do all of it within the function")
        self._check()
        return self.wait(self._fetch(sql, arguments))

    async def _fetch(self, sql: str, arguments: list[Any]) -> tuple[list[tuple[Any, ...]], int]:
        prepared = await self._connection.prepare(sql)
        rows = [tuple(row) for row in await prepared.fetch(*arguments)]
        last_word = (prepared.get_statusmsg() or "").rpartition(" ")[2]
        return rows, int(last_word) if last_word.isdigit() else 0

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the database, and no longer than anybody wants it."""
        future: concurrent.futures.Future[T] = self._submit(work)
        while not concurrent.futures.wait([future], _LOOK_SECONDS).done:
            try:
                self._check()
            except BaseException:
                future.cancel()
                raise
        try:
            return future.result()
        except Exception as error:
            state = state_of(error)
            if state in ("57014", "25P03"):
                raise self._too_late() from error
            if state is None and not isinstance(error, ValueError):
                raise translated(f"{self.call.where}: transaction in", "the database", error) from error
            raise

    def _check(self) -> None:
        if self.call.is_unwanted:
            raise UnwantedError
        if self.call.monotonic() > self._deadline:
            raise self._too_late()

    def _too_late(self) -> StepTimeoutError:
        return StepTimeoutError(
            f"{self.call.where}: its transaction took longer than {self.call.timeout:g} s, and was rolled back. Do the "
            f"slow part in a step.run before it",
            step_id=self.call.step_id, timeout=self.call.timeout,
        )  # fmt: skip


class Transacting:
    """Executes transactions of users.

    Args:
        submit: does something on the loop that the connection belongs to.
        own_schema: whose tables the runtime's are.
        is_named: the schema was chosen for this store: users' names are looked up there first.
    """

    def __init__(self, name: str, submit: Submit, own_schema: str, *, is_named: bool) -> None:
        self._name = name
        self._submit = submit
        self._schema = own_schema
        self._is_named = is_named

    def transact(self, connection: Any, me: int, n: int, key: bytes, call: TransactionCall) -> bytes:
        """See `TransactionalStore.transact`. Others' deadlocks and conflicts are tried again."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._transact(connection, me, n, key, call)
            except WorkError as error:
                if not may_be_made_again(error.raised) or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError

    def _transact(self, connection: Any, me: int, n: int, key: bytes, call: TransactionCall) -> bytes:
        known = self._ask(self._begin(connection, n, key, call))
        if known is not None:
            return self._intact(call.where, *known)
        attempt = _Attempt(call, connection, self._submit)
        try:
            payload = attempt.run()
        except BaseException:
            self._ask(self._undo(connection))
            raise
        self._ask(self._keep(connection, me, n, key, payload, call))
        return payload

    async def _begin(self, connection: Any, n: int, key: bytes, call: TransactionCall) -> Any:
        async with _answered(connection, call.timeout + _MARGIN_SECONDS):
            return await self._begun(connection, n, key, call)

    async def _begun(self, connection: Any, n: int, key: bytes, call: TransactionCall) -> Any:
        known = await connection.fetchrow(within(_FIND, self._schema), n, key)
        if known is None:
            await connection.execute("BEGIN")
            try:
                await self._prepare(connection, call)
            except BaseException:  # else the next one would find itself within this one
                await self._undo(connection)
                raise
        return known

    async def _prepare(self, connection: Any, call: TransactionCall) -> None:
        # A client that is paused here must not keep its locks: others wait for them.
        limit = int((call.timeout + _MARGIN_SECONDS) * 1000)
        await connection.execute(
            f"SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}"
        )
        if self._is_named:
            path = await connection.fetchval("SHOW search_path")
            await connection.execute(f"SET LOCAL search_path = {quoted(self._schema)}, {path}")

    async def _undo(self, connection: Any) -> None:
        try:
            async with _answered(connection, _MARGIN_SECONDS):
                await connection.execute("ROLLBACK")
        except Exception:
            connection.terminate()  # then the server does it

    async def _keep(self, connection: Any, me: int, n: int, key: bytes, payload: bytes, call: TransactionCall) -> None:
        async with _answered(connection, call.timeout + _MARGIN_SECONDS):
            await self._kept(connection, me, n, key, payload, call)

    async def _kept(self, connection: Any, me: int, n: int, key: bytes, payload: bytes, call: TransactionCall) -> None:
        try:
            is_kept = await connection.fetchval(within(_KEEP, self._schema), me, n, key, payload, crc(payload))
        except Exception as error:
            await self._undo(connection)
            if state_of(error) == "25P02":
                refused = StepRefusedError(
                    f"{call.where}: a statement of its transaction failed, which undid all of it, and the function went "
                    f"on: let the error out, or ask before (INSERT … ON CONFLICT)"
                )
                raise WorkError(refused) from error
            raise
        if not is_kept:
            await self._undo(connection)
            raise ReplicaFencedError(f"{call.where}: replica {me} has no lease any more; its transaction was undone")
        try:
            await connection.execute("COMMIT")
        except Exception as error:
            # A constraint or a trigger of theirs that is looked at with the commit, or others in the way: all is undone.
            if (state_of(error) or "").startswith(_REFUSALS) and state_of(error) != _OUTCOME_UNKNOWN:
                raise WorkError(error) from error
            raise

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            result: T = self._submit(work).result()
        except (StoreError, WorkError):
            raise
        except Exception as error:
            raise translated("transaction in", self._name, error) from error
        return result

    def _intact(self, where: str, payload: bytes, expected: int) -> bytes:
        if crc(payload) != expected:
            raise StoreCorruptedError(
                f"{self._name}: the memo of the transaction of {where} does not match its checksum"
            )
        return payload


@asynccontextmanager
async def _answered(connection: Any, seconds: float) -> AsyncGenerator[None]:
    """Not for ever: all commits wait for it, and a connection may have been dropped on its way without a word."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        connection.terminate()
        raise
