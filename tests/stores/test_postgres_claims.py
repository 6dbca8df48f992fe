"""What a claim costs where there is much that is not to be claimed."""

from __future__ import annotations

import asyncio

import asyncpg
from conformance import a_run
from postgres_kit import a_store, a_url, new_schema

from rotor_actors.records import MailKind, MailSent, RunCreated, RunsReleased
from rotor_actors.stores.postgres.address import within
from rotor_actors.stores.shared import ClaimQuery, Declared

_FETCHED = (
    "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE schemaname = $1 AND relname = 'rotor_runs'"
)


def test_a_claim_does_not_look_at_each_run_that_sleeps() -> None:
    """Each replica claims each second, and on each hint; and what sleeps for weeks may be very much."""
    store = a_store(schema := new_schema(), lease=60)
    store.open()

    async def claimed() -> tuple[list[int], int]:
        connection = await asyncpg.connect(a_url())
        try:
            async with connection.transaction():
                sql = within("SELECT n FROM @.rotor_claim($1, 100, false) WHERE n IS NOT NULL", schema)
                found = [n for (n,) in await connection.fetch(sql, store.replica)]
                return found, await connection.fetchval(_FETCHED, schema)
        finally:
            await connection.close()

    try:
        runs = [a_run(store.replica * 2**32 + at, run_id=f"r{at}") for at in range(1, 501)]
        store.declare("here", [Declared(runs[0].workflow_id)])
        store.commit([RunCreated(run, run.n) for run in runs])
        store.commit([RunsReleased([run.n for run in runs], is_parked=True)])
        store.commit([MailSent(runs[7].n, MailKind.SIGNAL)])
        chosen, fetched = asyncio.run(claimed())
        assert chosen == [runs[7].n]
        assert fetched < 50
        assert [each.live.row.n for each in store.claim(ClaimQuery(100)).runs] in ([], [runs[7].n])
    finally:
        store.close()
