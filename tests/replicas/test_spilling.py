"""Which replica runs a new run: the one where it comes from, unless it has too much to do, or is told otherwise."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any, Literal

import pytest
from dying import over_each_commit
from fleet import Fleet

from rotor_actors import Budget, Context, FlowControl, RetryPolicy, RunStatus, Runtime, Singleton, Workflow, workflow
from rotor_actors.cancellation import Cancellation
from rotor_actors.errors import RunExistsError, StoreError, WorkflowFailedError
from rotor_actors.records import Entry, ItemPut, RunCreated, RunsReleased, flatten
from rotor_actors.roots import start_root
from rotor_actors.run_actor import RunActor
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

pytestmark = pytest.mark.asyncio


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    await ctx.step.sleep("a while", "1m")
    return number * 2


@workflow(id="parent")
async def parent(ctx: Context, placement: Literal["local", "any"] | None) -> int:
    called = [
        ctx.step.invoke(f"call {n}", workflow=child, data=n, timeout="1h", placement=placement) for n in range(20)
    ]
    return sum(each.result for each in await asyncio.gather(*called))


@workflow(id="mapper")
async def mapper(ctx: Context, count: int) -> int:
    ends = ctx.step.map("all", workflow=child, items=range(count), timeout="1h", placement="any")
    return sum([outcome.body or 0 async for outcome in ends])


@workflow(id="quick")
async def quick(ctx: Context, number: int) -> int:
    async def same(value: int) -> int:
        return value

    return await ctx.step.run("same", same, number)


@workflow(id="quickly")
async def quickly(ctx: Context, count: int) -> int:
    ends = ctx.step.map("all", workflow=quick, items=range(count), timeout="1h", placement="any")
    return sum([outcome.body or 0 async for outcome in ends])


def _owners(fleet: Fleet) -> Counter[int | None]:
    rows = [row for row in fleet.all_rows if row.parent_n is not None and row.ended_at is None]
    return Counter(fleet.database.owners([row.n])[row.n] for row in rows)


async def test_children_start_where_their_parent_is() -> None:
    async with Fleet(parent, child) as fleet:
        first, _ = await fleet.open(), await fleet.open()
        await first.start(parent, None)
        await fleet.settle()
        assert _owners(fleet) == {fleet.store_of(first).replica: 20}


async def test_what_is_above_the_limit_goes_to_whoever_has_room() -> None:
    async with Fleet(parent, child) as fleet:
        first, second = await fleet.open(spill_above=5), await fleet.open()
        handle = await first.start(parent, None)
        await fleet.settle()
        owners = _owners(fleet)
        assert 5 <= owners[fleet.store_of(first).replica] < 20
        assert owners[fleet.store_of(second).replica] > 0
        engine = fleet.service_of(first).engine
        assert engine.live_runs == 1 + owners[fleet.store_of(first).replica], "stubs are none of ours"
        assert await fleet.clock.until(handle.result()) == 380
        assert not fleet.database.office.letters


async def test_without_others_nothing_is_given_away() -> None:
    async with Fleet(parent, child) as fleet:
        only = await fleet.open(spill_above=1)
        handle = await only.start(parent, "any")
        assert await fleet.clock.until(handle.result()) == 380
        assert fleet.store_of(only).committed(RunsReleased) == []


async def test_a_child_that_is_placed_anywhere_is_taken_by_whoever_comes_first() -> None:
    async with Fleet(parent, child, mapper) as fleet:
        first, _second = await fleet.open(), await fleet.open()
        handle = await first.start(parent, "any")
        assert await fleet.clock.until(handle.result()) == 380
        assert len(fleet.store_of(first).committed(RunsReleased)) == 20
        assert await fleet.clock.until(first.execute(mapper, 50)) == sum(range(50)) * 2
        assert len(fleet.store_of(first).committed(RunsReleased)) == 70


async def test_a_child_that_is_placed_here_stays_here() -> None:
    async with Fleet(parent, child) as fleet:
        first, _ = await fleet.open(spill_above=1), await fleet.open()
        await first.start(parent, "local")
        await fleet.settle()
        assert _owners(fleet) == {fleet.store_of(first).replica: 20}


async def test_replicas_that_all_have_too_much_to_do_do_not_wait_for_each_other() -> None:
    async with Fleet(parent, child, spill_above=2) as fleet:
        runtimes = [await fleet.open() for _ in range(3)]
        handles = [await runtime.start(parent, "any") for runtime in runtimes for _ in range(3)]
        results = await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert results == [380] * 9


async def test_started_runs_go_to_others_too() -> None:
    @workflow(id="busy")
    async def busy(ctx: Context) -> int:
        async def wait() -> int:
            return await going

        return await ctx.step.run("wait", wait)

    async with Fleet(busy) as fleet:
        going: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        first, second = await fleet.open(spill_above=2), await fleet.open()
        handles = [await first.start(busy) for _ in range(6)]
        for _ in range(20):
            await asyncio.sleep(0.01)
        owners = Counter(fleet.owner_of(handle.run_id) for handle in handles)
        assert owners == {fleet.store_of(first).replica: 2, fleet.store_of(second).replica: 4}
        going.set_result(7)
        assert await asyncio.gather(*(handle.result() for handle in handles)) == [7] * 6
        assert [await handle.status() for handle in handles] == [RunStatus.COMPLETED] * 6


async def test_what_lives_by_a_budget_stays_together() -> None:
    @workflow(id="saving", budget=Budget(runs=100))
    async def saving(ctx: Context) -> int:
        called = [
            ctx.step.invoke(f"call {n}", workflow=child, data=n, timeout="1h", placement="any") for n in range(20)
        ]
        return sum(each.result for each in await asyncio.gather(*called))

    async with Fleet(saving, child) as fleet:
        first, second = await fleet.open(spill_above=2), await fleet.open()
        handle = await first.start(saving)
        await fleet.settle()
        assert set(_owners(fleet)) == {fleet.store_of(first).replica}
        await fleet.kill(first)
        assert set(_owners(fleet)) == {fleet.store_of(second).replica}
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 380
        budget = (await second.info(handle.run_id)).budget
        assert budget is not None
        assert budget.spent_runs == 20


async def test_a_placement_that_there_is_not_is_refused_by_name() -> None:
    @workflow(id="wrong", retries=0)
    async def wrong(ctx: Context, placement: Any) -> int:
        return (await ctx.step.invoke("call", workflow=child, data=1, timeout="1h", placement=placement)).result

    async with Fleet(wrong, child) as fleet:
        runtime = await fleet.open()
        with pytest.raises(WorkflowFailedError, match="placement must be 'local', 'any', or None"):
            await fleet.clock.until(runtime.execute(wrong, "elsewhere"))


# Run ids of the caller's choice


async def test_two_replicas_that_start_one_run_id_at_once_start_one_run() -> None:
    async with Fleet(child) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handles = await asyncio.gather(*(each.start(child, 3, run_id="order-7") for each in (first, second) * 3))
        assert {handle.run_id for handle in handles} == {"order-7"}
        results = await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert results == [6] * 6
        assert len(fleet.all_rows) == 1
        with pytest.raises(RunExistsError):
            await second.start(child, 4, run_id="order-7")


async def test_two_parents_that_choose_one_id_for_their_children_have_one_child() -> None:
    @workflow(id="choosing", retries=0)
    async def choosing(ctx: Context) -> int:
        return (await ctx.step.invoke("call", workflow=child, data=1, timeout="1h", run_id="mine")).result

    async with Fleet(choosing, child) as fleet:
        runtimes = [await fleet.open(), await fleet.open()]
        handles = await asyncio.gather(*(each.start(choosing) for each in runtimes))
        ends = await fleet.clock.until(asyncio.gather(*(each.result() for each in handles), return_exceptions=True))
        assert sorted(str(type(each).__name__) for each in ends) == ["WorkflowFailedError", "int"]
        assert len(fleet.all_rows) == 3


RULES: dict[str, dict[str, Any]] = {
    "flow control": {"flow_control": FlowControl("line", parallelism=1)},
    "a singleton": {"singleton": Singleton(mode="skip")},
    "a singleton that replaces": {"singleton": Singleton(mode="cancel")},
    "priority": {"priority": 3},
}


def choosing_with(rules: str) -> tuple[Workflow[None, int], Workflow[int, int]]:
    """A parent that chooses its child's id, and the child, which has these rules."""

    @workflow(id="ruled", **RULES[rules])
    async def ruled(ctx: Context, number: int) -> int:
        await ctx.step.sleep("a while", "1m")
        return number * 2

    @workflow(id="choosing", retries=0)
    async def choosing(ctx: Context) -> int:
        return (await ctx.step.invoke("call", workflow=ruled, data=1, timeout="1h", run_id="mine")).result

    return choosing, ruled


