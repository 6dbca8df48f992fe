"""What can be wrong with a database, each by name and with what to do about it."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import asyncpg
import pytest
from conformance import a_run, a_step, changed, ended
from postgres_kit import a_store, a_url, execute, new_schema, own_server
from postgres_server import PostgresServer

from rotor_actors import PostgresStore, Runtime, RuntimeView
from rotor_actors.errors import (
    DurationError,
    ReplicaFencedError,
    StoreCorruptedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from rotor_actors.records import (
    CancelRequested,
    Entry,
    FlagsAdded,
    ItemPut,
    ItemRow,
    MailKind,
    MailSent,
    RunChanged,
    RunCreated,
    RunWatched,
    StepRecorded,
)
from rotor_actors.stores.base import RunQuery
from rotor_actors.stores.postgres import migrating
from rotor_actors.stores.postgres.address import parsed


def sql(text: str) -> list[tuple[object, ...]]:
    return asyncio.run(execute(a_url(), text))


def refused(url: str, kind: type[StoreError], *words: str, **options: object) -> None:
    store = PostgresStore(url, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(kind) as caught:
        store.open()
    for word in words:
        assert word in str(caught.value)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("rotor-postgres")] == []


def as_user(user: str, database: str = "postgres", schema: str = "") -> str:
    netloc = urlsplit(a_url()).netloc.rpartition("@")[2]
    return f"postgresql://{user}@{netloc}/{database}" + (f"?schema={schema}" if schema else "")


@pytest.fixture
def store() -> Iterator[PostgresStore]:
    store = a_store(lease=30)
    store.open()
    yield store
    store.close()


# What is wrong with what was asked for


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mysql://host/db", "expected the URL of a PostgreSQL database"),
        ("host/db", "expected the URL of a PostgreSQL database"),
        ("postgresql://user:geheim@host:port/db", "not a URL"),
        ("postgresql://user:geheim@[host/db", "not a URL"),
        ("postgresql://user:geheim@host/db?schema=a-b", "schema 'a-b' cannot be used"),
        ("postgresql://user:geheim@host/db?schema=", "schema '' cannot be used"),
        ("postgresql://user:geheim@host/db?pgbouncer=perhaps", "write pgbouncer=1"),
        ("postgresql://user:geheim@host/db?lease=5s", r"lease is no option of a URL: PostgresStore\(url, lease=…\)"),
        ("postgresql://user:geheim@host/db postgresql://user:geheim@host/other", "give a list of URLs"),
    ],
)
def test_a_url_that_is_none_is_refused_and_its_password_is_not_told(url: str, word: str) -> None:
    with pytest.raises(StoreError, match=word) as caught:
        PostgresStore(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://user:geheim@127.0.0.1:1/db",
        "mysql://user:geheim@127.0.0.1:1/db",
        " postgresql://user:geheim@127.0.0.1:1/db",
        "postgresql:/user:geheim@127.0.0.1:1/db",
        "POSTGRESQL://user:geheim@127.0.0.1:1/db",
        "postgresql://user:geheim?x@127.0.0.1:1/db",
        "postgresql://user:geheim/x@127.0.0.1:1/db",
        "postgresql://user:geheim#x@127.0.0.1:1/db",
        "postgresql://user:geheim,x/y@127.0.0.1:1/db",
        "postgresql://user:geheim@x@127.0.0.1:1/db",
        "postgresql://user:geheim\u2100@127.0.0.1:1/db",
        "postgresql://user:geheim@127.0.0.1:a,127.0.0.1:2/db",
        "postgresql://127.0.0.1:1/db?user=user&password=geheim",
        "postgresql://127.0.0.1:1/db?user=user@cloud&password=geheim",
        "postgresql://user:12/geheim@127.0.0.1:1/db",
    ],
)
def test_no_error_of_a_runtime_or_a_view_tells_the_password(url: str) -> None:
    async def opened(way: Runtime | RuntimeView) -> None:
        async with way:
            raise AssertionError("there is no such database")

    for make in (Runtime, RuntimeView):
        with pytest.raises(StoreError) as caught:
            asyncio.run(opened(make(url)))
        assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_an_address_shown_in_a_log_tells_no_password() -> None:
    assert "geheim" not in repr(parsed("postgresql://user:geheim@host/db?password=geheim&schema=a"))


def test_a_runtime_takes_the_url_of_a_database() -> None:
    assert isinstance(Runtime("postgresql://host/db?schema=a").stores[0], PostgresStore)
    with pytest.raises(StoreError, match=r"expected a file, .*postgresql://"):
        Runtime("redis://host")


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    refused("postgresql://host/db", StoreError, "pip install 'rotor-actors[postgres]'")


# What is wrong with the server


def test_no_server_is_named_by_host_and_port() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(f"postgresql://user:geheim@127.0.0.1:{port}/db", StoreUnavailableError, "cannot be reached", str(port))


def test_an_unknown_host_is_named() -> None:
    refused("postgresql://user@no-such-host.invalid/db", StoreUnavailableError, "host is not known", "no-such-host")


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/db"
        refused(url, StoreUnavailableError, "no answer in time", timeout=0.3)


def test_a_missing_database_is_named() -> None:
    refused(as_user("postgres", "nowhere"), StoreError, "no such database", "nowhere", "CREATE DATABASE")


def test_a_server_that_is_too_old_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "OLDEST_SERVER", 990_000)
    refused(a_url(), StoreError, "14 or newer is needed")


def test_a_database_of_another_encoding_is_refused() -> None:
    name = new_schema()
    sql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    refused(as_user("postgres", name), StoreError, "ENCODING 'UTF8'")


def test_who_may_not_create_tables_is_told_what_to_grant() -> None:
    user, schema = new_schema(), new_schema()
    sql(f"CREATE ROLE {user} LOGIN")
    refused(as_user(user, schema=schema), StoreError, "permission denied", "GRANT")
    sql(f"CREATE SCHEMA {schema}")
    refused(as_user(user, schema=schema), StoreError, "permission denied", "GRANT")
    sql(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}")
    store = PostgresStore(as_user(user, schema=schema))
    store.open()
    store.commit([RunCreated(a_run(1), 1)])
    store.close()


def test_a_read_only_database_is_named() -> None:
    user = new_schema()
    sql(f"CREATE ROLE {user} LOGIN SUPERUSER")
    sql(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    refused(as_user(user), StoreUnavailableError, "read-only", "default_transaction_read_only", "primary")


# What is wrong with the schema


def test_a_newer_schema_is_refused_and_left_as_it_is() -> None:
    schema = new_schema()
    store = a_store(schema)
    store.open()
    store.close()
    newer = migrating.SCHEMA_VERSION + 1
    sql(f"UPDATE {schema}.rotor_schema SET version = {newer}")
    refused(a_url(), StoreVersionError, f"has version {newer}, this program knows {newer - 1}", schema=schema)
    assert sql(f"SELECT version FROM {schema}.rotor_schema") == [(newer,)]
    assert sql(f"SELECT count(*) FROM {schema}.rotor_replicas") == [(0,)]


@pytest.mark.parametrize("change", ["SET made_of = 'others'", "DROP COLUMN made_of"])
def test_a_schema_that_an_unreleased_program_made_in_another_way_is_refused_by_name(change: str) -> None:
    schema = new_schema()
    store = a_store(schema)
    store.open()
    store.close()
    verb = "UPDATE" if change.startswith("SET") else "ALTER TABLE"
    sql(f"{verb} {schema}.rotor_schema {change}")
    refused(a_url(), StoreVersionError, "was made by other steps than this program's", schema=schema)
    assert sql(f"SELECT count(*) FROM {schema}.rotor_replicas") == [(0,)]


def test_an_older_schema_is_brought_up_and_keeps_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = new_schema()
    store = a_store(schema)
    store.open()
    store.commit([RunCreated(a_run(1), 1)])
    store.close()
    steps = (*migrating.STEPS_TO_VERSION, "CREATE TABLE @.rotor_more(a integer)")
    monkeypatch.setattr(migrating, "STEPS_TO_VERSION", steps)
    monkeypatch.setattr(migrating, "SCHEMA_VERSION", len(steps))
    store.open()
    assert [row.n for row in store.list_runs(RunQuery())] == [1]
    store.close()
    assert sql(f"SELECT version FROM {schema}.rotor_schema") == [(len(steps),)]
    assert sql(f"SELECT count(*) FROM {schema}.rotor_more") == [(0,)]


def test_replicas_that_begin_together_create_the_schema_once() -> None:
    schema = new_schema()
    stores = [a_store(schema) for _ in range(6)]
    threads = [threading.Thread(target=store.open) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({store.replica for store in stores}) == 6
    for store in stores:
        store.close()


def test_a_damaged_payload_is_never_given() -> None:
    schema = new_schema()
    store = a_store(schema)
    store.open()
    store.commit([RunCreated(a_run(1, input=b"in"), 1), StepRecorded(a_step(1, 2, payload=b"p"), 2)])
    store.commit([ItemPut(ItemRow("a", "k", b"one"))])
    sql(f"UPDATE {schema}.rotor_runs SET input = 'im'")
    sql(f"UPDATE {schema}.rotor_steps SET payload = 'q'")
    sql(f"UPDATE {schema}.rotor_items SET body = 'two'")
    with pytest.raises(StoreCorruptedError, match="the input of run run-1 does not match its checksum"):
        store.find("run-1")
    with pytest.raises(StoreCorruptedError, match="the memo of step"):
        store.steps(1)
    [row] = store.list_runs(RunQuery())
    assert row.input is None
    found = store.item("a", "k")
    assert found is not None
    assert found.is_damaged
    sql(f"UPDATE {schema}.rotor_runs SET status = 'dancing'")
    with pytest.raises(StoreCorruptedError, match="cannot be understood"):
        store.list_runs(RunQuery())
    store.close()


# What goes wrong on the way


def test_a_full_disk_is_named_and_the_same_commit_may_be_made_again(store: PostgresStore) -> None:
    schema = store.schema
    sql(f"""
        CREATE FUNCTION {schema}.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
        """)
    sql(f"CREATE TRIGGER is_full BEFORE INSERT ON {schema}.rotor_steps EXECUTE FUNCTION {schema}.full()")
    entries: list[Entry] = [RunCreated(a_run(1), 1), StepRecorded(a_step(1, 2), 2)]
    with pytest.raises(StoreFullError, match="nothing was written; make room"):
        store.commit(entries)
    assert store.find("run-1") is None
    sql(f"DROP TRIGGER is_full ON {schema}.rotor_steps")
    store.commit(entries)
    assert store.steps(1) == [a_step(1, 2)]


def during(store: PostgresStore, act: Callable[[], object], then: Callable[[], object]) -> BaseException | None:
    """Do `then` while `act` waits for a lock that somebody holds on the runs."""

    async def work() -> BaseException | None:
        other = await asyncpg.connect(a_url())
        try:
            await other.execute(f"BEGIN; LOCK TABLE {store.schema}.rotor_runs IN ACCESS EXCLUSIVE MODE")
            acting = asyncio.ensure_future(asyncio.to_thread(act))
            waiting = (
                f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{store.schema}.rotor_runs'::regclass"
            )
            while not await other.fetchval(waiting):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.to_thread(then)
            await other.execute("ROLLBACK")
            [outcome] = await asyncio.gather(acting, return_exceptions=True)
            return outcome if isinstance(outcome, BaseException) else None
        finally:
            await other.close()

    return asyncio.run(work())


def cut(store: PostgresStore, purpose: str) -> None:
    """End the server's process of this connection of this store's, as an administrator does, or a crash."""
    sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = 'rotor {purpose} {store.replica}' AND pid <> pg_backend_pid()"
    )


def test_a_connection_that_is_lost_during_a_commit_leaves_its_outcome_unknown(store: PostgresStore) -> None:
    error = during(store, lambda: store.commit([RunCreated(a_run(1), 1)]), lambda: cut(store, "writer"))
    assert isinstance(error, StoreUnavailableError)
    assert "may be durable or not" in str(error)


def test_a_connection_that_was_lost_while_nobody_used_it_is_made_anew(store: PostgresStore) -> None:
    store.commit([RunCreated(a_run(1), 1)])
    for purpose in ("writer", "reader", "heartbeat"):
        cut(store, purpose)
    time.sleep(0.1)
    assert store.find("run-1") is not None
    store.commit([RunCreated(a_run(2), 2)])
    assert store.beat() is not None
    assert len(store.list_runs(RunQuery())) == 2


def test_a_read_that_lost_its_connection_is_made_again(store: PostgresStore) -> None:
    store.commit([RunCreated(a_run(1), 1)])
    found: list[object] = []
    error = during(store, lambda: found.append(store.find("run-1")), lambda: cut(store, "reader"))
    assert error is None
    assert found == [a_run(1)]


def test_a_beat_does_not_wait_for_a_commit(store: PostgresStore) -> None:
    beats: list[float | None] = []
    error = during(store, lambda: store.commit([RunCreated(a_run(1), 1)]), lambda: beats.append(store.beat()))
    assert error is None
    assert beats != [None]
    assert len(beats) == 1


def test_a_commit_without_an_answer_is_given_up() -> None:
    store = a_store(timeout=0.5)
    store.open()
    error = during(store, lambda: store.commit([RunCreated(a_run(1), 1)]), lambda: time.sleep(0.8))
    assert isinstance(error, StoreUnavailableError)
    assert "no answer in time" in str(error)
    store.close()


def test_two_commits_in_each_others_way_are_both_made() -> None:
    """Each touches a run of the other's: a ring of locks is not possible, or the server opens it."""
    schema = new_schema()
    a, b = a_store(schema), a_store(schema)
    for store in (a, b):
        store.open()
    runs = {
        store: [a_run((store.replica << 32) + n, run_id=f"{store.replica}-{n}") for n in range(30)] for store in (a, b)
    }
    for store in (a, b):
        store.commit([RunCreated(run, 1) for run in runs[store]])

    def work(mine: PostgresStore, other: PostgresStore) -> None:
        for attempt in range(2, 60):
            own: list[Entry] = [RunChanged(changed(run, attempt=attempt), attempt) for run in runs[mine]]
            ns = [run.n for run in runs[other]]
            foreign: list[Entry] = [FlagsAdded(ns[attempt % 30], 1), RunWatched(ns[-attempt % 30], -mine.replica)]
            mine.commit([*own[::-1], *foreign, CancelRequested(ns[::-1], b"n")])

    failures: list[BaseException] = []

    def guarded(*stores: PostgresStore) -> None:
        try:
            work(*stores)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=pair) for pair in ((a, b), (b, a))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for store in (a, b):
        assert {row.attempt for row in store.rows([run.n for run in runs[store]])} == {59}
        store.close()


