"""Copies of the store while runs go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

from rotor_actors import Context, RunStatus, Runtime, SQLiteStore, workflow
from rotor_actors.errors import RuntimeStateError, StoreError
from rotor_actors.stores.sqlite_connection import connect

pytestmark = pytest.mark.asyncio

T = TypeVar("T")

steps: list[int] = []
# Step 0 waits for the gate that a test has put up: the fan-out is then under way for as long as it likes.
gates: list[asyncio.Event] = []


async def count(i: int) -> int:
    steps.append(i)
    if gates and i == 0:
        await gates[0].wait()
    return i


@workflow(id="counting")
async def counting(ctx: Context, i: int) -> int:
    return await ctx.step.run("count", count, i)


@workflow(id="fan")
async def fan(ctx: Context, n: int) -> int:
    ends = [ctx.step.invoke(f"{i}", workflow=counting, data=i, timeout="1h") for i in range(n)]
    return sum([result for result, _ in await asyncio.gather(*ends)])


WORKFLOWS = [counting, fan]


@pytest.fixture(autouse=True)
def no_steps() -> None:
    steps.clear()
    gates.clear()


async def test_a_copy_made_while_runs_go_on_is_whole_and_can_be_resumed(tmp_path: Path) -> None:
    n = 2_000
    async with Runtime(tmp_path / "rotor.db", workflows=WORKFLOWS) as runtime:
        gates.append(asyncio.Event())
        handle = await runtime.start(fan, n, run_id="fan")
        copies: list[Path] = []
        while await handle.status() is RunStatus.RUNNING and len(copies) < 3:
            copies.append(tmp_path / f"copy-{len(copies)}.db")
            await runtime.backup(copies[-1])
        gates.pop().set()
        assert await handle.result() == sum(range(n))
    assert len(steps) == n
    assert copies
    unfinished = 0
    for copy in copies:
        connection = connect(copy, apsw.SQLITE_OPEN_READONLY)
        assert connection.pragma("integrity_check") == "ok"
        connection.close()
        store = SQLiteStore(copy)
        store.open()
        recorded = n - sum(not history.steps for history in store.histories(list(range(2, n + 2))).values())
        unfinished += recorded < n
        store.close()
        steps.clear()
        async with Runtime(copy, workflows=WORKFLOWS) as resumed:
            assert await resumed.run("fan").result() == sum(range(n))
        assert len(steps) == n - recorded  # no step whose outcome the copy holds is repeated
    assert unfinished


async def test_what_was_acknowledged_before_is_in_the_copy(tmp_path: Path) -> None:
    async with Runtime(tmp_path / "rotor.db") as runtime:
        for i in range(5):
            await runtime.execute(counting, i, run_id=f"run-{i}")
            await runtime.backup(tmp_path / f"copy-{i}.db")
    for i in range(5):
        async with Runtime(tmp_path / f"copy-{i}.db", workflows=WORKFLOWS) as copy:
            assert sorted(info.run_id for info in await copy.runs()) == [f"run-{j}" for j in range(i + 1)]
            assert await copy.run(f"run-{i}").result() == i


async def test_an_existing_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    async with Runtime(tmp_path / "rotor.db") as runtime:
        with pytest.raises(StoreError, match="the file exists; name a new one"):
            await runtime.backup(target)
        with pytest.raises(StoreError, match="exists"):
            await runtime.backup(tmp_path / "rotor.db")
        with pytest.raises(StoreError, match="directory does not exist"):
            await runtime.backup(tmp_path / "nowhere" / "copy.db")
        assert await runtime.execute(counting, 1) == 1
    assert target.read_text() == "mine"


async def test_a_closed_runtime_makes_no_copy(tmp_path: Path) -> None:
    async with Runtime(tmp_path / "rotor.db") as runtime:
        pass
    with pytest.raises(RuntimeStateError):
        await runtime.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


async def test_half_a_copy_never_has_the_name_of_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        assert source.exists()
        assert not target.exists()
        raise OSError("no room for a name")

    monkeypatch.setattr("rotor_actors.stores.files.os.link", link)
    async with Runtime(tmp_path / "rotor.db") as runtime:
        with pytest.raises(StoreError, match="no room for a name"):
            await runtime.backup(tmp_path / "copy.db")
    assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]


class Notes:
    """Which calls are under way together."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def note(self, name: str, call: Callable[..., T]) -> Callable[..., T]:
        def noted(*args: Any) -> T:
            self.order.append(f"{name} begins")
            try:
                return call(*args)
            finally:
                self.order.append(f"{name} ends")

        return noted


async def test_commits_and_copies_exclude_each_other(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "rotor.db")
    notes = Notes()
    store.commit = notes.note("commit", store.commit)  # type: ignore[method-assign]
    store.backup = notes.note("backup", store.backup)  # type: ignore[method-assign]
    async with Runtime(store, workflows=WORKFLOWS) as runtime:
        run = asyncio.ensure_future(runtime.execute(fan, 500))
        await asyncio.gather(*(runtime.backup(tmp_path / f"copy-{i}") for i in range(3)))
        assert await run == sum(range(500))
    assert notes.order.count("backup begins") == 3
    for begins, ends in zip(notes.order[::2], notes.order[1::2], strict=True):
        assert begins.removesuffix(" begins") == ends.removesuffix(" ends")


async def test_a_copy_that_is_no_longer_awaited_does_not_stop_the_commits(tmp_path: Path) -> None:
    async with Runtime(tmp_path / "rotor.db") as runtime:
        await runtime.execute(counting, 1)
        for i in range(10):
            copying = asyncio.ensure_future(runtime.backup(tmp_path / f"copy-{i}"))
            for _ in range(i):
                await asyncio.sleep(0)
            copying.cancel()
            await asyncio.wait([copying])
            assert await asyncio.wait_for(runtime.execute(counting, i), 5) == i
        await asyncio.wait_for(runtime.backup(tmp_path / "last"), 5)
