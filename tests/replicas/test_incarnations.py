"""A replica that loses its lease or its database stops what it does, and comes back as another one."""

from __future__ import annotations

import asyncio

import pytest
from crossing import Crossing
from fleet import Fleet

from rotor_actors import Context, MemoryStore, Runtime, workflow
from rotor_actors.errors import (
    ReplicaFencedError,
    RuntimeStateError,
    StoreError,
    StoreUnavailableError,
    WorkflowTimeoutError,
)
from rotor_actors.records import Entry, RunCreated, flatten

pytestmark = pytest.mark.asyncio


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    await ctx.step.sleep("a while", "1m")
    return number * 2


async def test_a_result_is_waited_for_wherever_the_run_is() -> None:
    async with Fleet(child) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handle = await first.start(child, 3)
        waiting = [asyncio.ensure_future(each.run(handle.run_id).result()) for each in (second, third)]
        await fleet.settle()
        await fleet.kill(first)
        assert await fleet.clock.until(asyncio.gather(*waiting)) == [6, 6]
        assert await third.run(handle.run_id).result() == 6
        assert not fleet.database.office.letters


async def test_a_replica_that_was_fenced_begins_anew_and_who_waits_there_goes_on_waiting() -> None:
    async with Fleet(child) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(child, 3)
        waiting = asyncio.ensure_future(handle.result())
        await fleet.settle()
        number = fleet.store_of(first).replica
        await fleet.expire(number)
        await fleet.until_anew(first, number)
        assert fleet.store_of(first).replica > number
        assert fleet.owner_of(handle.run_id) == fleet.store_of(second).replica
        assert await fleet.clock.until(waiting) == 6
        assert await fleet.clock.until(first.execute(child, 4)) == 8


async def test_steps_of_a_replica_that_was_fenced_are_interrupted_and_nothing_of_them_is_recorded() -> None:
    begun: list[int] = []
    interrupted: list[int] = []
    going = asyncio.Event()

    async def effect() -> str:
        begun.append(1)
        try:
            await going.wait()
        except asyncio.CancelledError:
            interrupted.append(1)
            raise
        return "done"

    @workflow(id="acting")
    async def acting(ctx: Context) -> str:
        return await ctx.step.run("act", effect)

    async with Fleet(acting) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await first.start(acting)
        while not begun:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        number = fleet.store_of(first).replica
        heart = fleet.replica_of(first).heart
        fleet.pause(first)
        fleet.database.replica_rows[number].lease_until = float("-inf")
        for _ in range(5):
            fleet.replica_of(second).time_was_moved()
            await asyncio.sleep(0.01)
        heart.is_stopped = False
        heart.beat()
        await asyncio.sleep(0.05)
        assert interrupted == [1]
        assert begun == [1, 1], "the other one has begun it anew"
        going.set()
        assert await handle.result() == "done"


async def test_a_replica_whose_database_is_away_comes_back_with_it() -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        handle = await only.start(child, 3)
        waiting = asyncio.ensure_future(handle.result())
        number = fleet.store_of(only).replica
        fleet.cut_off(only)
        starting = asyncio.ensure_future(only.start(child, 4))
        while fleet.service_of(only).failure is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        looking = asyncio.ensure_future(only.info(handle.run_id))
        with pytest.raises(StoreError):
            await only.start(child, 5)
        await asyncio.sleep(0.2)
        assert not starting.done(), "whether it was recorded is not known yet"
        assert not looking.done()
        fleet.come_back(only)
        await fleet.until_anew(only, number)
        assert (await looking).run_id == handle.run_id
        await fleet.expire(number)
        with pytest.raises(StoreUnavailableError, match="was not started"):
            await starting
        assert await fleet.clock.until(waiting) == 6


async def test_who_waits_for_a_result_gets_the_timeout_while_the_database_is_away() -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        handle = await only.start(child, 3)
        waiting = asyncio.ensure_future(handle.result(timeout="30s"))
        await fleet.settle()
        fleet.cut_off(only)
        fleet.service_of(only).engine.journal.fail(StoreUnavailableError("the database is away"))
        await asyncio.sleep(0.05)
        await fleet.clock.advance("31s")
        with pytest.raises(WorkflowTimeoutError):
            await waiting


