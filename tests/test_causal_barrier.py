"""The causal barrier: no effect before the commit of its past, and none at all after a commit that failed."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit import IS_SHARED, FragileStore, World

from rotor_actors import Context, RetryPolicy, RunHandle, RunStatus, Runtime, workflow
from rotor_actors.errors import RunExistsError, RuntimeStateError, StoreError, StoreFullError
from rotor_actors.records import (
    Entry,
    Kind,
    RunCreated,
    RunRow,
    RunsCancelled,
    StepRecorded,
    flatten,
)

pytestmark = pytest.mark.asyncio


class GatedStore(FragileStore):
    """A store whose commits, made on a thread of their own as on a disk, wait until the gate is open."""

    is_inline = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.commits = 0

    def commit(self, entries: list[Entry]) -> None:
        assert self.gate.wait(10), "nobody opened the gate"
        super().commit(entries)
        self.commits += 1


async def turns(count: int = 200) -> None:
    """Let the host's loop go round, without waiting for anything: what could happen has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


class Witness:
    """A step body that looks, as it begins, at what is in the store."""

    def __init__(self, store: FragileStore) -> None:
        self._store = store
        self.began: list[str] = []

    async def __call__(self, run_id: str, *past: str) -> str:
        self.began.append(run_id)
        row = self._store.find(run_id)
        assert row is not None, "its run is not in the store"
        recorded = [step.step_id for step in self._store.steps(row.n) if step.kind in (Kind.RUN, Kind.SLEEP)]
        recorded += [child.parent_step_id or "" for child in self._ended_children(row.n)]
        assert set(past) <= set(recorded), f"of its past only {recorded} is in the store"
        while row.parent_run_id is not None:
            row = self._store.find(row.parent_run_id)
            assert row is not None, "an ancestor is not in the store"
        return "seen"

    def _ended_children(self, n: int) -> list[Any]:
        created = [fact.run for fact in self._store.committed(RunCreated) if fact.run.parent_n == n]
        rows = [self._store.find(run.run_id) for run in created]
        return [row for row in rows if row is not None and row.status.is_terminal]


# No step body before the commit of its past


async def test_a_step_body_begins_only_when_its_run_and_its_past_are_in_the_store() -> None:
    store = FragileStore()
    witness = Witness(store)

    @workflow(id="child", retries=0)
    async def child(ctx: Context) -> str:
        return await ctx.step.run("look", witness, ctx.run_id)

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> None:
        await ctx.step.run("a", witness, ctx.run_id)
        await ctx.step.run("b", witness, ctx.run_id, "a")
        await ctx.step.sleep("s", "1h")
        await ctx.step.run("c", witness, ctx.run_id, "a", "b", "s")
        await asyncio.gather(
            *(ctx.step.invoke(f"child{n}", workflow=child, data=None, timeout="1h") for n in range(50))
        )
        await ctx.step.run("d", witness, ctx.run_id, "c", *(f"child{n}" for n in range(50)))

    async with World(store=store) as world:
        await world.execute(parent)
        assert len(witness.began) == 54


