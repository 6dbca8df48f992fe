"""`step.transaction` on PostgreSQL: the same function, the user's rows and the step's memo in one transaction."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from conformance import a_run
from failures.proxy import Mode, Proxy
from postgres_kit import a_store, a_url, execute, new_schema

from rotor_actors import Context, PostgresStore, RetryPolicy, Runtime, Transaction, workflow
from rotor_actors.errors import (
    ReplicaFencedError,
    StepRefusedError,
    StepTimeoutError,
    StoreUnavailableError,
    WorkflowFailedError,
)
from rotor_actors.records import RunCreated
from rotor_actors.stores.postgres import transacting
from rotor_actors.stores.postgres.statements import allotted
from rotor_actors.stores.transaction import TransactionCall, UnwantedError, WorkError

calls: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def forget() -> None:
    calls.clear()


@pytest.fixture
def schema() -> str:
    return new_schema()


def book(tx: Transaction, name: str, amount: int) -> int:
    calls[name] += 1
    tx.execute("CREATE TABLE IF NOT EXISTS bookings(name TEXT, amount INTEGER CHECK (amount < 1000))")
    tx.execute("INSERT INTO bookings VALUES (?, ?)", (name, amount))
    assert tx.changes == 1
    total: int = tx.execute("SELECT sum(amount) FROM bookings")[0][0]
    return total


@workflow(id="booking", retries=0)
async def booking(ctx: Context) -> list[int]:
    return [await ctx.step.transaction(f"b{n}", book, f"b{n}", 10**n) for n in range(3)]


ALL = [("b0", 1), ("b1", 10), ("b2", 100)]


async def rows(schema: str) -> list[tuple[Any, ...]]:
    return await execute(a_url(), f"SELECT name, amount FROM {schema}.bookings")


# In a workflow


@pytest.mark.asyncio
async def test_rows_and_memo_are_written_once_and_read_beside(schema: str) -> None:
    async with Runtime(a_store(schema)) as runtime:
        assert await runtime.execute(booking, run_id="r") == [1, 11, 111]
        assert [(step.step_id, step.kind) for step in await runtime.steps("r")] == [
            ("b0", "transaction"), ("b1", "transaction"), ("b2", "transaction"),
        ]  # fmt: skip
    assert await rows(schema) == ALL


def owe(tx: Transaction) -> None:
    calls["owe"] += 1
    tx.execute(
        "CREATE TABLE IF NOT EXISTS debts(n INTEGER PRIMARY KEY, to_n INTEGER REFERENCES debts DEFERRABLE INITIALLY DEFERRED)"
    )
    tx.execute("INSERT INTO debts VALUES (1, 2)")


@workflow(id="owing", retries=0)
async def owing(ctx: Context) -> None:
    await ctx.step.transaction("owe", owe, retries=0)


@pytest.mark.asyncio
async def test_a_constraint_that_is_looked_at_with_the_commit_fails_the_step_and_not_the_replica(schema: str) -> None:
    store = a_store(schema)
    async with Runtime(store) as runtime:
        number = store.replica
        with pytest.raises(WorkflowFailedError, match="ForeignKeyViolationError"):
            await asyncio.wait_for(runtime.execute(owing), 30)
        assert calls["owe"] == 1
        assert await runtime.execute(booking) == [1, 11, 111]
        (replica,) = await runtime.replicas()
        assert replica.number == number, "it is the same incarnation still"


@pytest.mark.asyncio
async def test_an_error_undoes_the_rows_and_is_recorded(schema: str) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        await ctx.step.transaction("good", book, "good", 1)
        try:
            await ctx.step.transaction("own", failing)
        except KeyError:
            pass
        try:
            await ctx.step.transaction("check", book, "check", 1000)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "?"

    def failing(tx: Transaction) -> None:
        book(tx, "failing", 5)
        raise KeyError("no")

    async with Runtime(a_store(schema)) as runtime:
        assert "bookings_amount_check" in await runtime.execute(w, run_id="r")
        assert [step.status.value for step in await runtime.steps("r")] == ["completed", "failed", "failed"]
    assert await rows(schema) == [("good", 1)]


REFUSED = [
    ("UPDATE rotor_runs SET status = 'completed'", "table 'rotor_runs' is the runtime's own"),
    ('SELECT * FROM "rotor_steps"', "table 'rotor_steps' is the runtime's own"),
    ("DROP TABLE public.ROTOR_ITEMS", "table 'rotor_items' is the runtime's own"),
    ("SELECT rotor_leave(1)", "table 'rotor_leave' is the runtime's own"),
    ("COMMIT", "COMMIT: not yours here"),
    ("SELECT 1; ROLLBACK", "ROLLBACK: not yours here"),
    ("/* well */ SAVEPOINT s", "SAVEPOINT: not yours here"),
    ("SET statement_timeout = 0", "SET: not possible here"),
    ("COPY bookings FROM STDIN", "COPY: not possible here"),
    ("CREATE TEMP TABLE t(x integer)", "temporary tables are not possible here"),
    ("DO $$ BEGIN COMMIT; END $$", "invalid transaction termination"),  # the server's own word
]


@pytest.mark.asyncio
async def test_what_it_may_not_do_is_refused_by_name_and_undoes_all(schema: str) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context, sql: str) -> str:
        try:
            await ctx.step.transaction("it", forbidden, sql)
        except Exception as error:
            return str(error)
        return "not refused"

    def forbidden(tx: Transaction, sql: str) -> None:
        book(tx, "x", 1)
        tx.execute(sql)

    async with Runtime(a_store(schema)) as runtime:
        for sql, text in REFUSED:
            assert text in await runtime.execute(w, sql), sql
        await runtime.execute(booking)
    assert await rows(schema) == ALL


@pytest.mark.asyncio
@pytest.mark.parametrize("in_sql", [True, False])
async def test_one_that_takes_too_long_is_undone_and_says_so(schema: str, in_sql: bool) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        await ctx.step.transaction("it", slow, timeout="300ms")

    def slow(tx: Transaction) -> None:
        book(tx, "slow", 1)
        if in_sql:
            tx.execute("SELECT pg_sleep(60)")
        time.sleep(0.4)

    async with Runtime(a_store(schema)) as runtime:
        with pytest.raises(WorkflowFailedError, match=r"took longer than 0.3 s, and was rolled back") as caught:
            await runtime.execute(w)
        assert StepTimeoutError.__name__ in caught.value.error.type
        await runtime.execute(booking)
    assert await rows(schema) == ALL


@pytest.mark.asyncio
async def test_a_cancelled_run_undoes_what_is_not_committed(schema: str) -> None:
    begun = asyncio.Event()

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        await ctx.step.transaction("it", slow)

    async with Runtime(a_store(schema)) as runtime:
        loop = asyncio.get_running_loop()

        def slow(tx: Transaction) -> None:
            book(tx, "slow", 1)
            loop.call_soon_threadsafe(begun.set)
            tx.execute("SELECT pg_sleep(60)")

        handle = await runtime.start(w, run_id="r")
        await begun.wait()
        await asyncio.wait_for(handle.cancel(), 30)
        await runtime.execute(booking)
    assert await rows(schema) == ALL


@pytest.mark.asyncio
async def test_it_is_tried_again_by_its_own_policy(schema: str) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> int:
        return await ctx.step.transaction("it", flaky, retries=RetryPolicy(2, initial="1ms", jitter=False))

    def flaky(tx: Transaction) -> int:
        total = book(tx, "flaky", 1)
        if calls["flaky"] < 3:
            raise ValueError("not yet")
        return total

    async with Runtime(a_store(schema)) as runtime:
        assert await runtime.execute(w, run_id="r") == 1
    assert await rows(schema) == [("flaky", 1)]


# The store's verb


@pytest.fixture
def store(schema: str) -> Iterator[PostgresStore]:
    store = a_store(schema)
    store.open()
    store.commit([RunCreated(a_run(1), 1)])
    yield store
    store.close()


def a_call(work: Callable[[Transaction], Any], timeout: float = 5.0) -> TransactionCall:
    def encoded(tx: Transaction) -> bytes:
        return str(work(tx)).encode()

    return TransactionCall("run r, step 's'", "s", timeout, encoded, time.monotonic)


def test_what_was_kept_answers_and_nothing_is_done_again(store: PostgresStore) -> None:
    call = a_call(lambda tx: book(tx, "once", 1))
    assert store.transact(1, b"key", call) == b"1"
    assert store.transact(1, b"key", call) == b"1"
    assert store.transact(1, b"other", call) == b"2"
    assert calls["once"] == 2


def test_a_replica_without_its_row_keeps_nothing(store: PostgresStore, schema: str) -> None:
    def fenced_meanwhile(tx: Transaction) -> None:
        book(tx, "zombie", 1)
        asyncio.run(execute(a_url(), f"DELETE FROM {schema}.rotor_replicas"))

    store.transact(1, b"first", a_call(lambda tx: book(tx, "first", 1)))
    with pytest.raises(ReplicaFencedError, match="its transaction was undone"):
        store.transact(1, b"key", a_call(fenced_meanwhile))
    assert asyncio.run(rows(schema)) == [("first", 1)]


def test_a_function_that_goes_on_after_a_failed_statement_is_told_that_all_is_undone(store: PostgresStore) -> None:
    def stubborn(tx: Transaction) -> str:
        try:
            book(tx, "too much", 1_000)
        except Exception:
            return "never mind"
        return "?"

    with pytest.raises(WorkError, match="a statement of its transaction failed, which undid all of it"):
        store.transact(1, b"key", a_call(stubborn))
    assert store.transact(1, b"key", a_call(lambda tx: book(tx, "good", 1))) == b"1"


def test_a_client_that_is_paused_within_it_keeps_its_locks_no_longer_than_its_time_limit(
    store: PostgresStore, schema: str
) -> None:
    """The server undoes it: whoever waits for the locks, or for the replica's row, need not wait for the client."""
    paused, over = threading.Event(), threading.Event()

    def pausing(tx: Transaction) -> None:
        book(tx, "paused", 1)
        paused.set()
        over.wait(30)
        tx.execute("SELECT 1")

    store.transact(1, b"first", a_call(lambda tx: book(tx, "first", 1)))
    outcomes: list[BaseException] = []

    def transact() -> None:
        try:
            store.transact(1, b"key", TransactionCall("run r, step 's'", "s", 0.2, _encoded(pausing), lambda: 0.0))
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=transact)
    thread.start()
    assert paused.wait(10)
    asyncio.run(asyncio.wait_for(execute(a_url(), f"DO $$ BEGIN LOCK TABLE {schema}.bookings; END $$"), 20))
    over.set()
    thread.join()
    [outcome] = outcomes
    assert isinstance(outcome, (WorkError, StoreUnavailableError))
    assert asyncio.run(rows(schema)) == [("first", 1)]


