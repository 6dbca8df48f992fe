"""Disks that are full, and disks that fail, under a runtime."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk, faulty_disk

from rotor_actors import Context, RunStatus, Runtime, SQLiteStore, workflow
from rotor_actors.errors import StoreError, StoreFullError

pytestmark = pytest.mark.asyncio

done: list[int] = []


async def work(i: int) -> int:
    done.append(i)
    return i


@workflow(id="small")
async def small(ctx: Context, i: int) -> int:
    return await ctx.step.run("work", work, i)


@workflow(id="sleepy")
async def sleepy(ctx: Context) -> None:
    await ctx.step.sleep("long", "1h")


@workflow(id="wide")
async def wide(ctx: Context, n: int) -> int:
    ends = [ctx.step.invoke(f"child {i}", workflow=small, data=i, timeout="1h") for i in range(n)]
    return sum([result for result, _ in await asyncio.gather(*ends)])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotor_actors.journal.FULL_RETRY_SECONDS", 0.005)
    done.clear()


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


async def until_refused(runtime: Runtime) -> None:
    """Wait until the runtime has found out that its disk is full."""
    while True:
        try:
            runtime._accepting()  # pyright: ignore[reportPrivateUsage]
        except StoreFullError:
            return
        await asyncio.sleep(0.001)


async def until_gone(runtime: Runtime, run_id: str) -> None:
    """Wait until the run has ended in memory, whatever the disk says."""
    while runtime._engine.tree.find(run_id) is not None:  # noqa: ASYNC110  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0.001)


async def nothing_happens() -> None:
    """What had begun comes to its end; nothing else begins, though commits are tried again."""
    await asyncio.sleep(0.02)
    begun = list(done)
    await asyncio.sleep(0.02)
    assert done == begun
    assert len(begun) < 100


# Full


async def test_while_the_disk_is_full_starts_are_refused_by_name_and_then_all_goes_on(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    async with Runtime(SQLiteStore(tmp_path / "rotor.db", vfs=disk.name)) as runtime:
        before = await runtime.execute(small, 1)
        disk.fault = "full"
        caught_up = asyncio.ensure_future(runtime.execute(wide, 50, run_id="wide"))
        await until_refused(runtime)
        with pytest.raises(StoreFullError, match="disk is full"):
            await runtime.start(small, 2)
        assert done == [1]  # no effect whose past is not durable
        assert not caught_up.done()
        disk.fault = ""
        assert await caught_up == sum(range(50))
        assert await runtime.execute(small, 3) == 3
        assert before == 1
    assert sorted(done) == sorted([1, *range(50), 3])


async def test_what_is_durable_can_be_read_while_the_disk_is_full(tmp_path: Path, disk: FaultyDisk) -> None:
    async with Runtime(SQLiteStore(tmp_path / "rotor.db", vfs=disk.name), drain_timeout=0) as runtime:
        handle = await runtime.start(small, 1, run_id="first")
        await handle.result()
        disk.fault = "full"
        start = asyncio.ensure_future(runtime.start(small, 2))
        await until_refused(runtime)
        assert (await asyncio.wait_for(runtime.info("first"), 5)).status is RunStatus.COMPLETED
        assert len(await asyncio.wait_for(runtime.runs(), 5)) == 1
        disk.fault = ""
        await start


async def test_nobody_is_told_of_an_end_that_waits_for_room(tmp_path: Path, disk: FaultyDisk) -> None:
    """Neither by its result nor by a cancel that comes too late. Found by the simulator."""
    gate = asyncio.Event()

    @workflow(id="gated")
    async def gated(ctx: Context) -> int:
        await ctx.step.run("wait", gate.wait)
        return 1

    async with Runtime(SQLiteStore(tmp_path / "rotor.db", vfs=disk.name), drain_timeout=0) as runtime:
        handle = await runtime.start(gated)
        disk.fault = "full"
        gate.set()
        await until_refused(runtime)
        await until_gone(runtime, handle.run_id)
        result = asyncio.ensure_future(handle.result())
        cancel = asyncio.ensure_future(handle.cancel())
        await asyncio.sleep(0.05)
        assert not result.done()
        assert not cancel.done()
        disk.fault = ""
        assert await result == 1
        assert (await cancel).already_ended == [handle.run_id]


async def test_a_runtime_can_be_left_while_the_disk_is_full_and_loses_nothing_that_it_acknowledged(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    path = tmp_path / "rotor.db"
    runtime = Runtime(SQLiteStore(path, vfs=disk.name), drain_timeout=0)
    await runtime.__aenter__()
    await runtime.execute(small, 1, run_id="first")
    disk.fault = "full"
    refused = asyncio.ensure_future(runtime.start(small, 2, run_id="second"))
    await until_refused(runtime)
    await asyncio.wait_for(runtime.__aexit__(None, None, None), 5)
    with pytest.raises(StoreError):
        await asyncio.wait_for(refused, 5)
    disk.fault = ""
    async with Runtime(SQLiteStore(path, vfs=disk.name), workflows=[small]) as runtime:
        assert [info.run_id for info in await runtime.runs()] == ["first"]
        assert await runtime.run("first").result() == 1


async def test_a_page_limit_is_a_full_disk(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "rotor.db")
    async with Runtime(store) as runtime:
        await runtime.execute(small, 1)
        writer = store._writer  # pyright: ignore[reportPrivateUsage]
        assert writer is not None
        writer.execute("PRAGMA max_page_count = 25")
        run = asyncio.ensure_future(runtime.execute(wide, 500))
        await until_refused(runtime)
        await nothing_happens()
        writer.execute("PRAGMA max_page_count = 100000")
        assert await run == sum(range(500))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not permitted")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_file_system_that_is_really_full(small_disk: Path) -> None:
    filler = small_disk / "filler"
    path = small_disk / "rotor.db"
    async with Runtime(path) as runtime:
        assert await runtime.execute(small, 1, run_id="first") == 1
        free = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (free.f_bavail * free.f_bsize - 8_192))
        run = asyncio.ensure_future(runtime.execute(wide, 500, run_id="wide"))
        await until_refused(runtime)
        await nothing_happens()
        filler.unlink()
        assert await run == sum(range(500))
    async with Runtime(path, workflows=[small, wide]) as runtime:
        assert await runtime.run("first").result() == 1
        assert await runtime.run("wide").result() == sum(range(500))


# Failing


@pytest.mark.parametrize("fault", ["write", "sync"])
async def test_a_failed_commit_stops_the_runtime_and_reopening_reads_the_file_again(
    tmp_path: Path, disk: FaultyDisk, fault: str
) -> None:
    path = tmp_path / "rotor.db"
    async with Runtime(SQLiteStore(path, vfs=disk.name)) as runtime:
        await runtime.execute(small, 1, run_id="first")
        late = asyncio.ensure_future((await runtime.start(sleepy, run_id="sleepy")).result())
        waiting = [asyncio.ensure_future(runtime.execute(small, i, run_id=f"waiting {i}")) for i in range(10, 15)]
        disk.fault = fault
        outcomes: list[object] = [*await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)]
        outcomes += await asyncio.wait_for(asyncio.gather(late, return_exceptions=True), 5)
        assert all(isinstance(outcome, StoreError) for outcome in outcomes), outcomes
        effects = list(done)
        for use in (runtime.start(small, 2), runtime.info("first"), runtime.runs(), runtime.backup(tmp_path / "copy")):
            with pytest.raises(StoreError, match=f"{fault} failed"):
                await asyncio.wait_for(use, 5)
        await asyncio.sleep(0.01)
        assert done == effects == [1]
    disk.fault = ""
    async with Runtime(SQLiteStore(path, vfs=disk.name), workflows=[small]) as runtime:
        assert await runtime.run("first").result() == 1
        for i in range(10, 15):  # whether these were written nobody knew; starting them again is safe
            assert await runtime.execute(small, i, run_id=f"waiting {i}") == i
    assert sorted(done) == [1, 10, 11, 12, 13, 14]


async def test_a_store_that_raises_something_unknown_stops_the_runtime(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "rotor.db")
    async with Runtime(store) as runtime:
        await runtime.execute(small, 1)

        def commit(entries: object) -> None:
            raise ZeroDivisionError("a bug of ours")

        store.commit = commit  # type: ignore[method-assign]
        with pytest.raises(StoreError, match="ZeroDivisionError: a bug of ours"):
            await asyncio.wait_for(runtime.start(small, 2), 5)
    assert done == [1]