async def test_while_the_disk_is_slow_no_body_begins_though_runs_spawn_and_answer_each_other() -> None:
    store = GatedStore()
    began: list[str] = []

    @workflow(id="quick")
    async def quick(ctx: Context) -> str:
        return "no effect"

    @workflow(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.run("effect", began.append, "child")

    @workflow(id="parent")
    async def parent(ctx: Context) -> None:
        await ctx.step.run("first", began.append, "first")
        store.gate.clear()
        assert (await ctx.step.invoke("q", workflow=quick, data=None, timeout="1h")).result == "no effect"
        host.call_soon(answered.set)
        await asyncio.gather(
            ctx.step.invoke("c", workflow=child, data=None, timeout="1h"),
            ctx.step.run("second", began.append, "second"),
        )

    host, answered = asyncio.get_running_loop(), asyncio.Event()
    async with World(store=store) as world:
        handle = await world.runtime.start(parent)
        await asyncio.wait_for(answered.wait(), 5)
        assert began == ["first"]
        store.gate.set()
        await world.result(handle)
        assert sorted(began) == ["child", "first", "second"]


async def test_start_is_acknowledged_when_the_run_is_in_the_store() -> None:
    store = GatedStore()

    @workflow(id="w")
    async def w(ctx: Context) -> None: ...

    async with World(store=store) as world:
        store.gate.clear()
        starting = [asyncio.create_task(world.runtime.start(w, run_id=run_id)) for run_id in ("mine", None)]
        await turns()
        assert not any(task.done() for task in starting)
        store.gate.set()
        for handle in await asyncio.gather(*starting):
            assert store.find(handle.run_id) is not None


async def test_a_cancellation_is_acknowledged_when_it_is_in_the_store() -> None:
    store = GatedStore()

    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await ctx.step.sleep("doze", "9h")

    async with World(store=store) as world:
        handle = await world.runtime.start(w)
        await world.settle()
        store.gate.clear()
        cancelling = asyncio.create_task(handle.cancel())
        await turns()
        assert not cancelling.done()
        assert not store.committed(RunsCancelled)
        store.gate.set()
        await world.wait(cancelling)
        assert store.committed(RunsCancelled)


async def test_a_result_is_visible_outside_only_when_the_end_is_in_the_store() -> None:
    store = GatedStore()

    @workflow(id="w")
    async def w(ctx: Context) -> str:
        await ctx.step.sleep("doze", "1h")
        store.gate.clear()
        host.call_soon(resting.set)
        return "done"

    host, resting = asyncio.get_running_loop(), asyncio.Event()

    async with World(store=store) as world:
        handle = await world.runtime.start(w)
        await world.settle()
        early = asyncio.create_task(handle.result())
        await turns()
        moving = asyncio.create_task(world.clock.advance("2h"))
        await asyncio.wait_for(resting.wait(), 5)
        late = asyncio.create_task(handle.result())
        looking = asyncio.create_task(handle.status())
        await turns()
        assert not early.done()
        assert not late.done()
        assert not looking.done()
        store.gate.set()
        assert (await early, await late, await looking) == ("done", "done", RunStatus.COMPLETED)
        await moving


async def test_a_retry_of_a_step_begins_only_when_the_failure_is_in_the_store() -> None:
    store = FragileStore()
    retries: list[int] = []

    async def flaky() -> None:
        retries.append(sum(fact.step.kind is Kind.STEP_RETRY for fact in store.committed(StepRecorded)))
        if len(retries) < 4:
            raise OSError("flaky")

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> None:
        await ctx.step.run("flaky", flaky, retries=RetryPolicy(3, initial=0, jitter=False))

    async with World(store=store) as world:
        await world.execute(w)
        assert retries == [0, 1, 2, 3]


async def test_however_soon_a_step_is_retried_it_waits_for_the_disk() -> None:
    store, executed = GatedStore(), 0
    failed = asyncio.Event()

    async def flaky() -> str:
        nonlocal executed
        executed += 1
        if executed == 1:
            store.gate.clear()
            failed.set()
            raise OSError("flaky")
        return "done"

    @workflow(id="w", retries=0)
    async def w(ctx: Context) -> str:
        return await ctx.step.run("flaky", flaky, retries=RetryPolicy(1, initial=0))

    async with Runtime(store, drain_timeout=0) as runtime:
        handle = await runtime.start(w)
        await failed.wait()
        await turns(2_000)
        assert executed == 1
        store.gate.set()
        assert await handle.result() == "done"


async def test_a_chosen_run_id_is_in_use_even_before_the_disk_knows() -> None:
    store, asked = GatedStore(), asyncio.Event()
    host = asyncio.get_running_loop()

    @workflow(id="quick")
    async def quick(ctx: Context) -> None:
        store.gate.clear()

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context) -> str:
        await ctx.step.invoke("one", workflow=quick, data=None, timeout="1h", run_id="chosen")
        host.call_soon(asked.set)
        with pytest.raises(RunExistsError):
            await ctx.step.invoke("two", workflow=quick, data=None, timeout="1h", run_id="chosen")
        return "refused"

    async with Runtime(store, drain_timeout=0) as runtime:
        handle = await runtime.start(parent)
        await asked.wait()
        await turns()
        store.gate.set()
        assert await handle.result() == "refused"


