"""What a restart repeats, and what it does not."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from crash_kit import ActError, Play, survives_every_crash
from kit import IS_SHARED, World, untouched

from rotor_actors import Context, ManualClock, MemoryStore, RetryPolicy, RunStatus, Runtime, Workflow, workflow
from rotor_actors.errors import WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.loading import ReleaseNote, load
from rotor_actors.records import ChildRow, Entry, History, ItemPut, Kind, OutcomeStatus, RunFlag, StepRow

Flow = Callable[[Context], Awaitable[Any]]


class Bench:
    """A store and a clock that outlive runtimes, and a count of what was done."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = ManualClock()
        self.done: Counter[str] = Counter()

    def runtime(self, *workflows: Workflow[Any, Any], **options: Any) -> Runtime:
        return Runtime(self.store, workflows=workflows, clock=self.clock, drain_timeout=0, **options)

    def flow(self, fn: Flow, *, id: str = "flow", retries: int | RetryPolicy = 0) -> Workflow[None, Any]:
        @workflow(id=id, retries=retries)
        async def flow(ctx: Context) -> Any:
            self.done[f"body of {id}"] += 1
            return await fn(ctx)

        return flow

    async def do(self, name: str) -> str:
        self.done[name] += 1
        return f"did {name}"

    async def begin(self, flow: Workflow[None, Any], *others: Workflow[Any, Any], after: str = "1s") -> None:
        async with self.runtime(flow, *others) as runtime:
            await runtime.start(flow, run_id="one")
            await self.clock.advance(after)

    async def go_on(self, flow: Workflow[None, Any], *others: Workflow[Any, Any], **options: Any) -> Any:
        """In another runtime, until the end."""
        async with self.runtime(flow, *others, **options) as runtime:
            await self.clock.advance("1h")
            return await runtime.run("one").result(timeout="1s")

    def come_back(self) -> None:
        """The store works again, with what was committed."""
        found, self.store = self.store, MemoryStore()
        self.store.__dict__.update(found.__dict__)


# Code that changed


async def _old(bench: Bench, ctx: Context) -> list[str]:
    seen = [await ctx.step.run("a", bench.do, "a"), await ctx.step.run("b", bench.do, "b")]
    await asyncio.sleep(10)
    return [*seen, await ctx.step.run("c", bench.do, "c")]


async def _changed(old: Flow, new: Flow, bench: Bench, **options: Any) -> tuple[Any, bool]:
    await bench.begin(bench.flow(old))
    flow = bench.flow(new)
    async with bench.runtime(flow, **options) as runtime:
        await bench.clock.advance("1h")
        info = await runtime.info("one")
        return await runtime.run("one").result(timeout="1s"), info.is_diverged


@pytest.mark.asyncio
async def test_unchanged_code_is_not_marked() -> None:
    bench = Bench()
    assert await _changed(lambda ctx: _old(bench, ctx), lambda ctx: _old(bench, ctx), bench) == (
        ["did a", "did b", "did c"], False,
    )  # fmt: skip
    assert bench.done == {"body of flow": 2, "a": 1, "b": 1, "c": 1}


@pytest.mark.asyncio
async def test_added_step_runs_and_the_run_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    async def new(ctx: Context) -> list[str]:
        first = await ctx.step.run("a", bench.do, "a")
        added = await ctx.step.run("added", bench.do, "added")
        second = await ctx.step.run("b", bench.do, "b")
        return [first, added, second]

    assert await _changed(lambda ctx: _old(bench, ctx), new, bench) == (["did a", "did added", "did b"], True)
    assert bench.done == {"body of flow": 2, "a": 1, "b": 1, "added": 1}
    assert "its code has changed" in caplog.text


@pytest.mark.asyncio
async def test_dropped_step_is_skipped_and_the_run_is_marked() -> None:
    bench = Bench()

    async def new(ctx: Context) -> list[str]:
        second = await ctx.step.run("b", bench.do, "b")
        return [second, await ctx.step.run("c", bench.do, "c")]

    assert await _changed(lambda ctx: _old(bench, ctx), new, bench) == (["did b", "did c"], True)
    assert bench.done["b"] == 1


@pytest.mark.asyncio
async def test_swapped_steps_answer_by_key() -> None:
    bench = Bench()

    async def new(ctx: Context) -> list[str]:
        return [await ctx.step.run(name, bench.do, name) for name in "bac"]

    (seen, _) = await _changed(lambda ctx: _old(bench, ctx), new, bench)
    assert seen == ["did b", "did a", "did c"]
    assert bench.done == {"body of flow": 2, "a": 1, "b": 1, "c": 1}


