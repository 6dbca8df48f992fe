"""The SQLite store: the suite for all stores, its settings, its plans; and what files it opens, and which it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from conformance import MakeStore, StoreConformance, a_child, a_run, a_step, ended

from rotor_actors import SQLiteStore
from rotor_actors.errors import StoreCorruptedError, StoreError, StoreLockedError, StoreVersionError
from rotor_actors.records import Entry, ItemPut, ItemRow, RunCreated, StepRecorded
from rotor_actors.stores.base import ItemQuery, RunQuery
from rotor_actors.stores.schema import APPLICATION_ID, SCHEMA_VERSION, STEPS_TO_VERSION
from rotor_actors.stores.sqlite_connection import connect

READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


class TestSQLiteStore(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: SQLiteStore(tmp_path / "rotor.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rotor.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    store.open()
    yield store
    store.close()


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Execute SQL on a file, as another program would."""
    connection = connect(path, READ_WRITE)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def refused(path: Path, error: type[StoreError], match: str) -> None:
    """The file is refused, and neither changed nor locked afterwards."""
    before = path.read_bytes()
    with pytest.raises(error, match=match):
        SQLiteStore(path).open()
    assert path.read_bytes() == before
    with pytest.raises(error, match=match):
        SQLiteStore(path).open()


# Settings