class SlowToAnswerStore(GatedStore):
    """A store whose second answer about the run "chosen" is true when it is read, and late."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.is_late = threading.Event()

    def find(self, run_id: str) -> RunRow | None:
        found = super().find(run_id)
        if run_id == "chosen":
            self.asked += 1
            if self.asked == 2:
                self.is_late.wait(0.5)
        return found


@pytest.mark.parametrize("second", ["invoke", "start"])
async def test_of_two_that_choose_one_run_id_at_once_the_later_learns_of_the_earlier(second: str) -> None:
    store, host = SlowToAnswerStore(), asyncio.get_running_loop()

    @workflow(id="quick")
    async def quick(ctx: Context, n: int) -> None:
        host.call_later(0.01, store.is_late.set)

    @workflow(id="parent", retries=0)
    async def parent(ctx: Context, n: int) -> str:
        try:
            return (await ctx.step.invoke("q", workflow=quick, data=n, timeout="1h", run_id="chosen")).run_id
        except RunExistsError:
            return "refused"

    async def start() -> str:
        try:
            return (await runtime.start(quick, 2, run_id="chosen")).run_id
        except RunExistsError:
            return "refused"

    async with Runtime(store, drain_timeout=0) as runtime:
        ends = await asyncio.gather(
            runtime.execute(parent, 1), runtime.execute(parent, 2) if second == "invoke" else start()
        )
        assert sorted(ends) == ["chosen", "refused"]


async def test_an_attempt_begins_only_when_it_is_in_the_store() -> None:
    store = FragileStore()
    attempts: list[int] = []

    def look(run_id: str) -> None:
        row = store.find(run_id)
        assert row is not None
        attempts.append(row.attempt)

    @workflow(id="w", retries=RetryPolicy(2, initial=0, jitter=False))
    async def w(ctx: Context) -> None:
        await ctx.step.run(f"look {ctx.attempt}", look, ctx.run_id)
        raise RuntimeError("once more")

    async with World(store=store) as world:
        with pytest.raises(Exception, match="once more"):
            await world.execute(w)
        assert attempts == [1, 2, 3]


async def test_a_fan_out_takes_a_handful_of_commits() -> None:
    store = GatedStore()

    @workflow(id="child")
    async def child(ctx: Context, n: int) -> int:
        return await ctx.step.run("square", square, n)

    async def square(n: int) -> int:
        return n * n

    @workflow(id="parent")
    async def parent(ctx: Context) -> int:
        waits = [ctx.step.invoke("c", workflow=child, data=n, timeout="1h") for n in range(500)]
        return sum(each.result for each in await asyncio.gather(*waits))

    async with World(store=store) as world:
        assert await world.execute(parent) == sum(n * n for n in range(500))
        assert store.commits < 60, "and not several per child"


async def test_commits_are_in_the_order_of_appending_with_no_gap() -> None:
    store = FragileStore()
    numbers: list[int] = []
    store.before_commit = lambda entries: numbers.extend(entry.seq for entry in entries if entry.seq)

    @workflow(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.run("x", lambda: None)
        await ctx.step.sleep("s", "1h")

    @workflow(id="parent", retries=RetryPolicy(1, initial="1h"))
    async def parent(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.invoke("c", workflow=child, data=None, timeout="9h") for _ in range(20)))
        if ctx.attempt == 1:
            raise RuntimeError("once more")

    async with World(parent, child, store=store) as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("30m")
        await world.close()
        life = len(numbers)
        assert numbers == list(range(numbers[0], numbers[0] + life))
        await world.open()
        await world.result(handle.run_id)
        if IS_SHARED:  # each opening is another replica, with numbers of its own
            assert max(Counter(numbers).values()) <= world.opened
            numbers = numbers[life:]
            assert numbers == sorted(set(numbers))
        else:
            assert numbers == list(range(1, len(numbers) + 1))


# A commit that fails


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> str:
    await ctx.step.sleep("doze", "1h")
    return await ctx.step.run("wake", lambda: "awake")


async def test_after_a_failed_commit_no_effect_begins() -> None:
    began: list[str] = []

    @workflow(id="w")
    async def w(ctx: Context, name: str) -> None:
        await ctx.step.run("effect", began.append, name)
        await ctx.step.sleep("doze", "1h")
        await ctx.step.run("late", began.append, f"late {name}")

    async with World() as world:
        await world.runtime.start(w, "before")
        await world.settle()
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.start(w, "after")
        await world.clock.advance("9h")
        await turns()
        assert began == ["before"]


async def test_the_body_of_a_step_whose_past_was_lost_never_ran() -> None:
    began: list[str] = []

    @workflow(id="w")
    async def w(ctx: Context) -> str:
        await ctx.step.run("first", began.append, "first")
        await ctx.step.run("second", began.append, "second")
        return "done"

    async with World(w) as world:
        world.store.before_commit = lambda entries: began.extend(
            f"commit of {fact.step.step_id}" for fact in flatten(entries) if isinstance(fact, StepRecorded)
        )
        world.store.entries_left = 1  # its creation, and then nothing
        with pytest.raises(StoreError):
            await world.execute(w, run_id="w")
        assert began == ["first", "commit of first"]
        await world.reopen()
        assert await world.result("w") == "done"
        assert began == ["first", "commit of first", "first", "commit of first", "second", "commit of second"]


async def test_running_step_bodies_are_interrupted_and_what_they_give_is_not_recorded() -> None:
    events: list[str] = []

    async def hang() -> None:
        events.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("interrupted")

    @workflow(id="w")
    async def w(ctx: Context) -> None:
        await ctx.step.run("hang", hang)

    async with World() as world:
        await world.runtime.start(w)
        await world.settle()
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.start(sleeper)
        await turns()
        assert events == ["began", "interrupted"]
        assert world.store.committed(StepRecorded) == []


Use = Callable[[World], Awaitable[Any]]
USES: dict[str, Use] = {
    "start": lambda world: world.runtime.start(sleeper),
    "start with a run id": lambda world: world.runtime.start(sleeper, run_id="another"),
    "execute": lambda world: world.runtime.execute(sleeper),
    "result": lambda world: world.runtime.run("waiting").result(),
    "status": lambda world: world.runtime.run("waiting").status(),
    "cancel": lambda world: world.runtime.cancel("waiting"),
    "runs": lambda world: world.runtime.runs(),
    "count": lambda world: world.runtime.count(),
    "info": lambda world: world.runtime.info("waiting"),
    "steps": lambda world: world.runtime.steps("waiting"),
    "tree": lambda world: world.runtime.tree("waiting"),
}


@pytest.mark.parametrize("use", USES)
async def test_whoever_waits_or_comes_later_gets_the_store_error(use: str) -> None:
    async with World() as world:
        await world.runtime.start(sleeper, run_id="waiting")
        await world.settle()
        world.store.entries_left = 0
        waiting = [asyncio.create_task(world.runtime.run("waiting").result()) for _ in range(3)]
        await turns()
        failing = asyncio.ensure_future(world.runtime.start(sleeper))
        ends = await asyncio.wait_for(asyncio.gather(failing, *waiting, return_exceptions=True), 5)
        assert [str(end) for end in ends] == ["the power is gone"] * 4
        assert all(type(end) is StoreError for end in ends)
        with pytest.raises(StoreError, match="the power is gone"):
            await asyncio.wait_for(USES[use](world), 5)


async def test_whoever_waits_for_a_durable_cancellation_is_told_what_was_cut_off() -> None:
    """Its runs are still cleaning up when a commit of something else fails."""

    @workflow(id="stubborn")
    async def stubborn(ctx: Context) -> None:
        try:
            await ctx.step.sleep("doze", "9h")
        finally:
            await asyncio.sleep(4)

    async with World() as world:
        handle = await world.runtime.start(stubborn)
        await world.settle()
        cancelling = asyncio.create_task(handle.cancel())
        await world.settle()
        assert not cancelling.done()
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.start(sleeper)
        report = await asyncio.wait_for(cancelling, 5)
        assert report.cancelled == [handle.run_id]


async def test_a_store_that_raises_anything_at_all_has_failed() -> None:
    def broken(entries: list[Entry]) -> None:
        raise ZeroDivisionError("in the store")

    async with World() as world:
        world.store.before_commit = broken
        with pytest.raises(StoreError, match="commit failed: ZeroDivisionError: in the store"):
            await world.runtime.start(sleeper)


async def test_reopening_re_reads_the_store_and_everything_goes_on() -> None:
    async with World(sleeper) as world:
        await world.runtime.start(sleeper, run_id="kept")
        await world.clock.advance("30m")
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.start(sleeper, run_id="lost")
        await world.close()
        await world.open()
        assert [run.run_id for run in await world.runtime.runs()] == ["kept"]
        assert await world.result("kept") == "awake"


async def test_what_a_failed_commit_kept_is_there_when_it_is_read_again() -> None:
    """A commit whose outcome is unknown: the caller got an error, and the run exists all the same."""
    async with World(sleeper) as world:
        world.store.entries_left = 1
        starting = [asyncio.create_task(world.runtime.start(sleeper, run_id=run_id)) for run_id in ("a", "b")]
        ends = await asyncio.gather(*starting, return_exceptions=True)
        # Where replicas share the store, each start is a commit of its own.
        assert [type(end) for end in ends] == [RunHandle if IS_SHARED else StoreError, StoreError]
        await world.close()
        await world.open()
        assert [run.run_id for run in await world.runtime.runs()] == ["a"]
        handle = await world.runtime.start(sleeper, run_id="a")
        assert await world.result(handle) == "awake"
        assert len(world.store.committed(RunCreated)) == 1, "starting it again was harmless"


async def test_a_full_disk_refuses_new_runs_by_name_and_all_goes_on_when_there_is_room() -> None:
    is_full = False

    def full(entries: list[Entry]) -> None:
        if is_full:
            raise StoreFullError("the disk is full")

    async with World() as world:
        world.store.before_commit = full
        first = await world.runtime.start(sleeper, run_id="first")
        await world.settle()
        is_full = True
        held = asyncio.create_task(world.runtime.start(sleeper, run_id="held"))
        await turns()
        with pytest.raises(StoreFullError, match="nothing new is accepted until there is room"):
            await world.runtime.start(sleeper, run_id="refused")
        assert not held.done()
        is_full = False
        await held
        assert await world.result(first) == "awake"
        assert {run.run_id for run in await world.runtime.runs()} == {"first", "held"}


# What is not open


async def test_a_runtime_that_is_not_open_says_so() -> None:
    world = World()
    runtime = await world.open()
    await world.close()
    with pytest.raises(RuntimeStateError, match=r"closed|closing"):
        await runtime.start(sleeper)
    with pytest.raises(RuntimeStateError, match="make a new one"):
        await runtime.__aenter__()


async def test_whoever_waits_when_the_runtime_is_closed_is_told_that_the_run_goes_on() -> None:
    world = World(sleeper)
    await world.open()
    handle = await world.runtime.start(sleeper)
    waiting = asyncio.create_task(handle.result())
    await world.settle()
    await world.close()
    with pytest.raises(RuntimeStateError, match="it goes on when the store is opened again"):
        await waiting
    await world.open()
    assert await world.result(handle.run_id) == "awake"
    await world.close()
