"""What comes after a run's end, changed code, transactions and reports, in universes that crash around each commit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rotor_actors import Context, Retention, RunStatus, Transaction, workflow
from rotor_actors.errors import NonRetriableError, RunExistsError, RunNotFoundError, RunStatusError, WorkflowFailedError
from rotor_actors.simulation import Simulation, simulate


def noted(text: str) -> str:
    return text


def mend(text: str) -> str:
    raise AssertionError("it is stubbed")


@workflow(id="leaf", retries=0)
async def leaf(ctx: Context, name: str) -> str:
    await ctx.step.run("before", noted, name)
    return await ctx.step.run("mend", mend, name, retries=0)


@workflow(id="tree", retries=0)
async def tree(ctx: Context) -> list[str]:
    """One child completes, another fails and ends it."""
    good = await ctx.step.run("good", noted, "good")
    ends = [ctx.step.invoke(name, workflow=leaf, data=name, timeout="1h") for name in ("well", "ill")]
    first, second = [end.result for end in await asyncio.gather(*ends)]
    return [good, first, second]


@workflow(id="plain")
async def plain(ctx: Context, name: str) -> list[str]:
    first = await ctx.step.run("first", noted, f"{name} first")
    await ctx.step.sleep("doze", "10m")
    child = (await ctx.step.invoke("child", workflow=below, data=name, timeout="1h")).result
    return [first, child, await ctx.step.run("last", noted, f"{name} last")]


@workflow(id="below")
async def below(ctx: Context, name: str) -> str:
    return await ctx.step.run("deep", noted, f"{name} deep")


def _fails_for_ill(sim: Simulation) -> list[bool]:
    """`mend` fails for one of them, until that is taken from the list."""
    is_broken = [True]

    def mending(name: str) -> str:
        if is_broken and name == "ill":
            raise NonRetriableError("not yet")
        return f"{name} mended"

    sim.stub(mend, returns=mending)
    return is_broken


@simulate(seeds=2, crash="every-commit")
async def test_a_resumed_run_goes_on_from_what_failed_and_does_nothing_else_again(sim: Simulation) -> None:
    is_broken = _fails_for_ill(sim)
    handle = await sim.runtime.start(tree, run_id="one")
    with pytest.raises(WorkflowFailedError, match="not yet"):
        await handle.result()
    await sim.advance("1m")
    kept = [run.run_id for run in await sim.runtime.runs(workflow=leaf, status="completed")]
    sim.sometimes("a child has completed before the other's failure ended the run", kept)
    done = [sim.effects("good"), *(sim.effects("mend", run_id=run_id) for run_id in kept)]
    is_broken.clear()
    try:
        await sim.runtime.resume("one")
    except RunStatusError:
        pass  # asked again after a crash: it goes on already, or has completed
    assert await handle.result() == ["good", "well mended", "ill mended"]
    runs = await sim.runtime.runs()
    assert [run.status for run in runs] == [RunStatus.COMPLETED] * 3
    assert done == [sim.effects("good"), *(sim.effects("mend", run_id=run_id) for run_id in kept)]


@simulate(seeds=2, crash="every-commit")
async def test_a_restart_asked_for_by_id_starts_one_run_from_zero(sim: Simulation) -> None:
    is_broken = _fails_for_ill(sim)
    with pytest.raises(WorkflowFailedError):
        await (await sim.runtime.start(tree, run_id="one")).result()
    is_broken.clear()
    again = await sim.runtime.restart("one", new_run_id="two")
    assert await again.result() == ["good", "well mended", "ill mended"]
    assert (await sim.runtime.info("two")).origin_run_id == "one"
    assert (await sim.runtime.info("one")).status is RunStatus.FAILED
    assert [run.run_id for run in await sim.runtime.runs(workflow=tree)] == ["two", "one"]
    assert sim.effects("good", run_id="two") <= 1 + sim.universe.crashes


@simulate(workflows=[below], seeds=2, crash="every-commit")
async def test_a_fork_has_the_memo_before_its_step_and_does_the_rest(sim: Simulation) -> None:
    assert await sim.runtime.execute(plain, "a", run_id="one") == ["a first", "a deep", "a last"]
    try:
        fork = await sim.runtime.fork("one", from_step="child", new_run_id="two")
    except RunExistsError:
        fork = sim.runtime.run("two")  # asked again after a crash, and it was there
    assert await fork.result() == ["a first", "a deep", "a last"]
    assert sim.effects("first", run_id="two") == 0
    assert 1 <= sim.effects("last", run_id="two") <= 1 + sim.universe.crashes
    assert len(await sim.runtime.runs(workflow=plain)) == len(await sim.runtime.runs(workflow=below)) == 2


@simulate(workflows=[below], seeds=2, crash="every-commit")
async def test_what_is_deleted_goes_whole_and_what_lives_stays_whole(sim: Simulation) -> None:
    await sim.runtime.execute(plain, "old", run_id="old")
    await sim.advance("2h")
    await sim.runtime.execute(plain, "new", run_id="new")
    living = await sim.runtime.start(plain, "living", run_id="living")
    await sim.advance("1m")
    await sim.runtime.prune(older_than="1h")
    assert {run.root_run_id for run in await sim.runtime.runs()} == {"new", "living"}
    try:
        assert await sim.runtime.delete("new") == 2
    except RunNotFoundError:
        pass  # asked again after a crash, and it was gone
    assert {run.root_run_id for run in await sim.runtime.runs()} == {"living"}
    assert await sim.runtime.execute(plain, "again", run_id="new") == ["again first", "again deep", "again last"]
    assert await living.result() == ["living first", "living deep", "living last"]
    assert len(await sim.runtime.runs()) == 4


@simulate(
    workflows=[below], seeds=2, crash="every-commit", options={"retention": Retention(completed="1h", every="5m")}
)
async def test_retention_deletes_what_is_old_enough_and_nothing_else(sim: Simulation) -> None:
    await sim.runtime.execute(plain, "a", run_id="a")
    await sim.advance("30m")
    await sim.runtime.execute(plain, "b", run_id="b")
    await sim.advance("40m")
    assert {run.root_run_id for run in await sim.runtime.runs()} == {"b"}
    with pytest.raises(RunNotFoundError):
        await sim.runtime.info("a")


# Changed code

_patches: list[str] = []


@workflow(id="changing")
async def changing(ctx: Context) -> list[str]:
    """The code is changed while runs of it sleep: that is, once `_patches` holds something."""
    seen = [await ctx.step.run("first", noted, "first")]
    await ctx.step.sleep("doze", "1h")
    if _patches and ctx.patched("new way"):
        seen.append(await ctx.step.run("new", noted, "new"))
        await ctx.step.sleep("new doze", "1h")
    else:
        seen.append(await ctx.step.run("old", noted, "old"))
        await ctx.step.sleep("old doze", "1h")
    return seen


@simulate(seeds=2, crash="every-commit")
async def test_a_run_keeps_to_the_way_that_it_has_gone_when_the_code_changes(sim: Simulation) -> None:
    _patches.clear()
    early = await sim.runtime.start(changing, run_id="early")
    await sim.advance("90m")
    late = await sim.runtime.start(changing, run_id="late")
    await sim.advance("1m")
    _patches.append("changed")
    await sim.crash()
    fresh = await sim.runtime.start(changing, run_id="fresh")
    results = [await handle.result() for handle in (early, late, fresh)]
    assert results == [["first", "old"], ["first", "new"], ["first", "new"]]
    assert [run.status for run in await sim.runtime.runs()] == [RunStatus.COMPLETED] * 3
    assert [sim.effects("new", run_id="early"), sim.effects("old", run_id="late")] == [0, 0]


# Transactions


def book(tx: Transaction, name: str, amount: int) -> int:
    tx.execute("CREATE TABLE IF NOT EXISTS bookings(name TEXT, amount INTEGER)")
    tx.execute("INSERT INTO bookings VALUES (?, ?)", (name, amount))
    total: int = tx.execute("SELECT sum(amount) FROM bookings")[0][0]
    return total


def booked(tx: Transaction) -> list[Any]:
    return [list(row) for row in tx.execute("SELECT name, amount FROM bookings ORDER BY rowid")]


@workflow(id="booking")
async def booking(ctx: Context) -> list[Any]:
    sums = [await ctx.step.transaction(f"book {n}", book, f"b{n}", 10**n) for n in range(3)]
    await ctx.step.sleep("doze", "1h")
    return [sums, await ctx.step.transaction("read", booked)]


@pytest.mark.parametrize("store", ["sqlite", "memory"])
def test_rows_and_memo_are_one_whatever_crashes(store: str) -> None:
    @simulate(seeds=2, crash="every-commit", store=store)
    async def universes(sim: Simulation) -> None:
        result = await sim.runtime.execute(booking, run_id="one")
        assert result == [[1, 11, 111], [["b0", 1], ["b1", 10], ["b2", 100]]]

    universes()


# Reports


@workflow(id="reporting")
async def reporting(ctx: Context) -> int:
    for n in range(4):
        ctx.report(n)
        ctx.report(f"half {n}", key="half")
        await ctx.step.run(f"work {n}", noted, str(n))
        await ctx.step.sleep(f"doze {n}", "1m")
    ctx.report("done")
    return 4


@simulate(seeds=2, crash="every-commit")
async def test_the_newest_report_of_each_key_survives(sim: Simulation) -> None:
    handle = await sim.runtime.start(reporting, run_id="one")
    await sim.advance("150s")
    known = (await handle.progress())[""].value
    assert known == 2
    await sim.crash()
    assert (await handle.progress())[""].value >= known
    assert await handle.result() == 4
    newest = {key: update.value for key, update in (await handle.progress()).items()}
    assert newest == {"": "done", "half": "half 3"}
