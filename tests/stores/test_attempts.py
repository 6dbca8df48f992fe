"""Commits that the store may refuse, and entries that another replica numbered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from conformance import a_run

from rotor_actors import MemoryStore
from rotor_actors.errors import ReplicaFencedError, StoreError
from rotor_actors.executor import InlineExecutor
from rotor_actors.journal import Journal
from rotor_actors.records import RunCreated, RunRow
from rotor_actors.stores.base import Store
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore

pytestmark = pytest.mark.asyncio


class Bench:
    """A replica's journal with its writer, and the effects that it began."""

    def __init__(self, store: Store) -> None:
        self.begun: list[str] = []
        self.failures: list[StoreError] = []
        self.journal = Journal(store, InlineExecutor(), 0, lambda each: each(), self._release, self.failures.append)
        self._writer = asyncio.ensure_future(self.journal.serve())

    def _release(self, effects: list[Callable[[], None]]) -> None:
        for effect in effects:
            effect()

    def effect(self, seq: int, name: str) -> None:
        self.journal.when_durable(seq, lambda: self.begun.append(name))

    async def close(self) -> None:
        self._writer.cancel()
        await asyncio.wait([self._writer])


class Two:
    """Two replicas of one database."""

    def __init__(self) -> None:
        self.database = SharedDatabase()
        self.stores = [SharedMemoryStore(self.database) for _ in range(2)]
        for store in self.stores:
            store.open()
        self.first, self.second = (Bench(store) for store in self.stores)

    def run(self, replica: int, number: int, run_id: str) -> RunRow:
        row = a_run((replica << 32) + number)
        row.run_id = run_id
        return row


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Two]:
    two = Two()
    yield two
    await two.first.close()
    await two.second.close()


async def test_of_two_replicas_that_choose_one_run_id_one_is_refused(two: Two) -> None:
    chosen = [
        two.first.journal.attempt([RunCreated(two.run(1, 1, "order-7"))]),
        two.second.journal.attempt([RunCreated(two.run(2, 1, "order-7"))]),
    ]
    assert await asyncio.gather(*chosen) == [True, False]
    assert [row.n for row in two.database.rows([1 << 32 | 1, 2 << 32 | 1])] == [1 << 32 | 1]


async def test_an_attempt_is_committed_in_order_with_what_else_is_appended(two: Two) -> None:
    journal = two.first.journal
    journal.append(RunCreated(two.run(1, 1, "before")))
    attempt = asyncio.ensure_future(journal.attempt([RunCreated(two.run(1, 2, "chosen"))]))
    await asyncio.sleep(0)
    after = journal.append(RunCreated(two.run(1, 3, "after")))
    two.first.effect(after, "after")
    assert await attempt
    await journal.durable(after)
    assert two.first.begun == ["after"]
    assert [two.database.find(each) is not None for each in ("before", "chosen", "after")] == [True] * 3
    assert journal.is_idle


async def test_what_waits_for_entries_before_a_refused_attempt_begins_all_the_same(two: Two) -> None:
    assert await two.second.journal.attempt([RunCreated(two.run(2, 1, "taken"))])
    journal = two.first.journal
    before = journal.append(RunCreated(two.run(1, 1, "mine")))
    attempt = asyncio.ensure_future(journal.attempt([RunCreated(two.run(1, 2, "taken"))]))
    await asyncio.sleep(0)
    two.first.effect(before, "before")
    two.first.effect(journal.last_seq, "behind")
    assert not await attempt
    assert two.first.begun == ["before", "behind"]
    assert journal.is_idle


async def test_a_caller_who_is_cancelled_undoes_no_attempt(two: Two) -> None:
    known: list[str] = []
    attempt = asyncio.ensure_future(
        two.first.journal.attempt([RunCreated(two.run(1, 1, "order-7"))], lambda: known.append("accepted"))
    )
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait([attempt])
    await two.first.journal.durable(two.first.journal.last_seq)
    assert known == ["accepted"]
    assert two.database.find("order-7") is not None


async def test_an_attempt_of_a_replica_that_is_fenced_is_an_error_and_the_last(two: Two) -> None:
    two.database.leave(1)
    with pytest.raises(ReplicaFencedError):
        await two.first.journal.attempt([RunCreated(two.run(1, 1, "order-7"))])
    assert len(two.first.failures) == 1
    with pytest.raises(ReplicaFencedError):
        await two.first.journal.attempt([RunCreated(two.run(1, 2, "order-8"))])
    assert two.database.find("order-7") is None


async def test_on_a_store_with_one_owner_an_attempt_is_an_append(two: Two) -> None:
    store = MemoryStore()
    bench = Bench(store)
    known: list[str] = []
    assert await bench.journal.attempt([RunCreated(a_run(1))], lambda: known.append("accepted"))
    assert known == ["accepted"]
    assert [row.n for row in store.rows([1])] == [1]
    await bench.close()


async def test_what_is_appended_after_an_entry_was_witnessed_is_newer(two: Two) -> None:
    assert await two.first.journal.attempt([RunCreated(two.run(1, 1, "run"))])
    journal = two.second.journal
    journal.witness(500)
    two.second.effect(500, "its past")
    assert two.second.begun == []
    row = two.run(2, 1, "other")
    seq = journal.append(RunCreated(row))
    assert seq > 500
    await journal.durable(journal.last_seq)
    assert two.second.begun == ["its past"]
    journal.witness(3)
    assert journal.is_idle
