"""Events, signals, schedules and cancellations by event in universes that crash around each of their commits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rotor_actors import CancelOn, Context, Event, RunStatus, cron, workflow
from rotor_actors.errors import SignalNotFoundError, SignalTimeoutError, WorkflowCancelledError
from rotor_actors.simulation import Simulation, crash_everywhere, simulate


def noted(text: str) -> str:
    return text


@workflow(id="payment", on="order.created")
async def payment(ctx: Context, order: dict[str, int]) -> list[Any]:
    event = await ctx.step.wait_for_event("paid", event="order.paid", timeout="1d", match="data.order")
    return [await ctx.step.run("note", noted, "paid"), None if event is None else event.data]


@workflow(id="approval")
async def approval(ctx: Context) -> str:
    answer = await ctx.step.wait_for_signal("answer", signal="approve", timeout="1d", returns=str)
    return await ctx.step.run("note", noted, answer)


@workflow(id="mortal", cancel_on=[CancelOn("stop", where="data.run == own.id")])
async def mortal(ctx: Context) -> None:
    await ctx.step.sleep("long", "30d")


@workflow(id="tick", on=cron("*/10 * * * *", missed="all"))
async def tick(ctx: Context) -> str:
    assert ctx.event.timestamp is not None
    return await ctx.step.run("note", noted, ctx.event.timestamp.isoformat())


@workflow(id="talk")
async def talk(ctx: Context) -> list[Any]:
    """It waits, withdraws, times out, and sends to itself."""

    async def listen() -> Any:
        event = await ctx.step.wait_for_event("listen", event="e", timeout="1h", where="data.n > 1")
        return None if event is None else event.data

    async def speak() -> list[str]:
        await ctx.step.sleep("a while", 30)
        await ctx.step.send_event("one", Event("e", {"n": 1}))
        await ctx.step.run("between", noted, "x")
        return await ctx.step.send_event("two", Event("e", {"n": 2}, id="once"))

    async def leave() -> str:
        try:
            async with asyncio.timeout(10):
                await ctx.step.wait_for_signal("withdrawn", signal="never", timeout="1h")
        except TimeoutError:
            pass
        try:
            await ctx.step.wait_for_signal("times out", signal="never", timeout=60)
        except SignalTimeoutError as error:
            return error.signal
        return ""

    return list(await asyncio.gather(listen(), speak(), leave()))


def test_a_run_that_waits_withdraws_and_sends_to_itself_survives_a_crash_around_each_commit() -> None:
    assert crash_everywhere(talk).universes > 20


@simulate(workflows=[payment], seeds=2, crash="every-commit")
async def test_an_event_starts_and_resumes_once(sim: Simulation) -> None:
    [first] = await sim.runtime.send(Event("order.created", {"order": 1}, id="o1"))
    await sim.advance("1m")
    assert await sim.runtime.send(Event("order.paid", {"order": 1}, id="p1")) == []
    assert await sim.runtime.send(Event("order.created", {"order": 1}, id="o1")) == [first]
    assert await sim.runtime.run(first).result() == ["paid", {"order": 1}]
    assert len(await sim.runtime.runs()) == 1


@simulate(workflows=[approval], seeds=2, crash="every-commit")
async def test_an_acknowledged_signal_is_never_lost(sim: Simulation) -> None:
    handle = await sim.runtime.start(approval, run_id="a")
    await sim.advance("1m")
    try:
        await sim.runtime.signal("approve", "yes")
    except SignalNotFoundError:
        pass  # sent again after a crash, and it had arrived
    assert await handle.result() == "yes"


@simulate(workflows=[mortal], seeds=2, crash="every-commit")
async def test_an_acknowledged_event_has_cancelled(sim: Simulation) -> None:
    first = await sim.runtime.start(mortal, run_id="first")
    second = await sim.runtime.start(mortal, run_id="second")
    await sim.runtime.send(Event("stop", {"run": "first"}, id="s"))
    with pytest.raises(WorkflowCancelledError, match=r"event 'stop' \(id s\)"):
        await first.result()
    assert await second.status() is RunStatus.RUNNING


@simulate(workflows=[tick], seeds=2, crash="every-commit")
async def test_each_scheduled_time_starts_one_run(sim: Simulation) -> None:
    await sim.advance("35m")
    results = [run.result for run in reversed(await sim.runtime.runs(workflow="tick"))]
    assert len(results) == 3
    assert results == sorted(set(results))


@workflow(id="listener", on="go")
async def listener(ctx: Context, data: dict[str, int]) -> Any:
    event = await ctx.step.wait_for_event("w", event="ping", timeout="1h", match="data.n")
    return None if event is None else event.data["k"]


@simulate(workflows=[listener, mortal, tick], seeds=12, crash="seeded")
async def test_all_at_once_with_crashes_by_chance_in_recovery_too(sim: Simulation) -> None:
    ids: list[str] = []
    for n in range(4):
        ids += await sim.runtime.send(Event("go", {"n": n}, id=f"go-{n}"))
    mortal_run = await sim.runtime.start(mortal, run_id="mortal")
    await sim.advance("5m")
    pings = [Event("ping", {"n": n % 4, "k": n}, id=f"ping-{n}") for n in range(8)]
    await asyncio.gather(*(sim.runtime.send(ping) for ping in pings))
    await sim.runtime.send(Event("stop", {"run": "mortal"}, id="stop"))
    heard = [await sim.runtime.run(id).result() for id in ids]
    assert [k % 4 for k in heard] == [0, 1, 2, 3]
    with pytest.raises(WorkflowCancelledError):
        await mortal_run.result()
    await sim.advance("30m")
    assert len(await sim.runtime.runs(workflow="listener")) == 4
    times = [run.result for run in reversed(await sim.runtime.runs(workflow="tick"))]
    assert len(times) >= 3
    assert times == sorted(set(times))