async def test_a_result_is_waited_for_no_longer_than_was_said_though_only_reading_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Fleet(child) as fleet:
        owner, other = await fleet.open(), await fleet.open()
        handle = await owner.start(child, 3)
        await fleet.settle()
        monkeypatch.setattr(fleet.store_of(other), "find", _unavailable)
        waiting = asyncio.ensure_future(other.run(handle.run_id).result(timeout="5s"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await fleet.clock.advance("6s")
        assert fleet.service_of(other).failure is None
        with pytest.raises(WorkflowTimeoutError):
            await asyncio.wait_for(waiting, 20)


def _unavailable(run_id: str) -> None:
    raise StoreUnavailableError(f"the database is away, and {run_id} with it")


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_who_looks_waits_for_the_database_but_not_for_ever(is_noticed: bool) -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        handle = await only.start(child, 3)
        await fleet.settle()
        fleet.cut_off(only)
        if is_noticed:
            fleet.service_of(only).engine.journal.fail(StoreUnavailableError("the database is away"))
        looking = [asyncio.ensure_future(look) for look in (handle.info(), only.runs(), handle.progress())]
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in looking)
        await fleet.clock.advance("31s")
        for each in looking:
            with pytest.raises(StoreUnavailableError, match=r"away for 30 s.*look at the server, then ask again"):
                await each


async def test_a_cancellation_that_is_asked_again_was_done_though_its_owners_clock_is_behind() -> None:
    async with Crossing(child) as fleet:
        owner, canceller = await fleet.open(), await fleet.open()
        handle = await owner.start(child, 3)
        fleet.hold_mail(canceller)
        number = fleet.store_of(canceller).replica
        asked = asyncio.ensure_future(canceller.cancel(handle.run_id, "enough"))
        await fleet.settle()
        (row,) = fleet.all_rows
        assert (row.status, asked.done()) == ("cancelled", False)
        assert row.ended_at is not None
        row.ended_at -= 0.5
        await fleet.expire(number)
        await fleet.until_anew(canceller, number)
        report = await fleet.clock.until(asked)
        assert (report.cancelled, report.already_ended) == ([handle.run_id], [])


async def test_a_cancellation_that_is_asked_for_while_the_database_is_away_is_done_when_it_is_there_again() -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        handle = await only.start(child, 3)
        await fleet.settle()
        number = fleet.store_of(only).replica
        fleet.cut_off(only)
        asked = [asyncio.ensure_future(only.cancel(handle.run_id, "enough"))]
        while fleet.service_of(only).failure is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asked.append(asyncio.ensure_future(only.cancel(handle.run_id, "enough")))
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in asked)
        fleet.come_back(only)
        await fleet.until_anew(only, number)
        await fleet.expire(number)
        reports = await fleet.clock.until(asyncio.gather(*asked))
        assert all(handle.run_id in (*report.cancelled, *report.already_ended) for report in reports)
        assert (await handle.status()).value == "cancelled"


async def test_who_waits_for_the_database_is_told_when_the_runtime_closes() -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        handle = await only.start(child, 3)
        waiting = asyncio.ensure_future(handle.result())
        await fleet.settle()
        fleet.cut_off(only)
        fleet.service_of(only).engine.journal.fail(StoreUnavailableError("the database is away"))
        await asyncio.sleep(0.05)
        await fleet.close(only)
        with pytest.raises(RuntimeStateError):
            await waiting


@pytest.mark.parametrize("run_id", [None, "order-7"])
@pytest.mark.parametrize("is_written", [True, False])
async def test_a_start_whose_commit_was_under_way_is_answered_truthfully(run_id: str | None, is_written: bool) -> None:
    async with Fleet(child) as fleet:
        only = await fleet.open()
        store = fleet.store_of(only)
        number = store.replica
        is_first = True

        def lose(entries: list[Entry]) -> None:
            nonlocal is_first
            if is_first and any(isinstance(fact, RunCreated) for fact in flatten(entries)):
                is_first = False
                if is_written:
                    fleet.database.apply(number, entries)
                raise StoreUnavailableError("the connection was cut between statement and reply")

        store.before_commit = lose
        starting = asyncio.ensure_future(only.start(child, 3, run_id=run_id))
        await fleet.until_anew(only, number)
        await fleet.expire(number)
        if not is_written:
            with pytest.raises(StoreUnavailableError, match="was not started"):
                await starting
            assert not fleet.all_rows
            return
        handle = await starting
        assert await fleet.clock.until(handle.result()) == 6
        assert len(fleet.all_rows) == 1


async def test_a_lease_that_could_not_be_renewed_in_time_ends_the_incarnation_before_the_next_step() -> None:
    async def effect() -> str:
        begun.append(1)
        return "done"

    begun: list[int] = []

    @workflow(id="acting")
    async def acting(ctx: Context) -> str:
        await ctx.step.sleep("a while", "1m")
        return await ctx.step.run("act", effect)

    async with Fleet(acting) as fleet:
        only = await fleet.open()
        await only.start(acting)
        await fleet.settle()
        lease = fleet.service_of(only).engine.lease
        assert lease is not None
        lease._until = 0.0  # pyright: ignore[reportPrivateUsage] - as if the loop had been blocked, and this were the first callback
        fleet.pause(only)
        await fleet.clock.advance("2m")
        assert begun == []
        assert isinstance(fleet.service_of(only).failure, ReplicaFencedError | type(None))


async def test_a_store_with_one_owner_still_stops_for_good() -> None:
    class Failing(MemoryStore):
        fails = False

        def commit(self, entries: list[Entry]) -> None:
            if self.fails:
                raise StoreError("the disk is gone")
            super().commit(entries)

    store = Failing()
    async with Runtime(store, workflows=[child], label="alone", spill_above=3, drain_timeout=0) as runtime:
        handle = await runtime.start(child, 3)
        store.fails = True
        with pytest.raises(StoreError):
            await runtime.start(child, 4)
        with pytest.raises(StoreError):
            await handle.result()