def test_what_cannot_be_stored_is_the_callers_fault_and_nothing_is_lost(store: PostgresStore) -> None:
    with pytest.raises(ValueError, match="a value that the database cannot hold"):
        store.commit([RunCreated(a_run(1, workflow_id="\ud800"), 1)])
    store.commit([RunCreated(a_run(1), 1)])
    assert store.find("\ud800") is None


# Replicas


def test_a_replica_that_lost_its_row_while_its_commit_waited_changes_nothing(store: PostgresStore) -> None:
    """The fence is taken by the statement itself, not before it."""

    def reap() -> None:
        sql(f"DELETE FROM {store.schema}.rotor_replicas WHERE number = {store.replica}")

    reap()
    with pytest.raises(ReplicaFencedError, match=f"replica {store.replica} has no lease"):
        store.commit([RunCreated(a_run(1), 1), MailSent(0, MailKind.EVENT)])
    assert store.list_runs(RunQuery()) == []
    assert sql(f"SELECT count(*) FROM {store.schema}.rotor_mail") == [(0,)]


def test_whoever_takes_the_row_away_passes_over_one_that_is_just_writing(store: PostgresStore) -> None:
    other = a_store(store.schema)
    other.open()
    sql(f"UPDATE {store.schema}.rotor_replicas SET lease_until = 0 WHERE number = {store.replica}")
    reaped: list[int] = []

    def reap() -> None:
        # What it holds is its own row, which the first statement passes over; the second would wait for the lock.
        rows = sql(
            f"DELETE FROM {store.schema}.rotor_replicas WHERE number IN (SELECT number FROM "
            f"{store.schema}.rotor_replicas WHERE lease_until < 1 FOR UPDATE SKIP LOCKED) RETURNING number"
        )
        reaped.append(len(rows))

    assert during(store, lambda: store.commit([RunCreated(a_run(1), 1)]), reap) is None
    assert reaped == [0]
    assert other.owners([1]) == {1: store.replica}
    assert other.reap() == 1
    other.close()


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    server = own_server()
    server.start()
    yield server
    server.remove()


