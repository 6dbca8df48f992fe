"""Behind a pooler that gives each statement another process of the server: no statement is prepared, none is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from conformance import MakeStore, StoreConformance, a_run
from postgres_kit import a_url, execute, new_schema
from postgres_server import Pooler
from shared_conformance import MakeReplica, SharedStoreConformance

from rotor_actors import Context, PostgresStore, Runtime, Transaction, workflow
from rotor_actors.records import RunCreated, RunsReleased
from rotor_actors.stores.base import Store
from rotor_actors.stores.shared import ClaimQuery, Declared, SharedStore


@pytest.fixture(scope="module")
def pooled_url() -> Iterator[str]:
    """Of PgBouncer, where it is installed; else of the server itself: what the store does without is the same."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    port = urlsplit(a_url()).port
    if program is None or port is None:
        yield a_url()
        return
    pooler = Pooler(port, program)
    for _ in range(1_000):
        try:
            asyncio.run(execute(pooler.url, "SELECT 1"))
            break
        except (OSError, asyncpg.PostgresError):
            time.sleep(0.01)
    yield pooler.url
    pooler.remove()


only_in_full = pytest.mark.skipif(
    os.environ.get("ROTOR_TEST_POSTGRES") != "all", reason="runs with `make test-postgres`: it is the same once more"
)


@only_in_full
class TestPooledStore(StoreConformance):
    @pytest.fixture
    def make_store(self, pooled_url: str) -> MakeStore:
        url = f"{pooled_url}?pgbouncer=1&schema={new_schema()}"
        return lambda: PostgresStore(url)

    def check_numbers(self, store: Store, expected: tuple[int, int]) -> None:
        assert isinstance(store, PostgresStore)
        assert store.last_numbers() == (store.replica << 32, 0)


@only_in_full
class TestPooledReplicas(SharedStoreConformance):
    @pytest.fixture
    def make_replica(self, pooled_url: str) -> MakeReplica:
        self.schema = new_schema()
        return lambda: PostgresStore(f"{pooled_url}?pgbouncer=1", schema=self.schema)

    def expire(self, store: SharedStore) -> None:
        sql = f"UPDATE {self.schema}.rotor_replicas SET lease_until = 0 WHERE number = {store.replica}"
        asyncio.run(execute(a_url(), sql))

    @pytest.mark.skip(reason="behind a pooler nobody can be told: replicas look for themselves")
    def test_hints_come_for_mail_and_for_runs_to_claim(self) -> None:  # type: ignore[override]
        ...


def test_what_is_written_behind_a_pooler_is_read_there(pooled_url: str) -> None:
    schema = new_schema()
    first, second = (PostgresStore(f"{pooled_url}?pgbouncer=1", schema=schema) for _ in range(2))
    for store in (first, second):
        store.open()
    runs = [a_run((first.replica << 32) + n, run_id=f"run-{n}", input=b"in") for n in range(1, 30)]
    for run in runs:
        first.commit([RunCreated(run, 1)])
        assert second.find(run.run_id) == run
    first.commit([RunsReleased([run.n for run in runs])])
    second.declare("second", [Declared("flow")])
    assert len(second.claim(ClaimQuery()).runs) == 29
    for store in (first, second):
        store.close()


@workflow(id="quick")
async def quick(ctx: Context, n: int) -> int:
    async def double() -> int:
        return n * 2

    def add(tx: Transaction, amount: int) -> int:
        tx.execute("CREATE TABLE IF NOT EXISTS sums(amount integer)")
        tx.execute("INSERT INTO sums VALUES (?)", (amount,))
        return int(tx.execute("SELECT sum(amount) FROM sums")[0][0])

    return await ctx.step.transaction("add", add, await ctx.step.run("double", double))


@pytest.mark.asyncio
async def test_workflows_run_behind_a_pooler(pooled_url: str) -> None:
    async with Runtime(f"{pooled_url}?pgbouncer=1&schema={new_schema()}", workflows=[quick]) as runtime:
        assert [await runtime.execute(quick, n) for n in (1, 2, 3)] == [2, 6, 12]
