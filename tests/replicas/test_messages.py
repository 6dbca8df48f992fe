"""Events and signals reach whoever waits for them, whichever replica owns it and whichever is told."""

from __future__ import annotations

import asyncio

import pytest
from dying import over_each_commit
from fleet import Fleet

from rotor_actors import CancelOn, Context, Event, RunStatus, Runtime, Singleton, workflow
from rotor_actors.errors import RotorError, SignalInUseError, SignalNotFoundError, WorkflowFailedError
from rotor_actors.records import ItemRow
from rotor_actors.stores.base import ItemQuery
from rotor_actors.stores.shared_database import SharedDatabase

pytestmark = pytest.mark.asyncio


@workflow(id="waiter", cancel_on=[CancelOn(event="order.dropped", match="data.order")])
async def waiter(ctx: Context, data: dict[str, int]) -> int:
    event = await ctx.step.wait_for_event("wait", event="order.paid", match="data.order", timeout="1h")
    return -1 if event is None else event.data["amount"]


@workflow(id="triggered", on="order.placed")
async def triggered(ctx: Context, data: dict[str, int]) -> int:
    return data["order"]


@workflow(id="triggered-once", on="order.placed", singleton=Singleton(mode="skip"))
async def triggered_once(ctx: Context, data: dict[str, int]) -> int:
    await ctx.step.sleep("a while", "1m")
    return data["order"]


@workflow(id="teller")
async def teller(ctx: Context, order: int) -> list[str]:
    return await ctx.step.send_event("tell", Event("order.placed", data={"order": order}))


@workflow(id="listener")
async def listener(ctx: Context, signal: str) -> str:
    return await ctx.step.wait_for_signal("listen", signal=signal, timeout="1h", returns=str)


@workflow(id="patient")
async def patient(ctx: Context) -> None:
    for number in range(10):
        await ctx.step.wait_for_signal(f"listen {number}", signal="more", timeout="1h", returns=str)


ALL = (waiter, triggered, triggered_once, teller, listener, patient)


async def test_an_event_reaches_steps_that_wait_on_any_replica() -> None:
    async with Fleet(*ALL) as fleet:
        replicas = [await fleet.open() for _ in range(3)]
        handles = [await replica.start(waiter, {"order": number}) for number, replica in enumerate(replicas)]
        await fleet.settle()
        for number in range(3):
            sender = replicas[(number + 1) % 3]
            await sender.send(Event("order.paid", data={"order": number, "amount": 10 * number}))
        assert await fleet.clock.until(asyncio.gather(*(handle.result() for handle in handles))) == [0, 10, 20]


async def test_an_event_costs_a_look_at_those_that_wait_for_its_name_and_at_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @workflow(id="elsewhere", cancel_on=[CancelOn(event="another.dropped")])
    async def elsewhere(ctx: Context) -> None:
        await ctx.step.wait_for_event("another", event="another.paid", timeout="1h")

    looked_at: list[int] = []
    items = SharedDatabase.items

    def counted(self: SharedDatabase, query: ItemQuery) -> list[ItemRow]:
        found = items(self, query)
        looked_at.append(len(found) if query.space in ("event-waiters", "cancel-on") else 0)
        return found

    async with Fleet(*ALL, elsewhere) as fleet:
        sender, owner = [await fleet.open() for _ in range(2)]
        for _ in range(20):
            await owner.start(elsewhere)
        handle = await owner.start(waiter, {"order": 1})
        await fleet.settle()
        monkeypatch.setattr(SharedDatabase, "items", counted)
        await sender.send(Event("order.paid", data={"order": 1, "amount": 7}))
        assert await fleet.clock.until(handle.result()) == 7
    assert sum(looked_at) == 1


async def test_an_event_cancels_runs_of_any_replica() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handles = [await replica.start(waiter, {"order": 1}) for replica in (first, second, third)]
        other = await second.start(waiter, {"order": 2})
        await fleet.settle()
        await third.send(Event("order.dropped", data={"order": 1}))
        await fleet.settle()
        assert [await handle.status() for handle in handles] == [RunStatus.CANCELLED] * 3
        assert (await handles[1].info()).reason.startswith("event 'order.dropped'")
        assert await other.status() is RunStatus.RUNNING


async def test_an_event_reaches_a_run_that_nobody_owns_just_now() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        third = await fleet.open(waiter)
        handle, dropped = await third.start(waiter, {"order": 5}), await third.start(waiter, {"order": 6})
        await fleet.settle()
        fleet.store_of(third).is_cut_off = True  # gone, and nobody has noticed
        await first.send(Event("order.paid", data={"order": 5, "amount": 50}))
        await first.send(Event("order.dropped", data={"order": 6}))
        await fleet.kill(third)
        assert await fleet.clock.until(second.run(handle.run_id).result()) == 50
        assert (await second.info(dropped.run_id)).status is RunStatus.CANCELLED