@pytest.mark.asyncio
async def test_strict_replay_refuses_changed_code_by_name() -> None:
    bench = Bench()

    async def new(ctx: Context) -> str:
        return await ctx.step.run("b", bench.do, "b")

    with pytest.raises(WorkflowFailedError, match=r"NonDeterminismError.*step 'a'.*did not ask for"):
        await _changed(lambda ctx: _old(bench, ctx), new, bench, strict_replay=True)


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.asyncio
async def test_key_recorded_with_another_kind_is_refused_by_name(is_strict: bool) -> None:
    bench = Bench()

    async def new(ctx: Context) -> None:
        try:
            await ctx.step.sleep("a", "1s")
        except ValueError:
            raise AssertionError from None

    with pytest.raises(WorkflowFailedError, match=r"NonDeterminismError.*step 'a'.*a sleep in the code.*a run step"):
        await _changed(lambda ctx: _old(bench, ctx), new, bench, strict_replay=is_strict)
    assert bench.done["body of flow"] == 2  # no retry helps


@pytest.mark.asyncio
async def test_key_recorded_with_another_target_is_refused_and_nothing_is_spawned() -> None:
    bench = Bench()

    async def kid(ctx: Context) -> str:
        return await ctx.step.run("kid", bench.do, ctx.workflow_id)

    one, other = bench.flow(kid, id="kid-one"), bench.flow(kid, id="kid-other")

    def invoking(target: Workflow[None, Any]) -> Flow:
        async def body(ctx: Context) -> str:
            ended = await ctx.step.invoke("kid", workflow=target, data=None, timeout="1h")
            await asyncio.sleep(10)
            return str(ended.result)

        return body

    await bench.begin(bench.flow(invoking(one)), one)
    with pytest.raises(WorkflowFailedError, match=r"NonDeterminismError.*'kid-other'.*'kid-one'"):
        await bench.go_on(bench.flow(invoking(other)), one, other)
    assert bench.done["kid-other"] == 0


# The same on replay


@pytest.mark.asyncio
async def test_time_chance_and_ids_are_the_same_on_replay() -> None:
    async def body(play: Play) -> None:
        ctx = play.ctx
        play.saw((ctx.now().isoformat(), ctx.random.random(), str(ctx.uuid())))
        for number in range(3):
            await play.act(f"act-{number}", 1.7)
            await asyncio.sleep(ctx.random.random())
            play.saw((ctx.now().isoformat(), ctx.random.random(), str(ctx.uuid())))

    report = await survives_every_crash(body)
    seen = cast("list[str]", report.end)
    assert len(set(seen)) == len(seen) == 4


@pytest.mark.asyncio
async def test_replay_feeds_recorded_times_not_those_of_the_restart() -> None:
    bench = Bench()
    times: list[list[float]] = []

    async def body(ctx: Context) -> None:
        mine: list[float] = []
        times.append(mine)
        for number in range(3):
            await ctx.step.run(f"step-{number}", bench.do, "step")
            mine.append(ctx.now().timestamp())
            await asyncio.sleep(60)

    await bench.begin(flow := bench.flow(body), after="90s")
    await bench.clock.advance("1d")
    await bench.go_on(flow)
    first, second = times
    assert len(first) == 2
    assert second[:2] == first
    assert second[2] >= first[1] + 86_400


