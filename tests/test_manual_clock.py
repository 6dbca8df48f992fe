"""Time skipping in the ordinary runtime: `Runtime(clock=ManualClock())`, under pytest-asyncio and under anyio."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from rotor_actors import Context, ManualClock, RetryPolicy, RunStatus, Runtime, workflow
from rotor_actors.errors import StepTimeoutError, WorkflowFailedError, WorkflowTimeoutError

REAL_SECONDS = 30  # generous: what is tested is that days pass, not how fast the machine is


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@workflow(id="newsletter")
async def newsletter(ctx: Context, weeks: int) -> list[str]:
    sent: list[str] = []
    for week in range(weeks):
        await ctx.step.sleep(f"week-{week}", "7d")
        sent.append(ctx.now().date().isoformat())
    return sent


@workflow(id="slow-child")
async def slow_child(ctx: Context) -> None:
    await asyncio.sleep(3 * 24 * 3600)


@workflow(id="impatient")
async def impatient(ctx: Context) -> str:
    try:
        await ctx.step.invoke("child", workflow=slow_child, data=None, timeout="24h")
    except WorkflowTimeoutError as error:
        return error.run_id
    return "in time"


async def _weeks_pass(path: Path) -> None:
    began, clock = time.perf_counter(), ManualClock(start=0.0)
    async with Runtime(path, clock=clock) as runtime:
        handle = await runtime.start(newsletter, 3)
        await clock.advance("20d")
        assert await handle.status() is RunStatus.RUNNING
        await clock.advance("1d")
        assert await handle.result() == ["1970-01-08", "1970-01-15", "1970-01-22"]
    assert time.perf_counter() - began < REAL_SECONDS


@pytest.mark.asyncio
async def test_weeks_pass_under_pytest_asyncio(tmp_path: Path) -> None:
    await _weeks_pass(tmp_path / "rotor.db")


@pytest.mark.anyio
async def test_weeks_pass_under_anyio(tmp_path: Path) -> None:
    await _weeks_pass(tmp_path / "rotor.db")


@pytest.mark.asyncio
async def test_until_moves_time_as_far_as_it_takes_and_no_further() -> None:
    clock = ManualClock(start=0.0)
    async with Runtime(":memory:", clock=clock) as runtime:
        handle = await runtime.start(newsletter, 2)
        assert len(await clock.until(handle.result())) == 2
        assert clock.now() == pytest.approx(14 * 24 * 3600, abs=1)


@pytest.mark.asyncio
async def test_a_timeout_fires_at_its_deadline_and_the_child_runs_on() -> None:
    clock = ManualClock(start=0.0)
    async with Runtime(":memory:", clock=clock) as runtime:
        handle = await runtime.start(impatient)
        await clock.advance("23h59m")
        assert await handle.status() is RunStatus.RUNNING
        await clock.advance("1m")
        child = await handle.result()
        assert await runtime.run(child).status() is RunStatus.RUNNING
        await clock.advance("2d")
        assert await runtime.run(child).status() is RunStatus.COMPLETED


@pytest.mark.asyncio
async def test_retries_wait_on_the_clock() -> None:
    clock, times = ManualClock(start=0.0), list[float]()

    def flaky() -> str:
        times.append(clock.now())
        if len(times) < 3:
            raise ConnectionError("not yet")
        return "got it"

    policy = RetryPolicy(max_retries=2, initial="1h", factor=2.0, maximum="8h", jitter=False)

    @workflow(id="patient")
    async def patient(ctx: Context) -> str:
        return await ctx.step.run("flaky", flaky, retries=policy)

    async with Runtime(":memory:", clock=clock) as runtime:
        assert await clock.until(runtime.execute(patient)) == "got it"
    assert times == pytest.approx([0, 3600, 3 * 3600], abs=1)


@pytest.mark.asyncio
async def test_time_stands_still_while_a_step_takes_real_time() -> None:
    clock = ManualClock(start=0.0)

    async def upload() -> float:
        await asyncio.sleep(0.05)  # real: a step's timeout of five virtual minutes must not pass meanwhile
        return clock.now()

    @workflow(id="uploader", retries=0)
    async def uploader(ctx: Context) -> float:
        return await ctx.step.run("upload", upload, timeout="5m")

    async with Runtime(":memory:", clock=clock) as runtime:
        assert await clock.until(runtime.execute(uploader)) == 0.0


@pytest.mark.asyncio
async def test_advance_lets_the_timeout_of_a_step_pass() -> None:
    clock, gate = ManualClock(), asyncio.Event()

    @workflow(id="stuck", retries=0)
    async def stuck(ctx: Context) -> None:
        await ctx.step.run("wait", gate.wait, timeout="5m")

    async with Runtime(":memory:", clock=clock) as runtime:
        handle = await runtime.start(stuck)
        await clock.advance("4m")
        assert await handle.status() is RunStatus.RUNNING
        await clock.advance("1m")
        with pytest.raises(WorkflowFailedError, match=StepTimeoutError.__name__):
            await handle.result()


@pytest.mark.asyncio
async def test_a_sleep_goes_on_after_a_restart_with_what_is_left_of_it(tmp_path: Path) -> None:
    clock = ManualClock(start=0.0)
    async with Runtime(tmp_path / "rotor.db", clock=clock) as runtime:
        handle = await runtime.start(newsletter, 1)
        await clock.advance("3d")
    async with Runtime(tmp_path / "rotor.db", clock=clock, workflows=[newsletter]) as runtime:
        await clock.advance("4d")
        assert await runtime.run(handle.run_id).result() == ["1970-01-08"]


@pytest.mark.asyncio
async def test_two_runtimes_share_a_clock() -> None:
    clock = ManualClock(start=0.0)
    async with Runtime(":memory:", clock=clock) as one, Runtime(":memory:", clock=clock) as other:
        handles = [await one.start(newsletter, 1), await other.start(newsletter, 2)]
        await clock.advance("14d")
        assert [len(await handle.result()) for handle in handles] == [1, 2]


@pytest.mark.asyncio
async def test_until_is_cancelled_with_what_it_waits_for() -> None:
    clock = ManualClock()
    waiting = asyncio.ensure_future(clock.until(asyncio.Event().wait()))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
