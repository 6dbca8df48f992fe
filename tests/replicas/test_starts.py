"""Starts that may lead to another run than their own: the coordinator decides on them, whoever is asked."""

from __future__ import annotations

import asyncio

import pytest
from dying import over_each_commit
from fleet import Fleet

from rotor_actors import (
    Batch,
    Context,
    Debounce,
    FlowControl,
    Idempotency,
    RunHandle,
    RunStatus,
    Runtime,
    Singleton,
    workflow,
)
from rotor_actors.errors import AnswerTimeoutError, PayloadError, RunExistsError, RunSkippedError

pytestmark = pytest.mark.asyncio


@workflow(id="only", singleton=Singleton(mode="skip"))
async def only(ctx: Context, name: str) -> str:
    await ctx.step.sleep("a while", "1m")
    return name


@workflow(id="newest", singleton=Singleton(mode="cancel"))
async def newest(ctx: Context, name: str) -> str:
    await ctx.step.sleep("a while", "1m")
    return name


@workflow(id="once", idempotency=Idempotency("data.order", period="1h"))
async def once(ctx: Context, data: dict[str, int]) -> int:
    return data["order"]


@workflow(id="last-word", debounce=Debounce("10s"))
async def last_word(ctx: Context, word: str) -> str:
    return word


@workflow(id="gathered", batch=Batch(max_size=4, timeout="10s"))
async def gathered(ctx: Context, words: list[str]) -> str:
    return " ".join(words)


ALL = (only, newest, once, last_word, gathered)


async def test_a_singleton_skips_over_replicas() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handles = [
            await replica.start(only, name) for replica, name in ((second, "one"), (third, "two"), (first, "three"))
        ]
        assert len({handle.run_id for handle in handles}) == 1
        assert await fleet.clock.until(handles[2].result()) == "one"
        again = await third.start(only, "four")
        assert again.run_id != handles[0].run_id
        assert await fleet.clock.until(again.result()) == "four"


async def test_a_cancelled_singleton_is_there_no_more_for_whoever_starts_it_next() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        one = await second.start(only, "one")
        await first.run(one.run_id).cancel()
        two = await second.start(only, "two")
        assert two.run_id != one.run_id


async def test_a_singleton_replaces_over_replicas() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        one = await second.start(newest, "one")
        await fleet.clock.advance("1s")
        two = await third.start(newest, "two")
        assert await fleet.clock.until(two.result()) == "two"
        assert await one.status() is RunStatus.CANCELLED
        assert (await first.info(one.run_id)).reason == f"singleton: replaced by run {two.run_id}"


async def test_invoking_a_singleton_that_is_there_fails_the_step_whoever_owns_it() -> None:
    @workflow(id="caller")
    async def caller(ctx: Context, name: str) -> str:
        try:
            return (await ctx.step.invoke("call", workflow=only, data=name, timeout="1h")).result
        except RunSkippedError as error:
            return f"skipped for {error.run_id}"

    async with Fleet(*ALL, caller) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        one = await first.start(only, "one")
        calling = await second.start(caller, "two")
        assert await fleet.clock.until(calling.result()) == f"skipped for {one.run_id}"
        await fleet.clock.until(one.result())
        assert await fleet.clock.until((await third.start(caller, "three")).result()) == "three"


async def test_invoking_a_singleton_that_replaces_cancels_the_other_whoever_owns_it() -> None:
    @workflow(id="caller")
    async def caller(ctx: Context, name: str) -> str:
        return (await ctx.step.invoke("call", workflow=newest, data=name, timeout="1h")).result

    async with Fleet(*ALL, caller) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        started = await first.start(newest, "zero")
        one = await second.start(caller, "one")
        await fleet.settle()
        assert await started.status() is RunStatus.CANCELLED
        two = await third.start(caller, "two")
        assert await fleet.clock.until(two.result()) == "two"
        assert await one.status() is RunStatus.FAILED


async def test_an_idempotency_key_counts_over_replicas_and_over_a_change_of_coordinator() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        one = await second.start(once, {"order": 7})
        two = await third.start(once, {"order": 7})
        await fleet.kill(first)
        three = await third.start(once, {"order": 7})
        assert one.run_id == two.run_id == three.run_id
        other = await third.start(once, {"order": 8})
        assert other.run_id != one.run_id
        assert [*await fleet.clock.until(asyncio.gather(three.result(), other.result()))] == [7, 8]
        await fleet.clock.advance("2h")
        assert (await second.start(once, {"order": 7})).run_id != one.run_id


async def test_debounced_starts_of_several_replicas_become_one_run() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handles: list[RunHandle[str]] = []
        for replica, word in ((second, "a"), (third, "b"), (first, "c")):
            handles.append(await replica.start(last_word, word))
            await fleet.clock.advance("5s")
        assert len({handle.run_id for handle in handles}) == 1
        assert await fleet.clock.until(handles[0].result()) == "c"


async def test_a_run_that_forms_outlives_the_coordinator() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        one = await second.start(gathered, ["a", "b"])
        await fleet.clock.advance("1s")
        await fleet.kill(first)
        two = await third.start(gathered, ["c"])
        assert two.run_id == one.run_id
        assert await fleet.clock.until(second.run(one.run_id).result()) == "a b c"