@pytest.mark.parametrize(("chosen", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_it_is_in_wal_mode_and_syncs_each_commit(path: Path, chosen: str, level: int) -> None:
    store = SQLiteStore(path, synchronous=chosen)
    store.open()
    writer = store._writer  # pyright: ignore[reportPrivateUsage]
    assert writer is not None
    assert writer.pragma("journal_mode") == "wal"
    assert writer.pragma("synchronous") == level
    store.close()


def test_other_levels_of_safety_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="FULL"):
        SQLiteStore(path, synchronous="OFF")


def test_a_log_that_a_reader_has_kept_from_shrinking_is_emptied(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotor_actors.stores.sqlite._LARGEST_WAL", 100_000)
    monkeypatch.setattr("rotor_actors.stores.sqlite._COMMITS_PER_LOOK", 2)
    wal = path.with_name(path.name + "-wal")
    reader = connect(path, apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM runs").get == 0
    for n in range(1, 5):  # a long read of another program blocks nobody
        store.commit([RunCreated(a_run(n, input=b"x" * 100_000), n)])
    assert wal.stat().st_size > 400_000
    reader.close()
    store.commit([RunCreated(a_run(5), 5)])
    store.commit([RunCreated(a_run(6), 6)])
    assert wal.stat().st_size < 50_000
    assert len(store.list_runs(RunQuery())) == 6


def test_compacting_gives_back_disk_space(store: SQLiteStore, path: Path) -> None:
    store.commit([RunCreated(a_run(n, result=b"x" * 10_000), n) for n in range(1, 100)])
    writer = store._writer  # pyright: ignore[reportPrivateUsage]
    assert writer is not None
    writer.execute("DELETE FROM runs")
    store.compact()
    assert path.stat().st_size < 100_000
    assert path.with_name(path.name + "-wal").stat().st_size == 0


def test_a_commit_is_one_statement(store: SQLiteStore) -> None:
    """Each further one has to wait for the interpreter's lock, beside a busy event loop."""
    writer: Any = store._writer  # pyright: ignore[reportPrivateUsage]
    statements: list[str] = []

    def note(statement: str, nanoseconds: int) -> None:
        statements.append(statement)

    writer.set_profile(note)
    top = a_run(1)
    entries: list[Entry] = [RunCreated(top, 1)]
    entries += [RunCreated(a_child(n, top), n) for n in range(2, 2_000)]
    entries += [StepRecorded(a_step(n, n + 2_000), n + 2_000) for n in range(2, 2_000)]
    store.commit(entries)
    assert len(statements) == 1


# Plans


def test_what_is_read_often_is_found_by_index(store: SQLiteStore) -> None:
    reader: Any = store._reader  # pyright: ignore[reportPrivateUsage]
    top = a_run(1)
    store.commit([RunCreated(top, 1), *(RunCreated(a_child(n, top), n) for n in range(2, 100)), ended(a_run(1), 200)])
    scans: list[str] = []

    explained: list[str] = []

    def note(cursor: object, statement: str, bindings: object) -> bool:
        if statement not in ("BEGIN", "COMMIT"):
            explained.append(statement)
        return True

    reader.exec_trace = note
    store.find("run-1")
    store.live_runs()
    store.histories([1, 2])
    store.steps(1)
    for query in (RunQuery(), RunQuery(parent_n=1), RunQuery(root_n=1), RunQuery(root_n=1, before_n=50)):
        store.list_runs(query)
    store.items(ItemQuery("a"))
    store.item("a", "k")
    reader.exec_trace = None
    assert len(explained) >= 10
    for statement in explained:
        named = {
            name: 1 for name in ("run_id", "ns", "n", "after", "size", "parent_n", "root_n", "space", "ord", "key")
        }
        plan = [str(row[3]) for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}", named)]
        scans += [
            f"{step} in {statement}" for step in plan if step.startswith(("SCAN runs", "SCAN steps", "SCAN items"))
        ]
        assert not any("TEMP B-TREE" in step for step in plan), (plan, statement)
    assert scans == []


# One owner


def test_a_second_store_in_the_same_process_is_refused(store: SQLiteStore, path: Path) -> None:
    with pytest.raises(StoreLockedError, match=rf"process {os.getpid()}, which is this one"):
        SQLiteStore(path).open()
    store.commit([RunCreated(a_run(1), 1)])  # and the first goes on


def test_opening_one_store_twice_is_refused_and_leaves_it_open(store: SQLiteStore) -> None:
    with pytest.raises(StoreLockedError):
        store.open()
    store.commit([RunCreated(a_run(1), 1)])


OWNER = """
import sys
from rotor_actors import SQLiteStore
store = SQLiteStore(sys.argv[1])
store.open()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open."""
    command = [sys.executable, "-c", OWNER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_the_pid_of_the_first(path: Path, owner: subprocess.Popen[str]) -> None:
    with pytest.raises(StoreLockedError, match=f"in use by process {owner.pid} "):
        SQLiteStore(path).open()


def test_the_lock_is_free_when_its_owner_was_killed(path: Path, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    store = SQLiteStore(path)
    store.open()
    store.close()


# Files that are not ours


def test_a_newer_file_is_refused_and_left_as_it_is(path: Path) -> None:
    store = SQLiteStore(path)
    store.open()
    store.close()
    newer = SCHEMA_VERSION + 1
    sql(path, f"PRAGMA user_version = {newer}")
    refused(path, StoreVersionError, f"schema version {newer}, this program knows {SCHEMA_VERSION}")


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_file_of_an_older_version_is_brought_up_and_keeps_what_it_holds(path: Path, version: int) -> None:
    for step in STEPS_TO_VERSION[:version]:
        sql(path, step)
    sql(path, f"PRAGMA application_id = {APPLICATION_ID}")
    sql(path, f"PRAGMA user_version = {version}")
    sql(path, "UPDATE numbers SET last_n = 7, last_seq = 8")
    store = SQLiteStore(path)
    store.open()
    store.commit([RunCreated(a_run(8), 9), ItemPut(ItemRow("a", "k"), 10)])
    assert store.last_numbers() == (8, 10)
    assert store.items(ItemQuery("a")) == [ItemRow("a", "k")]
    store.close()
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path, mode: str) -> None:
    sql(path, f"PRAGMA journal_mode = {mode}")
    sql(path, "CREATE TABLE theirs(a); INSERT INTO theirs VALUES (1)")
    refused(path, StoreCorruptedError, "another program")
    assert sql(path, "SELECT a FROM theirs") == [(1,)]


def test_the_log_of_another_program_is_not_written_back(path: Path) -> None:
    """A crashed program's data may be in its log only; opening for writing and closing would checkpoint it."""
    connection = connect(path, READ_WRITE)
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE theirs(a)")
    connection.execute("INSERT INTO theirs VALUES (1)")
    refused(path, StoreCorruptedError, "another program")
    connection.close()


@pytest.mark.parametrize(
    "content",
    [b"Once upon a time " * 1_000, b"\0" * 8_192, b"x", os.urandom(50_000)],
    ids=["text", "zeros", "x", "noise"],
)
def test_what_is_not_a_database_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path, StoreCorruptedError, "not a database")


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.touch()
    store = SQLiteStore(path)
    store.open()
    assert store.last_numbers() == (0, 0)
    store.close()


def filled(path: Path) -> None:
    store = SQLiteStore(path)
    store.open()
    store.commit([RunCreated(a_run(n, input=b"x" * 500), n) for n in range(1, 500)])
    store.close()


@pytest.mark.parametrize("size", [50, 100, 4_096, 40_960])
def test_a_truncated_file_is_refused_and_left_as_it_is(path: Path, size: int) -> None:
    filled(path)
    os.truncate(path, size)
    refused(path, StoreCorruptedError, "damaged")


def test_a_garbage_header_is_refused_and_left_as_it_is(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.write(os.urandom(100))
    refused(path, StoreCorruptedError, "damaged")


# Places where no store can be


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="directory does not exist"):
        SQLiteStore(tmp_path / "nowhere" / "rotor.db").open()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        SQLiteStore(tmp_path).open()


UNPRIVILEGED = """
import os, sys
from rotor_actors import SQLiteStore
from rotor_actors.errors import StoreError
if os.geteuid() == 0:
    os.setuid(65534)
try:
    SQLiteStore(sys.argv[1]).open()
except StoreError as error:
    print(type(error).__name__, error)
"""


def opened_without_rights(path: Path) -> str:
    command = [sys.executable, "-c", UNPRIVILEGED, str(path)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_read_only_directory_is_named(open_directory: Path) -> None:
    directory = open_directory / "ro"
    directory.mkdir()
    directory.chmod(0o555)
    assert "lock file" in opened_without_rights(directory / "rotor.db")
    directory.chmod(0o755)


def test_a_read_only_file_is_named(open_directory: Path) -> None:
    directory = open_directory / "rw"
    directory.mkdir()
    filled(directory / "rotor.db")
    (directory / "rotor.db.lock").chmod(0o666)
    (directory / "rotor.db").chmod(0o444)
    directory.chmod(0o777)
    before = (directory / "rotor.db").read_bytes()
    assert "read-only" in opened_without_rights(directory / "rotor.db")
    assert (directory / "rotor.db").read_bytes() == before
