"""`step.start`, `step.join`, `step.cancel`: runs that are no children, awaited and cancelled by their id."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cancel_kit import by_workflow, everything
from crash_kit import ActError, ChildPlan, Play, survives_every_crash
from kit import STRIDE, World

from rotor_actors import Context, FlowControl, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import (
    RunNotFoundError,
    RuntimeStateError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.records import RunCreated, StepRecorded, Together

pytestmark = pytest.mark.asyncio

RETRY = RetryPolicy(1, initial="10s", jitter=False)


@workflow(id="nap", retries=0)
async def nap(ctx: Context, seconds: float) -> float:
    if seconds < 0:
        raise ActError("no such nap")
    await ctx.step.sleep("nap", seconds)
    return seconds


@workflow(id="starter")
async def starter(ctx: Context, seconds: float) -> str:
    return await ctx.step.start("nap", workflow=nap, data=seconds, headers={"by": "starter"})


# start


async def test_a_started_run_outlives_its_starter_and_is_linked_to_it() -> None:
    async with World() as world:
        handle = await world.runtime.start(starter, 60)
        run_id = await world.result(handle)
        info = await world.runtime.info(run_id)
        assert info.status is RunStatus.RUNNING
        assert (info.started_by, info.parent_step_id) == (handle.run_id, "nap")
        assert (info.parent_run_id, info.root_run_id, info.depth, dict(info.headers)) == (
            None,
            run_id,
            0,
            {"by": "starter"},
        )
        assert (await handle.tree()).children == []
        assert await world.result(run_id) == 60.0


async def test_a_started_run_is_not_cancelled_with_its_starter() -> None:
    @workflow(id="waiting")
    async def waiting(ctx: Context) -> None:
        await ctx.step.start("nap", workflow=nap, data=60)
        await ctx.step.sleep("long", "1h")

    async with World() as world:
        handle = await world.runtime.start(waiting)
        await world.settle()
        await world.wait(handle.cancel())
        assert await by_workflow(world.runtime) == {"waiting": RunStatus.CANCELLED, "nap": RunStatus.RUNNING}


async def test_the_run_and_the_outcome_of_its_step_are_one_entry() -> None:
    entries: list[Any] = []
    async with World() as world:
        world.store.before_commit = entries.extend
        await world.execute(starter, 1)
    (together,) = [entry for entry in entries if isinstance(entry, Together)]
    assert [type(fact) for fact in together.entries] == [StepRecorded, RunCreated]


async def test_later_attempts_start_nothing_anew() -> None:
    @workflow(id="retrying", retries=RETRY)
    async def retrying(ctx: Context) -> list[str]:
        ids = [await ctx.step.start("nap", workflow=nap, data=1), await ctx.step.start("nap", workflow=nap, data=2)]
        if ctx.attempt == 1:
            raise ActError("again")
        return ids

    async with World() as world:
        ids = await world.execute(retrying)
        assert len(set(ids)) == 2
        assert len(await everything(world.runtime)) == 3


async def test_a_started_run_knows_no_parent_and_is_not_told_from_others_by_its_workflow() -> None:
    @workflow(id="introspective")
    async def introspective(ctx: Context) -> tuple[str | None, int]:
        return ctx.parent_run_id, ctx.depth

    @workflow(id="starting")
    async def starting(ctx: Context) -> str:
        return await ctx.step.start("it", workflow=introspective, data=None)

    async with World() as world:
        assert await world.result(await world.execute(starting)) == (None, 0)


async def test_a_chosen_id_is_the_same_run_again_and_another_input_is_refused() -> None:
    @workflow(id="choosing", retries=0)
    async def choosing(ctx: Context, data: list[float]) -> list[str]:
        return [await ctx.step.start("nap", workflow=nap, data=each, run_id="mine") for each in data]

    async with World() as world:
        assert await world.execute(choosing, [5, 5]) == ["mine", "mine"]
        assert await world.execute(choosing, [5]) == ["mine"]
        assert len([run for run in await everything(world.runtime) if run.workflow_id == "nap"]) == 1
        with pytest.raises(WorkflowFailedError, match="'mine': it belongs to a run of workflow 'nap'"):
            await world.execute(choosing, [6])
        assert await world.result("mine") == 5.0
        assert await world.execute(choosing, [5]) == ["mine"]  # it has ended


async def test_started_runs_wait_for_admission() -> None:
    async with World(max_active_runs=1) as world:
        handle = await world.runtime.start(starter, 5)
        run_id = await world.result(handle)
        assert await world.result(run_id) == 5.0

    @workflow(id="holding")
    async def holding(ctx: Context) -> str:
        run_id = await ctx.step.start("nap", workflow=nap, data=1)
        await ctx.step.sleep("hold", 60)
        return run_id

    async with World(max_active_runs=1) as world:
        handle = await world.runtime.start(holding)
        await world.clock.advance(30)
        assert await by_workflow(world.runtime) == {"holding": RunStatus.RUNNING, "nap": RunStatus.QUEUED}
        assert await world.result(await world.result(handle)) == 1.0


async def test_a_started_run_stands_in_line_by_its_workflows_rules() -> None:
    @workflow(id="limited", flow_control=FlowControl(key="'one'", parallelism=1))
    async def limited(ctx: Context, seconds: float) -> float:
        await ctx.step.sleep("nap", seconds)
        return seconds

    @workflow(id="starting")
    async def starting(ctx: Context) -> list[str]:
        return [await ctx.step.start("it", workflow=limited, data=float(seconds)) for seconds in (5, 6)]

    async with World() as world:
        handle = await world.runtime.start(starting)
        one, two = await world.result(handle)
        await world.clock.advance(4)
        assert [(await world.runtime.info(each)).status for each in (one, two)] == [RunStatus.RUNNING, RunStatus.QUEUED]
        assert (await world.runtime.info(two)).started_by == handle.run_id
        assert await world.result(two) == 6.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"data": "a minute"}, "input of workflow 'nap'"),
        ({"run_id": ""}, "run_id must be a string of 1 to 200 characters"),
        ({"workflow": "nap"}, "expected a function decorated with @workflow"),
        ({"headers": {"a": 1}}, "headers are strings"),
    ],
)
async def test_bad_starts_are_refused(options: dict[str, Any], error: str) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        given: dict[str, Any] = {"workflow": nap, "data": 1, **options}
        await ctx.step.start("nap", **given)

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match=error):
            await world.execute(bad)
        assert len(await everything(world.runtime)) == 1


# join


@workflow(id="joiner", retries=0)
async def joiner(ctx: Context, run_id: str) -> Any:
    return (await ctx.step.join("join", run_id=run_id, timeout="10h")).result


async def test_any_run_can_be_joined_while_it_runs_and_after_it_has_ended() -> None:
    async with World() as world:
        target = await world.runtime.start(nap, 60)
        during = await world.runtime.start(joiner, target.run_id)
        assert await world.result(during) == 60.0
        assert await world.execute(joiner, target.run_id) == 60.0


async def test_how_the_joined_run_ended_is_raised() -> None:
    async with World() as world:
        failing = await world.runtime.start(nap, -1)
        cancelled = await world.runtime.start(nap, 60)
        waiting = await world.runtime.start(joiner, cancelled.run_id)
        await world.settle()
        await world.wait(cancelled.cancel("enough"))
        with pytest.raises(WorkflowFailedError, match="no such nap"):
            await world.execute(joiner, failing.run_id)
        for handle in (waiting, await world.runtime.start(joiner, cancelled.run_id)):
            with pytest.raises(WorkflowFailedError, match=r"WorkflowCancelledError.*was cancelled: enough"):
                await world.result(handle)


async def test_an_unknown_run_is_not_found_and_that_is_not_retried() -> None:
    async with World() as world:
        handle = await world.runtime.start(joiner, "nobody")
        with pytest.raises(WorkflowFailedError, match="step 'join': no run has the id 'nobody'"):
            await world.result(handle)
        assert (await handle.info()).attempt == 1


async def test_a_late_result_is_had_through_the_error() -> None:
    seen: list[object] = []

    @workflow(id="patient", retries=RETRY)
    async def patient(ctx: Context) -> float:
        try:
            return (await ctx.step.invoke("nap", workflow=nap, data=60, timeout=10)).result
        except WorkflowTimeoutError as error:
            seen.append(error)
            joined = await error.child.join("its end", timeout="1h", returns=float)
            if ctx.attempt == 1:
                raise ActError("again") from None
            result: float = joined.result
            return result

    async with World() as world:
        assert await world.execute(patient) == 60.0
        assert len(await everything(world.runtime)) == 2
    assert seen[0] == seen[1]


async def test_the_child_of_a_timeout_error_can_be_cancelled() -> None:
    @workflow(id="impatient", retries=0)
    async def impatient(ctx: Context) -> bool:
        try:
            await ctx.step.invoke("nap", workflow=nap, data=6000, timeout=10)
        except WorkflowTimeoutError as error:
            return await error.child.cancel("stop it", "too slow")
        return False

    async with World() as world:
        assert await world.execute(impatient) is True
        assert (await by_workflow(world.runtime))["nap"] is RunStatus.CANCELLED


async def test_outside_of_a_body_a_timeout_error_says_what_to_use_instead() -> None:
    async with World() as world:
        handle = await world.runtime.start(nap, 60)
        with pytest.raises(WorkflowTimeoutError) as raised:
            await world.wait(handle.result(timeout=1))
        with pytest.raises(RuntimeStateError, match=r"use runtime\.run"):
            _ = raised.value.child


async def test_a_join_times_out_and_both_go_on() -> None:
    @workflow(id="impatient", retries=0)
    async def impatient(ctx: Context, run_id: str) -> str:
        try:
            await ctx.step.join("join", run_id=run_id, timeout=10)
        except WorkflowTimeoutError as error:
            return f"{error.run_id} {error.workflow_id} {error.timeout}"
        return "it ended"

    async with World() as world:
        target = await world.runtime.start(nap, 60)
        assert await world.execute(impatient, target.run_id) == f"{target.run_id} nap 10.0"
        assert await world.result(target) == 60.0


async def test_neither_side_is_cancelled_with_the_other() -> None:
    async with World() as world:
        target = await world.runtime.start(nap, 60)
        handle = await world.runtime.start(joiner, target.run_id)
        await world.settle()
        await world.wait(handle.cancel())
        assert await world.result(target) == 60.0


async def test_a_restart_with_both_at_rest_loses_nothing() -> None:
    async with World(nap, joiner) as world:
        target = await world.runtime.start(nap, 7200)
        handle = await world.runtime.start(joiner, target.run_id)
        await world.clock.advance(10)
        await world.reopen()
        assert await world.result(handle.run_id) == 7200.0


async def test_the_deadline_of_a_join_survives_restarts_and_attempts() -> None:
    @workflow(id="deadline", retries=RetryPolicy(3, initial="10m", jitter=False))
    async def deadline(ctx: Context, run_id: str) -> str:
        if ctx.attempt == 1:
            waiting: asyncio.Future[Any] = asyncio.ensure_future(ctx.step.join("join", run_id=run_id, timeout="1h"))
            await ctx.step.sleep("a while", "20m")
            waiting.done()
            raise ActError("again, with the join under way")
        try:
            await ctx.step.join("join", run_id=run_id, timeout="1h")
        except WorkflowTimeoutError:
            return str((ctx.now() - ctx.event.timestamp).total_seconds()) if ctx.event.timestamp else ""
        return "it ended"

    async with World(nap, deadline) as world:
        target = await world.runtime.start(nap, 80_000)
        handle = await world.runtime.start(deadline, target.run_id)
        await world.clock.advance("25m")
        await world.reopen()
        await world.clock.advance("20m")
        await world.reopen()
        assert await world.result(handle.run_id, "2h") == "3600.0"


async def test_a_join_of_itself_is_refused() -> None:
    @workflow(id="narcissus", retries=0)
    async def narcissus(ctx: Context) -> None:
        await ctx.step.join("me", run_id=ctx.run_id, timeout="1h")

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match="wait for itself"):
            await world.execute(narcissus)


@pytest.mark.parametrize("timeout", [None, 0, "25h", "soon"])
async def test_the_timeout_of_a_join_is_as_that_of_an_invoke(timeout: Any) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.step.join("it", run_id="some", timeout=timeout)

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match="timeout"):
            await world.execute(bad)


async def test_joining_another_run_under_the_same_id_is_refused_on_replay() -> None:
    async with World(nap, joiner) as world:
        targets = [(await world.runtime.start(nap, 6000)).run_id for _ in range(2)]
        which = [0]

        @workflow(id="changing", retries=0)
        async def changing(ctx: Context) -> None:
            await ctx.step.join("it", run_id=targets[which[0]], timeout="1h")

        handle = await world.runtime.start(changing)
        await world.clock.advance(1)
        which[0] = 1
        await world.reopen(nap, changing)
        with pytest.raises(WorkflowFailedError, match="NonDeterminismError"):
            await world.result(handle.run_id)


# cancel


async def test_cancelling_another_run_says_whether_it_ran() -> None:
    @workflow(id="canceller", retries=0)
    async def canceller(ctx: Context, run_id: str) -> list[bool]:
        return [await ctx.step.cancel("stop", run_id=run_id, reason="enough") for _ in range(2)]

    async with World() as world:
        target = await world.runtime.start(nap, 60)
        assert await world.execute(canceller, target.run_id) == [True, False]
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await world.result(target)
        with pytest.raises(WorkflowFailedError, match="RunNotFoundError"):
            await world.execute(canceller, "nobody")


async def test_a_run_that_cancels_its_own_tree_is_cancelled_with_it() -> None:
    @workflow(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.cancel("all of us", run_id=ctx.root_run_id)

    @workflow(id="top")
    async def top(ctx: Context) -> None:
        await ctx.step.invoke("child", workflow=child, data=None, timeout="1h")

    async with World() as world:
        handle = await world.runtime.start(top)
        await world.clock.advance(10)
        assert set((await by_workflow(world.runtime)).values()) == {RunStatus.CANCELLED}
        with pytest.raises(WorkflowCancelledError):
            await handle.result()


# Crashes in attempts


async def _in_attempts(play: Play) -> None:
    step, child = play.step, play.world.child
    run_id = await step.start("one", workflow=child, data=ChildPlan([2.0, 3.1]))
    play.saw(run_id)
    waiting: asyncio.Future[Any] = asyncio.ensure_future(step.join("join", run_id=run_id, timeout=100))
    await play.act("meanwhile", 0.5)
    if play.ctx.attempt == 1:
        await play.act("fail", 0.1, error="bad")
    play.saw((await waiting).result)
    try:
        await step.join("nobody", run_id="nobody", timeout=5)
    except RunNotFoundError:
        play.saw("nobody")


@pytest.mark.parametrize("crashes", [1, 2])
async def test_a_join_under_way_goes_on_in_the_next_attempt_whatever_crashes(crashes: int) -> None:
    report = await survives_every_crash(_in_attempts, retries=RETRY, crashes=crashes)
    assert report.crashes > 10 // STRIDE
    assert report.end == report.world.seen["root", 2]
