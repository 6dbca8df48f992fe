"""Flipped bits: what a checksum covers is never replayed, and one damaged run does not stop the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from conformance import a_child, a_run, a_step

from rotor_actors import Context, RunHandle, RunStatus, Runtime, SQLiteStore, workflow
from rotor_actors.errors import StoreCorruptedError, WorkflowFailedError
from rotor_actors.records import ItemPut, ItemRow, RunCreated, RunFlag, StepRecorded
from rotor_actors.stores.base import ItemQuery, RunQuery
from rotor_actors.stores.sqlite_connection import connect

pytestmark = pytest.mark.asyncio


def flip(path: Path, payload: bytes) -> None:
    """Flip one bit of a payload, on disk, in the row and in whatever old copies of it are left in the file."""
    content = path.read_bytes()
    assert payload in content
    damaged = bytes([payload[0] ^ 1]) + payload[1:]
    path.write_bytes(content.replace(payload, damaged))


def written(path: Path) -> Path:
    """Two runs, of which the first has all payloads."""
    store = SQLiteStore(path)
    store.open()
    run = a_run(1, input=b"the input", headers=b"the headers", retries=b"the retries", error=b"the error")
    child = a_child(2, run, status=RunStatus.COMPLETED, ended_at=5.0, end_seq=2, result=b"the result")
    store.commit([RunCreated(run, 1), RunCreated(child, 2), StepRecorded(a_step(1, 3, payload=b"the payload"), 3),
                  RunCreated(a_run(3), 4)])  # fmt: skip
    store.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "rotor.db")


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Opened by the test, after it has done its damage."""
    store = SQLiteStore(path)
    yield store
    store.close()


@pytest.mark.parametrize("payload", ["input", "headers", "retries"])
async def test_a_damaged_input_is_named_and_left_out_of_lists(path: Path, store: SQLiteStore, payload: str) -> None:
    flip(path, f"the {payload}".encode())
    store.open()
    with pytest.raises(StoreCorruptedError, match="the input of run run-1 does not match its checksum"):
        store.find("run-1")
    marked = [live.row for live in store.live_runs() if live.row.flags & RunFlag.DAMAGED]
    assert [(run.run_id, run.input, run.error) for run in marked] == [("run-1", None, b"the error")]
    listed = {run.run_id: run for run in store.list_runs(RunQuery())}
    assert listed["run-1"] == marked[0]
    assert store.find("run-3") == listed["run-3"]


async def test_a_damaged_item_is_marked_and_its_body_left_out(path: Path, store: SQLiteStore) -> None:
    store.open()
    store.commit(
        [ItemPut(ItemRow("a", "p", b"the body of p", n=1), 5), ItemPut(ItemRow("a", "q", b"the body of q"), 6)]
    )
    store.close()
    flip(path, b"the body of p")
    store.open()
    damaged = ItemRow("a", "p", n=1, is_damaged=True)
    assert store.items(ItemQuery("a")) == [damaged, ItemRow("a", "q", b"the body of q")]
    assert store.item("a", "p") == damaged


async def test_a_damaged_error_is_named(path: Path, store: SQLiteStore) -> None:
    flip(path, b"the error")
    store.open()
    with pytest.raises(StoreCorruptedError, match="the result of run run-1"):
        store.find("run-1")


async def test_a_damaged_memo_is_named_and_other_histories_can_be_read(path: Path, store: SQLiteStore) -> None:
    flip(path, b"the payload")
    store.open()
    with pytest.raises(StoreCorruptedError, match="memo of step 'step 3' of run number 1"):
        store.histories([1, 3])
    with pytest.raises(StoreCorruptedError, match="memo of step 'step 3' of run number 1"):
        store.steps(1)
    assert store.histories([3])[3].steps == []


async def test_the_damaged_result_of_a_child_is_not_read_as_its_parents_memo(path: Path, store: SQLiteStore) -> None:
    flip(path, b"the result")
    store.open()
    with pytest.raises(StoreCorruptedError, match="the result of run run-2"):
        store.histories([1])


@pytest.mark.parametrize(
    "change", ["status = 'lost'", "run_id = CAST(x'ff80' AS TEXT)", "workflow_id = CAST(x'ff' AS TEXT)"]
)
async def test_a_row_that_makes_no_sense_is_damage(path: Path, store: SQLiteStore, change: str) -> None:
    connection = connect(path, apsw.SQLITE_OPEN_READWRITE)
    connection.execute(f"UPDATE runs SET {change} WHERE n = 1")
    connection.close()
    store.open()
    with pytest.raises(StoreCorruptedError, match="damaged"):
        store.live_runs()


# In a runtime

MEMO, INPUT, RESULT = "memo-0123456789", "input-0123456789", "result-0123456789"
is_open: list[bool] = []
called: list[str] = []


async def recorded(text: str) -> str:
    called.append(f"recorded {text[-1]}")
    return MEMO + text[-1]


async def waiting(text: str) -> str:
    called.append(f"waiting {text[-1]}")
    if not is_open:
        await asyncio.Event().wait()
    return text


@workflow(id="leaf")
async def leaf(ctx: Context, text: str) -> str:
    return RESULT + text[-1]


@workflow(id="parent", retries=0)
async def parent(ctx: Context, text: str) -> str:
    memo = await ctx.step.run("recorded", recorded, text)
    result, _ = await ctx.step.invoke("leaf", workflow=leaf, data=text[-1], timeout="1h")
    return f"{memo} {result} {await ctx.step.run('waiting', waiting, text)}"


@pytest.mark.parametrize(
    ("payload", "named"),
    [(MEMO, "memo of step 'recorded'"), (INPUT, "its row does not match"), (RESULT, "the result of run")],
)
async def test_nothing_is_replayed_from_damage_and_the_other_run_goes_on(
    tmp_path: Path, payload: str, named: str
) -> None:
    path = tmp_path / "rotor.db"
    is_open.clear()
    called.clear()
    async with Runtime(path, drain_timeout=0) as runtime:
        for letter in "AB":
            await runtime.start(parent, INPUT + letter, run_id=letter)
        while called.count("waiting A") + called.count("waiting B") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    called.clear()
    is_open.append(True)
    flip(path, f"{payload}A".encode())
    async with Runtime(path, workflows=[parent, leaf]) as runtime:
        damaged: RunHandle[str] = runtime.run("A")
        with pytest.raises(WorkflowFailedError, match=named) as raised:
            await damaged.result()
        assert raised.value.error.type == "StoreCorruptedError"
        assert await runtime.run("B").result() == f"{MEMO}B {RESULT}B {INPUT}B"
        assert called == ["waiting B"]
        assert await damaged.status() is RunStatus.FAILED
        states = {info.run_id: info.status for info in await runtime.runs(workflow=parent)}
        assert states == {"A": RunStatus.FAILED, "B": RunStatus.COMPLETED}
    async with Runtime(path, workflows=[parent, leaf]) as runtime:  # and it stays so
        with pytest.raises(WorkflowFailedError, match=named):
            await runtime.run("A").result()
