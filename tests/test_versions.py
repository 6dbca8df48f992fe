"""Code that changes under runs in flight: versions, `ctx.patched`, and the checker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import IS_SHARED, World, untouched, with_a_crash_after_each_entry

from rotor_actors import Context, RetryPolicy, RunStatus, Runtime, Workflow, check_runs, workflow
from rotor_actors.check import main
from rotor_actors.errors import StepRefusedError, StoreError, WorkflowDefinitionError

pytestmark = pytest.mark.filterwarnings("error")

Body = Callable[[Context], Any]
done: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    done.clear()


def act(name: str) -> str:
    done.append(name)
    return name


def flow(
    body: Body, *, version: str | None = None, retries: Any = 0, takes_over: tuple[str, ...] = ()
) -> Workflow[None, str]:
    @workflow(id="flow", version=version, retries=retries, takes_over=takes_over)
    async def flow(ctx: Context) -> str:
        result: str = await body(ctx)
        return result

    return flow


async def old(ctx: Context) -> str:
    await ctx.step.run("first", act, "first")
    await ctx.step.sleep("doze", "1h")
    await ctx.step.run("old", act, "old")
    await ctx.step.sleep("again", "1h")
    return "old way"


async def patched_early(ctx: Context) -> str:
    await ctx.step.run("first", act, "first")
    if ctx.patched("new way"):
        await ctx.step.run("new", act, "new")
        return "new way"
    await ctx.step.sleep("doze", "1h")
    await ctx.step.run("old", act, "old")
    await ctx.step.sleep("again", "1h")
    return "old way"


async def patched_late(ctx: Context) -> str:
    await ctx.step.run("first", act, "first")
    await ctx.step.sleep("doze", "1h")
    if ctx.patched("new way"):
        await ctx.step.run("new", act, "new")
        return "new way"
    await ctx.step.run("old", act, "old")
    await ctx.step.sleep("again", "1h")
    return "old way"


# Versions


@pytest.mark.asyncio
async def test_the_version_of_a_workflow_is_recorded_with_each_run_and_stays() -> None:
    one, two = flow(old, version="1"), flow(old, version="2")
    async with World(one) as world:
        await world.runtime.start(one, run_id="r")
        await world.settle()
        await world.reopen(two)
        await world.runtime.start(two, run_id="s")
        assert [(run.run_id, run.version) for run in await world.runtime.runs()] == [("s", "2"), ("r", "1")]
        if IS_SHARED:  # others may still run version 1
            assert await untouched(world.runtime) == 1
            await world.reopen(two := flow(old, version="2", takes_over=("1",)))
        await world.result("r")
        assert (await world.runtime.info("r")).version == "1"
        assert (await (await world.runtime.restart("r")).info()).version == "2"


@pytest.mark.parametrize("version", ["", 2, "\ud800"])
@pytest.mark.asyncio
async def test_a_version_that_is_no_text_is_refused_by_name(version: Any) -> None:
    with pytest.raises(WorkflowDefinitionError, match="workflow 'flow': version must be a non-empty text"):
        flow(old, version=version)


# patched


@pytest.mark.asyncio
async def test_a_run_that_begins_after_the_change_goes_the_new_way_at_every_crash() -> None:
    new = flow(patched_late)
    outcomes = await with_a_crash_after_each_entry(lambda: World(new), new)
    assert set(outcomes) == {"new way"}
    assert "old" not in done


@pytest.mark.asyncio
async def test_a_run_whose_record_passed_the_change_goes_the_old_way() -> None:
    before, after = flow(old), flow(patched_early)
    async with World(before, strict_replay=True) as world:
        await world.runtime.start(before, run_id="r")
        await world.clock.advance("90m")
        await world.reopen(after)
        assert await world.result("r") == "old way"
        assert done == ["first", "old"]


@pytest.mark.asyncio
async def test_a_run_that_comes_to_the_change_live_goes_the_new_way_and_stays_with_it() -> None:
    before, after = flow(old), flow(patched_late)
    async with World(before, strict_replay=True) as world:
        await world.runtime.start(before, run_id="r")
        await world.settle()
        await world.reopen(after)
        await world.clock.advance("1h")
        assert done == ["first", "new"]
        assert await world.result("r") == "new way"


@pytest.mark.asyncio
async def test_the_answer_is_the_same_in_the_whole_run_and_after_each_restart() -> None:
    answers: list[list[bool]] = []

    async def looping(ctx: Context) -> str:
        mine: list[bool] = []
        answers.append(mine)
        for n in range(3):
            await ctx.step.sleep(f"s{n}", "1h")
            mine.append(ctx.patched("p"))
        return "done"

    async def unpatched(ctx: Context) -> str:
        for n in range(3):
            await ctx.step.sleep(f"s{n}", "1h")
        return "done"

    before, after = flow(unpatched), flow(looping)
    async with World(before) as world:
        await world.runtime.start(before, run_id="r")
        await world.clock.advance("150m")  # past the second
        for _ in range(3):
            await world.reopen(after)
            await world.clock.advance("10m")
        assert await world.result("r") == "done"
    assert all(mine == [False] * len(mine) for mine in answers), answers


@pytest.mark.asyncio
async def test_in_a_later_attempt_what_earlier_ones_recorded_beyond_the_change_counts() -> None:
    async def fails_at_the_end(ctx: Context) -> str:
        await old(ctx)
        if ctx.attempt == 1:
            raise ValueError("once")
        return "old way"

    async def patched_and_fails(ctx: Context) -> str:
        way = await patched_early(ctx)
        return f"{way} in attempt {ctx.attempt}"

    retries = RetryPolicy(1, initial="1h", jitter=False)
    before, after = flow(fails_at_the_end, retries=retries), flow(patched_and_fails, retries=retries)
    async with World(before) as world:
        await world.runtime.start(before, run_id="r")
        await world.clock.advance("150m")
        await world.reopen(after)
        assert await world.result("r") == "old way in attempt 2"


@pytest.mark.asyncio
async def test_a_patch_is_no_step_and_bad_names_are_refused() -> None:
    seen: list[str] = []

    async def body(ctx: Context) -> str:
        assert ctx.patched("p")
        assert ctx.patched("p")
        await ctx.step.run("p", act, "p")  # the same name as a step's id is another matter
        try:
            ctx.patched("")
        except TypeError as error:
            seen.append(str(error))
        await ctx.step.run("outside", lambda: _outside(ctx, seen))
        return "done"

    new = flow(body)
    async with World(new) as world:
        assert await world.execute(new, run_id="r") == "done"
        assert [step.step_id for step in await world.runtime.steps("r")] == ["p", "outside"]
    assert "non-empty string" in seen[0]
    assert "was called from outside the workflow's body" in seen[1]


def _outside(ctx: Context, seen: list[str]) -> None:
    try:
        ctx.patched("q")
    except StepRefusedError as error:
        seen.append(str(error))


# The checker


async def prepared(file: Path, body: Body, **options: Any) -> None:
    """A store with runs that sleep, one that has ended, and one of another workflow."""
    before = flow(body, **options)

    @workflow(id="other")
    async def other(ctx: Context) -> None:
        await ctx.step.sleep("doze", "1h")

    @workflow(id="quick")
    async def quick(ctx: Context) -> None: ...

    async with Runtime(file, drain_timeout=0) as runtime:
        await runtime.start(before, run_id="r")
        await runtime.start(other, run_id="o")
        await runtime.execute(quick)
        while len(await runtime.steps("r")) < 1:
            pass


async def renamed(ctx: Context) -> str:
    await ctx.step.run("renamed", act, "renamed")
    await ctx.step.sleep("doze", "1h")
    return "x"


async def other_kind(ctx: Context) -> str:
    await ctx.step.sleep("first", "1h")
    return "x"


async def too_short(ctx: Context) -> str:
    return "x"


async def raising(ctx: Context) -> str:
    raise KeyError("gone")


async def added_after(ctx: Context) -> str:
    await ctx.step.run("first", act, "first")
    await ctx.step.run("added", act, "added")
    return "x"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (old, None),
        (added_after, None),
        (patched_early, None),
        (renamed, "the journal holds the outcome of step 'first', which the code did not ask for"),
        (other_kind, "step 'first' (use 0) is a sleep in the code, but the journal recorded a run step"),
        (too_short, "its body returns before it comes to the outcome of step 'first', which is recorded next"),
        (raising, "its body raises KeyError: 'gone' before it comes to the outcome of step 'first'"),
    ],
)
@pytest.mark.asyncio
async def test_the_checker_names_what_would_break_and_where(tmp_path: Path, body: Body, what: str | None) -> None:
    file = tmp_path / "rotor.db"
    await prepared(file, old, version="7")
    executed = list(done)
    before = read(file)
    report = await check_runs(file, [flow(body)])
    assert (report.checked, report.unknown) == (1, {"other": 1})
    assert done == executed, "no step is executed"
    assert read(file) == before
    if what is None:
        assert report.broken == []
    else:
        (broken,) = report.broken
        assert (broken.run_id, broken.workflow_id, broken.version) == ("r", "flow", "7")
        assert what in broken.what


def read(file: Path) -> bytes:
    return file.read_bytes()


@pytest.mark.asyncio
async def test_a_file_that_a_live_process_owns_can_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "rotor.db"
    before = flow(old)
    async with Runtime(file, drain_timeout=0) as runtime:
        await runtime.start(before, run_id="r")
        while len(await runtime.steps("r")) < 1:
            pass
        assert (await check_runs(file, [before])).is_clean
        assert [each.run_id for each in (await check_runs(file, [flow(renamed)])).broken] == ["r"]
        assert await runtime.run("r").status() is RunStatus.RUNNING


@pytest.mark.asyncio
async def test_parents_and_maps_are_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "rotor.db"

    @workflow(id="leaf")
    async def leaf(ctx: Context, n: int) -> int:
        return n

    async def mapping(ctx: Context) -> str:
        async for _ in ctx.step.map("m", workflow=leaf, items=range(5), timeout="1h"):
            pass
        await ctx.step.invoke("one", workflow=leaf, data=1, timeout="1h")
        await ctx.step.sleep("doze", "1h")
        return "x"

    async def without_map(ctx: Context) -> str:
        await ctx.step.invoke("one", workflow=leaf, data=1, timeout="1h")
        return "x"

    before = flow(mapping)
    async with Runtime(file, drain_timeout=0) as runtime:
        await runtime.start(before, run_id="r")
        while len(await runtime.runs(parent="r", status="completed")) < 6:
            pass
    assert (await check_runs(file, [before])).is_clean
    (broken,) = (await check_runs(file, [flow(without_map)])).broken
    assert "which the code did not ask for" in broken.what


@pytest.mark.asyncio
async def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store to look at"):
        await check_runs(tmp_path / "none.db", [flow(old)])


MODULE = """
from rotor_actors import Context, workflow