async def test_a_start_is_done_once_at_whichever_commit_the_coordinator_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        second, third = runtimes[1:]
        starts = [
            second.start(only, "one"), third.start(only, "one"), second.start(once, {"order": 7}),
            third.start(once, {"order": 7}), second.start(last_word, "a"), third.start(gathered, ["a", "b"]),
        ]  # fmt: skip
        handles = await fleet.clock.until(asyncio.gather(*starts))
        results = await fleet.clock.until(asyncio.gather(*(second.run(each.run_id).result() for each in handles)))
        assert results == ["one", "one", 7, 7, "a", "a b"]
        for workflow_id in ("only", "once", "last-word", "gathered"):
            assert len(await second.runs(workflow=workflow_id)) == 1, workflow_id
        await fleet.settle()
        assert not fleet.database.office.letters

    await over_each_commit(lambda: Fleet(*ALL), scenario, replicas=3)


async def test_a_step_starts_a_singleton_once_whoever_dies() -> None:
    @workflow(id="starter")
    async def starter(ctx: Context, name: str) -> str:
        return await ctx.step.start("start", workflow=only, data=name)

    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        third = runtimes[2]
        one, two = await third.start(starter, "one"), await third.start(starter, "two")
        ids = await fleet.clock.until(asyncio.gather(one.result(), two.result()))
        assert ids[0] == ids[1]
        assert len(await third.runs(workflow="only")) == 1

    await over_each_commit(lambda: Fleet(*ALL, starter), scenario, replicas=3)


async def test_a_step_that_has_asked_goes_on_waiting_with_another_owner() -> None:
    @workflow(id="starter")
    async def starter(ctx: Context, name: str) -> str:
        return await ctx.step.start("start", workflow=only, data=name)

    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        first, second, third = runtimes
        try:
            run_id = (await second.start(starter, "one", run_id="chosen")).run_id
        except Exception:
            return
        only_id = await fleet.clock.until(third.run(run_id).result())
        assert [each.run_id for each in await first.runs(workflow="only")] == [only_id]

    await over_each_commit(lambda: Fleet(*ALL, starter), scenario, replicas=3, dies=1)


async def test_data_that_does_not_fit_the_rules_is_refused_to_whoever_started_it() -> None:
    @workflow(id="ranked", singleton=Singleton(mode="skip"), flow_control=FlowControl("k", parallelism=1),
              priority="data.rank")  # fmt: skip
    async def ranked(ctx: Context, data: dict[str, str]) -> None: ...

    async with Fleet(ranked) as fleet:
        _, second = await fleet.open(), await fleet.open()
        with pytest.raises(PayloadError, match="its priority is the int at"):
            await second.start(ranked, {"rank": "high"})


async def test_a_chosen_id_leads_to_one_run_or_is_refused() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        one = await second.start(only, "one", run_id="mine")
        assert (await third.start(only, "one", run_id="mine")).run_id == one.run_id == "mine"
        with pytest.raises(RunExistsError, match="mine"):
            await first.start(only, "two", run_id="mine")


async def test_a_start_that_nobody_decides_on_says_so_in_time_and_is_done_later() -> None:
    async with Fleet() as fleet:
        await fleet.open(once)  # it coordinates, and does not know the workflow
        second = await fleet.open(only)
        with pytest.raises(AnswerTimeoutError, match="only"):
            await fleet.clock.until(second.start(only, "one"))
        assert await second.runs() == []
        await fleet.kill(fleet.runtimes[0])
        await fleet.settle()
        assert [each.workflow_id for each in await second.runs()] == ["only"]


async def test_whoever_waited_for_an_answer_may_be_cancelled_or_die() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        starting = asyncio.ensure_future(second.start(only, "one"))
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
        await fleet.settle()
        dying = asyncio.ensure_future(third.start(newest, "two"))
        await asyncio.sleep(0)
        await fleet.kill(third)
        with pytest.raises(Exception):  # noqa: B017, PT011
            await dying
        await fleet.settle()
        assert {each.workflow_id for each in await first.runs()} <= {"only", "newest"}
        assert not fleet.database.office.letters


async def test_a_restart_of_a_singleton_is_the_coordinators_to_decide() -> None:
    async with Fleet(*ALL) as fleet:
        _, second = [await fleet.open() for _ in range(2)]
        one = await second.start(only, "one")
        assert await fleet.clock.until(one.result()) == "one"
        again = await second.restart(one.run_id)
        assert again.run_id != one.run_id
        assert (await again.info()).origin_run_id == one.run_id
        assert await fleet.clock.until(again.result()) == "one"


async def test_one_id_that_two_replicas_choose_at_once_is_one_run_in_its_line() -> None:
    @workflow(id="lined-up", flow_control=FlowControl("scarce", parallelism=1))
    async def lined_up(ctx: Context, name: str) -> str:
        return name

    async with Fleet(lined_up) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles = await asyncio.gather(*(each.start(lined_up, "x", run_id="mine") for each in replicas))
        assert [handle.run_id for handle in handles] == ["mine"] * 3
        assert await fleet.clock.until(handles[2].result()) == "x"
        numbers = {fleet.store_of(each).replica for each in replicas}
        assert numbers == {1, 2, 3}  # none of them had to begin anew


async def test_one_id_for_restarts_and_forks_of_two_replicas_at_once_is_one_run() -> None:
    @workflow(id="plain")
    async def plain(ctx: Context, name: str) -> str:
        return await ctx.step.run("say", str, name)

    async with Fleet(plain) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(plain, "x")
        assert await fleet.clock.until(handle.result()) == "x"
        again = await asyncio.gather(*(each.restart(handle.run_id, new_run_id="again") for each in (first, second)))
        assert await fleet.clock.until(again[1].result()) == "x"
        forks = await asyncio.gather(
            *(each.fork(handle.run_id, from_step="say", new_run_id="fork") for each in (first, second)),
            return_exceptions=True,
        )
        assert [isinstance(each, RunExistsError) for each in forks].count(True) == 1
        assert await fleet.clock.until(second.run("fork").result()) == "x"
        assert len(await first.runs()) == 3