@pytest.mark.parametrize("rules", RULES)
async def test_two_parents_that_choose_one_id_for_children_with_rules_have_one_child_and_no_replica_ends(
    rules: str,
) -> None:
    choosing, ruled = choosing_with(rules)

    async with Fleet(choosing, ruled) as fleet:
        runtimes = [await fleet.open() for _ in range(3)]
        numbers = [fleet.store_of(each).replica for each in runtimes]
        handles = await asyncio.gather(*(each.start(choosing) for each in runtimes[1:]))
        ends = await fleet.clock.until(asyncio.gather(*(each.result() for each in handles), return_exceptions=True))
        [failed] = [each for each in ends if isinstance(each, WorkflowFailedError)]
        assert failed.error.type.rpartition(".")[2] in ("RunExistsError", "RunSkippedError")
        assert 2 in ends
        assert len(fleet.all_rows) == 3
        assert [fleet.store_of(each).replica for each in runtimes] == numbers


@pytest.mark.parametrize("rules", RULES)
async def test_a_child_with_rules_under_a_chosen_id_begins_at_whichever_commit_its_creator_dies(rules: str) -> None:
    """With the one that creates it, too: the coordinator is told of it in that commit, or by nobody ever."""
    choosing, ruled = choosing_with(rules)

    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        first, second = runtimes
        with suppress(StoreError):
            await second.start(choosing, run_id="p")
        await fleet.settle()
        if fleet.database.find("p") is None:
            await first.start(choosing, run_id="p")
        for _ in range(5):
            await fleet.clock.advance("1m")
        assert await first.run("p").status() is RunStatus.COMPLETED
        assert first.flow_keys() == []

    await over_each_commit(lambda: Fleet(choosing, ruled), scenario, dies=1)