@workflow(id="flow")
async def flow(ctx: Context) -> str:
    await ctx.step.run("{step}", print, "never")
    return "x"

app = [flow]
"""


@pytest.mark.parametrize(
    ("step", "target", "code"), [("first", "", 0), ("changed", ":app", 1), ("changed", ":flow", 1)]
)
def test_the_command_prints_and_exits_by_what_it_found(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    target: str,
    code: int,
) -> None:
    import asyncio

    asyncio.run(_only_flow(tmp_path / "rotor.db"))
    name = f"checked_{step}{len(target)}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(step=step))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert main([f"{name}{target}", "--store", str(tmp_path / "rotor.db")]) == code
    out = capsys.readouterr().out
    assert out.endswith(f"1 unfinished runs checked, {code} would break\n")
    if code:
        assert out.startswith("r  flow: ")
        main([f"{name}{target}", "--store", str(tmp_path / "rotor.db"), "--json"])
        assert json.loads(capsys.readouterr().out)["broken"][0]["run_id"] == "r"


async def _only_flow(file: Path) -> None:
    async with Runtime(file, drain_timeout=0) as runtime:
        await runtime.start(flow(old), run_id="r")
        while len(await runtime.steps("r")) < 1:
            pass


def test_the_command_says_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no.such.module", "--store", str(tmp_path / "rotor.db")]) == 2
    assert main(["json", "--store", str(tmp_path / "rotor.db")]) == 2
    assert "holds no workflow" in capsys.readouterr().err
