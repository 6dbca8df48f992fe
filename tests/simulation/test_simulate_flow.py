"""Flow control in universes that crash around each of their commits: limits, order and starts hold."""

from __future__ import annotations

import asyncio

from rotor_actors import Batch, Context, Debounce, FlowControl, Idempotency, RunInfo, RunStatus, Singleton, workflow
from rotor_actors.simulation import Simulation, crash_everywhere, simulate

ONE = FlowControl("one", parallelism=1)


def noted(text: str) -> str:
    return text


@workflow(id="two-at-once", flow_control=FlowControl("two", parallelism=2), priority="data.priority")
async def two_at_once(ctx: Context, data: dict[str, int]) -> str:
    await ctx.step.sleep("work", 10)
    return await ctx.step.run("note", noted, str(data))


@workflow(id="rated", flow_control=FlowControl("rated", rate=2, period="1m"))
async def rated(ctx: Context, name: str) -> str:
    return await ctx.step.run("note", noted, name)


@workflow(id="leaf", flow_control=ONE)
async def leaf(ctx: Context, name: str) -> str:
    await ctx.step.sleep("work", 5)
    return await ctx.step.run("note", noted, name)


@workflow(id="branch", flow_control=ONE)
async def branch(ctx: Context, name: str) -> list[str]:
    ends = [ctx.step.invoke(f"{n}", workflow=leaf, data=f"{name}{n}", timeout="1h") for n in range(2)]
    return [end.result for end in await asyncio.gather(*ends)]


@workflow(id="family")
async def family(ctx: Context) -> list[str]:
    """Children of a key that wait, lend each other a place, are left while they wait, and time out while they wait."""

    async def left() -> str:
        try:
            async with asyncio.timeout(3):
                await ctx.step.invoke("left", workflow=leaf, data="left", timeout="1h", flow_control=ONE)
        except TimeoutError:
            return "left"
        return "not left"

    async def late() -> str:
        outcome = await ctx.invoke("late", workflow=leaf, body="late", timeout=8)
        assert outcome.is_timed_out
        return (await ctx.step.join("join", run_id=outcome.run_id, timeout="1h", returns=str)).result

    async def both() -> list[str]:
        branches = [ctx.step.invoke(f"b{n}", workflow=branch, data=f"b{n}", timeout="1h") for n in range(2)]
        first, second = await asyncio.gather(*branches)
        return [*first.result, *second.result]

    pair, one, other = await asyncio.gather(both(), left(), late())
    return [*pair, one, other]


@workflow(id="debounced", debounce=Debounce("10s"), idempotency=Idempotency("data"))
async def debounced(ctx: Context, name: str) -> str:
    return await ctx.step.run("note", noted, name)


@workflow(id="gathered", batch=Batch(3, "10s"))
async def gathered(ctx: Context, data: list[str]) -> str:
    return await ctx.step.run("note", noted, "".join(data))


@workflow(id="newest", singleton=Singleton(mode="cancel"))
async def newest(ctx: Context, name: str) -> str:
    await ctx.step.sleep("work", 20)
    return await ctx.step.run("note", noted, name)


def at_once(runs: list[RunInfo]) -> int:
    """How many of these had a place at the same time, at most."""
    spans = [(run.started_at, run.ended_at) for run in runs if run.started_at is not None and run.ended_at is not None]
    return max(sum(began <= start < end for began, end in spans) for start, _ in spans)


def test_a_family_of_one_key_survives_a_crash_around_each_commit() -> None:
    assert crash_everywhere(family).universes > 30


@simulate(workflows=[two_at_once], seeds=2, crash="every-commit")
async def test_no_more_than_parallelism_have_a_place_and_priority_goes_first(sim: Simulation) -> None:
    handles = [
        await sim.runtime.start(two_at_once, {"priority": priority}, run_id=f"{n}")
        for n, priority in enumerate([0, 0, 0, 5, 0])
    ]
    for handle in handles:
        await handle.result()
    runs = await sim.runtime.runs()
    assert len(runs) == 5
    assert at_once(runs) <= 2
    began = {run.run_id: run.started_at for run in runs if run.started_at is not None}
    assert began["3"] <= began["2"] <= began["4"]


@simulate(workflows=[rated], seeds=2, crash="every-commit")
async def test_a_rate_holds_in_every_period(sim: Simulation) -> None:
    for n in range(5):
        await sim.runtime.start(rated, f"{n}", run_id=f"{n}")
    for n in range(5):
        await sim.runtime.run(f"{n}").result()
    began = sorted(run.started_at.timestamp() for run in await sim.runtime.runs() if run.started_at is not None)
    assert len(began) == 5
    assert all(later - earlier > 59.999 for earlier, later in zip(began, began[2:], strict=False))


@simulate(workflows=[debounced], seeds=2, crash="every-commit")
async def test_debounced_starts_are_one_run_with_the_last_data(sim: Simulation) -> None:
    handles = [await sim.runtime.start(debounced, name) for name in ("a", "b", "c")]
    results = [await handle.result() for handle in handles]
    assert results[-1] == "c"
    assert len(await sim.runtime.runs()) == len(set(results))


@simulate(workflows=[gathered], seeds=2, crash="every-commit")
async def test_what_a_batch_was_given_is_in_a_batch(sim: Simulation) -> None:
    for name in ("a", "b", "c", "d"):
        await sim.runtime.start(gathered, [name])
    await sim.advance("1m")
    runs = await sim.runtime.runs()
    assert all(run.status is RunStatus.COMPLETED for run in runs)
    assert set("".join(run.result for run in runs)) == {"a", "b", "c", "d"}


@simulate(workflows=[newest], seeds=2, crash="every-commit")
async def test_the_newest_of_a_singleton_wins_and_never_two_have_a_place(sim: Simulation) -> None:
    for name in ("a", "b", "c"):
        await sim.runtime.start(newest, name, run_id=name)
        await sim.advance("1s")
    assert await sim.runtime.run("c").result() == "c"
    runs = await sim.runtime.runs()
    assert {run.run_id: run.status for run in runs} == {
        "a": RunStatus.CANCELLED, "b": RunStatus.CANCELLED, "c": RunStatus.COMPLETED
    }  # fmt: skip
    assert at_once(runs) <= 1
