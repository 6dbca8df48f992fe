"""Looking at a store file that a live process owns, or that nobody owns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from rotor_actors import Context, FlowControl, RunStatus, Runtime, RuntimeView, workflow
from rotor_actors.errors import RunNotFoundError, RuntimeStateError, StoreCorruptedError, StoreError, StoreVersionError
from rotor_actors.stores.schema import SCHEMA_VERSION
from rotor_actors.stores.sqlite_connection import connect

pytestmark = pytest.mark.asyncio


@workflow(id="slow")
async def slow(ctx: Context, seconds: float) -> str:
    await ctx.step.run("first", lambda: 1)
    await ctx.step.sleep("doze", seconds)
    return "slept"


@workflow(id="parent")
async def parent(ctx: Context) -> None:
    await ctx.step.invoke("it", workflow=slow, data=3600.0, timeout="10h")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rotor.db"


def contents(*files: Path) -> list[bytes]:
    return [file.read_bytes() for file in files]


async def test_a_view_shows_what_the_live_owner_has_committed_and_follows_it(file: Path) -> None:
    async with Runtime(file, drain_timeout=0) as runtime, RuntimeView(file, workflows=[slow]) as view:
        handle = await runtime.start(slow, 0.0, run_id="a")
        await handle.result()
        await runtime.start(parent, run_id="p")
        await runtime.why("p")  # which waits until what was appended is durable
        children = await view.runs(parent="p")
        assert {run.run_id for run in await view.runs(status="completed")} == {"a"}
        info = await view.info("a")
        assert (info.status, info.input, info.result) == (RunStatus.COMPLETED, 0.0, "slept")
        assert [step.step_id for step in await view.steps("a")] == ["first", "doze"]
        assert [child.run.run_id for child in (await view.tree("p")).children] == [children[0].run_id]
        assert (await view.count())[RunStatus.RUNNING] == 2
        assert f"waits for child {children[0].run_id} of workflow 'slow' (step 'it')" in await view.why("p")
        assert "known only to the process that owns it" in await view.why(children[0].run_id)
        with pytest.raises(RunNotFoundError, match="nobody"):
            await view.info("nobody")


async def test_a_view_neither_checkpoints_nor_keeps_the_owner_from_committing(file: Path) -> None:
    async with Runtime(file, drain_timeout=0) as runtime, RuntimeView(file) as view:
        await runtime.execute(slow, 0.0)
        wal = file.with_name("rotor.db-wal")
        before = contents(file, wal)
        for _ in range(5):
            await view.runs()
        assert contents(file, wal) == before, "looking changes neither the file nor its log"
        await asyncio.wait_for(runtime.execute(slow, 0.0), 30)
        assert len(await view.runs()) == 2


async def test_a_file_without_an_owner_can_be_looked_at_and_opened_meanwhile(file: Path) -> None:
    async with Runtime(file) as runtime:
        await runtime.execute(slow, 0.0, run_id="a")
    async with RuntimeView(f"sqlite:///{file}") as view:
        assert [run.run_id for run in await view.runs()] == ["a"]
        async with Runtime(file) as runtime:
            await runtime.execute(slow, 0.0, run_id="b")
            assert [run.run_id for run in await view.runs()] == ["b", "a"]


async def refused(file: Path, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await RuntimeView(file).__aenter__()


async def test_a_file_that_is_not_there_is_not_created(file: Path, tmp_path: Path) -> None:
    await refused(file, StoreError, "there is no store to look at")
    assert list_of(tmp_path) == []


def list_of(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def test_a_file_that_is_no_store_is_refused_by_name(file: Path) -> None:
    write(file, b"some text, and no database at all")
    await refused(file, StoreCorruptedError, "not a database")


@pytest.mark.parametrize(
    ("version", "error", "text"),
    [
        (SCHEMA_VERSION + 1, StoreVersionError, "Install a newer rotor-actors"),
        (1, StoreError, "let a runtime of this version open it once"),
    ],
)
async def test_a_file_of_another_version_is_refused_by_name(
    file: Path, version: int, error: type[Exception], text: str
) -> None:
    async with Runtime(file):
        pass
    connection = connect(file, apsw.SQLITE_OPEN_READWRITE)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    await refused(file, error, text)


async def test_a_view_is_used_while_it_is_open(file: Path) -> None:
    view = RuntimeView(file)
    with pytest.raises(RuntimeStateError, match="use it inside 'async with view:'"):
        await view.runs()
    async with Runtime(file):
        async with view:
            assert await view.runs() == []
        with pytest.raises(RuntimeStateError, match="make a new one"):
            await view.__aenter__()
        with pytest.raises(RuntimeStateError, match="not open"):
            await view.runs()


@workflow(id="waiting")
async def waiting(ctx: Context) -> None:
    await ctx.step.wait_for_event("paid", event="order.paid", timeout="1h")


@workflow(id="printing", flow_control=FlowControl("printer", parallelism=1))
async def printing(ctx: Context) -> None:
    await ctx.step.wait_for_event("paid", event="order.paid", timeout="1h")


async def test_a_view_says_what_event_a_run_waits_for_and_what_it_is_queued_for(file: Path) -> None:
    both = [file, file.with_name("second.db")]
    for store in (file.with_name("alone.db"), both):
        async with Runtime(store, drain_timeout=0) as runtime, RuntimeView(store) as view:
            for n in range(4):
                await runtime.start(waiting, run_id=f"w{n}")
            for n in range(3):
                await runtime.start(printing, run_id=f"p{n}")
            await asyncio.gather(*(until_it_waits(runtime, f"w{n}") for n in range(4)))
            await until_it_waits(runtime, "p0")
            for n in range(4):
                assert "waits for event 'order.paid' (step 'paid'), until" in await view.why(f"w{n}")
                assert (await view.info(f"w{n}")).waiting_for == "event 'paid'"
            assert "the line of key 'printer'" in await view.why("p1")
            await runtime.pause_key("printer")
            assert "key 'printer' is paused" in await view.why("p2")


async def test_a_view_does_not_say_a_limit_that_it_does_not_know(file: Path) -> None:
    async with Runtime(file, drain_timeout=0, max_active_runs=1) as runtime, RuntimeView(file) as view:
        await runtime.start(waiting, run_id="w")
        await runtime.start(waiting, run_id="queued")
        await runtime.why("queued")
        said = await view.why("queued")
    assert "waits to be admitted since" in said
    assert "=0" not in said
    assert "next" not in said


async def until_it_waits(runtime: Runtime, run_id: str) -> None:
    while "event" not in (await runtime.info(run_id)).waiting_for:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await runtime.why(run_id)