async def test_an_event_starts_runs_once_whoever_sends_it_and_whatever_their_rules() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        event = Event("order.placed", data={"order": 3}, id="placed-3")
        started = await second.send(event)
        assert len(started) == 2
        assert await third.send(event) == started
        await fleet.kill(first)
        assert await second.send(event) == started
        assert len(await third.send(Event("order.placed", data={"order": 4}))) == 1  # the singleton is there
        assert len(await second.runs(workflow="triggered")) == 2


async def test_events_of_one_caller_come_in_their_order() -> None:
    async with Fleet(*ALL) as fleet:
        _, second, third = [await fleet.open() for _ in range(3)]
        handle = await third.start(waiter, {"order": 1})
        await fleet.settle()
        await second.send(
            [Event("order.paid", data={"order": 1, "amount": 1}), Event("order.paid", data={"order": 1, "amount": 2})]
        )
        assert await fleet.clock.until(handle.result()) == 1


async def test_a_step_sends_its_event_once_at_whichever_commit_the_coordinator_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        second, third = runtimes[1:]
        telling, waiting = await second.start(teller, 1), await third.start(waiter, {"order": 1})
        started = await fleet.clock.until(telling.result())
        assert len(started) == 2
        await fleet.clock.until(third.send(Event("order.paid", data={"order": 1, "amount": 9}, id="paid-1")))
        await fleet.clock.until(second.send(Event("order.paid", data={"order": 1, "amount": 8}, id="paid-1")))
        assert await fleet.clock.until(third.run(waiting.run_id).result()) == 9
        assert len(await third.runs(workflow="triggered")) == 1
        await fleet.settle()
        assert not fleet.database.office.letters

    await over_each_commit(lambda: Fleet(*ALL), scenario, replicas=3)


async def test_a_step_sends_its_event_once_at_whichever_commit_its_owner_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        first, second = runtimes
        try:
            await second.start(teller, 1)
        except RotorError:
            return
        await fleet.clock.advance("1m")
        tellers = await first.runs(workflow="teller")
        assert [each.status for each in tellers] == [RunStatus.COMPLETED]
        assert len(await first.runs(workflow="triggered")) == 1

    await over_each_commit(lambda: Fleet(*ALL), scenario, dies=1)


async def test_a_signal_reaches_a_run_of_any_replica_once() -> None:
    async with Fleet(*ALL) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handle = await third.start(listener, "go")
        await fleet.settle()
        answers = await asyncio.gather(first.signal("go", "one"), second.signal("go", "two"), return_exceptions=True)
        assert sorted(map(type, answers), key=str) == sorted([type(None), SignalNotFoundError], key=str)
        assert await fleet.clock.until(handle.result()) in ("one", "two")
        with pytest.raises(SignalNotFoundError):
            await first.signal("go", "three")


async def test_of_signals_to_a_run_that_lives_on_nothing_is_kept() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = await fleet.open(), await fleet.open()
        handle = await second.start(patient)
        await fleet.settle()
        for number in range(5):
            await fleet.clock.until(first.signal("more", str(number)))
            await fleet.settle()
        remote = fleet.service_of(first).engine.finishing.remote
        assert remote is not None
        assert remote.awaited_ends == 0
        row = fleet.database.find(handle.run_id)
        assert row is not None
        assert row.status is RunStatus.RUNNING


async def test_a_signal_for_a_run_that_ends_meanwhile_is_not_found() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await second.start(listener, "go")
        await fleet.settle()
        number = fleet.store_of(second).replica
        fleet.database.hints.pop(number)  # it is late to look for its mail
        signalling = asyncio.ensure_future(first.signal("go", "late"))
        await asyncio.sleep(0.01)
        await second.run(handle.run_id).cancel()
        with pytest.raises(SignalNotFoundError):
            await fleet.clock.until(signalling)


async def test_a_signal_has_one_receiver_over_all_replicas() -> None:
    async with Fleet(*ALL) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        one = await first.start(listener, "go")
        await fleet.clock.advance("1s")
        two = await second.start(listener, "go")
        await fleet.settle()
        with pytest.raises(WorkflowFailedError, match=SignalInUseError.__name__):
            await fleet.clock.until(two.result())
        await second.signal("go", "here")
        assert await fleet.clock.until(one.result()) == "here"


async def test_a_signal_reaches_its_run_at_whichever_commit_the_owner_dies() -> None:
    async def scenario(fleet: Fleet, runtimes: list[Runtime]) -> None:
        first, second = runtimes
        try:
            handle = await second.start(listener, "go")
        except RotorError:
            return
        await fleet.settle()
        await fleet.clock.until(first.signal("go", "here"))
        assert await fleet.clock.until(first.run(handle.run_id).result()) == "here"

    await over_each_commit(lambda: Fleet(*ALL), scenario, dies=1)


async def test_an_event_cancels_a_run_that_was_started_just_now_however_full_its_replica_is() -> None:
    async with Fleet(*ALL, spill_above=1) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handles = [await second.start(waiter, {"order": 1}) for _ in range(5)]
        await first.send(Event("order.dropped", data={"order": 1}))
        await fleet.settle()
        assert {await first.run(handle.run_id).status() for handle in handles} == {RunStatus.CANCELLED}