def _encoded(work: Callable[[Transaction], None]) -> Callable[[Transaction], bytes]:
    def encoded(tx: Transaction) -> bytes:
        work(tx)
        return b""

    return encoded


def test_one_that_nobody_wants_any_more_is_undone(store: PostgresStore) -> None:
    call = a_call(lambda tx: tx.execute("SELECT pg_sleep(60)"))
    threading.Timer(0.2, lambda: setattr(call, "is_unwanted", True)).start()
    with pytest.raises(WorkError) as caught:
        store.transact(1, b"key", call)
    assert isinstance(caught.value.raised, UnwantedError)
    store.transact(1, b"key", a_call(lambda tx: tx.execute("SELECT 1")))


@pytest.mark.parametrize("dropped", ["before", "within"])
def test_a_connection_that_was_dropped_without_a_word_holds_up_nobody_for_ever(
    schema: str, dropped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All commits of a replica wait for its transactions, while its heart beats on."""
    monkeypatch.setattr(transacting, "_MARGIN_SECONDS", 0.3)
    address = urlsplit(a_url())
    proxy = Proxy(address.port or 5432)
    netloc = f"{address.username}@127.0.0.1:{proxy.port}"
    store = PostgresStore(address._replace(netloc=netloc).geturl(), schema=schema, lease=60, timeout=5)
    store.open()

    def work(tx: Transaction) -> None:
        if dropped == "within":
            proxy.set(Mode.HOLD)
            tx.execute("SELECT 1")

    done = threading.Event()
    outcomes: list[BaseException] = []

    def transact() -> None:
        try:
            store.transact(1, b"key", a_call(work, 0.3))
        except BaseException as error:
            outcomes.append(error)
        done.set()

    try:
        store.transact(1, b"first", a_call(lambda tx: tx.execute("SELECT 1")))
        if dropped == "before":
            proxy.set(Mode.HOLD)
        threading.Thread(target=transact, daemon=True).start()
        assert done.wait(20)
        assert isinstance(outcomes[0], StoreUnavailableError if dropped == "before" else WorkError | StepTimeoutError)
    finally:
        proxy.set(Mode.PASS)
        proxy.cut_all()
        store.close()
        proxy.close()


def test_two_in_each_others_way_are_both_done(schema: str) -> None:
    """The server opens the ring and undoes one of them; it is done again."""
    stores = [a_store(schema), a_store(schema)]
    for n, store in enumerate(stores):
        store.open()
        store.commit([RunCreated(a_run((store.replica << 32) + 1, run_id=f"r{n}"), 1)])
    stores[0].transact(0, b"", a_call(lambda tx: tx.execute(
        "CREATE TABLE pair(id integer, value integer); INSERT INTO pair VALUES (0, 0), (1, 0)")))  # fmt: skip
    meeting = threading.Barrier(2)

    def crossing(first: int) -> Callable[[Transaction], None]:
        def work(tx: Transaction) -> None:
            calls[f"from {first}"] += 1
            tx.execute("UPDATE pair SET value = value + 1 WHERE id = ?", (first,))
            if calls[f"from {first}"] == 1:
                meeting.wait(10)
            tx.execute("UPDATE pair SET value = value + 1 WHERE id = ?", (1 - first,))

        return work

    threads = [
        threading.Thread(target=store.transact, args=(n, b"key", a_call(crossing(n), 20.0)))
        for n, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asyncio.run(execute(a_url(), f"SELECT id, value FROM {schema}.pair ORDER BY id")) == [(0, 2), (1, 2)]
    assert sum(calls.values()) >= 3  # one of the functions was executed again
    for store in stores:
        store.close()


def test_what_is_sqlites_own_is_refused_with_what_to_write_instead(store: PostgresStore) -> None:
    kept: list[Transaction] = []

    def work(tx: Transaction) -> str:
        kept.append(tx)
        tx.execute("CREATE TABLE t(id serial, name text)")
        with pytest.raises(StepRefusedError, match="RETURNING id"):
            _ = tx.last_rowid
        tx.executemany("INSERT INTO t(name) VALUES (:name)", [{"name": "a"}, {"name": "b"}])
        return repr(tx.execute("SELECT id, name FROM t WHERE name = $1 OR name = $2 ORDER BY id", ("a", "b")))

    assert store.transact(1, b"key", a_call(work)) == b"[(1, 'a'), (2, 'b')]"
    with pytest.raises(StepRefusedError, match="its transaction is over"):
        kept[0].execute("SELECT 1")


# Placeholders


PLACEHOLDERS: list[tuple[str, Any, list[tuple[str, list[Any]]]]] = [
    ("SELECT ?, '?', \"?\" -- ?\n, ?", (1, 2), [("SELECT $1, '?', \"?\" -- ?\n, $2", [1, 2])]),
    ("SELECT $$ ? $$, $a$ ?; $a$, E'\\'?', ?", (1,), [("SELECT $$ ? $$, $a$ ?; $a$, E'\\'?', $1", [1])]),
    ("SELECT a ? 'key' FROM t WHERE n = $1", (1,), [("SELECT a ? 'key' FROM t WHERE n = $1", [1])]),
    ("SELECT :a::text, :b, :a", {"a": 1, "b": 2}, [("SELECT $1::text, $2, $1", [1, 2])]),
    ("A ?; B ?, ?; ;", (1, 2, 3), [("A $1", [1]), (" B $1, $2", [2, 3])]),
    ("SELECT a[1:2], '10:30'", {}, [("SELECT a[1:2], '10:30'", [])]),
    ("", (), []),
    ("-- nothing", (), []),
]


@pytest.mark.parametrize(("sql", "bindings", "expected"), PLACEHOLDERS)
def test_placeholders_of_sqlite_are_understood(sql: str, bindings: Any, expected: list[tuple[str, list[Any]]]) -> None:
    assert [(text, arguments) for _, text, arguments in allotted(sql, bindings)] == expected


@pytest.mark.parametrize(("sql", "bindings"), [("SELECT :a", {"b": 1}), ("SELECT ?; SELECT ?", (1, 2, 3))])
def test_bindings_that_do_not_fit_are_refused(sql: str, bindings: Any) -> None:
    with pytest.raises(ValueError, match="bindings"):
        list(allotted(sql, bindings))
