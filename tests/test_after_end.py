"""After a run's end: restart, fork, delete, retention, and the disk space given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kit import FragileStore, World

from rotor_actors import Context, MemoryStore, Retention, RunStatus, Runtime, SQLiteStore, Workflow, workflow
from rotor_actors.errors import (
    DurationError,
    RunExistsError,
    RunNotFoundError,
    RunStatusError,
    StoreError,
    StoreFullError,
    WorkflowFailedError,
)
from rotor_actors.executor import InlineExecutor
from rotor_actors.records import (
    Entry,
    ItemPut,
    ItemRow,
    Kind,
    RunCreated,
    RunRow,
    RunsDeleted,
    StepRecorded,
    StepRow,
)
from rotor_actors.stores.base import EndedRootsQuery, ItemQuery, Store
from rotor_actors.stores.shared import is_shared

pytestmark = pytest.mark.asyncio

T = TypeVar("T")

calls: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def forget_calls() -> None:
    calls.clear()


def act(name: str) -> str:
    calls[name] += 1
    return f"{name} {calls[name]}"


@workflow(id="leaf")
async def leaf(ctx: Context, name: str) -> str:
    return await ctx.step.run("leaf", act, name)


@workflow(id="steps")
async def steps(ctx: Context, name: str) -> list[str]:
    a = await ctx.step.run("a", act, "a")
    child = (await ctx.step.invoke("child", workflow=leaf, data="child", timeout="1h")).result
    await ctx.step.sleep("doze", "10m")
    b = [await ctx.step.run("b", act, "b") for _ in range(2)]
    return [name, a, child, *b]


@workflow(id="slow")
async def slow(ctx: Context) -> str:
    await ctx.step.sleep("doze", "1h")
    return "slept"


@workflow(id="broken", retries=0)
async def broken(ctx: Context) -> None:
    raise ValueError("broken")


@workflow(id="abandoning")
async def abandoning(ctx: Context) -> None:
    task = asyncio.ensure_future(
        ctx.step.invoke("it", workflow=slow, data=None, timeout="9h", on_parent_close="abandon")
    )
    await ctx.step.run("wait", act, "wait")
    task.done()


ALL = (steps, leaf, slow, broken, abandoning)


# Restart


async def test_a_restart_is_a_new_run_with_the_same_input_that_names_its_origin() -> None:
    async with World(*ALL) as world:
        assert await world.execute(steps, "x", run_id="r", headers={"trace": "1"}) == [
            "x",
            "a 1",
            "child 1",
            "b 1",
            "b 2",
        ]
        again = await world.runtime.restart("r")
        assert again.run_id != "r"
        assert await world.result(again) == ["x", "a 2", "child 2", "b 3", "b 4"]
        info = await again.info()
        assert (info.origin_run_id, info.input, info.headers, info.attempt) == ("r", "x", {"trace": "1"}, 1)
        assert (await world.runtime.info("r")).status is RunStatus.COMPLETED


async def test_a_restart_under_a_chosen_id_happens_once() -> None:
    async with World(*ALL) as world:
        await world.execute(leaf, "x", run_id="r")
        await world.execute(leaf, "x", run_id="other")
        for _ in range(2):
            handle = await world.runtime.restart("r", new_run_id="again")
            assert await world.result(handle) == "x 3"
        with pytest.raises(RunExistsError, match="no restart of 'r'"):
            await world.runtime.restart("r", new_run_id="other")


async def test_what_cannot_be_restarted_is_refused_by_name() -> None:
    async with World(*ALL) as world:
        await world.runtime.start(slow, run_id="r")
        with pytest.raises(RunStatusError, match="cannot restart run r of workflow 'slow': it has not ended"):
            await world.runtime.restart("r")
        with pytest.raises(RunNotFoundError):
            await world.runtime.restart("nobody")
        await world.result("r")
        await world.reopen(leaf)
        with pytest.raises(RunStatusError, match="no workflow 'slow' is registered"):
            await world.runtime.restart("r")


async def test_restart_in_bulk() -> None:
    async with World(*ALL) as world:
        for n in range(3):
            await world.runtime.start(broken, run_id=f"r{n}")
        await world.settle()
        assert (await world.runtime.restart_all(dry_run=True)).run_ids == ["r2", "r1", "r0"]
        report = await world.runtime.restart_all(limit=2)
        assert report.run_ids == ["r2", "r1"]
        assert [(await world.runtime.info(each)).origin_run_id for each in report.started] == ["r2", "r1"]


# Fork


@pytest.mark.parametrize(
    ("step", "use", "expected"),
    [
        ("a", 1, ["x", "a 2", "child 2", "b 3", "b 4"]),
        ("child", 1, ["x", "a 1", "child 2", "b 3", "b 4"]),
        ("doze", 1, ["x", "a 1", "child 1", "b 3", "b 4"]),
        ("b", 1, ["x", "a 1", "child 1", "b 3", "b 4"]),
        ("b", 2, ["x", "a 1", "child 1", "b 1", "b 3"]),
    ],
)
async def test_a_fork_takes_the_memo_up_to_a_step_and_does_the_rest_anew(step: str, use: int, expected: Any) -> None:
    async with World(*ALL) as world:
        await world.execute(steps, "x", run_id="r")
        fork = await world.runtime.fork("r", from_step=step, use=use)
        assert await world.result(fork) == expected
        info = await fork.info()
        assert (info.origin_run_id, info.root_run_id, info.depth) == ("r", fork.run_id, 0)
        assert await world.result("r") == ["x", "a 1", "child 1", "b 1", "b 2"], "the old run stays as it is"


async def test_a_run_that_has_not_ended_can_be_forked() -> None:
    async with World(*ALL) as world:
        await world.runtime.start(steps, "x", run_id="r")
        await world.clock.advance("1m")
        fork = await world.runtime.fork("r", from_step="child", new_run_id="f")
        assert (await world.result(fork))[:3] == ["x", "a 1", "child 2"]
        assert (await world.result("r"))[:3] == ["x", "a 1", "child 1"]


async def test_what_cannot_be_forked_is_refused_by_name() -> None:
    async with World(*ALL) as world:
        await world.execute(steps, "x", run_id="r")
        with pytest.raises(RunStatusError, match=r"no outcome of step 'c'; it has of 'a', 'child', 'doze', 'b'"):
            await world.runtime.fork("r", from_step="c")
        with pytest.raises(RunStatusError, match=r"no outcome of step 'b' \(use 3\)"):
            await world.runtime.fork("r", from_step="b", use=3)
        with pytest.raises(ValueError, match="use must be a number of at least 1"):
            await world.runtime.fork("r", from_step="b", use=0)
        with pytest.raises(RunExistsError, match="'r' belongs to another run"):
            await world.runtime.fork("r", from_step="b", new_run_id="r")


async def test_a_fork_after_a_map_does_not_run_the_map_again() -> None:
    @workflow(id="mapping")
    async def mapping(ctx: Context) -> list[str]:
        found = [
            str(outcome.body)
            async for outcome in ctx.step.map("m", workflow=leaf, items=["p", "q"], timeout="1h", concurrency=1)
        ]
        return [*found, await ctx.step.run("b", act, "b")]

    async with World(mapping, *ALL) as world:
        assert await world.execute(mapping, run_id="r") == ["p 1", "q 1", "b 1"]
        assert await world.result(await world.runtime.fork("r", from_step="b")) == ["p 1", "q 1", "b 2"]


@pytest.mark.parametrize("verb", ["restart", "fork"])
async def test_a_crash_at_any_position_of_a_restart_or_fork_leaves_none_or_a_whole_one(verb: str) -> None:
    position = 0
    while True:
        calls.clear()
        world = World(*ALL)
        await world.open()
        await world.execute(steps, "x", run_id="r")
        world.store.entries_left = position
        options: dict[str, Any] = {"new_run_id": "new"} | ({"from_step": "b"} if verb == "fork" else {})
        try:
            await getattr(world.runtime, verb)("r", **options)
            await world.result("new")
        except StoreError:
            await world.reopen()
            if not await world.runtime.runs(id_prefix="new"):
                await getattr(world.runtime, verb)("r", **options)
        else:
            await world.close()
            break
        result = await world.result("new")
        assert result[0] == "x"
        assert calls["a"] == (1 if verb == "fork" else 2) or result[1] != "a 1"
        if verb == "fork":
            assert result[1:3] == ["a 1", "child 1"]
        await world.close()
        position += 1
    assert position > 2


# Delete


async def test_a_tree_is_deleted_as_a_whole_and_its_ids_are_free_again() -> None:
    async with World(*ALL) as world:
        await world.execute(steps, "x", run_id="r")
        await world.execute(leaf, "x", run_id="aside")
        (child,) = await world.runtime.runs(parent="r")
        with pytest.raises(RunStatusError, match="is part of the tree of run r, which goes as a whole"):
            await world.runtime.delete(child.run_id)
        assert await world.runtime.delete("r") == 2
        assert [run.run_id for run in await world.runtime.runs()] == ["aside"]
        for look in (world.runtime.info, world.runtime.steps, world.runtime.result_of, world.runtime.delete):
            with pytest.raises(RunNotFoundError):
                await look("r")
        assert await world.execute(steps, "y", run_id="r") == ["y", "a 2", "child 2", "b 3", "b 4"]
        await world.reopen()
        assert (await world.runtime.info("r")).input == "y"


async def test_a_tree_in_which_something_runs_is_kept() -> None:
    async with World(*ALL) as world:
        await world.execute(abandoning, run_id="r")
        with pytest.raises(
            RunStatusError, match="cannot be deleted: 1 runs of its tree have not ended; cancel it first"
        ):
            await world.runtime.delete("r")
        report = await world.runtime.prune(older_than=0)
        assert (report.run_ids, report.runs, report.kept) == ([], 0, ["r"])
        await world.clock.advance("2h")
        assert await world.runtime.delete("r") == 2


async def test_prune_deletes_by_age_and_status_and_counts_first() -> None:
    async with World(*ALL) as world:
        trees: list[tuple[str, Workflow[Any, Any], Any]]
        trees = [("old", leaf, "x"), ("bad", broken, None), ("tree", steps, "x")]
        for name, flow, data in trees:
            await world.runtime.start(flow, data, run_id=name)
            with pytest.raises(WorkflowFailedError) if name == "bad" else _nothing():
                await world.result(name)
        await world.clock.advance("2d")
        await world.execute(leaf, "x", run_id="new")
        await world.runtime.start(slow, run_id="running")
        would = await world.runtime.prune(older_than="1d", dry_run=True)
        assert (would.run_ids, would.runs) == (["old", "bad", "tree"], 4)
        assert len(await world.runtime.runs()) == 6
        assert (await world.runtime.prune(older_than="1d", status="failed")).run_ids == ["bad"]
        assert (await world.runtime.prune(older_than="1d", workflow=leaf)).run_ids == ["old"]
        report = await world.runtime.prune(older_than="1d", limit=5)
        assert (report.run_ids, report.runs) == (["tree"], 2)
        assert {run.run_id for run in await world.runtime.runs()} == {"new", "running"}
        with pytest.raises(DurationError):
            await world.runtime.prune(older_than="soon")
        with pytest.raises(ValueError, match="status must be of runs that have ended"):
            await world.runtime.prune(older_than=0, status=["running"])


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


async def test_retention_deletes_by_itself_over_restarts_and_slices() -> None:
    async with World(*ALL, retention=Retention(completed="1d", every="1h")) as world:
        for n in range(150):
            await world.runtime.start(leaf, "x", run_id=f"r{n}")
        await world.runtime.start(broken, run_id="bad")
        await world.settle()
        await world.clock.advance("23h")
        assert len(await world.runtime.runs(limit=500)) == 151
        await world.reopen()
        await world.clock.advance("3h")
        assert [run.run_id for run in await world.runtime.runs()] == ["bad"], (
            "what failed is kept: nothing was said of it"
        )


async def test_retention_goes_on_when_space_could_not_be_given_back_once(caplog: pytest.LogCaptureFixture) -> None:
    class Cramped(FragileStore):
        refusals = 1

        def free(self, pages: int) -> int:
            self.refusals -= 1
            if self.refusals >= 0:
                raise StoreFullError("the disk is full")
            return super().free(pages)

    async with World(*ALL, store=Cramped(), retention=Retention(completed="1d", every="1h")) as world:
        await world.runtime.start(leaf, "x", run_id="early")
        await world.clock.advance("30h")
        assert "retention: the disk is full; it is looked at again in its time" in caplog.text
        await world.runtime.start(leaf, "x", run_id="late")
        await world.clock.advance("30h")
        assert await world.runtime.runs() == []


async def test_a_retention_that_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Retention\(\) keeps everything"):
        Retention()
    with pytest.raises(DurationError, match="completed"):
        Retention(completed="soon")
    with pytest.raises(DurationError, match="every"):
        Retention(completed="1d", every=0)
    with pytest.raises(TypeError, match="retention must be a Retention"):
        Runtime(":memory:", retention="7d")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_crash_within_the_deletion_of_a_tree_leaves_its_upper_part_to_be_deleted_again() -> None:
    from rotor_actors import pruning

    @workflow(id="wide")
    async def wide(ctx: Context) -> None:
        async for _ in ctx.step.map("m", workflow=leaf, items=map(str, range(6)), timeout="1h"):
            pass

    for position in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pruning, "RUNS_PER_ENTRY", 3)
            async with World(wide, *ALL) as world:
                await world.execute(wide, run_id="r")
                world.store.entries_left = position
                with pytest.raises(StoreError):
                    await world.runtime.delete("r")
                await world.reopen()
                assert (await world.runtime.info("r")).status is RunStatus.COMPLETED
                assert await world.runtime.delete("r") == 7 - 3 * position
                assert await world.runtime.runs() == []


class SlowFor(InlineExecutor):
    """Between two reads of one task all others have many turns."""

    task: asyncio.Task[Any] | None = None

    async def call(self, function: Callable[[], T]) -> T:
        if asyncio.current_task() is self.task:
            for _ in range(200):
                await asyncio.sleep(0)
        return await super().call(function)


async def test_a_fork_beside_the_deletion_of_its_origin_is_whole_or_refused() -> None:
    executor = SlowFor()

    def make(name: str) -> SlowFor:
        return executor

    async with World(*ALL, executor=make) as world:
        for reads_before in range(6):
            name = f"r{reads_before}"
            origin = await world.execute(steps, name, run_id=name)
            executor.task = forking = asyncio.ensure_future(world.runtime.fork(name, from_step="b", use=2))
            for _ in range(200 * reads_before + 100):
                await asyncio.sleep(0)
            assert await world.runtime.delete(name) == 2
            try:
                fork = await forking
            except RunNotFoundError:
                assert reads_before < 3
            else:
                assert (await world.result(fork))[:4] == origin[:4], "all before the step, and no more"


@pytest.mark.parametrize("size", [1, 2])
async def test_what_a_crash_has_left_of_a_deleted_tree_is_neither_forked_nor_resumed(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rotor_actors import pruning

    monkeypatch.setattr(pruning, "RUNS_PER_ENTRY", size)
    async with World(*ALL) as world:
        await world.execute(steps, "x", run_id="r")
        await world.settle()
        world.store.entries_left = 1
        deleting = asyncio.ensure_future(world.runtime.delete("r"))
        await asyncio.wait([deleting])
        await world.reopen()
        if size == 1:
            assert isinstance(deleting.exception(), StoreError)
            for again in (world.runtime.fork("r", from_step="b"), world.runtime.resume("r")):
                with pytest.raises(RunStatusError, match="its tree is deleted already; delete run r once more"):
                    await again
            assert await world.runtime.delete("r") == 1
            await world.reopen()
        assert world.store.items(ItemQuery(pruning.DELETING)) == []
        assert await world.execute(steps, "y", run_id="r") == ["y", "a 2", "child 2", "b 3", "b 4"]


# The stores


def store_of(kind: str, tmp_path: Path) -> Store:
    return MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "rotor.db")


def a_row(n: int, **fields: Any) -> RunRow:
    return RunRow(n=n, run_id=f"r{n}", workflow_id="w", root_n=fields.pop("root_n", n), root_run_id="r", created_at=1.0,
                  **fields)  # fmt: skip


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_is_deleted_leaves_nothing_behind_within_one_commit_or_over_several(
    kind: str, tmp_path: Path
) -> None:
    store = store_of(kind, tmp_path)
    store.open()
    first: list[Entry] = [
        RunCreated(a_row(1), 1), StepRecorded(StepRow(1, 1.0, Kind.RUN, b"k", "s", seq=2)),
        ItemPut(ItemRow("progress", "1:", b"x", ord=1), 3), RunCreated(a_row(2), 4),
    ]  # fmt: skip
    store.commit(first)
    store.commit(
        [RunsDeleted([1], 5), RunCreated(a_row(3), 6), StepRecorded(StepRow(3, 1.0, Kind.RUN, b"k", "s", seq=7), 7),
         RunsDeleted([3], 8), RunCreated(RunRow(4, "r1", "w", 4, "r1", 1.0), 9)]
    )  # fmt: skip
    assert [row.n for row in store.rows([1, 2, 3, 4])] == [2, 4]
    assert store.find("r1") is not None
    assert store.steps(1) == store.steps(3) == []
    assert store.items(ItemQuery("progress")) == []
    if not is_shared(store):
        assert store.last_numbers() == (4, 9)
    store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_trees_and_ended_roots_are_listed_in_pages(kind: str, tmp_path: Path) -> None:
    store = store_of(kind, tmp_path)
    store.open()
    completed = RunStatus.COMPLETED
    entries: list[Entry] = [RunCreated(a_row(n, status=completed, ended_at=float(10 - n)), n) for n in range(1, 6)]
    entries += [RunCreated(a_row(n, root_n=1, parent_n=1, status=completed, ended_at=1.0), n) for n in range(6, 9)]
    store.commit(entries)
    assert store.tree_numbers(1, 3) == [8, 7, 6]
    query = EndedRootsQuery((completed,), 8.0, limit=2)
    assert [row.n for row in store.ended_roots(query)] == [5, 4]
    assert [row.n for row in store.ended_roots(EndedRootsQuery((completed,), 8.5, after=(6.0, 4)))] == [3, 2]
    assert store.ended_roots(EndedRootsQuery((RunStatus.FAILED,), 99.0)) == []
    store.close()


def size_of(file: Path) -> int:
    return file.stat().st_size


@pytest.mark.parametrize("way", ["prune", "compact"])
async def test_the_file_shrinks_when_runs_are_deleted(way: str, tmp_path: Path) -> None:
    file = tmp_path / "rotor.db"

    @workflow(id="large")
    async def large(ctx: Context, n: int) -> str:
        return await ctx.step.run("s", lambda: "x" * 20_000)

    async with Runtime(file) as runtime:
        handles = [await runtime.start(large, n, run_id=f"r{n}") for n in range(100)]
        for handle in handles:
            await handle.result()
        await runtime.compact()
        full = size_of(file)
        assert full > 2_000_000
        if way == "prune":
            report = await runtime.prune(older_than=0)
            assert report.runs == 100
        else:
            for n in range(100):
                await runtime.delete(f"r{n}")
            await runtime.compact()
        assert size_of(file) < full / 10
        assert await runtime.execute(large, 1) == "x" * 20_000
