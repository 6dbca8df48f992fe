"""Flow control holds over replicas: lines are the coordinator's, whoever owns the runs in them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from dying import over_each_commit
from fleet import Fleet
from flow_kit import Watch

from rotor_actors import Context, FlowControl, Idempotency, RunHandle, RunStatus, Runtime, Workflow, workflow
from rotor_actors.errors import RotorError, WorkflowTimeoutError
from rotor_actors.stores.base import ItemQuery

pytestmark = pytest.mark.asyncio


def guarded_by(watch: Watch, parallelism: int) -> Workflow[str, str]:
    """A workflow of whose runs so many are under way at once, for ten seconds each."""

    @workflow(id="guarded", flow_control=FlowControl("scarce", parallelism=parallelism))
    async def guarded(ctx: Context, name: str) -> str:
        await ctx.step.run("enter", watch.enter, name)
        await ctx.step.sleep("hold", "10s")
        await ctx.step.run("exit", watch.exit, name)
        return name

    return guarded


def one_at_a_time(holds: str) -> Workflow[str, str]:
    """A workflow of whose runs one is under way at a time, for so long."""

    @workflow(id="slow", flow_control=FlowControl("scarce", parallelism=1))
    async def slow(ctx: Context, name: str) -> str:
        await ctx.step.sleep("hold", holds)
        return name

    return slow


async def test_a_key_lets_only_so_many_run_over_all_replicas() -> None:
    watch = Watch()
    guarded = guarded_by(watch, 2)
    async with Fleet(guarded) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles: list[RunHandle[str]] = []
        for number in range(9):
            handles.append(await replicas[number % 3].start(guarded, f"run {number}"))
            await fleet.clock.advance("1ms")
        results = await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert sorted(results) == sorted(f"run {number}" for number in range(9))
        assert watch.most == 2
        assert watch.began == [f"run {number}" for number in range(9)]
        await fleet.settle()
        assert not fleet.database.office.letters


async def test_lines_outlive_the_coordinator() -> None:
    watch = Watch()
    guarded = guarded_by(watch, 1)
    async with Fleet(guarded) as fleet:
        coordinator, second, third = [await fleet.open() for _ in range(3)]
        handles: list[RunHandle[str]] = []
        for number in range(6):
            handles.append(await (second, third)[number % 2].start(guarded, f"run {number}"))
            await fleet.clock.advance("1ms")
        await fleet.clock.advance("15s")
        await fleet.kill(coordinator)
        assert await fleet.clock.until(asyncio.gather(*(second.run(each.run_id).result() for each in handles)))
        assert (watch.most, watch.began) == (1, [f"run {number}" for number in range(6)])


async def test_runs_in_a_line_outlive_their_owner() -> None:
    watch = Watch()
    guarded = guarded_by(watch, 1)
    async with Fleet(guarded) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handles: list[RunHandle[str]] = []
        for number in range(5):
            handles.append(await second.start(guarded, f"run {number}"))
            await fleet.clock.advance("1ms")
        await fleet.clock.advance("15s")
        await fleet.kill(second)
        assert await fleet.clock.until(asyncio.gather(*(first.run(each.run_id).result() for each in handles)))
        assert watch.most == 1
        assert len(first.waiting()) == 0
        assert first.flow_keys() == []


async def test_a_place_is_given_once_at_whichever_commit_the_coordinator_dies() -> None:
    watch = Watch()
    guarded = guarded_by(watch, 1)

    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        watch.running.clear()
        second, third = runtimes[1:]
        names = ["first", "second", "third", "fourth"]
        handles = [await (second, third)[at % 2].start(guarded, name) for at, name in enumerate(names)]
        await fleet.clock.advance("5s")
        results = await fleet.clock.until(asyncio.gather(*(third.run(each.run_id).result() for each in handles)))
        assert results == names
        assert watch.most == 1

    await over_each_commit(lambda: Fleet(guarded), scenario, replicas=3)


async def test_a_place_is_given_once_at_whichever_commit_the_owner_dies() -> None:
    watch = Watch()
    guarded = guarded_by(watch, 1)

    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        watch.running.clear()
        first, second = runtimes
        started: list[str] = []
        with suppress(RotorError):  # it may be gone by then
            for name in ("first", "second", "third"):
                started.append((await second.start(guarded, name)).run_id)
                await fleet.clock.advance("1s")
        last = await first.start(guarded, "last")
        await fleet.clock.until(asyncio.gather(*(first.run(run_id).result() for run_id in (*started, last.run_id))))
        await fleet.clock.advance("1m")  # of one more nobody may have learnt that it was started
        assert watch.most == 1
        assert not await first.runs(status=[RunStatus.QUEUED, RunStatus.RUNNING])

    await over_each_commit(lambda: Fleet(guarded), scenario, dies=1)


async def test_a_parent_lends_its_place_to_a_child_that_another_replica_owns() -> None:
    @workflow(id="inner", flow_control=FlowControl("scarce", parallelism=1))
    async def inner(ctx: Context, name: str) -> str:
        return name

    @workflow(id="between")
    async def between(ctx: Context, name: str) -> str:
        return (await ctx.step.invoke("inner", workflow=inner, data=name, timeout="1h")).result

    @workflow(id="outer", flow_control=FlowControl("scarce", parallelism=1))
    async def outer(ctx: Context, name: str) -> str:
        return (await ctx.step.invoke("between", workflow=between, data=name, timeout="1h", placement="any")).result

    async with Fleet(inner, between, outer) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles = [await replica.start(outer, f"run {number}") for number, replica in enumerate(replicas)]
        results = await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert results == ["run 0", "run 1", "run 2"]


async def test_a_rate_is_kept_over_a_change_of_coordinator() -> None:
    began: list[float] = []

    async with Fleet() as fleet:

        @workflow(id="paced", flow_control=FlowControl("pace", rate=2, period="1m"))
        async def paced(ctx: Context, number: int) -> int:
            async def note() -> None:
                began.append(fleet.clock.now())

            await ctx.step.run("note", note)
            return number

        first, second = await fleet.open(paced), await fleet.open(paced)
        began_at = fleet.clock.now()
        handles = [await second.start(paced, number) for number in range(5)]
        await fleet.clock.advance("30s")
        assert len(began) == 2
        await fleet.kill(first)
        await fleet.clock.until(asyncio.gather(*(second.run(each.run_id).result() for each in handles)))
        assert [round(at - began_at) for at in began] == [0, 0, 60, 60, 120]


async def test_a_key_is_paused_and_goes_on_from_any_replica_and_over_a_change_of_coordinator() -> None:
    @workflow(id="keyed", flow_control=FlowControl("scarce", parallelism=5))
    async def keyed(ctx: Context, number: int) -> int:
        return number

    async with Fleet(keyed) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        await second.pause_key("scarce")
        handle = await third.start(keyed, 1)
        await fleet.clock.advance("1m")
        assert await handle.status() is RunStatus.QUEUED
        assert [key.is_paused for key in first.flow_keys()] == [True]
        for each in (first, second):
            assert "is queued since" in (said := await each.why(handle.run_id))
            assert "key 'scarce' is paused" in said
            assert (await each.info(handle.run_id)).waiting_for == "flow control: key 'scarce' is paused"
        await fleet.kill(first)
        await fleet.clock.advance("1m")
        assert await handle.status() is RunStatus.QUEUED
        await third.resume_key("scarce")
        assert await fleet.clock.until(handle.result()) == 1


async def test_a_run_that_is_cancelled_in_line_leaves_it() -> None:
    slow = one_at_a_time("10s")
    async with Fleet(slow) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        holder = await first.start(slow, "holder")
        waiting = await second.start(slow, "waiting")
        last = await second.start(slow, "last")
        await fleet.settle()
        assert [each.run_id for each in first.waiting()] == [waiting.run_id, last.run_id]
        await waiting.cancel()
        await fleet.settle()
        assert [each.run_id for each in first.waiting()] == [last.run_id]
        assert [*await fleet.clock.until(asyncio.gather(holder.result(), last.result()))] == ["holder", "last"]
        await fleet.settle()
        assert first.waiting() == []
        assert not fleet.database.items(ItemQuery("flow.place"))


async def test_a_child_in_line_is_timed_out_on() -> None:
    slow = one_at_a_time("1h")

    @workflow(id="impatient")
    async def impatient(ctx: Context, _: None) -> bool:
        try:
            await ctx.step.invoke("slow", workflow=slow, data="late", timeout="5s")
        except WorkflowTimeoutError:
            return True
        return False

    async with Fleet(slow, impatient) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        await first.start(slow, "holder")
        handle = await second.start(impatient)
        assert await fleet.clock.until(handle.result())
        assert [each.position for each in first.waiting()] == [1]


async def test_priorities_count_over_replicas() -> None:
    watch = Watch()

    @workflow(id="ranked", flow_control=FlowControl("scarce", parallelism=1), priority="data")
    async def ranked(ctx: Context, rank: int) -> int:
        await ctx.step.run("enter", watch.enter, str(rank))
        await ctx.step.sleep("hold", "10s")
        await ctx.step.run("exit", watch.exit, str(rank))
        return rank

    async with Fleet(ranked) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handles = [await first.start(ranked, 0)]
        await fleet.settle()
        for replica, rank in ((first, 1), (second, 5), (first, 3)):
            handles.append(await replica.start(ranked, rank))
        await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles)))
        assert watch.began == ["0", "5", "3", "1"]


async def test_the_idempotency_key_of_a_deleted_run_is_free_again_whichever_replica_deletes_it() -> None:
    @workflow(id="once", idempotency=Idempotency("data", period="30d"))
    async def once(ctx: Context, key: str) -> str:
        return ctx.run_id

    async with Fleet(once) as fleet:
        replicas = [await fleet.open() for _ in range(2)]
        known: list[str] = []
        for deleting in replicas:  # one of them is the coordinator
            handle = await fleet.clock.until(replicas[0].start(once, "a"))
            assert await fleet.clock.until(handle.result()) == handle.run_id
            known.append(handle.run_id)
            assert await fleet.clock.until(deleting.delete(handle.run_id)) == 1
            await fleet.clock.advance("2s")
        last = await fleet.clock.until(replicas[1].start(once, "a"))
        assert await fleet.clock.until(last.result()) == last.run_id
        assert len({*known, last.run_id}) == 3
        assert not fleet.database.office.letters


async def test_lines_are_seen_from_any_replica() -> None:
    @workflow(id="slow", flow_control=FlowControl("scarce", parallelism=1, rate=5, period="1m"))
    async def slow(ctx: Context, name: str) -> str:
        await ctx.step.sleep("hold", "10s")
        return name

    async with Fleet(slow) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles = [await replica.start(slow, "run") for replica in replicas]
        await replicas[1].pause_key("other")
        await fleet.settle()
        keys = [replica.flow_keys() for replica in replicas]
        assert keys[0] == keys[1] == keys[2]
        assert [(key.name, key.running, key.waiting, key.is_paused) for key in keys[1]] == [
            ("other", 0, 0, True), ("scarce", 1, 2, False),
        ]  # fmt: skip
        waiting = [replica.waiting("scarce") for replica in replicas]
        assert waiting[0] == waiting[1] == waiting[2]
        assert [each.run_id for each in waiting[0]] == [handle.run_id for handle in handles[1:]]


async def test_a_cancelled_run_keeps_its_place_while_it_cleans_up_whoever_owns_it() -> None:
    @workflow(id="tidy", flow_control=FlowControl("scarce", parallelism=1))
    async def tidy(ctx: Context, name: str) -> str:
        if name == "first":
            try:
                await ctx.step.sleep("hold", "1h")
            finally:
                await asyncio.sleep(2)
        return name

    async with Fleet(tidy) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        holder = await second.start(tidy, "first")
        await fleet.clock.advance("1s")
        waiting = await third.start(tidy, "second")
        cancelling = asyncio.ensure_future(second.run(holder.run_id).cancel())
        await fleet.clock.advance("1s")
        assert await holder.status() is RunStatus.CANCELLED
        assert await waiting.status() is RunStatus.QUEUED
        await fleet.clock.until(cancelling)
        assert await fleet.clock.until(waiting.result()) == "second"
        assert not fleet.database.items(ItemQuery("flow.place"))
        assert first.flow_keys() == []


async def test_a_resumed_run_counts_in_its_line_whoever_resumed_it() -> None:
    slow = one_at_a_time("10s")
    async with Fleet(slow) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        one = await first.start(slow, "one")
        await fleet.clock.advance("1s")
        await second.run(one.run_id).cancel()
        await second.resume(one.run_id)
        await fleet.settle()
        assert [(key.running, key.waiting) for key in first.flow_keys()] == [(1, 0)]
        two = await first.start(slow, "two")
        await fleet.clock.advance("1s")
        assert await two.status() is RunStatus.QUEUED
        assert [*await fleet.clock.until(asyncio.gather(one.result(), two.result()))] == ["one", "two"]
        assert first.flow_keys() == []