def test_a_server_that_crashed_and_came_back_has_what_was_acknowledged(mortal: PostgresServer) -> None:
    store = PostgresStore(mortal.url, schema=new_schema())
    store.open()
    store.commit([RunCreated(a_run(1), 1)])
    mortal.stop("immediate")
    with pytest.raises(StoreUnavailableError):
        store.commit([RunCreated(a_run(2), 2)])
    with pytest.raises(StoreUnavailableError):
        store.find("run-1")
    with pytest.raises(StoreUnavailableError):
        store.beat()
    mortal.start()
    assert store.find("run-1") is not None
    store.commit([RunCreated(a_run(3), 3)])  # its row is still there, and so is its lease
    store.close()


def test_a_store_whose_server_is_gone_can_be_closed(mortal: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    store = PostgresStore(mortal.url, schema=new_schema())
    store.open()
    mortal.stop("immediate")
    store.close()
    assert "others take over when its lease has run out" in caplog.text
    mortal.start()


def test_a_wrong_password_is_named(mortal: PostgresServer) -> None:
    asyncio.run(execute(mortal.url, "CREATE ROLE careful LOGIN PASSWORD 'right'"))
    rules = mortal.data / "pg_hba.conf"
    rules.write_text("host all careful 127.0.0.1/32 scram-sha-256\nhost all outsider all reject\n" + rules.read_text())
    asyncio.run(execute(mortal.url, "SELECT pg_reload_conf()"))
    place = f"127.0.0.1:{mortal.port}/postgres"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the server reads its rules when it comes to it
        try:
            asyncio.run(execute(f"postgresql://outsider@{place}", "SELECT 1"))
        except Exception as error:
            if "reject" in str(error):
                break
    refused(f"postgresql://careful:wrong@{place}", StoreError, "the password is wrong", "careful@")
    refused(f"postgresql://outsider@{place}", StoreError, "does not let this user in", "pg_hba.conf")


def test_a_database_that_becomes_read_only_is_named(mortal: PostgresServer) -> None:
    store = PostgresStore(mortal.url, schema=new_schema())
    store.open()
    try:
        asyncio.run(execute(mortal.url, "ALTER SYSTEM SET default_transaction_read_only = on"))
        asyncio.run(execute(mortal.url, "SELECT pg_reload_conf()"))
        while asyncio.run(execute(mortal.url, "SHOW transaction_read_only")) == [("off",)]:
            time.sleep(0.01)
        time.sleep(0.2)  # the store's own connection is told just after
        with pytest.raises(StoreUnavailableError, match="read-only"):
            store.commit([RunCreated(a_run(1), 1)])
    finally:
        mortal.stop()
        (mortal.data / "postgresql.auto.conf").write_text("")
        mortal.start()
    store.close()


def test_an_option_of_the_url_that_nobody_knows_is_named() -> None:
    with pytest.raises(StoreError, match=r"a URL has the options schema and pgbouncer.*shema"):
        PostgresStore(f"{a_url()}?shema=a").open()


def test_a_lease_too_short_to_be_kept_is_refused() -> None:
    with pytest.raises(DurationError, match=r"lease='10ms' must be at least 1"):
        a_store(lease="10ms")


_STRICT = "options=-c%20default_transaction_isolation%3D"


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_another_isolation_of_transactions_as_default_is_not_that_of_the_store(isolation: str) -> None:
    """Each statement is to see what others committed while it waited: several that open at once wait for each other."""
    url, schema = f"{a_url()}?{_STRICT}{isolation.replace(' ', '%5C%20')}", new_schema()
    stores = [PostgresStore(url, schema=schema) for _ in range(6)]
    try:
        with ThreadPoolExecutor(len(stores)) as threads:
            for opened in [threads.submit(store.open) for store in stores]:
                opened.result()
        assert len(stores[0].replicas()) == len(stores)
    finally:
        for store in stores:
            store.close()


def test_behind_a_pooler_another_isolation_is_refused_by_name() -> None:
    store = PostgresStore(f"{a_url()}?pgbouncer=1&{_STRICT}serializable", schema=new_schema())

    with pytest.raises(StoreError, match=r"default_transaction_isolation is 'serializable'.*ALTER ROLE"):
        store.open()


def test_the_users_way_of_reading_backslashes_is_not_the_stores() -> None:
    """An end that somebody watches for is told by a text with one."""
    store = PostgresStore(f"{a_url()}?options=-c%20standard_conforming_strings%3Doff", schema=new_schema())
    store.open()
    try:
        run = a_run(store.replica * 2**32 + 1)
        store.commit([RunCreated(run, 1)])
        store.commit([RunWatched(run.n, -store.replica)])
        store.commit([ended(run, 2)])
        assert [mail.kind for mail in store.mail(0, 10)] == [MailKind.ENDED]
    finally:
        store.close()
