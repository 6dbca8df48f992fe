"""Each way to list runs has an index to follow, in its order: a page costs what it shows, not what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from rotor_actors import MemoryStore, RunStatus, SQLiteStore
from rotor_actors.records import Entry, RunCreated, RunRow
from rotor_actors.stores.base import RunQuery, Store
from rotor_actors.stores.run_queries import chosen_by
from rotor_actors.stores.sqlite_connection import connect
from rotor_actors.stores.sqlite_reader import COUNT_ALL

FAILED, CANCELLED, COMPLETED = RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPLETED

# Each with the index that its plan must follow.
PLANS = {
    "all": (RunQuery(), "INTEGER PRIMARY KEY (rowid<?)"),
    "the next page": (RunQuery(before_n=50), "INTEGER PRIMARY KEY (rowid<?)"),
    "completed": (RunQuery(statuses=(COMPLETED,)), "runs_ended_by_status (status=?"),
    "failed": (RunQuery(statuses=(FAILED,)), "runs_ended_by_status (status=?"),
    "two ends": (RunQuery(statuses=(FAILED, CANCELLED)), "runs_ended_by_status (status=?"),
    "live": (RunQuery(statuses=(RunStatus.QUEUED, RunStatus.RUNNING)), "runs_live"),
    "live and failed": (RunQuery(statuses=(RunStatus.RUNNING, FAILED)), "runs_"),
    "workflow": (RunQuery(workflow_id="w1"), "runs_by_workflow (workflow_id=?"),
    "workflow, failed": (
        RunQuery(workflow_id="w1", statuses=(FAILED,)),
        "runs_ended_by_workflow (workflow_id=? AND status=?",
    ),
    "children": (RunQuery(parent_n=1), "runs_by_parent (parent_n=?"),
    "a tree": (RunQuery(root_n=1), "runs_by_root (root_n=?"),
    "since": (RunQuery(since=1_040.0), "runs_by_time (created_at>?"),
    "until": (RunQuery(until=1_020.0), "runs_by_time (created_at<?"),
    "since and until, next page": (
        RunQuery(since=1_010.0, until=1_090.0, before_n=50, before_at=1_050.0),
        "runs_by_time (created_at>? AND created_at<?",
    ),
    "error": (RunQuery(error="broken"), "runs_with_error"),
    "prefix": (RunQuery(id_prefix="run-1"), "runs_by_id (run_id>? AND run_id<?"),
    "prefix, failed": (RunQuery(id_prefix="run-1", statuses=(FAILED,)), "runs_by_id (run_id>? AND run_id<?"),
}
QUERIES = {name: query for name, (query, _) in PLANS.items()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "rotor.db")
    store.open()
    yield store
    store.close()


def a_run(n: int) -> RunRow:
    """Every seventh fails, every eleventh is cancelled, every thirteenth runs; the others complete."""
    status = next(
        (end for by, end in ((13, RunStatus.RUNNING), (7, FAILED), (11, CANCELLED)) if n % by == 0), COMPLETED
    )
    root = n - n % 10 + 1 if n % 10 else n - 9
    return RunRow(
        n=n, run_id=f"run-{n}", workflow_id=f"w{n % 3}", root_n=root, root_run_id=f"run-{root}",
        parent_n=None if n == root else root,
        created_at=1_000.0 + n // 2,  # two of them at a time
        status=status, ended_at=1_100.0 if status.is_terminal else None,
        error=b"it is broken" if status is FAILED else None,
    )  # fmt: skip


def fill(store: Store) -> None:
    entries: list[Entry] = [RunCreated(a_run(n), n) for n in range(1, 101)]
    store.commit(entries)


def plan_of(store: SQLiteStore, sql: str, bindings: dict[str, object]) -> list[str]:
    connection = connect(store.path, apsw.SQLITE_OPEN_READONLY)
    try:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings).fetchall()]
    finally:
        connection.close()


@pytest.mark.parametrize(("query", "index"), PLANS.values(), ids=PLANS.keys())
def test_each_list_of_runs_follows_an_index_and_sorts_nothing(store: SQLiteStore, query: RunQuery, index: str) -> None:
    fill(store)
    for chosen in chosen_by(query):
        bindings = {**chosen.bindings, "after": 2**62, "after_at": 1e300, "size": 10}
        plan = plan_of(store, f"SELECT * FROM runs WHERE {chosen.where} LIMIT :size", bindings)
        assert any(index in line for line in plan), plan
        assert all("TEMP B-TREE" not in line for line in plan), plan


def test_counting_all_runs_reads_an_index_not_the_rows(store: SQLiteStore) -> None:
    fill(store)
    plan = plan_of(store, COUNT_ALL, {})
    assert any("COVERING INDEX runs_ended_by_status" in line for line in plan), plan
    assert any("runs_live" in line for line in plan), plan


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_both_stores_list_the_same_runs_in_the_same_order(store: SQLiteStore, query: RunQuery) -> None:
    memory = MemoryStore()
    for each in (store, memory):
        fill(each)
    expected = [run.run_id for run in memory.list_runs(query)]
    assert expected
    assert [run.run_id for run in store.list_runs(query)] == expected


def test_pages_of_a_list_by_time_meet_without_gap_or_overlap(store: SQLiteStore) -> None:
    fill(store)
    whole = [run.n for run in store.list_runs(RunQuery(since=1_005.0, until=1_045.0, limit=1_000))]
    pages: list[int] = []
    query = RunQuery(since=1_005.0, until=1_045.0, limit=7)
    while page := store.list_runs(query):
        pages += [run.n for run in page]
        query = msgspec.structs.replace(query, before_n=page[-1].n, before_at=page[-1].created_at)
    assert pages == whole == sorted(range(10, 90), reverse=True)


def test_a_clock_that_went_back_hides_no_run_from_a_list_by_time(store: SQLiteStore) -> None:
    rows = [RunRow(n=n, run_id=f"r{n}", workflow_id="w", root_n=n, root_run_id=f"r{n}", created_at=at)
            for n, at in ((1, 100.0), (2, 900.0), (3, 200.0))]  # fmt: skip
    store.commit([RunCreated(row, row.n) for row in rows])
    assert [run.n for run in store.list_runs(RunQuery(since=150.0, until=1_000.0))] == [2, 3]


def test_lean_runs_are_given_without_reading_their_payloads(store: SQLiteStore) -> None:
    run = a_run(1)
    run.input, run.result = b"x" * 100_000, b"y"
    store.commit([RunCreated(run, 1)])
    (lean,) = store.list_runs(RunQuery(is_lean=True))
    assert (lean.run_id, lean.input, lean.result, lean.flags) == ("run-1", None, None, run.flags)
