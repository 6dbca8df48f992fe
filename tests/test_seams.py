"""Where features meet: what one of them does in the very turn, crash or retry that another lives on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from crash_kit import ChildPlan, Play, survives_every_crash
from kit import World

from rotor_actors import Budget, Context, RetryPolicy, RunStatus, Runtime, workflow
from rotor_actors.errors import (
    BudgetExceededError,
    NonRetriableError,
    RunNotFoundError,
    WorkflowCancelledError,
    WorkflowFailedError,
)

pytestmark = pytest.mark.asyncio

RETRY = RetryPolicy(1, initial="10s", jitter=False)
KID = "kid"


# The order in which a body sees things, live and replayed


async def _invoke_kid(play: Play, plan: ChildPlan) -> None:
    try:
        await play.ctx.step.invoke("kid", workflow=play.world.child, data=plan, timeout="1h", run_id=KID)
        play.saw("invoke ended")
    except (WorkflowCancelledError, WorkflowFailedError) as error:
        play.saw(type(error).__name__)


async def test_who_invokes_a_run_and_joins_it_sees_both_ends_in_one_order() -> None:
    async def body(play: Play) -> None:
        async def join() -> None:
            await play.act("later", 1.0)
            await play.ctx.step.join("join", run_id=KID, timeout="1h", returns=str)
            play.saw("join ended")

        await asyncio.gather(_invoke_kid(play, ChildPlan([5.0])), join())
        await play.act("after", 1.0)

    await survives_every_crash(body)


async def test_who_invokes_a_run_and_cancels_it_by_id_sees_both_ends_in_one_order() -> None:
    async def body(play: Play) -> None:
        async def cancel() -> None:
            await play.act("later", 1.0)
            play.saw(f"cancelled {await play.ctx.step.cancel('stop', run_id=KID)}")

        await asyncio.gather(_invoke_kid(play, ChildPlan([50.0])), cancel())
        await play.act("after", 1.0)

    await survives_every_crash(body)


# Maps


async def test_items_that_end_in_a_cancellation_do_not_end_a_map_early() -> None:
    @workflow(id="double")
    async def double(ctx: Context, number: int) -> int:
        return 2 * number

    async def items() -> AsyncIterator[int]:
        yield 1
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.cancel()
        await task
        yield 2

    @workflow(id="mapper", retries=0)
    async def mapper(ctx: Context) -> list[Any]:
        return [each.body async for each in ctx.step.map("m", workflow=double, items=items(), timeout="1m")]

    async with World(double) as world:
        with pytest.raises(WorkflowFailedError, match="Cancelled"):
            await world.execute(mapper)


# After the end


@workflow(id="worker")
async def worker(ctx: Context, seconds: float) -> float:
    await ctx.step.sleep("work", seconds)
    return seconds


async def test_a_resumed_run_lives_by_the_budget_of_the_living_run_above_it() -> None:
    broken = [True]

    async def check() -> None:
        if broken:
            raise NonRetriableError("broken")

    @workflow(id="below", retries=0)
    async def below(ctx: Context) -> str:
        await ctx.step.run("check", check)
        try:
            await ctx.charge("tokens", 11)
        except BudgetExceededError:
            return "refused"
        return "let through"

    @workflow(id="above", retries=0, budget=Budget(units={"tokens": 10}))
    async def above(ctx: Context) -> str:
        try:
            await ctx.step.invoke("below", workflow=below, data=None, timeout="1h", run_id="below-1")
        except WorkflowFailedError:
            await ctx.step.sleep("long", "1h")
        return "done"

    async with World(above, below) as world:
        await world.runtime.start(above)
        await world.clock.advance("1m")
        broken.clear()
        assert await world.result(await world.runtime.resume("below-1")) == "refused"


async def test_a_forked_run_lives_by_the_budget_of_its_workflow() -> None:
    @workflow(id="spends", retries=0, budget=Budget(units={"tokens": 10}))
    async def spends(ctx: Context) -> str:
        await ctx.step.sleep("first", 1)
        await ctx.step.sleep("second", 1)
        try:
            await ctx.charge("tokens", 11)
        except BudgetExceededError:
            return "refused"
        return "let through"

    async with World(spends) as world:
        handle = await world.runtime.start(spends)
        assert await world.result(handle) == "refused"
        assert await world.result(await world.runtime.fork(handle.run_id, from_step="second")) == "refused"


UNDOABLE = [False]


async def do() -> str:
    return "done"


async def undo(what: str) -> None:
    if not UNDOABLE[0]:
        raise NonRetriableError("cannot be undone yet")


async def fail() -> None:
    raise NonRetriableError("failed")


@workflow(id="undoes", retries=0)
async def undoes(ctx: Context) -> None:
    await ctx.step.run("do", do, undo=undo, undo_retries=0)
    await ctx.step.run("fail", fail)


async def _failed_undo(world: World) -> str:
    UNDOABLE[0] = False
    handle = await world.runtime.start(undoes)
    with pytest.raises(WorkflowFailedError, match="failed"):
        await world.result(handle)
    (run,) = [run for run in await world.runtime.runs() if run.handler == "undo"]
    with pytest.raises(WorkflowFailedError):
        await world.result(run.run_id)
    UNDOABLE[0] = True
    return run.run_id


async def test_a_failed_compensation_is_resumed_by_the_next_process() -> None:
    async with World(undoes) as world:
        run_id = await _failed_undo(world)
        await world.reopen()
        assert await world.result(await world.runtime.resume(run_id)) == ["do"]


async def test_a_restarted_compensation_outlives_a_crash() -> None:
    async with World(undoes) as world:
        run_id = await _failed_undo(world)
        await world.reopen()
        again = await world.runtime.restart(run_id, new_run_id="again")
        await world.reopen()
        assert await world.result(again.run_id) == ["do"]


# Text that cannot be stored


@pytest.mark.parametrize("where", ["step", "body"])
async def test_an_error_whose_text_cannot_be_encoded_is_recorded(where: str) -> None:
    async def break_() -> None:
        raise NonRetriableError("no file \udcff")

    @workflow(id="odd", retries=0)
    async def odd(ctx: Context) -> None:
        if where == "body":
            await break_()
        await ctx.step.run("break", break_)

    async with World(odd) as world:
        with pytest.raises(WorkflowFailedError, match="no file"):
            await world.execute(odd)


async def test_reasons_of_cancellations_are_any_text() -> None:
    async with World(worker) as world:
        handle = await world.runtime.start(worker, 60.0)
        await world.settle()
        task = asyncio.ensure_future(handle.cancel("why \udcff\0"))
        await world.clock.advance("10s")
        await task
        assert await handle.status() is RunStatus.CANCELLED


async def test_an_id_that_is_no_text_is_unknown_and_no_damage(tmp_path: Path) -> None:
    odd = b"run-\xff".decode(errors="surrogateescape")  # as a command line gives it
    async with Runtime(tmp_path / "runs.db", workflows=[worker]) as runtime:
        with pytest.raises(RunNotFoundError, match="no run has the id"):
            await runtime.info(odd)
        with pytest.raises(RunNotFoundError, match="no run has the id"):
            await runtime.cancel(odd)
        with pytest.raises(ValueError, match="no text that a store could hold"):
            await runtime.runs(workflow=odd)
