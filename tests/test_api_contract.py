"""The public names and signatures that programs are written against, each used as it was promised.

Both type checkers read this file in their strict modes, so it holds the types as well as the behaviour.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type
from uuid import UUID

import pytest

from rotor_actors import (
    Budget,
    CancelOn,
    CancelReport,
    Context,
    EndedRun,
    Event,
    FlowControl,
    Invocation,
    InvokeOutcome,
    RetryPolicy,
    RunHandle,
    RunInfo,
    RunStatus,
    Runtime,
    RunTree,
    Step,
    StepInfo,
    cron,
    workflow,
)
from rotor_actors.errors import (
    BudgetExceededError,
    DurationError,
    EffectOutsideStepError,
    InvokeDepthError,
    InvokeTargetError,
    NonDeterminismError,
    NonRetriableError,
    PayloadError,
    RetryAfterError,
    RotorError,
    RunExistsError,
    RunNotFoundError,
    SignalInUseError,
    SignalNotFoundError,
    SignalTimeoutError,
    StepTimeoutError,
    StoreCorruptedError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.simulation import Simulation, simulate
from supervisors import ChildSpec, MaxRestartsExceeded, Restart, Shutdown, Strategy, Supervisor


@dataclass
class Contact:
    email: str


@dataclass
class Enriched:
    email: str
    size: int


async def fetch(email: str) -> int:
    return len(email)


def count(text: str, times: int) -> int:
    return len(text) * times


async def notice(ctx: Context, ended: EndedRun[Contact]) -> None:
    await ctx.step.run("notice", fetch, ended.data.email)


@workflow(
    id="contact-enricher",
    on="contact.created",
    retries=RetryPolicy(2, initial="1s", factor=2.0, maximum="1h", jitter=True),
    timeout="1h",
    cancel_on=[CancelOn("contact.deleted", match="data.email")],
    flow_control=FlowControl(key="contacts", parallelism=50, rate=1000, period="1s"),
    on_failure=notice,
    on_cancel=notice,
)
async def contact_enricher(ctx: Context, contact: Contact) -> Enriched:
    return Enriched(contact.email, await ctx.step.run("fetch", fetch, contact.email, timeout="5m", retries=2))


@workflow(id="tick", on=cron("*/5 * * * *", timezone="Europe/Berlin"))
async def tick(ctx: Context) -> int:
    return ctx.attempt


@workflow(id="nap", on=None, retries=0)
async def nap(ctx: Context, seconds: float) -> str:
    await ctx.step.sleep("nap", seconds)
    return "rested"


@workflow(id="fails", retries=0)
async def fails(ctx: Context, reason: str) -> None:
    raise NonRetriableError(reason)


@workflow(id="gives-up", retries=0)
async def gives_up(ctx: Context) -> None:
    await ctx.cancel("not today")


@workflow(id="everything", retries=0)
async def everything(ctx: Context, contact: Contact) -> str:
    identity: tuple[str, str, int, str | None, str, int] = (
        ctx.run_id,
        ctx.workflow_id,
        ctx.attempt,
        ctx.parent_run_id,
        ctx.root_run_id,
        ctx.depth,
    )
    assert identity == ("all", "everything", 1, None, "all", 0)
    event: Event = ctx.event
    headers: Mapping[str, str] = ctx.headers
    assert (event.data, headers) == (contact, {"tenant": "a"})
    log: logging.LoggerAdapter[logging.Logger] = ctx.logger
    log.info("by promise")
    now, chance, unique = ctx.now(), ctx.random, ctx.uuid()
    assert_type((now, chance, unique), tuple[datetime, random.Random, UUID])
    await _steps(ctx.step, now)
    await _invokes(ctx, contact)
    await _messages(ctx.step)
    return "all"


async def _steps(step: Step, now: datetime) -> None:
    assert await step.run("async", fetch, "abc", timeout=timedelta(minutes=5), retries=None) == 3
    assert await step.run("sync", count, "abc", 2, timeout=300, retries=RetryPolicy(1)) == 6
    await step.sleep("short", "10ms")
    await step.sleep_until("past", now - timedelta(days=1))


async def _invokes(ctx: Context, contact: Contact) -> None:
    result, run_id = await ctx.step.invoke(
        "child",
        workflow=contact_enricher,
        data=contact,
        timeout="24h",
        headers={"x": "y"},
        retries=1,
        retry_delay="5s",
        flow_control=FlowControl(key="k", parallelism=1),
        run_id="the-child",
        on_parent_close="cancel",
    )
    assert_type((result, run_id), tuple[Enriched, str])
    assert (result, run_id) == (Enriched("a@b.c", 5), "the-child")
    by_id: Invocation[str] = await ctx.step.invoke_by_id("by id", workflow="nap", returns=str, data=0.01, timeout="1m")
    assert by_id.result == "rested"
    outcome: InvokeOutcome[str] = await ctx.invoke(
        "outcome",
        workflow=nap,
        body=0.01,
        headers=None,
        retries=3,
        retry_delay=None,
        flow_control=None,
        workflow_run_id="chosen",
        timeout="24h",
    )
    flags = (outcome.is_failed, outcome.is_canceled, outcome.is_timed_out, outcome.error)
    assert (outcome.body, outcome.run_id, flags) == ("rested", "chosen", (False, False, False, None))
    with pytest.raises(WorkflowFailedError) as failed:
        await ctx.step.invoke("fails", workflow=fails, data="broken", timeout="1m")
    error = failed.value.error
    assert (error.type, error.message, failed.value.workflow_id) == (
        "rotor_actors.errors.NonRetriableError",
        "broken",
        "fails",
    )
    assert "NonRetriableError" in error.traceback
    with pytest.raises(WorkflowTimeoutError) as late:
        await ctx.step.invoke("late", workflow=nap, data=9.0, timeout="10ms")
    assert late.value.timeout
    with pytest.raises(WorkflowCancelledError, match="not today"):
        await ctx.step.invoke("cancelled", workflow=gives_up, data=None, timeout="1m")
    with pytest.raises(InvokeTargetError, match="tick"):
        await ctx.step.invoke("clock", workflow=tick, data=None, timeout="1m")
    children: AsyncIterator[InvokeOutcome[str]] = ctx.step.map(
        "map", workflow=nap, items=[0.01] * 3, timeout="1m", concurrency=2, on_error="collect"
    )
    assert [each.body async for each in children] == ["rested"] * 3
    started: str = await ctx.step.start("start", workflow=nap, data=0.01, run_id="apart", headers={"x": "y"})
    assert (await ctx.step.join("join", run_id=started, timeout="1m", returns=str)).result == "rested"


async def _messages(step: Step) -> None:
    sent: list[str] = await step.send_event("one", Event("contact.created", Contact("sent@b.c")))
    assert len(sent) == 1
    assert await step.send_event("many", [Event("nobody.asked")]) == []
    none = await step.wait_for_event("none", event="never", timeout="10ms", match=None, where=None)
    assert none is None
    heard: Event | None = await step.wait_for_event("heard", event="go", timeout="1h", where="event.data.n > 1")
    assert heard is not None
    assert (heard.id, heard.data) == ("go-1", {"n": 2})
    with pytest.raises(SignalTimeoutError):
        await step.wait_for_signal("silence", signal="nothing", timeout="10ms")
    assert await step.wait_for_signal("yes", signal="approval", timeout="1h", returns=bool)


async def _until_at(runtime: Runtime, run_id: str, step_id: str) -> None:
    for _ in range(3000):
        if f"step '{step_id}'" in await runtime.why(run_id):
            return
        run = await runtime.info(run_id)
        assert not run.status.is_terminal, run.error
        await asyncio.sleep(0.01)
    raise AssertionError(await runtime.why(run_id))


@pytest.mark.asyncio
async def test_everything_inside_a_workflow_is_as_promised() -> None:
    async with Runtime(
        ":memory:",
        workflows=[everything, contact_enricher, tick, nap, fails],
        max_depth=100,
        cancel_grace="5s",
        drain_timeout=0,
        max_active_runs=None,
        strict_replay=False,
        payload_limit=4 * 2**20,
    ) as runtime:
        handle: RunHandle[str] = await runtime.start(
            everything, Contact("a@b.c"), run_id="all", headers={"tenant": "a"}
        )
        await _until_at(runtime, "all", "heard")
        at = datetime.now(UTC)
        await runtime.send([Event(name="go", data={"n": 1}), Event("go", {"n": 2}, id="go-1", timestamp=at)])
        await _until_at(runtime, "all", "yes")
        await runtime.signal("approval", data=True)
        assert await handle.result(timeout="1m") == "all"


@pytest.mark.asyncio
async def test_everything_around_workflows_is_as_promised(tmp_path: Path) -> None:
    async with Runtime(f"sqlite:///{tmp_path}/rotor.db", workflows=[nap, contact_enricher], drain_timeout=0) as runtime:
        assert await runtime.execute(nap, 0.0, run_id="first", headers={"a": "b"}) == "rested"
        run: RunInfo = await runtime.info("first")
        assert (run.run_id, run.workflow_id, run.status, run.attempt, run.depth) == ("first", "nap", "completed", 1, 0)
        assert (run.parent_run_id, run.parent_step_id, run.root_run_id, run.waiting_for) == (None, None, "first", "")
        assert (run.input, run.result, run.error, run.headers) == (0.0, "rested", None, {"a": "b"})
        assert run.started_at is not None
        assert run.ended_at is not None
        assert run.created_at <= run.started_at <= run.ended_at
        steps: list[StepInfo] = await runtime.steps("first")
        tree: RunTree = await runtime.tree("first")
        assert (len(steps), tree.run.run_id, tree.children) == (1, "first", [])
        assert "completed" in await runtime.why("first")
        with pytest.raises(RunExistsError):
            await runtime.start(nap, 1.0, run_id="first")
        with pytest.raises(RunNotFoundError):
            await runtime.run("nobody").result()

        handle = await runtime.start(nap, data=3600.0)
        assert str(UUID(handle.run_id)) == handle.run_id
        assert await handle.status() is RunStatus.RUNNING
        assert ((await handle.info()).run_id, (await handle.tree()).run.run_id) == (handle.run_id, handle.run_id)
        report: CancelReport = await handle.cancel("enough")
        assert (report.cancelled, report.already_ended, report.cleanup_errors, report.stuck) == (
            [handle.run_id],
            [],
            [],
            [],
        )
        assert report.interrupted_steps >= 0
        assert report.seconds >= 0
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await handle.result()
        again = await runtime.cancel(handle.run_id, reason="twice")
        assert again.already_ended == [handle.run_id]

        failing = await runtime.start(fails, "broken", run_id="broken")
        with pytest.raises(WorkflowFailedError):
            await failing.result()
        for revived in (await runtime.restart("broken"), await runtime.resume("broken")):
            with pytest.raises(WorkflowFailedError):
                await revived.result()
        assert [each.run_id for each in await runtime.runs(status="completed", workflow="nap", limit=100)] == ["first"]
        assert await runtime.runs(parent="first", root="first", after=None) == []
        with pytest.raises(SignalNotFoundError):
            await runtime.signal("approval", True)
        (started,) = await runtime.send(Event("contact.created", {"email": "d@e.f"}))
        assert await runtime.run(started).result() == Enriched("d@e.f", 5)
        budgeted = await runtime.start(nap, 0.0, budget=Budget(runs=1))
        assert await budgeted.result() == "rested"
        await runtime.backup(tmp_path / "copy.db")
    async with Runtime(tmp_path / "copy.db") as copy:
        assert await copy.run("first").result() == "rested"


def test_the_errors_stand_under_their_bases() -> None:
    ends = [WorkflowFailedError, WorkflowTimeoutError, WorkflowCancelledError]
    assert all(issubclass(each, WorkflowError) for each in ends)
    stores = [StoreLockedError, StoreCorruptedError, StoreVersionError]
    assert all(issubclass(each, StoreError) for each in stores)
    others: list[type[Exception]] = [
        *(WorkflowError, StepTimeoutError, SignalTimeoutError, NonRetriableError, RetryAfterError, StoreError),
        *(NonDeterminismError, EffectOutsideStepError, InvokeTargetError, InvokeDepthError, BudgetExceededError),
        *(DurationError, PayloadError, RunNotFoundError, RunExistsError, SignalNotFoundError, SignalInUseError),
    ]
    assert all(issubclass(each, RotorError) for each in others)
    assert issubclass(DurationError, ValueError)
    assert str(RunStatus.QUEUED) == "queued"


@pytest.mark.parametrize("bad", [-1, True, float("nan"), "5 parsecs", "-1s"])
def test_what_is_no_duration_is_refused_with_a_right_one(bad: str | float) -> None:
    with pytest.raises(DurationError, match=r"\d+[smh]"):
        RetryPolicy(1, initial=bad)


@pytest.mark.asyncio
async def test_supervision_stands_on_its_own() -> None:
    async def poll() -> None:
        await asyncio.Event().wait()

    async with Supervisor(strategy=Strategy.ONE_FOR_ONE, max_restarts=3, max_seconds=5) as supervisor:
        spec = ChildSpec(id="poller", start=poll, restart=Restart.PERMANENT, shutdown=5.0)
        await supervisor.start_child(spec)
        await supervisor.terminate_child("poller")
        await supervisor.restart_child("poller")
        assert [child.id for child in supervisor.which_children()] == ["poller"]
    assert issubclass(MaxRestartsExceeded, Exception)
    assert {each.name for each in Shutdown} == {"BRUTAL_KILL", "INFINITY"}


@simulate(seeds=5, crash="every-commit")
async def test_a_simulation_is_as_promised(sim: Simulation) -> None:
    sim.stub(fetch, returns=7, takes="10m")
    handle = await sim.runtime.start(contact_enricher, Contact("a.com"))
    await sim.advance("9m")
    await handle.cancel()
    assert await sim.runtime.runs(root=handle.run_id, status="running") == []
