"""`rotor run` beside a service, and replicas that lack a step runner: the runs of others do not fail of it."""

from __future__ import annotations

import asyncio

import pytest

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import WorkflowFailedError
from rotor_actors.runners import InProcessRunner
from rotor_actors.runtime import shell
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

pytestmark = pytest.mark.asyncio


@workflow(id="heavy", retries=0)
async def heavy(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", abs, number, runner="cpu")


@workflow(id="many")
async def many(ctx: Context, count: int) -> int:
    ends = ctx.step.map("all", workflow=heavy, items=range(count), timeout="1h", placement="any")
    return sum([end.body or 0 async for end in ends])


@workflow(id="long")
async def long(ctx: Context) -> None:
    await ctx.step.wait_for_signal("go", signal="go", timeout="1h")


def service(database: SharedDatabase) -> Runtime:
    runners = {"cpu": InProcessRunner()}
    return Runtime(SharedMemoryStore(database), workflows=[heavy, many], step_runners=runners, drain_timeout=0)


async def test_a_shell_claims_nothing_that_another_offers_to_run() -> None:
    database = SharedDatabase()
    store = SharedMemoryStore(database)
    async with (
        asyncio.timeout(60),
        service(database) as other,
        shell(store, workflows=[heavy, many, long]) as runtime,
    ):
        await runtime.start(long, run_id="mine")
        assert [each.workflow_id for each in database.replica_rows[store.replica].declared][:1] == ["long"]
        assert any(each.label.startswith("shell ") for each in await other.replicas())
        assert await other.execute(many, 60) == sum(range(60))


async def test_a_shell_offers_all_that_it_has_where_nobody_else_does() -> None:
    database = SharedDatabase()
    async with asyncio.timeout(60):
        store = SharedMemoryStore(database)
        async with shell(store, workflows=[heavy, many], step_runners={"cpu": InProcessRunner()}) as runtime:
            assert await runtime.execute(many, 5) == 10
            offered = [each.workflow_id for each in database.replica_rows[store.replica].declared]
            async with service(database):
                while database.replica_rows[store.replica].declared:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            while not database.replica_rows[store.replica].declared:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert {"heavy", "many"} <= set(offered)


async def test_of_two_shells_one_offers() -> None:
    database = SharedDatabase()
    stores = [SharedMemoryStore(database) for _ in range(2)]
    async with asyncio.timeout(60), shell(stores[0], workflows=[heavy]), shell(stores[1], workflows=[heavy]) as second:
        declared = [bool(database.replica_rows[store.replica].declared) for store in stores]
        assert declared == [True, False]
        assert len(await second.replicas()) == 2


async def test_a_runner_that_a_replica_lacks_is_tried_again_and_may_be_there_with_the_next_owner() -> None:
    @workflow(id="patient", retries=RetryPolicy(1_000, initial="10ms", factor=1))
    async def patient(ctx: Context) -> int:
        return await ctx.step.run("work", abs, -3, runner="cpu")

    database = SharedDatabase()
    async with asyncio.timeout(60):
        async with Runtime(SharedMemoryStore(database), workflows=[patient], drain_timeout=0) as lacking:
            handle = await lacking.start(patient)
            while (await lacking.info(handle.run_id)).attempt < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        runners = {"cpu": InProcessRunner()}
        store = SharedMemoryStore(database)
        async with Runtime(store, workflows=[patient], step_runners=runners, drain_timeout=0) as having:
            assert await having.run(handle.run_id).result() == 3


async def test_a_missing_runner_is_named_and_with_one_owner_is_not_tried_again() -> None:
    async with Runtime(SharedMemoryStore(SharedDatabase()), workflows=[heavy], drain_timeout=0) as shared:
        with pytest.raises(WorkflowFailedError, match=r"StepRunnerMissingError: .*of every replica"):
            await shared.execute(heavy, 1)
    async with Runtime(":memory:", workflows=[heavy]) as alone:
        with pytest.raises(WorkflowFailedError, match=r"StepRunnerError: .*no runner is called 'cpu'"):
            await alone.execute(heavy, 1)
