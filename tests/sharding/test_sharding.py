"""One runtime over several stores: it is used as if it were one, whatever shard a tree is in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rotor_actors import (
    Context,
    Event,
    FlowControl,
    ManualClock,
    MemoryStore,
    RunHandle,
    RunStatus,
    Runtime,
    Singleton,
    Workflow,
    cron,
    workflow,
)
from rotor_actors.errors import (
    RunExistsError,
    RunNotFoundError,
    SignalNotFoundError,
    StoreError,
    WorkflowCancelledError,
)
from rotor_actors.events.outbox import SPACE as OUTBOX
from rotor_actors.observing import Observer
from rotor_actors.records import Entry, ItemRow
from rotor_actors.sharding import Shard
from rotor_actors.sharding.forwarding import Forwarding
from rotor_actors.sharding.part import Part
from rotor_actors.sharding.placement import Placement, named
from rotor_actors.step_specs import EventRecord
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore

pytestmark = pytest.mark.asyncio


@workflow(id="double")
async def double(ctx: Context, number: int) -> int:
    return await ctx.step.run("double", lambda: 2 * number)


@workflow(id="sum-of-doubles")
async def sum_of_doubles(ctx: Context, numbers: list[int]) -> int:
    ends = [ctx.step.invoke(str(each), workflow=double, data=each, timeout="1h") for each in numbers]
    return sum(end.result for end in await asyncio.gather(*ends))


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.step.sleep("long", "1h")


@workflow(id="parent-of-sleeper")
async def parent_of_sleeper(ctx: Context) -> None:
    await ctx.step.invoke("child", workflow=sleeper, data=None, timeout="2h")


@workflow(id="reporter")
async def reporter(ctx: Context) -> None:
    ctx.report(1)
    await ctx.step.run("something", lambda: None)
    ctx.report(2)


@workflow(id="waiter")
async def waiter(ctx: Context, name: str) -> Any:
    event = await ctx.step.wait_for_event("wait", event="gong", timeout="1h", where=f"event.data.for == '{name}'")
    return None if event is None else event.data["count"]


@workflow(id="on-signal")
async def on_signal(ctx: Context, name: str) -> int:
    return await ctx.step.wait_for_signal("wait", signal=name, timeout="1h", returns=int)


@workflow(id="on-gong", on="gong")
async def on_gong(ctx: Context) -> str:
    return str(ctx.event.id)


@workflow(id="striker")
async def striker(ctx: Context, event: dict[str, Any]) -> list[str]:
    return await ctx.step.send_event("strike", Event("gong", event))


@workflow(id="one-at-a-time", flow_control=FlowControl("the-printer", parallelism=1))
async def one_at_a_time(ctx: Context) -> None:
    await ctx.step.sleep("print", "1m")


@workflow(id="also-prints", flow_control=FlowControl("the-printer", parallelism=1))
async def also_prints(ctx: Context) -> None:
    await ctx.step.sleep("print", "1m")


@workflow(id="only-one", singleton=Singleton())
async def only_one(ctx: Context) -> None:
    await ctx.step.sleep("long", "1h")


@workflow(id="every-minute", on=cron("* * * * *"))
async def every_minute(ctx: Context) -> None: ...


ALL: list[Workflow[Any, Any]] = [
    double, sum_of_doubles, sleeper, parent_of_sleeper, reporter, waiter, on_signal, on_gong, striker, one_at_a_time,
    also_prints, only_one,
]  # fmt: skip


def shards(count: int = 3) -> list[Shard]:
    return [Shard(MemoryStore(), f"shard-{number}") for number in range(count)]


def runs_in(shard: Shard) -> int:
    store = shard.store
    assert isinstance(store, MemoryStore)
    return sum(store.count_by_status(None).values())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    for _ in range(2_000):
        if await condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


async def until_waiting(runtime: Runtime, handles: Iterable[RunHandle[Any]], said: str) -> None:
    for handle in handles:
        await until(partial(says, runtime, handle.run_id, said))


async def says(runtime: Runtime, run_id: str, said: str) -> bool:
    return said in await runtime.why(run_id)


async def completed(runtime: Runtime, workflow_id: str, count: int) -> None:
    async def are_there() -> bool:
        return len(await runtime.runs(workflow=workflow_id, status="completed")) >= count

    await until(are_there)


async def test_trees_are_spread_and_each_is_in_one_shard() -> None:
    stores = shards()
    async with Runtime(stores, workflows=ALL) as runtime:
        handles = [await runtime.start(sum_of_doubles, [1, 2, 3]) for _ in range(30)]
        assert [await handle.result() for handle in handles] == [12] * 30
        assert (await runtime.count())[RunStatus.COMPLETED] == 120
        found = [runs_in(each) for each in stores]
        assert sum(found) == 120
        assert all(count % 4 == 0 and count > 0 for count in found), "whole trees, in all shards"


async def test_lists_are_of_all_shards_newest_first_page_after_page() -> None:
    clock = ManualClock()
    async with Runtime(shards(), workflows=ALL, clock=clock) as runtime:
        started: list[str] = []
        for number in range(25):
            started.append((await runtime.start(sleeper, run_id=f"run-{number}")).run_id)
            if number % 5:  # some have the same time
                await clock.advance("1s")
        pages: list[str] = []
        after = None
        while page := [run.run_id for run in await runtime.runs(limit=4, after=after)]:
            pages += page
            after = page[-1]
        assert len(pages) == len(set(pages)) == 25
        times = [(await runtime.info(run_id)).created_at for run_id in pages]
        assert times == sorted(times, reverse=True)
        assert sorted(run.run_id for run in await runtime.runs(status="running", id_prefix="run-1")) == sorted(
            each for each in started if each.startswith("run-1")
        )


async def test_what_concerns_a_run_finds_it_wherever_it_is_children_too() -> None:
    async with Runtime(shards(), workflows=ALL, drain_timeout=0) as runtime:
        for number in range(6):
            top = await runtime.start(parent_of_sleeper, run_id=f"top-{number}")
            await until(partial(runtime.runs, parent=top.run_id))
            (child,) = await runtime.runs(parent=top.run_id)
            assert (child.root_run_id, child.parent_run_id) == (top.run_id, top.run_id)
            tree = await runtime.tree(top.run_id)
            assert [each.run.run_id for each in tree.children] == [child.run_id]
            assert f"waits for child {child.run_id}" in await runtime.why(top.run_id)
            assert child.waiting_for or "sleeps in step 'long'" in await runtime.why(child.run_id)
            assert await runtime.count(root=top.run_id) == {RunStatus.RUNNING: 2}
            report = await runtime.cancel(child.run_id if number % 2 else top.run_id, "enough")
            assert child.run_id in report.cancelled
            if not number % 2:
                with pytest.raises(WorkflowCancelledError, match="enough"):
                    await top.result()
        with pytest.raises(RunNotFoundError, match="in any of the 3 shards"):
            await runtime.cancel("nobody")
        with pytest.raises(RunNotFoundError):
            await runtime.info("nobody")


async def test_steps_and_progress_of_a_run_are_read_from_its_shard() -> None:
    async with Runtime(shards(), workflows=ALL) as runtime:
        for number in range(6):
            handle = await runtime.start(reporter, run_id=f"run-{number}")
            await handle.result()
            assert [step.step_id for step in await runtime.steps(handle.run_id)] == ["something"]
            assert (await handle.progress())[""].value == 2
            assert [update.value async for update in handle.updates()][-1] == 2


async def test_an_id_of_ones_choice_is_one_run_also_when_a_shard_has_been_added() -> None:
    stores = shards(2)
    async with Runtime(stores, workflows=ALL) as runtime:
        for number in range(20):
            await runtime.execute(double, number, run_id=f"order-{number}")
    stores.append(Shard(MemoryStore(), "shard-2"))
    async with Runtime(stores, workflows=ALL) as runtime:
        placement = Placement(named(stores))
        assert any(placement.shard_of(f"order-{number}") == 2 for number in range(20)), "some would go elsewhere now"
        for number in range(20):
            assert await runtime.execute(double, number, run_id=f"order-{number}") == 2 * number
        assert (await runtime.count())[RunStatus.COMPLETED] == 20
        with pytest.raises(RunExistsError):
            await runtime.start(double, 99, run_id="order-1")
        for number in range(30):
            await runtime.execute(double, number)
        assert runs_in(stores[2]) > 0, "new trees go to the new shard, too"


async def test_ids_say_by_their_hash_where_they_are() -> None:
    stores = shards()
    placement = Placement(named(stores))
    async with Runtime(stores, workflows=ALL) as runtime:
        for _ in range(20):
            handle = await runtime.start(double, 1)
            await handle.result()
            store = stores[placement.shard_of(handle.run_id)].store
            assert isinstance(store, MemoryStore)
            assert store.find(handle.run_id) is not None


async def test_a_shard_that_is_left_out_is_missed_by_name() -> None:
    stores = shards()
    async with Runtime(stores):
        pass
    with pytest.raises(StoreError, match="shard shard-1 is missing from the list"):
        await Runtime([stores[0], stores[2]]).__aenter__()
    async with Runtime([stores[2], stores[1], stores[0]]):
        pass  # the order says nothing


@pytest.mark.parametrize("are_shared", [False, True])
async def test_a_shard_opened_alone_is_refused_before_anything_is_taken_up(are_shared: bool) -> None:
    databases, clock = [SharedDatabase(), SharedDatabase()], ManualClock()
    stores = [SharedMemoryStore(each) for each in databases] if are_shared else [each.store for each in shards(2)]

    def again() -> list[Shard]:
        return [Shard(each.again() if isinstance(each, SharedMemoryStore) else each, f"shard-{at}")
                for at, each in enumerate(stores)]  # fmt: skip

    async with Runtime(again(), workflows=ALL, drain_timeout=0, clock=clock) as runtime:
        await runtime.start(sleeper)
    for shard in again():
        with pytest.raises(StoreError, match="one of the shards shard-0, shard-1: opened alone"):
            await Runtime(shard.store, workflows=ALL, clock=clock).__aenter__()
    assert not any(each.replicas() for each in databases), "it was no replica for a moment either"
    async with Runtime(again(), workflows=ALL, drain_timeout=0, clock=clock) as runtime:
        assert await runtime.count() == {RunStatus.RUNNING: 1}


async def test_a_shard_that_takes_no_new_runs_goes_on_with_those_it_has() -> None:
    stores = shards(2)
    clock = ManualClock()
    async with Runtime(stores, workflows=ALL, drain_timeout=0, clock=clock) as runtime:
        for number in range(10):
            await runtime.start(sleeper, run_id=f"run-{number}")
        had = runs_in(stores[0])
    closing = [Shard(stores[0].store, "shard-0", takes_new=False), stores[1]]
    async with Runtime(closing, workflows=ALL, drain_timeout=0, clock=clock) as runtime:
        for number in range(10, 30):
            await runtime.start(sleeper, run_id=f"run-{number}")
        assert runs_in(stores[0]) == had > 0
        await clock.advance("2h")
        assert await runtime.count() == {RunStatus.COMPLETED: 30}


async def test_an_event_reaches_those_who_wait_in_every_shard_and_starts_one_run() -> None:
    stores = shards()
    async with Runtime(stores, workflows=ALL, drain_timeout=0) as runtime:
        waiters = [await runtime.start(waiter, "you") for _ in range(12)]
        await until_waiting(runtime, waiters, "waits for event")
        event = Event("gong", {"for": "you", "count": 7}, id="once")
        started = await runtime.send(event)
        assert len(started) == 1
        assert await runtime.send(event) == started, "an id that is sent again is delivered once"
        assert [await handle.result() for handle in waiters] == [7] * 12
        assert await runtime.run(started[0]).result() == "once"
        more = [await runtime.send(Event("gong", {"for": "nobody", "count": 0})) for _ in range(20)]
        assert all(len(each) == 1 for each in more)
        places = Counter(Placement(named(stores)).shard_of(each[0]) for each in more)
        assert len(places) > 1, "runs that events start are spread, too"


async def test_an_event_that_a_step_sends_reaches_the_other_shards() -> None:
    async with Runtime(shards(), workflows=ALL, drain_timeout=0) as runtime:
        waiters = [await runtime.start(waiter, "you") for _ in range(9)]
        await until_waiting(runtime, waiters, "waits for event")
        for number in range(4):
            await runtime.execute(striker, {"for": "you" if number == 0 else "none", "count": 9}, run_id=f"s{number}")
        assert await asyncio.gather(*(handle.result() for handle in waiters)) == [9] * 9
        await completed(runtime, "on-gong", 4)
        await asyncio.sleep(0.05)  # for what should not come
        assert len(await runtime.runs(workflow="on-gong")) == 4, "each started one run, in one shard"


async def test_a_damaged_item_of_the_outbox_is_told_and_keeps_no_other_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = EventRecord("gong", b"\x01", id="intact")
    outbox = [
        ItemRow(OUTBOX, "1:broken", None, is_damaged=True),
        ItemRow(OUTBOX, "2:intact", msgspec.msgpack.encode((sent,))),
    ]
    delivered: list[str] = []

    async def read(_: Any) -> list[ItemRow]:
        return list(outbox)

    async def append(_: Entry) -> None:
        outbox.clear()

    async def deliver(events: Sequence[EventRecord]) -> list[str]:
        delivered.extend(each.id for each in events)
        return []

    part = Part(read, append, deliver)
    forwarding = Forwarding()
    forwarding.begin(part, [part])
    await forwarding.forward()
    assert delivered == ["intact"]
    assert "item '1:broken' of 'events-out'" in caplog.text


async def test_events_in_the_outbox_of_a_process_that_died_are_sent_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores = shards()

    async def never(_: Forwarding) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Forwarding, "forward", never)
    async with Runtime(stores, workflows=ALL, drain_timeout=0) as runtime:
        for number in range(3):
            await runtime.start(striker, {"for": "none", "count": 1}, run_id=f"striker-{number}")
        await completed(runtime, "striker", 3)
        before = len(await runtime.runs(workflow="on-gong"))
    monkeypatch.undo()
    async with Runtime(stores, workflows=ALL, drain_timeout=0) as runtime:
        await completed(runtime, "on-gong", 3)
    assert before < 3, "some had to go to another shard"


async def test_a_signal_finds_the_run_that_waits_for_it() -> None:
    async with Runtime(shards(), workflows=ALL, drain_timeout=0) as runtime:
        handles = {name: await runtime.start(on_signal, name) for name in "abcdef"}
        for name, handle in handles.items():
            await until_waiting(runtime, [handle], "waits for signal")
            await runtime.signal(name, ord(name))
            assert await handle.result() == ord(name)
        with pytest.raises(SignalNotFoundError):
            await runtime.signal("nobody")


async def test_a_key_that_two_workflows_share_lets_one_run_at_a_time_over_all_shards() -> None:
    clock = ManualClock()
    async with Runtime(shards(), workflows=ALL, clock=clock) as runtime:
        for number in range(4):
            await runtime.start(also_prints if number % 2 else one_at_a_time)
        assert await runtime.count() == {RunStatus.RUNNING: 1, RunStatus.QUEUED: 3}
        (key,) = runtime.flow_keys()
        assert (key.name, key.running, key.waiting) == ("the-printer", 1, 3)
        assert len(runtime.waiting()) == 3
        await runtime.pause_key("the-printer")
        await clock.advance("10m")
        assert await runtime.count() == {RunStatus.COMPLETED: 1, RunStatus.QUEUED: 3}
        await runtime.resume_key("the-printer")
        await clock.advance("3m")
        assert await runtime.count() == {RunStatus.COMPLETED: 4}


async def test_a_singleton_is_one_over_all_shards() -> None:
    async with Runtime(shards(), workflows=ALL, drain_timeout=0) as runtime:
        assert len({(await runtime.start(only_one)).run_id for _ in range(8)}) == 1


async def test_the_clock_starts_a_run_once_in_one_shard() -> None:
    clock = ManualClock()
    async with Runtime(shards(), workflows=[every_minute], clock=clock) as runtime:
        await clock.advance("5m")
        assert await runtime.count() == {RunStatus.COMPLETED: 5}


async def test_runs_are_brought_back_and_deleted_wherever_they_are() -> None:
    clock = ManualClock()
    async with Runtime(shards(), workflows=ALL, clock=clock, drain_timeout=0) as runtime:
        for number in range(6):
            await runtime.start(sleeper, run_id=f"run-{number}")
            await runtime.cancel(f"run-{number}")
        again = await runtime.restart("run-0")
        assert (await again.info()).origin_run_id == "run-0"
        assert (await (await runtime.resume("run-1")).info()).status is RunStatus.RUNNING
        for number in range(2, 6):  # some of them are in another shard
            with pytest.raises(RunExistsError):
                await runtime.restart("run-0", new_run_id=f"run-{number}")
        await runtime.cancel(again.run_id)
        report = await runtime.restart_all(status="cancelled", limit=3)
        assert len(report.started) == 3
        assert await runtime.delete("run-5") == 1
        await clock.advance("2h")
        assert (await runtime.prune(older_than="30m", dry_run=True)).runs > 5
        pruned = await runtime.prune(older_than="30m", limit=2)
        assert len(pruned.run_ids) == 2
        await runtime.compact()


async def test_observers_see_one_runtime() -> None:
    class Seen(Observer):
        def __init__(self) -> None:
            self.opened_with: list[int] = []
            self.committed_ns: set[int] = set()
            self.closes = 0

        def opened(self, runs: Any, gauges: Any) -> None:
            self.opened_with.append(gauges.live_runs)

        def committed(self, facts: Any, seconds: float) -> None:
            self.committed_ns |= {fact.run.n for fact in facts if hasattr(fact, "run")}

        def closed(self) -> None:
            self.closes += 1

    seen = Seen()
    async with Runtime(shards(), workflows=ALL, observers=[seen]) as runtime:
        for number in range(12):
            await runtime.execute(double, number)
    assert (seen.opened_with, len(seen.committed_ns), seen.closes) == ([0], 12, 1)


@pytest.mark.parametrize("kind", ["files", "shared"])
async def test_files_and_shared_stores_are_shards_like_any_other(kind: str, tmp_path: Path) -> None:
    given: list[Any]
    if kind == "files":
        given = [tmp_path / "a.db", f"sqlite:///{tmp_path}/b.db"]
    else:
        given = [Shard(SharedMemoryStore(SharedDatabase()), name) for name in "ab"]
    async with Runtime(given, workflows=ALL) as runtime:
        handles = [await runtime.start(sum_of_doubles, [1, 2]) for _ in range(8)]
        assert [await handle.result() for handle in handles] == [6] * 8
        assert len(await runtime.runs(limit=100)) == 24
        if kind == "files":
            await runtime.backup(tmp_path / "copy.db")
            assert (tmp_path / "copy.db.0").exists()
            assert (tmp_path / "copy.db.1").exists()
        else:
            labels = [replica.label for replica in await runtime.replicas()]
            assert [label.rpartition(" @ ")[2] for label in labels] == ["a", "b"]
            assert len({replica.number for replica in await runtime.replicas()}) == 2


async def test_replicas_of_shards_take_over_from_each_other_and_events_of_steps_cross_shards_there() -> None:
    databases = [SharedDatabase(), SharedDatabase()]

    def stores() -> list[Shard]:
        return [Shard(SharedMemoryStore(each), name) for each, name in zip(databases, "ab", strict=True)]

    async with Runtime(stores(), workflows=ALL, drain_timeout=0, label="second") as second:
        async with Runtime(stores(), workflows=ALL, drain_timeout=0, label="first") as first:
            waiters = [await first.start(waiter, "you") for _ in range(6)]
            await until_waiting(first, waiters, "waits for event")
        await until(partial(all_owned_by, second, "second", 6))
        await second.start(striker, {"for": "you", "count": 3})
        results = [await second.run(handle.run_id).result(timeout="30s") for handle in waiters]
        assert results == [3] * 6
        await completed(second, "on-gong", 1)
        await asyncio.sleep(0.05)  # for what should not come
        assert len(await second.runs(workflow="on-gong")) == 1


async def all_owned_by(runtime: Runtime, label: str, count: int) -> bool:
    mine = [each.number for each in await runtime.replicas() if each.label.startswith(label)]
    return [run.owner in mine for run in await runtime.runs(workflow="waiter")] == [True] * count


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "1 to 1024 shards, got 0"),
        (["a.db", "./a.db"], "two shards are called"),
        (["postgresql://me:secret@host/db", "postgresql://you@host/db"], "two shards are called host/db"),
        ([Shard("a.db", takes_new=False)], "no shard takes new runs"),
    ],
)
async def test_lists_that_cannot_work_are_refused_by_name(given: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Runtime(given)
