"""`step.transaction`: the user's rows and the step's memo in one transaction, exactly once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import pytest
from kit import STRIDE, FragileStore, World

from rotor_actors import Context, RetryPolicy, Runtime, SQLiteStore, Transaction, workflow
from rotor_actors.errors import StepRefusedError, StepTimeoutError, StoreError, WorkflowFailedError
from rotor_actors.stores.transaction import TransactionCall

PROGRAM = Path(__file__).parent / "programs" / "booking.py"

calls: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def forget() -> None:
    calls.clear()


def book(tx: Transaction, name: str, amount: int) -> int:
    calls[name] += 1
    tx.execute("CREATE TABLE IF NOT EXISTS bookings(name TEXT, amount INTEGER CHECK (amount < 1000))")
    tx.execute("INSERT INTO bookings VALUES (?, ?)", (name, amount))
    total: int = tx.execute("SELECT sum(amount) FROM bookings")[0][0]
    return total


def rows(file: Path) -> list[Any]:
    connection: Any = apsw.Connection(str(file))
    try:
        return list(connection.execute("SELECT name, amount FROM bookings"))
    finally:
        connection.close()


@workflow(id="booking", retries=0)
async def booking(ctx: Context) -> list[int]:
    return [await ctx.step.transaction(f"b{n}", book, f"b{n}", 10**n) for n in range(3)]


@pytest.mark.asyncio
async def test_rows_and_memo_are_written_once_and_read_beside(tmp_path: Path) -> None:
    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        assert await runtime.execute(booking, run_id="r") == [1, 11, 111]
        assert [(step.step_id, step.kind) for step in await runtime.steps("r")] == [
            ("b0", "transaction"), ("b1", "transaction"), ("b2", "transaction"),
        ]  # fmt: skip
    assert rows(file) == [("b0", 1), ("b1", 10), ("b2", 100)]


class CountedStore(FragileStore):
    """Its transactions are positions to crash at, too: before one, or after it, when nobody has learnt of it."""

    transactions_left: int | None = None
    is_after = False

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        if self.transactions_left == 0 and not self.is_after:
            raise StoreError("the power is gone")
        payload = super().transact(n, key, call)
        if self.transactions_left == 0:
            raise StoreError("the power is gone")
        if self.transactions_left is not None:
            self.transactions_left -= 1
        return payload

    @property
    def bookings(self) -> list[Any]:
        sql = "SELECT name, amount FROM bookings"
        look: Any = getattr(self, "look", None)
        return list(self._database.connection.execute(sql)) if look is None else list(look(sql))


@pytest.mark.asyncio
@pytest.mark.parametrize("is_after", [False, True])
async def test_a_crash_before_or_after_any_transaction_books_once(is_after: bool) -> None:
    for position in range(3):
        store = CountedStore()
        world = World(booking, store=store)
        await world.open()
        store.transactions_left, store.is_after = position, is_after
        with pytest.raises(StoreError):
            await world.execute(booking, run_id="r")
        store.transactions_left = None
        await world.reopen()
        assert await world.result("r") == [1, 11, 111]
        assert store.bookings == [("b0", 1), ("b1", 10), ("b2", 100)]
        await world.close()


@pytest.mark.asyncio
async def test_a_crash_at_any_journal_position_books_once() -> None:
    position = 0
    while True:
        store = CountedStore()
        world = World(booking, store=store)
        await world.open()
        store.entries_left = position
        try:
            await world.execute(booking, run_id="r")
        except StoreError:
            await world.reopen()
            assert await world.execute(booking, run_id="r") == [1, 11, 111]
            assert store.bookings == [("b0", 1), ("b1", 10), ("b2", 100)]
            await world.close()
        else:
            await world.close()
            break
        position += STRIDE
    assert position > 3


@pytest.mark.parametrize("place", ["before", "within", "after", "commit"])
def test_a_kill_around_a_transaction_books_once(tmp_path: Path, place: str) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path / "rotor.db")]
    root = PROGRAM.parent.parent.parent
    killed = subprocess.run([*command, place], cwd=root, capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "1111\n"


@pytest.mark.asyncio
async def test_an_error_undoes_the_rows_and_is_recorded(tmp_path: Path) -> None:
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
            return type(error).__name__
        return "?"

    def failing(tx: Transaction) -> None:
        book(tx, "failing", 5)
        raise KeyError("no")

    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        assert await runtime.execute(w, run_id="r") == "ConstraintError"
        assert [step.status.value for step in await runtime.steps("r")] == ["completed", "failed", "failed"]
    assert rows(file) == [("good", 1)]


@pytest.mark.asyncio
async def test_it_is_tried_again_by_its_own_policy_and_by_the_run() -> None:
    @workflow(id="w", retries=RetryPolicy(1, initial="1s", jitter=False))
    async def w(ctx: Context) -> int:
        return await ctx.step.transaction("it", flaky, retries=RetryPolicy(1, initial="1s", jitter=False))

    def flaky(tx: Transaction) -> int:
        total = book(tx, "flaky", 1)
        if calls["flaky"] < 4:
            raise ValueError("not yet")
        return total

    store = CountedStore()
    async with World(w, store=store) as world:
        assert await world.execute(w, run_id="r") == 1
        assert calls["flaky"] == 4
        assert store.bookings == [("flaky", 1)]


REFUSED = [
    ("UPDATE runs SET status = 'completed'", "table 'runs' is the runtime's own"),
    ("SELECT * FROM steps", "table 'steps' is the runtime's own"),
    ("DROP TABLE items", "table 'items' is the runtime's own"),
    ("CREATE TABLE rotor_mine(x)", "table 'rotor_mine' is the runtime's own"),
    ("CREATE INDEX i ON runs(status)", "table 'runs' is the runtime's own"),
    ("CREATE TRIGGER t AFTER INSERT ON runs BEGIN SELECT 1; END", "table 'runs' is the runtime's own"),
    ("ALTER TABLE runs ADD COLUMN x", "table 'runs' is the runtime's own"),
    ("INSERT INTO temp.commits VALUES (1)", "table 'commits' is the runtime's own"),
    ("COMMIT", "BEGIN, COMMIT and ROLLBACK are not yours here"),
    ("SAVEPOINT s", "SAVEPOINT is not yours here"),
    ("ATTACH ':memory:' AS other", "ATTACH"),
    ("PRAGMA synchronous = OFF", "PRAGMA is not possible here"),
    ("CREATE TEMP TABLE t(x)", "temporary tables are not possible here"),
]


@pytest.mark.asyncio
async def test_what_it_may_not_do_is_refused_by_name_and_undoes_all(tmp_path: Path) -> None:
    @workflow(id="w", retries=0)
    async def w(ctx: Context, sql: str) -> str:
        try:
            await ctx.step.transaction("it", forbidden, sql)
        except StepRefusedError as error:
            return str(error)
        return "not refused"

    def forbidden(tx: Transaction, sql: str) -> None:
        book(tx, "x", 1)
        tx.execute(sql)

    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        for sql, text in REFUSED:
            assert text in await runtime.execute(w, sql), sql
        await runtime.execute(booking)
    assert rows(file) == [("b0", 1), ("b1", 10), ("b2", 100)]


@pytest.mark.asyncio
async def test_one_that_takes_too_long_is_undone_and_says_so(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"

    @workflow(id="w", retries=0)
    async def w(ctx: Context, in_sql: bool) -> None:
        await ctx.step.transaction("it", slow, in_sql, timeout="50ms")

    def slow(tx: Transaction, in_sql: bool) -> None:
        book(tx, "slow", 1)
        if in_sql:
            tx.execute(endless)
        time.sleep(0.1)

    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        for in_sql in (True, False):
            with pytest.raises(WorkflowFailedError, match=r"took longer than 0.05 s, and was rolled back") as caught:
                await runtime.execute(w, in_sql)
            assert StepTimeoutError.__name__ in caught.value.error.type
        await runtime.execute(booking)
    assert rows(file) == [("b0", 1), ("b1", 10), ("b2", 100)]


@pytest.mark.asyncio
async def test_bad_input_is_refused_by_name(tmp_path: Path) -> None:
    errors: list[str] = []
    kept: list[Transaction] = []

    async def asynchronous(tx: Transaction) -> None: ...

    def keep(tx: Transaction) -> None:
        kept.append(tx)

    def unstorable(tx: Transaction) -> object:
        book(tx, "unstorable", 1)
        return object()

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        attempts: list[Any] = [
            lambda: ctx.step.transaction("a", asynchronous),
            lambda: ctx.step.transaction("b", keep, timeout="2m"),
            lambda: ctx.step.transaction("c", unstorable),
        ]
        for attempt in attempts:
            try:
                await attempt()
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
        await ctx.step.transaction("keep", keep)

    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        await runtime.execute(w)
        await runtime.execute(booking)
    assert "takes a sync function of the transaction" in errors[0]
    assert errors[1].startswith("DurationError: timeout")
    assert errors[2].startswith("PayloadError")
    with pytest.raises(StepRefusedError, match="its transaction is over"):
        kept[0].execute("SELECT 1")
    assert rows(file) == [("b0", 1), ("b1", 10), ("b2", 100)]


class OtherStore(FragileStore):
    """One that knows nothing of transactions."""

    transact = None  # type: ignore[assignment]


@pytest.mark.asyncio
async def test_a_store_that_cannot_do_it_is_named() -> None:
    async with World(booking, store=OtherStore()) as world:
        with pytest.raises(WorkflowFailedError, match="OtherStore cannot run a transaction of yours"):
            await world.execute(booking)


@pytest.mark.asyncio
async def test_a_cancelled_run_undoes_what_is_not_committed(tmp_path: Path) -> None:
    begun = asyncio.Event()

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        await ctx.step.transaction("it", slow)

    file = tmp_path / "rotor.db"
    async with Runtime(file) as runtime:
        loop = asyncio.get_running_loop()

        def slow(tx: Transaction) -> None:
            book(tx, "slow", 1)
            loop.call_soon_threadsafe(begun.set)
            for _ in range(10_000):
                tx.execute("SELECT 1")
                time.sleep(0.001)

        handle = await runtime.start(w, run_id="r")
        await begun.wait()
        await asyncio.wait_for(handle.cancel(), 30)
        await runtime.execute(booking)
    assert rows(file) == [("b0", 1), ("b1", 10), ("b2", 100)]


@pytest.mark.asyncio
async def test_what_is_deleted_with_a_run_is_the_memo_not_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "rotor.db"
    async with Runtime(SQLiteStore(file)) as runtime:
        await runtime.execute(booking, run_id="r")
        await runtime.delete("r")
        assert await runtime.execute(booking, run_id="r") == [112, 122, 222]
    assert len(rows(file)) == 6
