"""What a test can do with its `Simulation`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_type

import pytest

from rotor_actors import Context, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import RunNotFoundError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.simulation import (
    DeadlockError,
    Faults,
    Settings,
    Simulation,
    Universe,
    UniverseFailed,
    run_universe,
    simulate,
)
from rotor_actors.simulation.trace import Closed, Noted

PATIENT = RetryPolicy(max_retries=3, initial="1m", factor=1.0, maximum="1m", jitter=False)


async def fetch(url: str) -> str:
    raise AssertionError("it is stubbed")


def parse(text: str) -> int:
    return len(text)


@workflow(id="page")
async def page(ctx: Context, url: str) -> int:
    text = await ctx.step.run("fetch", fetch, url, retries=PATIENT)
    return await ctx.step.run("parse", parse, text)


@workflow(id="site")
async def site(ctx: Context, urls: list[str]) -> list[int]:
    got = await asyncio.gather(
        *(ctx.step.invoke(url, workflow=page, data=url, timeout="1h") for url in urls), return_exceptions=False
    )
    return [each.result for each in got]


@workflow(id="remote")
async def remote(ctx: Context, text: str) -> str:
    got = await ctx.step.invoke_by_id("ask", workflow="translator", returns=str, data=text, timeout="1h")
    return got.result


@simulate(seeds=3)
async def test_a_stub_returns_takes_time_and_notes_its_calls(sim: Simulation) -> None:
    stub = sim.stub(fetch, returns=str.upper, takes="90s")
    assert await sim.runtime.execute(site, ["a", "bb"]) == [1, 2]
    assert sorted(stub.calls) == [("a",), ("bb",)]
    assert 90 <= sim.now() < 91
    assert sim.effects(fetch) == sim.effects("fetch") == 2
    assert sim.effects(parse) == 2


@simulate(seeds=3)
async def test_a_stub_raises_once_for_each_error_it_was_given(sim: Simulation) -> None:
    sim.stub(fetch, raises=[ConnectionError("one"), TimeoutError], returns="text")
    handle = await sim.runtime.start(page, "a")
    assert await handle.result() == 4
    assert sim.effects(fetch, run_id=handle.run_id) == 3
    assert sim.now() > 120


@simulate(seeds=3)
async def test_a_stub_that_always_raises_uses_the_retries_up(sim: Simulation) -> None:
    sim.stub(fetch, raises=ConnectionError("down"))
    with pytest.raises(WorkflowFailedError, match="down"):
        await sim.runtime.execute(page, "a")


@simulate(seeds=20, crash="every-commit")
async def test_a_child_workflow_is_stubbed_by_itself(sim: Simulation) -> None:
    sim.stub(page, returns=len, takes="10m")
    assert await sim.runtime.execute(site, ["a", "bb", "ccc"]) == [1, 2, 3]
    assert sim.effects(fetch) == 0
    assert 600 <= sim.now() < 700


@simulate(seeds=10, crash="every-commit")
async def test_a_workflow_that_is_not_here_is_stubbed_by_its_id(sim: Simulation) -> None:
    sim.stub("translator", returns="<{}>".format, takes="1m")
    assert await sim.runtime.execute(remote, "hallo") == "<hallo>"


@simulate(seeds=5)
async def test_a_stub_replaces_the_one_before(sim: Simulation) -> None:
    sim.stub(fetch, returns="a")
    sim.stub(fetch, returns="abc")
    assert await sim.runtime.execute(page, "a") == 3


@simulate(seeds=10)
async def test_handles_and_calls_under_way_survive_a_crash(sim: Simulation) -> None:
    sim.stub(fetch, returns="abc", takes="1m")
    handle = await sim.runtime.start(page, "a")
    waiting = asyncio.ensure_future(handle.result())
    for _ in range(3):
        await sim.advance("10s")
        await sim.crash()
    assert await waiting == 3
    assert await handle.status() is RunStatus.COMPLETED
    assert (await sim.runtime.info(handle.run_id)).workflow_id == "page"
    assert len(await sim.runtime.runs()) == 1
    assert sim.universe.crashes == 3


@simulate(seeds=40, faults=Faults(crash=0.2))
async def test_a_start_that_is_made_again_after_a_crash_starts_no_second_run(sim: Simulation) -> None:
    sim.stub(fetch, returns="abc")
    handles = [await sim.runtime.start(page, "a") for _ in range(3)]
    assert [await handle.result() for handle in handles] == [3, 3, 3]
    assert {run.run_id for run in await sim.runtime.runs()} == {handle.run_id for handle in handles}


@simulate(seeds=5)
async def test_errors_of_calls_are_those_of_the_runtime(sim: Simulation) -> None:
    sim.stub(fetch, returns="abc", takes="4m")
    with pytest.raises(RunNotFoundError):
        await sim.runtime.info("nobody")
    handle = await sim.runtime.start(page, "a")
    with pytest.raises(WorkflowTimeoutError):
        await handle.result(timeout="1m")
    waiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await handle.result() == 3


@simulate(seeds=40)
async def test_advance_comes_back_when_what_it_has_set_off_is_done(sim: Simulation) -> None:
    sim.stub(fetch, returns="abc", takes="1m")
    handle = await sim.runtime.start(page, "a")
    await sim.advance("59s")
    assert await handle.status() is RunStatus.RUNNING
    await sim.advance("1s")
    assert await handle.status() is RunStatus.COMPLETED


def test_a_deadlock_names_who_waits_for_what() -> None:
    @simulate(seeds=1)
    async def test(sim: Simulation) -> None:
        async def never() -> None:
            await asyncio.Event().wait()

        @workflow(id="stuck")
        async def stuck(ctx: Context) -> None:
            await ctx.step.run("first", never, timeout=1e9)

        sim.stub(never, takes=0)
        sim.stub(fetch)
        await sim.runtime.start(stuck, run_id="stuck-1")
        await asyncio.get_running_loop().create_future()

    with pytest.raises(UniverseFailed) as caught:
        test()
    assert isinstance(caught.value.__cause__, DeadlockError)
    assert "nothing can happen any more, and the test has not ended; who waits for what:" in str(caught.value)
    assert "task Task-" in str(caught.value)
    assert "of the test at" in str(caught.value)


def test_an_exception_that_nobody_handles_fails_the_universe() -> None:
    @simulate(seeds=1)
    async def test(sim: Simulation) -> None:
        def break_it() -> None:
            raise ZeroDivisionError("in a callback")

        asyncio.get_running_loop().call_soon(break_it)
        await asyncio.sleep(1)

    with pytest.raises(UniverseFailed, match="no unhandled exception") as caught:
        test()
    assert "in a callback" in str(caught.value)


@simulate(seeds=2)
async def test_a_finally_that_runs_when_the_process_dies_can_do_nothing(sim: Simulation) -> None:
    late: list[str] = []

    async def careful() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            late.append("cleaned up")
            asyncio.get_running_loop().call_later(1, late.append, "much later")
            task = asyncio.ensure_future(asyncio.sleep(0))
            task.add_done_callback(lambda _: late.append("a task went on"))
        return "done"

    @workflow(id="careful")
    async def carefully(ctx: Context) -> str:
        return await ctx.step.run("careful", careful)

    handle = await sim.runtime.start(carefully)
    await sim.advance("10s")
    await sim.crash()
    assert late == ["cleaned up"]
    await sim.advance("30s")
    assert late == ["cleaned up"], "nothing of a dead process goes on"
    assert await handle.result() == "done"


def test_closing_takes_no_longer_than_what_is_left_to_do() -> None:
    """What features append when a runtime closes is committed at once; closing waited ten seconds for it."""

    async def main(universe: Universe) -> None:
        sim = Simulation(universe)
        sim.stub(fetch, returns="abc")
        assert await sim.runtime.execute(page, "a") == 3
        await sim.advance("10s")
        sim.note("done")

    for seed in range(5):
        trace = run_universe(main, seed=seed, settings=Settings()).trace
        assert isinstance(trace[-1], Closed)
        done = next(event.at for event in trace if isinstance(event, Noted) and event.text == "done")
        assert trace[-1].at - done < 2


def test_the_types_of_a_test_are_kept() -> None:
    @simulate(seeds=1)
    async def with_more(sim: Simulation, number: int, *, name: str = "") -> None: ...

    @simulate(seeds=1)
    async def alone(sim: Simulation) -> None: ...

    assert_type(alone, Callable[[], None])
    with_more(1, name="x")
    alone()