@pytest.mark.parametrize("ends", ["the run", "its attempt"])
async def test_a_child_that_nobody_awaits_any_more_does_not_hide_the_singleton_that_came_while_its_id_was_asked_for(
    ends: str,
) -> None:
    @workflow(id="ruled", singleton=Singleton(mode="skip"))
    async def ruled(ctx: Context, number: int) -> int:
        await ctx.step.sleep("a while", "1m")
        return number

    @workflow(id="choosing", retries=RetryPolicy(1, initial=10.0, jitter=False))
    async def choosing(ctx: Context) -> None:
        if ctx.attempt == 1:
            await ctx.step.invoke("call", workflow=ruled, data=1, timeout="1h", run_id="mine")

    async with Fleet(choosing, ruled) as fleet:
        only = await fleet.open()
        engine = fleet.service_of(only).engine

        def meanwhile(entries: list[Entry]) -> None:
            if any(isinstance(fact, RunCreated) and fact.run.run_id == "mine" for fact in flatten(entries)):
                start_root(engine, ruled, b"\x02", "rival")
                run = engine.tree.find("top")
                assert run is not None
                if ends == "the run":
                    Cancellation(engine, engine.finishing, [run], "enough").begin()
                else:
                    assert isinstance(run.actor, RunActor)
                    run.actor._abort(ValueError("the attempt fails"))  # pyright: ignore[reportPrivateUsage]

        fleet.store_of(only).before_commit = meanwhile
        await only.start(choosing, run_id="top")
        await fleet.settle()
        assert (await only.start(ruled, 3)).run_id == "rival"
        rows = {row.run_id: row.status for row in fleet.all_rows}
        assert (rows["mine"], rows["rival"], len(rows)) == ("cancelled", "running", 3)


async def test_a_budget_that_is_given_with_an_invoke_under_a_chosen_id_is_there_when_the_child_is() -> None:
    @workflow(id="giving")
    async def giving(ctx: Context) -> int:
        called = ctx.step.invoke("call", workflow=child, data=1, timeout="1h", run_id="mine", budget=Budget(runs=5))
        return (await called).result

    async with Fleet(giving, child) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(giving)
        await fleet.settle()
        facts = fleet.store_of(first).facts
        created = next(
            at for at, fact in enumerate(facts) if isinstance(fact, RunCreated) and fact.run.run_id == "mine"
        )
        assert isinstance(facts[created + 1], ItemPut), "in the same entry"
        await fleet.kill(first)
        budget = (await second.info("mine")).budget
        assert budget is not None
        assert budget.runs == 5
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 2


async def test_two_runs_that_start_one_id_from_a_step_start_one_run() -> None:
    @workflow(id="starting")
    async def starting(ctx: Context) -> str:
        return await ctx.step.start("start", workflow=child, data=1, run_id="mine")

    async with Fleet(starting, child) as fleet:
        runtimes = [await fleet.open(), await fleet.open()]
        handles = await asyncio.gather(*(each.start(starting) for each in runtimes))
        ends = await fleet.clock.until(asyncio.gather(*(each.result() for each in handles)))
        assert ends == ["mine", "mine"]
        assert len(fleet.all_rows) == 3


async def test_a_budget_that_is_given_with_a_chosen_id_is_there_when_the_run_is() -> None:
    async with Fleet(child) as fleet:
        first, second = await fleet.open(), await fleet.open()
        await first.start(child, 3, run_id="order-7", budget=Budget(runs=5))
        await fleet.kill(first)
        budget = (await second.info("order-7")).budget
        assert budget is not None
        assert budget.runs == 5
        assert await fleet.clock.until(second.run("order-7").result()) == 6


async def test_what_there_was_no_room_for_is_claimed_as_soon_as_there_is() -> None:
    """Not with the next look, which is a minute and a half away."""
    database = SharedDatabase()
    options: dict[str, Any] = {"workflows": [quickly, quick], "spill_above": 4, "drain_timeout": 0}
    async with (
        Runtime(SharedMemoryStore(database, lease=1_000), **options),
        Runtime(SharedMemoryStore(database, lease=1_000), **options) as second,
    ):
        assert await asyncio.wait_for(second.execute(quickly, 100), 30) == 4950