@pytest.mark.asyncio
async def test_logger_is_silent_on_replay(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    async def body(ctx: Context) -> None:
        ctx.logger.warning("begun")
        await ctx.step.run("a", bench.do, "a")
        ctx.logger.warning("after a")
        await asyncio.sleep(10)
        ctx.logger.warning("awake")

    with caplog.at_level(logging.WARNING, "rotor_actors.workflow"):
        await bench.begin(flow := bench.flow(body))
        await bench.go_on(flow)
    records = [record for record in caplog.records if record.name == "rotor_actors.workflow"]
    assert [record.message for record in records] == ["begun", "after a", "awake"]
    assert records[0].__dict__["run_id"] == "one"


# What is not repeated


@pytest.mark.asyncio
async def test_run_at_rest_is_not_replayed_before_something_reaches_it() -> None:
    bench = Bench()

    async def kid(ctx: Context) -> str:
        await ctx.step.sleep("far away", "2h")
        return "kid"

    kid_flow = bench.flow(kid, id="kid")

    async def parent(ctx: Context) -> str:
        await ctx.step.run("a", bench.do, "a")
        return str((await ctx.step.invoke("kid", workflow=kid_flow, data=None, timeout="20h")).result)

    flow = bench.flow(parent)
    await bench.begin(flow, kid_flow)
    for _ in range(3):
        async with bench.runtime(flow, kid_flow):
            await bench.clock.advance("30m")
    assert bench.done == {"body of flow": 1, "a": 1, "body of kid": 1}
    assert await bench.go_on(flow, kid_flow) == "kid"
    assert bench.done == {"body of flow": 2, "a": 1, "body of kid": 2}


@pytest.mark.asyncio
async def test_run_that_waits_for_its_retry_is_not_replayed() -> None:
    bench = Bench()

    async def body(ctx: Context) -> int:
        await ctx.step.run("a", bench.do, "a")
        if ctx.attempt < 3:
            raise ActError("not yet")
        return ctx.attempt

    flow = bench.flow(body, retries=RetryPolicy(3, initial="10m", factor=1, jitter=False))
    await bench.begin(flow)
    for _ in range(4):
        async with bench.runtime(flow):
            await bench.clock.advance("149s")  # after the fourth, 597 s have passed
    assert bench.done["body of flow"] == 1
    async with bench.runtime(flow):
        await bench.clock.advance("4s")
        assert bench.done["body of flow"] == 2
    assert await bench.go_on(flow) == 3
    assert bench.done["a"] == 1


@pytest.mark.asyncio
async def test_child_is_attached_again_with_its_original_deadline() -> None:
    bench = Bench()

    async def kid(ctx: Context) -> str:
        await ctx.step.sleep("long", "10h")
        return "late"

    kid_flow = bench.flow(kid, id="kid")

    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("kid", workflow=kid_flow, data=None, timeout="1h")
        except WorkflowTimeoutError as error:
            return f"{error.timeout} {ctx.now().timestamp()}"
        return "in time"

    flow, began = bench.flow(parent), bench.clock.now()
    await bench.begin(flow, kid_flow, after="30m")
    async with bench.runtime(flow, kid_flow) as runtime:
        await bench.clock.advance("29m59s")
        assert await runtime.run("one").status() is RunStatus.RUNNING
        await bench.clock.advance("1s")
        timeout, at = (await runtime.run("one").result(timeout="1s")).split()
        assert float(timeout) == 3600
        assert float(at) == pytest.approx(began + 3600)
        assert bench.done["body of kid"] == 1
        await bench.clock.advance("10h")
        kids = await runtime.runs(workflow="kid")
        assert [(each.status, each.result) for each in kids] == [(RunStatus.COMPLETED, "late")]


@pytest.mark.asyncio
async def test_durable_sleep_sleeps_what_is_left() -> None:
    bench = Bench()

    async def body(ctx: Context) -> float:
        began = ctx.now()
        await ctx.step.sleep("nap", "1h")
        return (ctx.now() - began).total_seconds()

    await bench.begin(flow := bench.flow(body), after="30m")
    async with bench.runtime(flow) as runtime:
        await bench.clock.advance("29m59s")
        assert await runtime.run("one").status() is RunStatus.RUNNING
        await bench.clock.advance("1s")
        assert await runtime.run("one").result(timeout="1s") == pytest.approx(3600)


@pytest.mark.asyncio
async def test_backoff_of_a_step_survives_a_restart() -> None:
    bench = Bench()
    times: list[float] = []

    async def flaky() -> str:
        times.append(bench.clock.now())
        if len(times) < 4:
            raise ActError("not yet")
        return "at last"

    policy = RetryPolicy(5, initial="1m", factor=2.0, jitter=False)

    async def body(ctx: Context) -> str:
        return await ctx.step.run("flaky", flaky, retries=policy)

    flow = bench.flow(body)
    await bench.begin(flow, after="90s")  # it failed at 0 s and at 60 s: it is due again at 180 s, then at 420 s
    for _ in range(3):
        async with bench.runtime(flow):
            await bench.clock.advance("20s")
    assert len(times) == 2
    assert await bench.go_on(flow) == "at last"
    assert [at - times[0] for at in times] == pytest.approx([0, 60, 180, 420])


@pytest.mark.asyncio
async def test_sleep_goes_on_in_the_next_attempt_also_when_the_last_one_ended_within_its_replay() -> None:
    async def body(play: Play) -> None:
        nap = asyncio.ensure_future(play.step.sleep("nap", 100.0))
        await play.act("a", 1.0)
        if play.ctx.attempt == 1:
            raise ActError("the attempt ends, the nap goes on")
        await nap
        play.saw("awake")

    report = await survives_every_crash(body, retries=RetryPolicy(1, initial="10s", jitter=False))
    assert report.end == ["89.0000 awake"]


# Poison, orphans, closing


class DyingStore(MemoryStore):
    """What is on the disk after the process died: nothing that came after its first entry."""

    def __init__(self, found: MemoryStore) -> None:
        copied = copy.deepcopy(found)
        self.__dict__.update(vars(copied))
        self._copied = copied  # while it lives nobody else is given what it is made of
        self._is_dead = False

    def commit(self, entries: list[Entry]) -> None:
        if not self._is_dead:
            super().commit(entries[:1])
        self._is_dead = True


async def _recover_and_die(bench: Bench, *flows: Workflow[Any, Any]) -> None:
    """The process dies while it recovers: only the first thing it wrote, the count of recoveries, is on the disk."""
    bench.store = DyingStore(bench.store)
    async with bench.runtime(*flows, max_recoveries=5):
        await bench.clock.advance("0s")


@pytest.mark.asyncio
async def test_poison_run_is_set_aside_while_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    async def poison(ctx: Context) -> None:
        await ctx.step.run("kill", asyncio.sleep, 10**6, timeout="30d")

    async def healthy(ctx: Context) -> str:
        return await ctx.step.run("a", bench.do, "a")

    flow, other = bench.flow(poison, id="poison"), bench.flow(healthy, id="healthy")
    await bench.begin(flow)
    for _ in range(5):
        await _recover_and_die(bench, flow)
    bench.come_back()
    async with bench.runtime(flow, other, max_recoveries=5) as runtime:
        await bench.clock.advance("1s")
        info = await runtime.info("one")
        assert info.status is RunStatus.FAILED
        assert info.error is not None
        assert info.error.type == "PoisonRun"
        assert "5 times" in info.error.message
        assert await runtime.execute(other) == "did a"
    assert "set aside" in caplog.text


@pytest.mark.asyncio
async def test_run_that_kills_the_process_on_waking_is_set_aside_too() -> None:
    bench = Bench()

    async def sleeper(ctx: Context) -> None:
        await asyncio.sleep(10)
        await ctx.step.run("kill", asyncio.sleep, 10**6, timeout="30d")

    flow = bench.flow(sleeper)
    await bench.begin(flow)
    await bench.clock.advance("1h")
    for _ in range(5):
        await _recover_and_die(bench, flow)
    bench.come_back()
    async with bench.runtime(flow, max_recoveries=5) as runtime:
        await bench.clock.advance("1s")
        info = await runtime.info("one")
        assert info.error is not None
        assert info.error.type == "PoisonRun"


@pytest.mark.asyncio
async def test_restarts_in_good_order_do_not_make_poison() -> None:
    bench = Bench()

    async def slow(ctx: Context) -> None:
        await ctx.step.run("slow", asyncio.sleep, 10**6, timeout="30d")

    await bench.begin(flow := bench.flow(slow))
    for _ in range(12):
        async with bench.runtime(flow, max_recoveries=5) as runtime:
            await bench.clock.advance("100ms")
            assert await runtime.run("one").status() is RunStatus.RUNNING


@pytest.mark.asyncio
async def test_leaving_soon_after_a_recovery_does_not_wait_for_its_end() -> None:
    bench = Bench()

    async def slow(ctx: Context) -> None:
        await ctx.step.run("slow", asyncio.sleep, 10**6, timeout="30d")

    flow = bench.flow(slow)
    await bench.begin(flow)
    loop = asyncio.get_running_loop()
    async with Runtime(bench.store, workflows=[flow], drain_timeout="10s") as runtime:
        await runtime.cancel("one")
        began = loop.time()
    assert loop.time() - began < 3


@pytest.mark.asyncio
async def test_orphans_are_left_untouched_until_their_workflow_is_registered(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    async def body(ctx: Context) -> str:
        await ctx.step.run("a", bench.do, "a")
        await asyncio.sleep(10)
        return "done"

    flow = bench.flow(body)
    await bench.begin(flow)
    before = copy.deepcopy(bench.store.find("one"))
    for _ in range(2):
        async with bench.runtime() as runtime:
            await bench.clock.advance("1h")
            assert await untouched(runtime) == 1
    if not IS_SHARED:
        assert "no workflow of that id is registered" in caplog.text
    assert bench.store.find("one") == before
    assert bench.done["body of flow"] == 1
    async with bench.runtime() as runtime:
        await runtime.start(flow, run_id="another")
        assert await untouched(runtime) == 0
        await bench.clock.advance("1m")
        assert await runtime.run("one").result(timeout="1s") == "done"
        assert await runtime.run("another").result(timeout="1s") == "done"


@pytest.mark.asyncio
async def test_finished_run_is_given_again_and_nothing_is_done() -> None:
    bench = Bench()

    async def body(ctx: Context) -> str:
        return await ctx.step.run("a", bench.do, "a")

    await bench.begin(flow := bench.flow(body))
    assert await bench.go_on(flow) == "did a"
    assert bench.done == {"body of flow": 1, "a": 1}


def test_end_of_a_child_that_the_parent_has_timed_out_on_is_no_message_of_the_record() -> None:
    """The parent never saw it: one message more would be one turn more than there was."""
    key = b"key"
    timed_out = StepRow(
        1, 10.0, Kind.INVOKE, key, "kid", "kid", OutcomeStatus.TIMED_OUT,
        msgspec.msgpack.encode(ReleaseNote("two", "kid", msgspec.msgpack.encode(5.0))), seq=3,
    )  # fmt: skip
    child = ChildRow(2, 1, "two", "kid", key, 1, RunStatus.COMPLETED, RunFlag.RELEASED, 20.0, 4, b"\xc0", None)
    loaded = load(History([timed_out], [child]), attempt_seq=0, upto_seq=4)
    assert [message.seq for message in loaded.record] == [3]


@pytest.mark.asyncio
async def test_child_that_ends_after_its_parent_timed_out_leaves_replay_as_it_was() -> None:
    async def body(play: Play) -> None:
        try:
            await play.child("kid", 5.0, timeout=2.0)
        except WorkflowTimeoutError:
            play.saw("timed out")
        await asyncio.sleep(10)
        play.saw(await play.act("after", 1.0))

    report = await survives_every_crash(body, crashes=2)
    assert report.end == ["2.0000 timed out", "13.0000 did after"]


# Both places in the code


@pytest.mark.asyncio
async def test_changed_code_is_told_from_where_the_step_was_recorded_and_where_it_is_asked_for_now() -> None:
    @workflow(id="changing")
    async def old_code(ctx: Context) -> None:
        await ctx.step.run("fetch", asyncio.sleep, 0)
        await ctx.step.sleep("night", "10h")

    @workflow(id="changing")
    async def new_code(ctx: Context) -> None:
        await ctx.step.sleep("fetch", "1h")
        await ctx.step.sleep("night", "10h")

    old_line, new_line = (each.fn.__code__.co_firstlineno + 2 for each in (old_code, new_code))
    async with World(old_code) as world:
        handle = await world.runtime.start(old_code)
        await world.clock.advance("1h")
        await world.close()
        await world.open(new_code)
        with pytest.raises(WorkflowFailedError) as failed:
            await world.result(handle.run_id)
        message = failed.value.error.message
        assert "step 'fetch' (use 0) is a sleep in the code, but the journal recorded a run step" in message
        assert f"The code is now at {__file__}:{new_line}, in " in message
        assert f"it was recorded at {__file__}:{old_line}, in " in message
        assert "Give the changed step another id" in message


@pytest.mark.asyncio
async def test_strict_replay_names_where_the_missing_step_was_recorded_and_where_the_body_rests() -> None:
    @workflow(id="changing")
    async def old_code(ctx: Context) -> None:
        await ctx.step.run("fetch", asyncio.sleep, 0)
        await ctx.step.sleep("night", "10h")

    @workflow(id="changing")
    async def new_code(ctx: Context) -> None:
        await ctx.step.sleep("night", "10h")

    async with World(old_code) as world:
        handle = await world.runtime.start(old_code)
        await world.clock.advance("1h")
        await world.close()
        await world.open(new_code, strict_replay=True)
        with pytest.raises(WorkflowFailedError) as failed:
            await world.result(handle.run_id)
        message = failed.value.error.message
        assert f"it was recorded at {__file__}:{old_code.fn.__code__.co_firstlineno + 2}, in " in message
        assert f"test_replay.py:{new_code.fn.__code__.co_firstlineno + 2}" in message


@pytest.mark.asyncio
async def test_of_steps_with_ids_made_of_data_only_so_many_places_are_kept() -> None:
    @workflow(id="many")
    async def many(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.run(f"item {n}", asyncio.sleep, 0) for n in range(1_000)))

    async with World(many) as world:
        await world.execute(many)
        assert not world.store.committed(ItemPut), "no place is worth a commit"
        for _ in range(2):
            await world.close()
            assert len({put.item.key for put in world.store.committed(ItemPut)}) == 200
            await world.open()
            await world.execute(many)
