"""Budgets: what a run and all below it may spend, and that each thing spent is counted once, whatever crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cancel_kit import SteadyWorld, by_workflow, everything
from kit import STRIDE, World, with_a_crash_after_each_entry

from rotor_actors import Budget, Context, ManualClock, RetryPolicy, RunInfo, RunStatus, Workflow, workflow
from rotor_actors.budget import Limits, narrowed
from rotor_actors.errors import (
    BudgetExceededError,
    DurationError,
    WorkflowCancelledError,
    WorkflowDefinitionError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)

pytestmark = pytest.mark.asyncio

RETRY = RetryPolicy(1, initial="10s", jitter=False)


@workflow(id="leaf")
async def leaf(ctx: Context, seconds: float) -> float:
    await ctx.step.sleep("work", seconds)
    return seconds


@workflow(id="spender", retries=0)
async def spender(ctx: Context, amounts: list[float]) -> list[float | None]:
    return [await ctx.charge("tokens", amount) for amount in amounts]


async def spent(world: World, run_id: str) -> tuple[int, dict[str, float]]:
    budget = (await world.runtime.info(run_id)).budget
    assert budget is not None
    return budget.spent_runs, dict(budget.spent_units)


def sequence(count: int, budget: Budget | None = None, retries: int | RetryPolicy = 0) -> Workflow[None, list[str]]:
    """Invokes leaves one after the other, and says how that went."""

    @workflow(id="sequence", retries=retries, budget=budget)
    async def sequence(ctx: Context) -> list[str]:
        seen: list[str] = []
        for number in range(count):
            try:
                await ctx.step.invoke("leaf", workflow=leaf, data=1.0, timeout="1h")
                seen.append(f"{number} done")
            except BudgetExceededError as error:
                seen.append(f"{error.what} {error.allowed:g} {error.spent['runs']:g}")
        return seen

    return sequence


# Runs


async def test_no_more_runs_are_spawned_than_the_budget_allows_and_the_error_says_whose_it_is() -> None:
    flow = sequence(4, Budget(runs=2))
    async with World() as world:
        handle = await world.runtime.start(flow)
        assert await world.result(handle) == ["0 done", "1 done", "runs 2 2", "runs 2 2"]
        assert len(await everything(world.runtime)) == 3
        assert (await spent(world, handle.run_id))[0] == 2


async def test_an_uncaught_refusal_fails_the_run_at_once_by_name() -> None:
    @workflow(id="greedy", budget=Budget(runs=0))
    async def greedy(ctx: Context) -> None:
        await ctx.step.invoke("leaf", workflow=leaf, data=1.0, timeout="1h")

    async with World() as world:
        handle = await world.runtime.start(greedy)
        with pytest.raises(WorkflowFailedError, match=r"step 'leaf': the budget of run .* allows runs=0") as raised:
            await world.result(handle)
        assert raised.value.error.type.endswith("BudgetExceededError")
        assert (await handle.info()).attempt == 1


async def test_runs_further_below_are_charged_to_all_above() -> None:
    @workflow(id="middle", retries=0)
    async def middle(ctx: Context) -> int:
        count = 0
        try:
            async for _ in ctx.step.map("leaves", workflow=leaf, items=[1.0] * 10, timeout="1h", concurrency=1):
                count += 1
        except BudgetExceededError:
            return count
        return count

    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> list[int]:
        return [
            (await ctx.step.invoke("middle", workflow=middle, data=None, timeout="1h", budget=given)).result
            for given in (Budget(runs=3), None)
        ]

    async with World() as world:
        handle = await world.runtime.start(top, budget=Budget(runs=8))
        assert await world.result(handle) == [3, 3]
        assert (await spent(world, handle.run_id))[0] == 8
        narrow = (await world.runtime.runs(workflow="middle"))[-1]
        info = await world.runtime.info(narrow.run_id)
        assert info.budget is not None
        assert (info.budget.runs, info.budget.spent_runs, info.budget.part_of) == (3, 3, handle.run_id)


async def test_the_budget_given_and_that_of_the_workflow_are_both_kept() -> None:
    async with World() as world:
        handle = await world.runtime.start(sequence(3, Budget(runs=2)), budget=Budget(runs=1, depth=5))
        assert await world.result(handle) == ["0 done", "runs 1 1", "runs 1 1"]
        info = await handle.info()
        assert info.budget is not None
        assert (info.budget.runs, info.budget.depth) == (1, 5)


# Depth, runs at a time


async def test_depth_counts_from_the_run_that_has_the_budget() -> None:
    @workflow(id="deeper", retries=0)
    async def deeper(ctx: Context) -> int:
        try:
            return (await ctx.step.invoke("deeper", workflow=deeper, data=None, timeout="1h")).result
        except BudgetExceededError as error:
            return ctx.depth if error.what == "depth" else -1

    async with World() as world:
        handle = await world.runtime.start(deeper, budget=Budget(depth=3))
        assert await world.result(handle) == 3


async def test_one_more_run_at_a_time_than_allowed_is_refused_and_a_later_one_is_not() -> None:
    @workflow(id="wide", retries=0, budget=Budget(concurrent=3))
    async def wide(ctx: Context) -> list[str]:
        asked = (ctx.step.invoke("leaf", workflow=leaf, data=5.0, timeout="1h") for _ in range(3))
        ends = await asyncio.gather(*asked, return_exceptions=True)
        later = await ctx.step.invoke("later", workflow=leaf, data=1.0, timeout="1h")
        return [type(end).__name__ for end in ends] + [f"{later.result:g}"]

    async with World() as world:
        assert await world.execute(wide) == ["Invocation", "Invocation", "BudgetExceededError", "1"]


async def test_runs_at_a_time_are_counted_again_after_a_restart() -> None:
    @workflow(id="wide", retries=0, budget=Budget(concurrent=3))
    async def wide(ctx: Context) -> list[str]:
        first = asyncio.ensure_future(ctx.step.invoke("first", workflow=leaf, data=500.0, timeout="1h"))
        await ctx.step.sleep("a while", 60)
        asked = (ctx.step.invoke("later", workflow=leaf, data=5.0, timeout="1h") for _ in range(2))
        ends = await asyncio.gather(*asked, return_exceptions=True)
        await first
        return [type(end).__name__ for end in ends]

    async with World(wide, leaf) as world:
        await world.runtime.start(wide, run_id="one")
        await world.clock.advance(10)
        await world.reopen()
        assert await world.result("one") == ["Invocation", "BudgetExceededError"]
        assert world.runtime._engine.budgets._nodes == {}  # pyright: ignore[reportPrivateUsage]


# Units


async def test_charges_say_what_is_left_and_too_much_is_an_error_that_counts() -> None:
    async with World() as world:
        handle = await world.runtime.start(spender, [40.0, 50.0], budget=Budget(units={"tokens": 100}))
        assert await world.result(handle) == [60.0, 10.0]
        handle = await world.runtime.start(spender, [40.0, 70.0, 1.0], budget=Budget(units={"tokens": 100}))
        with pytest.raises(
            WorkflowFailedError, match=r"allows tokens=100, and 110 are spent; spent so far.*110 tokens"
        ):
            await world.result(handle)
        assert await spent(world, handle.run_id) == (0, {"tokens": 110.0})


async def test_charges_below_count_above_and_the_tightest_is_exceeded_first() -> None:
    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> list[str]:
        seen: list[str] = []
        for given in (Budget(units={"tokens": 10}), Budget(units={"tokens": 500})):
            try:
                await ctx.step.invoke("spend", workflow=spender, data=[60.0], timeout="1h", budget=given)
            except WorkflowFailedError as error:
                whose = "its own" if ctx.run_id not in error.error.message else "above"
                seen.append(f"{error.error.type.rpartition('.')[2]} {whose}")
        return seen

    async with World() as world:
        handle = await world.runtime.start(top, budget=Budget(units={"tokens": 100}))
        assert await world.result(handle) == ["BudgetExceededError its own", "BudgetExceededError above"]
        assert await spent(world, handle.run_id) == (2, {"tokens": 120.0})


async def test_without_a_budget_charges_are_steps_that_limit_nothing() -> None:
    async with World() as world:
        handle = await world.runtime.start(spender, [40.0, 50.0])
        assert await world.result(handle) == [None, None]
        assert [step.kind for step in await world.runtime.steps(handle.run_id)] == ["charge", "charge"]
        assert (await handle.info()).budget is None


async def test_attempts_charge_nothing_twice_and_see_an_equal_error() -> None:
    errors: list[BudgetExceededError] = []

    @workflow(id="retrying", retries=RETRY)
    async def retrying(ctx: Context) -> list[float | None]:
        left = [await ctx.charge("tokens", 30), await ctx.charge("euros", 1.5)]
        try:
            await ctx.charge("tokens", 80)
        except BudgetExceededError as error:
            errors.append(error)
        if ctx.attempt == 1:
            raise OSError("again")
        return left

    async with World() as world:
        handle = await world.runtime.start(retrying, budget=Budget(units={"tokens": 100, "euros": 2}))
        assert await world.result(handle) == [70.0, 0.5]
        assert await spent(world, handle.run_id) == (0, {"tokens": 110.0, "euros": 1.5})
    first, second = errors
    assert (str(first), first.run_id, first.what, first.spent) == (
        str(second),
        second.run_id,
        second.what,
        second.spent,
    )


@pytest.mark.parametrize(
    ("unit", "amount"), [("", 1), (7, 1), ("tokens", -1), ("tokens", "a few"), ("tokens", float("nan"))]
)
async def test_charges_that_are_none_are_refused(unit: Any, amount: Any) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.charge(unit, amount)

    async with World() as world:
        with pytest.raises(WorkflowFailedError, match="WorkflowDefinitionError"):
            await world.execute(bad)


# Deadlines


async def test_a_deadline_fails_the_run_and_ends_all_below() -> None:
    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> None:
        await ctx.step.invoke("leaf", workflow=leaf, data=9_000.0, timeout="20h")

    async with World() as world:
        handle = await world.runtime.start(top, budget=Budget(deadline="1h"))
        await world.clock.advance("61m")
        assert await by_workflow(world.runtime) == {"top": RunStatus.FAILED, "leaf": RunStatus.CANCELLED}
        with pytest.raises(WorkflowFailedError, match=r"allows deadline=1h, and has taken longer"):
            await handle.result()


async def test_a_child_that_was_let_go_of_keeps_the_deadline_over_a_restart() -> None:
    @workflow(id="top", retries=0)
    async def top(ctx: Context) -> str:
        try:
            await ctx.step.invoke("leaf", workflow=leaf, data=90_000.0, timeout=5)
        except WorkflowTimeoutError as error:
            return error.run_id
        return ""

    async with World(top, leaf) as world:
        handle = await world.runtime.start(top, budget=Budget(deadline="1h"))
        run_id = await world.result(handle)
        await world.reopen()
        await world.clock.advance("30m")
        assert await world.runtime.run(run_id).status() is RunStatus.RUNNING
        await world.clock.advance("31m")
        with pytest.raises(WorkflowFailedError, match=f"the budget of run {handle.run_id}"):
            await world.runtime.run(run_id).result()


async def test_a_deadline_counts_while_waiting_in_a_queue() -> None:
    async with World(max_active_runs=1) as world:
        await world.runtime.start(leaf, 7_000)
        handle = await world.runtime.start(leaf, 1, budget=Budget(deadline="1h"))
        await world.clock.advance("61m")
        assert await handle.status() is RunStatus.FAILED


# Started runs


async def test_a_started_run_lives_by_the_budget_of_its_starter_also_when_that_has_ended() -> None:
    @workflow(id="starting", retries=0)
    async def starting(ctx: Context) -> list[str]:
        one = await ctx.step.start("one", workflow=spender, data=[60.0])
        try:
            await ctx.step.start("two", workflow=spender, data=[60.0])
        except BudgetExceededError as error:
            return [one, error.what]
        return [one]

    async with World(starting, spender) as world:
        handle = await world.runtime.start(starting, budget=Budget(runs=1, units={"tokens": 50}))
        one, what = await world.result(handle)
        assert what == "runs"
        with pytest.raises(WorkflowFailedError, match=f"the budget of run {handle.run_id}"):
            await world.result(one)
        assert await spent(world, handle.run_id) == (1, {"tokens": 60.0})


# Crashes


@workflow(id="tree-leaf", retries=RETRY)
async def tree_leaf(ctx: Context, amount: float) -> float | None:
    left = await ctx.charge("tokens", amount)
    if ctx.attempt == 1 and amount == 20:
        raise OSError("again")
    await ctx.step.sleep("work", amount)
    return left


@workflow(id="tree", retries=RETRY, budget=Budget(runs=4, units={"tokens": 55, "euros": 9}))
async def tree(ctx: Context) -> list[str]:
    seen: list[str] = []
    await ctx.charge("euros", 1)
    for amount in (10.0, 20.0, 30.0, 0.0, 1.0):
        try:
            ended = await ctx.step.invoke("leaf", workflow=tree_leaf, data=amount, timeout="1h")
            seen.append(f"{ended.result:g} left")
        except WorkflowFailedError as error:
            seen.append(error.error.type.rpartition(".")[2])
        except BudgetExceededError as error:
            seen.append(error.what)
    if ctx.attempt == 1:
        raise OSError("again")
    return seen


async def test_each_run_and_charge_counts_once_whatever_crashes() -> None:
    infos: list[RunInfo] = []

    class Looked(SteadyWorld):
        async def close(self) -> None:
            if self._runtime is not None and self.store.entries_left is None:
                infos.append(await self.runtime.info("the-run"))
            await super().close()

    outcomes = await with_a_crash_after_each_entry(lambda: Looked(tree, tree_leaf, clock=ManualClock()), tree)
    assert len(outcomes) > 25 // STRIDE
    expected = ["45 left", "25 left", "BudgetExceededError", "BudgetExceededError", "runs"]
    assert all(outcome == expected for outcome in outcomes)
    for info in infos:
        assert info.budget is not None
        assert (info.budget.spent_runs, dict(info.budget.spent_units)) == (4, {"euros": 1.0, "tokens": 60.0})


async def test_a_cancelled_tree_keeps_what_was_spent_to_be_looked_at() -> None:
    async with World() as world:
        handle = await world.runtime.start(sequence(5), budget=Budget(runs=9))
        await world.clock.advance(1.5)
        await world.wait(handle.cancel())
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert (await spent(world, handle.run_id))[0] == 2
        assert world.runtime._engine.budgets._nodes == {}  # pyright: ignore[reportPrivateUsage]


async def test_what_was_spent_goes_with_the_run_when_that_is_deleted() -> None:
    async with World() as world:
        handle = await world.runtime.start(spender, [1.0], budget=Budget(units={"tokens": 5}))
        await world.result(handle)
        assert world.store.item("budget-spent", handle.run_id) is not None
        await world.runtime.delete(handle.run_id)
        assert world.store.item("budget-spent", handle.run_id) is None


# Definitions


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "limits nothing"),
        ({"runs": -1}, "at least 0"),
        ({"runs": True}, "at least 0"),
        ({"depth": 1.5}, "at least 0"),
        ({"concurrent": 0}, "at least 1"),
        ({"units": {"": 1}}, "a unit is a non-empty text"),
        ({"units": {"tokens": -1}}, "an amount is a number"),
        ({"units": ["tokens"]}, "takes a mapping"),
    ],
)
async def test_a_budget_that_is_none_is_refused_where_it_is_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match=says):
        Budget(**options)


async def test_a_deadline_that_is_none_and_a_budget_that_is_none_are_refused() -> None:
    with pytest.raises(DurationError, match="deadline"):
        Budget(deadline="soon")
    wrong: Any = {"runs": 3}
    with pytest.raises(WorkflowDefinitionError, match="workflow 'bad': budget= takes a Budget"):

        @workflow(id="bad", budget=wrong)
        async def bad(ctx: Context) -> None: ...


async def test_what_two_budgets_allow_is_the_less_of_each() -> None:
    one = Limits(deadline=5.0, runs=3, units={"a": 1.0, "b": 2.0})
    other = Limits(runs=2, depth=1, units={"b": 1.0, "c": 4.0})
    assert narrowed(one, other) == Limits(5.0, 2, 1, None, {"a": 1.0, "b": 1.0, "c": 4.0})
