"""What a database does to its replicas: it crashes, hangs up, lets nobody in, stands behind a pooler, is migrated."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from failures.cluster import Cluster
from failures.fan_outs import SPREAD, a_fan_out, check_fan_out, start_again
from postgres_server import Pooler, PostgresServer, all_binaries

_OTHERS = "pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name LIKE 'rotor %'"


def hang_up_on(cluster: Cluster, user: str = "") -> None:
    mine = f" AND usename = '{user}'" if user else ""
    cluster.sql(f"SELECT pg_terminate_backend(pid) FROM {_OTHERS}{mine}")


@pytest.mark.long
def test_a_database_that_crashes_twice_comes_back_with_all_that_it_acknowledged(
    cluster: Cluster, durable_server: PostgresServer, size: int
) -> None:
    a, *_ = a_fan_out(cluster, size, "--hold", "0.05")
    for share in (4, 2):
        cluster.wait_for_effects(size // share)
        durable_server.stop("immediate")
        start_again(durable_server)
    check_fan_out(cluster, a, size)


def test_connections_that_are_ended_all_the_time_cost_time_and_nothing_else(cluster: Cluster, size: int) -> None:
    a, *_ = a_fan_out(cluster, size, "--hold", "0.05")
    limit = time.monotonic() + (10.0 if size > 1_000 else 2.0)
    while time.monotonic() < limit:
        hang_up_on(cluster)
        time.sleep(0.2)
    check_fan_out(cluster, a, size)
    assert any(each.says("began anew as replica") for each in cluster.replicas)


# Nobody is let in


@pytest.fixture
def small_server() -> Iterator[PostgresServer]:
    """It lets few in at a time."""
    server = PostgresServer(next(iter(all_binaries().values())), "max_connections=10")
    server.start()
    yield server
    server.remove()


def fill(url: str, loop: asyncio.AbstractEventLoop) -> list[Any]:
    """Take all connections that are left."""

    async def take() -> list[Any]:
        taken: list[Any] = []
        while True:
            try:
                taken.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                return taken

    return loop.run_until_complete(take())


@pytest.mark.long
def test_a_server_without_a_connection_left_is_named_and_later_used(
    small_server: PostgresServer, tmp_path: Path
) -> None:
    cluster = Cluster(small_server.url, "t1", tmp_path)
    loop = asyncio.new_event_loop()
    taken = fill(small_server.url, loop)
    try:
        first = cluster.add("a", *SPREAD)
        assert first.wait_for_end() != 0
        assert first.says("the server has no connection left; raise max_connections, or use PgBouncer")
        for each in taken[1:]:
            loop.run_until_complete(each.close())
        (b,) = cluster.add_all("b", *SPREAD)
        cluster.count_transitions()
        b.do("start", workflow="sleeper", data=3.0, run_id="sleeper")
        # In the middle: the replica has lost its connections, and others were quicker.
        loop.run_until_complete(taken[0].fetch(f"SELECT pg_terminate_backend(pid) FROM {_OTHERS}"))
        more = fill(small_server.url, loop)
        time.sleep(4.0)
        for each in more:
            loop.run_until_complete(each.close())
        cluster.check()
        assert b.do("result", run_id="sleeper") == 2
    finally:
        for each in taken:
            each.terminate()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        cluster.close()


@pytest.fixture
def user(cluster: Cluster, durable_server: PostgresServer) -> Iterator[str]:
    """One who may do little, and needs a password."""
    name = f"u{uuid.uuid4().hex[:8]}"
    cluster.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'old'")
    cluster.sql(f"GRANT CREATE ON DATABASE postgres TO {name}")
    hba = durable_server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}")
    cluster.sql("SELECT pg_reload_conf()")
    yield name
    for each in cluster.replicas:
        each.stop()
    hba.write_text(before)
    cluster.sql("SELECT pg_reload_conf()")
    cluster.sql(f"DROP OWNED BY {name} CASCADE")
    cluster.sql(f"DROP ROLE {name}")


@pytest.mark.long
def test_a_user_with_too_few_connections_is_told_and_goes_on_when_there_are_enough(
    cluster: Cluster, user: str, size: int
) -> None:
    (a,) = cluster.add_all_as(f"{user}:old", "a", *SPREAD, "--hold", "0.02")
    cluster.count_transitions()
    a.do("start", workflow="local-fan-out", data=size // 3, run_id="root")
    for connections in (0, 2):
        cluster.sql(f"ALTER ROLE {user} CONNECTION LIMIT {connections}")
        hang_up_on(cluster, user)
        time.sleep(4.0)
    assert a.says("the server has no connection left")
    cluster.sql(f"ALTER ROLE {user} CONNECTION LIMIT -1")
    check_fan_out(cluster, a, size // 3)


@pytest.mark.long
def test_who_has_the_old_password_says_so_and_others_go_on_with_the_new_one(cluster: Cluster, user: str) -> None:
    (a,) = cluster.add_all_as(f"{user}:old", "a", *SPREAD, "--hold", "3")
    cluster.count_transitions()
    a.do("start", workflow="local-fan-out", data=400, run_id="root")
    cluster.wait_for_effects(400)
    cluster.sql(f"ALTER ROLE {user} PASSWORD 'new'")
    (b,) = cluster.add_all_as(f"{user}:new", "b", *SPREAD, "--hold", "0.02")
    hang_up_on(cluster, user)
    cluster.wait_until(lambda: a.says("the password is wrong"), 30.0, "a to say what is wrong")
    check_fan_out(cluster, b, 400)
    cluster.sql(f"ALTER ROLE {user} PASSWORD 'old'")
    cluster.wait_until(lambda: a.says("began anew as replica"), 60.0, "a to come back")
    assert a.do("result", run_id="root") == 400 * 399 // 2


# A pooler


@pytest.fixture
def pooler(durable_server: PostgresServer) -> Iterator[Pooler]:
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    made = Pooler(durable_server.port, program)
    yield made
    made.remove()


@pytest.mark.long
def test_replicas_behind_a_pooler_are_killed_and_cut_off_as_others_are(
    cluster: Cluster, pooler: Pooler, size: int
) -> None:
    address = f"127.0.0.1:{pooler.port}"
    options = (*SPREAD, "--no-hints", "--hold", "0.05")
    a, b, c = [cluster.add(label, *options, address=address) for label in "abc"]
    for each in (a, b, c):
        each.wait_until_open()
    cluster.count_transitions()
    a.do("start", workflow="fan-out", data=size, run_id="root")
    cluster.wait_for_effects(size // 4)
    a.kill()
    cluster.wait_for_effects(size // 2)
    cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    check_fan_out(cluster, b, size)


# Another schema


@pytest.mark.long
def test_an_older_program_goes_on_beside_a_newer_schema_but_cannot_come_back_to_it(cluster: Cluster, size: int) -> None:
    patient = ("--hold", "0.1", "--lease", "15")  # who loses his lease on a slow machine does not come back here
    old, *_ = a_fan_out(cluster, size, *patient)
    cluster.wait_for_effects(size // 6)
    new = cluster.add("new", *SPREAD, *patient, "--newer-schema").wait_until_open()
    assert cluster.sql("SELECT version FROM rotor_schema")[0][0] == 2
    at_migration = len(cluster.ledger.read_bytes().splitlines())
    cluster.wait_for_effects(at_migration + size // 4)
    lines = [line.split()[2] for line in cluster.ledger.read_text().splitlines()[at_migration:]]
    assert {"new", "a"} <= set(lines), "both are at work"
    assert not any(each.says("this replica has lost the store") for each in cluster.replicas)
    late = cluster.add("late", *SPREAD)
    assert late.wait_for_end() != 0
    assert late.says("has version 2, this program knows 1; nothing was changed. Install a newer rotor-actors")
    cluster.sql("DELETE FROM rotor_replicas WHERE label = 'a'")  # it is taken for dead
    cluster.wait_until(lambda: old.says("this program knows 1"), 60.0, "a to say why it cannot come back")
    check_fan_out(cluster, new, size)
