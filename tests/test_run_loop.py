"""Plain asyncio and anyio in a workflow's body: live, and crashed and recovered at every journal position."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from bodies import BODIES
from crash_kit import Play, crash_at, differences, run_once, survives_every_crash
from kit import STRIDE, World, with_a_crash_after_each_entry

from rotor_actors import Context, ManualClock, MemoryStore, RunStatus, Runtime, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError
from rotor_actors.loop_handles import Handle
from rotor_actors.run_loop import RunLoop

pytestmark = pytest.mark.asyncio

EXPECTED: dict[str, list[str]] = {
    "gather": [
        "0.7000 did b", "1.3000 did a", "2.1000 did c", "2.1000 ['did a', 'did b', 'did c']", "2.6000 did e",
        "3.1000 d ended by ActError", "3.1000 ['ActError', 'str']",
    ],
    "task_group": ["0.1000 did c", "0.2000 did b", "0.3000 did a", "0.3000 ['did a', 'did b', 'did c']"],
    "timeout": ["1.0000 did quick", "2.0000 slow ended by CancelledError", "2.0000 timed out", "7.0000 did long",
                "7.0000 in time"],
    "sleep": ["0.8000 tick", "1.6000 tick", "2.4000 tick", "3.2000 tick", "3600.0000 an hour", "3720.0000 awake"],
    "shield": ["1.0000 not waiting any longer", "3.0000 did kept", "3.0000 did kept"],
    "async_generator_left_early": ["0.5000 did page-0", "1.0000 did page-1", "1.0000 broke off", "1.2000 did close",
                                   "2.0000 closed by now"],
    "fail_after": ["1.0000 did a-0", "3.0000 a-1 ended by CancelledError", "3.0000 failed after"],
    "move_on_after": ["1.0000 did quick", "2.0000 slow ended by CancelledError", "2.0000 True", "4.0000 True"],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
async def test_body_sees_what_it_would_see_on_an_ordinary_loop(name: str) -> None:
    report = await run_once(BODIES[name])
    assert report.end == EXPECTED[name]


@pytest.mark.parametrize("name", BODIES)
async def test_body_takes_the_same_branches_after_a_crash_at_each_journal_position(name: str) -> None:
    report = await survives_every_crash(BODIES[name])
    assert isinstance(report.end, list), report.end
    assert report.crashes * STRIDE >= report.store.committed > 1


@pytest.mark.parametrize("name", ["failing_task_group", "anyio_shield", "children", "queue", "as_completed"])
async def test_body_survives_three_crashes_and_tiny_slices(name: str) -> None:
    reference = await run_once(BODIES[name])
    for position, looks in itertools.product(range(1, reference.store.committed, 2 * STRIDE), (1, 2)):
        crashed = await crash_at(BODIES[name], position, crashes=3, looks=looks)
        assert not differences(reference, crashed), (position, looks)


# Spinning


async def test_shield_in_a_cancelled_anyio_scope_does_not_spin() -> None:
    turns = 0

    async def body(play: Play) -> None:
        nonlocal turns
        work_off = RunLoop._work_off  # pyright: ignore[reportPrivateUsage]

        def counting(loop: RunLoop, handles: deque[Handle], is_over: Callable[[], bool] | None) -> bool:
            nonlocal turns
            turns += 1
            return work_off(loop, handles, is_over)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunLoop, "_work_off", counting)
            with anyio.move_on_after(1.0):
                with anyio.CancelScope(shield=True):
                    play.saw(await play.act("long", 100.0))

    report = await run_once(body)
    assert report.end == ["100.0000 did long"]
    assert turns < 50


async def test_native_task_group_in_a_cancelled_anyio_scope_comes_to_rest() -> None:
    """anyio cancels the waiting group anew each turn, for as long as its shielded task lives; asyncio would spin."""

    async def body(play: Play) -> None:
        async def shielded() -> None:
            with anyio.CancelScope(shield=True):
                play.saw(await play.act("long", 5.0))

        with anyio.move_on_after(1.0):
            async with asyncio.TaskGroup() as group:
                group.create_task(shielded())
        play.saw("moved on")

    report = await asyncio.wait_for(survives_every_crash(body), 20)
    assert cast("list[str]", report.end)[-1].endswith("moved on")


async def test_wait_that_catches_each_anyio_cancellation_comes_to_rest() -> None:
    """`Condition.wait` tries for its lock again after each cancellation: on an ordinary loop that spins until the lock
    is free; here it must rest, for what frees the lock is the next message."""

    async def body(play: Play) -> None:
        changed = asyncio.Condition()

        async def waiter() -> None:
            async with changed:
                await changed.wait()

        async def holder() -> None:
            with anyio.CancelScope(shield=True):
                async with changed:
                    play.saw(await play.act("long", 5.0))

        with anyio.move_on_after(1.0):
            async with anyio.create_task_group() as group:
                group.start_soon(waiter)
                group.start_soon(holder)
        play.saw("moved on")

    report = await asyncio.wait_for(survives_every_crash(body), 20)
    assert report.end == ["5.0000 did long", "5.0000 moved on"]


async def test_body_that_spins_does_not_starve_the_host_and_can_be_cancelled() -> None:
    turns = 0

    @workflow(id="spin", retries=0)
    async def spin(ctx: Context) -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    @workflow(id="modest")
    async def modest(ctx: Context) -> str:
        await asyncio.sleep(0.01)
        return "done"

    async with Runtime(MemoryStore()) as runtime:
        handle = await runtime.start(spin)
        loop = asyncio.get_running_loop()
        latest = 0.0
        for _ in range(20):
            before = loop.time()
            await asyncio.sleep(0.001)
            latest = max(latest, loop.time() - before)
        assert await asyncio.wait_for(runtime.execute(modest), 5) == "done"
        report = await asyncio.wait_for(handle.cancel("enough"), 5)
        assert report.cancelled == [handle.run_id]
        assert not report.stuck
        assert await handle.status() is RunStatus.CANCELLED
    assert turns > 100
    assert latest < 0.25  # slices are of 4 ms; this machine may be busy


# What does not belong into a body


async def _open_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _to_thread() -> None:
    await asyncio.to_thread(len, "abc")


async def _run_in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, len, "abc")


async def _anyio_to_thread() -> None:
    await anyio.to_thread.run_sync(len, "abc")


async def _anyio_path() -> None:
    await anyio.Path(__file__).exists()


async def _anyio_connect() -> None:
    await anyio.connect_tcp("127.0.0.1", 9)


async def _subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def _anyio_subprocess() -> None:
    await anyio.run_process(["true"])


async def _getaddrinfo() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _socket() -> None:
    with socket.socket() as each:
        await asyncio.get_running_loop().sock_recv(each, 1)


EFFECTS = [
    _open_connection, _to_thread, _run_in_executor, _anyio_to_thread, _anyio_path, _anyio_connect, _subprocess,
    _anyio_subprocess, _getaddrinfo, _socket,
]  # fmt: skip


@pytest.mark.parametrize("effect", EFFECTS)
async def test_effect_in_a_body_is_refused_by_name(effect: Callable[[], Awaitable[None]]) -> None:
    calls = 0
    raised: list[BaseException] = []

    @workflow(id="careless")
    async def careless(ctx: Context) -> None:
        nonlocal calls
        calls += 1
        try:
            await effect()
        except BaseException as error:
            raised.append(error)
            raise

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(WorkflowFailedError) as caught:
            await asyncio.wait_for(runtime.execute(careless), 10)
    error = caught.value.error
    assert "put it in step.run" in error.message + error.traceback  # anyio may put it into a group
    assert calls == 1, raised  # the same code would fail in the same way again: no retry


async def test_effect_error_can_be_caught_and_the_body_goes_on() -> None:
    async def body(play: Play) -> None:
        for effect in (_open_connection, _to_thread, _run_in_executor):
            try:
                await effect()
            except Exception as error:
                play.saw(type(error).__name__)
        play.saw(await play.act("properly", 1.0))

    report = await survives_every_crash(body)
    assert report.end == [*["0.0000 EffectOutsideStepError"] * 3, "1.0000 did properly"]


async def _await_it(foreign: asyncio.Future[None]) -> None:
    await foreign


async def _gather_it(foreign: asyncio.Future[None]) -> None:
    async def inner() -> None:
        await foreign

    await asyncio.gather(inner())


async def _wait_in_a_scope(foreign: asyncio.Future[None]) -> None:
    with anyio.fail_after(10):
        await foreign


@pytest.mark.parametrize("use", [_await_it, _gather_it, _wait_in_a_scope])
async def test_future_of_the_hosts_loop_is_refused_by_name(
    use: Callable[[asyncio.Future[None]], Awaitable[None]],
) -> None:
    foreign: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @workflow(id="impatient")
    async def impatient(ctx: Context) -> None:
        await use(foreign)

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(WorkflowFailedError, match=r"EffectOutsideStepError.*another event loop"):
            await asyncio.wait_for(runtime.execute(impatient), 10)
    foreign.set_result(None)
    await foreign  # still usable by its own loop


async def test_lock_of_the_hosts_loop_is_refused() -> None:
    lock, taken = asyncio.Lock(), asyncio.Event()
    async with lock:
        other = asyncio.ensure_future(_hold(lock, taken))  # the second to come binds the lock to this loop
        await asyncio.sleep(0)

        @workflow(id="locked-out", retries=0)
        async def locked_out(ctx: Context) -> None:
            async with lock:
                pass

        async with Runtime(MemoryStore()) as runtime:
            with pytest.raises(WorkflowFailedError, match="belongs to another event loop"):
                await asyncio.wait_for(runtime.execute(locked_out), 10)
    await other


async def _hold(lock: asyncio.Lock, taken: asyncio.Event) -> None:
    async with lock:
        taken.set()


# Time


async def _restarted(body: Callable[[Context], Awaitable[Any]], before: str, after: str) -> tuple[bool, Any]:
    """Run a body for so long, then in another runtime for as long again; says whether it had ended just before that."""

    @workflow(id="patient")
    async def patient(ctx: Context) -> Any:
        return await body(ctx)

    store, clock = MemoryStore(), ManualClock()
    async with Runtime(store, workflows=[patient], clock=clock, drain_timeout=0) as runtime:
        handle = await runtime.start(patient, run_id="one")
        await clock.advance(before)
    async with Runtime(store, workflows=[patient], clock=clock, drain_timeout=0) as runtime:
        handle = runtime.run("one")
        await clock.advance(after)
        ended_before = await handle.status() is RunStatus.COMPLETED
        await clock.advance("2s")
        return ended_before, await handle.result(timeout="1s")


async def test_asyncio_sleep_survives_a_restart_and_sleeps_what_is_left() -> None:
    async def body(ctx: Context) -> float:
        began = ctx.now()
        await asyncio.sleep(3600)
        return (ctx.now() - began).total_seconds()

    ended_before, slept = await _restarted(body, "30m", "29m59s")
    assert not ended_before
    assert slept == pytest.approx(3600)


async def test_wait_for_survives_a_restart_and_times_out_after_what_is_left() -> None:
    async def body(ctx: Context) -> str:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 600)
        except TimeoutError:
            return "timed out"
        return "never"

    assert await _restarted(body, "5m", "4m59s") == (False, "timed out")


async def test_anyio_deadline_survives_a_restart() -> None:
    async def body(ctx: Context) -> str:
        with anyio.move_on_after(600):
            await anyio.sleep_forever()
        return "moved on"

    assert await _restarted(body, "5m", "4m59s") == (False, "moved on")


async def test_timer_that_came_due_while_nothing_ran_fires_at_once() -> None:
    @workflow(id="sleeper")
    async def sleeper(ctx: Context) -> list[float]:
        began = ctx.now()
        async with asyncio.timeout(50):
            await asyncio.sleep(10)
        first = (ctx.now() - began).total_seconds()
        await asyncio.sleep(10)
        return [first, (ctx.now() - began).total_seconds()]

    store, clock = MemoryStore(), ManualClock()
    async with Runtime(store, workflows=[sleeper], clock=clock, drain_timeout=0) as runtime:
        await runtime.start(sleeper, run_id="one")
        await clock.advance("5s")
    await clock.advance("1h")
    async with Runtime(store, workflows=[sleeper], clock=clock, drain_timeout=0) as runtime:
        await clock.advance("11s")
        assert await runtime.run("one").result(timeout="1s") == pytest.approx([3605, 3615])


async def test_timers_fire_in_the_order_of_their_due_times() -> None:
    async def body(play: Play) -> None:
        async def one(name: str, span: float) -> None:
            await asyncio.sleep(span)
            play.saw(name)

        await asyncio.gather(one("c", 3), one("a", 1), one("b", 2), one("a too", 1))

    report = await survives_every_crash(body)
    assert report.end == ["1.0000 a", "1.0000 a too", "2.0000 b", "3.0000 c"]


async def test_cancelling_a_run_interrupts_everything_in_its_body() -> None:
    ended: list[str] = []

    @workflow(id="busy")
    async def busy(ctx: Context) -> None:
        async def one(name: str) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(one, "a")
            async with asyncio.TaskGroup() as inner:
                inner.create_task(one("b"))
                await asyncio.gather(one("c"), one("d"))

    async with Runtime(MemoryStore(), clock=(clock := ManualClock())) as runtime:
        handle = await runtime.start(busy)
        await clock.advance("1s")
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert sorted(ended) == ["a", "b", "c", "d"]


async def test_what_a_body_leaves_running_ends_with_it_cleanup_and_all(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    @workflow(id="careless", retries=0)
    async def careless(ctx: Context) -> str:
        async def left_running() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                try:
                    await asyncio.sleep(1)  # for this nobody waits
                finally:
                    ended.append("cleaned up")
                    await ctx.step.run("too late", asyncio.sleep, 0)  # refused, and nobody is there to be told

        left = asyncio.ensure_future(left_running())
        await asyncio.sleep(0)
        assert not left.done()
        return "done"

    async with Runtime(MemoryStore()) as runtime:
        assert await runtime.execute(careless) == "done"
    gc.collect()
    assert ended == ["cleaned up"]
    assert "never retrieved" not in caplog.text


async def test_child_asked_for_in_the_turn_in_which_the_body_ends_is_not_spawned() -> None:
    """A crash before the end is recorded would not spawn it either: the body ends within its replay."""

    async def body(play: Play) -> None:
        async def late() -> None:
            play.saw(await play.child("late", 1.0))

        await play.act("first", 1.0)
        left = asyncio.ensure_future(late())
        await asyncio.sleep(0)
        assert not left.done()

    report = await survives_every_crash(body)
    assert [row.workflow_id for row in report.store.runs.values()] == ["under-test"]


# Locks, events and queues of another loop


async def _lock() -> Callable[[], Awaitable[object]]:
    lock = asyncio.Lock()
    await lock.acquire()
    waiting = asyncio.ensure_future(lock.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    return lock.acquire


async def _event() -> Callable[[], Awaitable[object]]:
    event = asyncio.Event()
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    return event.wait


async def _queue() -> Callable[[], Awaitable[object]]:
    queue: asyncio.Queue[int] = asyncio.Queue()
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    waiting.cancel()
    return queue.get


@pytest.mark.parametrize("make", [_lock, _event, _queue])
async def test_what_belongs_to_another_loop_is_refused_by_name(
    make: Callable[[], Awaitable[Callable[[], Awaitable[object]]]],
) -> None:
    wait = await make()

    @workflow(id="foreign", retries=3)
    async def foreign(ctx: Context) -> None:
        await wait()

    async with World(foreign) as world:
        handle = await world.runtime.start(foreign)
        with pytest.raises(WorkflowFailedError, match=r"belongs to another event loop.*put it in step.run"):
            await world.result(handle)
        assert (await handle.info()).attempt == 1


# Tasks that give way again and again


async def give_way() -> bool:
    await asyncio.sleep(0)
    return True


@workflow(id="spinning")
async def spinning(ctx: Context) -> list[str]:
    """Nothing in it ever waits but for a look at whether it is time."""
    said: list[str] = []
    try:
        async with asyncio.timeout(60):
            while await give_way():
                pass
    except TimeoutError:
        said.append("timed out")
    step = asyncio.ensure_future(ctx.step.run("step", asyncio.sleep, 0, "done"))
    while not step.done():
        await give_way()
    said.append(await step)
    nap = asyncio.ensure_future(ctx.step.sleep("nap", "1h"))
    while not nap.done():
        await give_way()
    for _ in range(2_500):
        await asyncio.sleep(0)
    return [*said, await ctx.step.run("last", asyncio.sleep, 0, "last")]


async def test_a_body_that_only_gives_way_sees_its_timers_and_the_outcomes_of_its_steps() -> None:
    async with World(spinning) as world:
        handle = await world.runtime.start(spinning)
        assert await world.result(handle, within="2h") == ["timed out", "done", "last"]
        assert not (await handle.info()).is_diverged


async def test_such_a_body_takes_the_same_branches_after_a_crash_wherever_it_comes() -> None:
    outcomes = await with_a_crash_after_each_entry(lambda: World(spinning, strict_replay=True), spinning)
    assert len(outcomes) > 5 // STRIDE
    assert outcomes == [["timed out", "done", "last"]] * len(outcomes)


async def test_such_a_body_is_cancelled_and_its_cleanup_is_cut_off_at_the_deadline() -> None:
    @workflow(id="stubborn")
    async def stubborn(ctx: Context) -> None:
        try:
            while await give_way():
                pass
        finally:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await give_way()

    async with World(stubborn, cancel_grace="5s") as world:
        handle = await world.runtime.start(stubborn)
        await world.settle()
        report = await world.wait(handle.cancel(), within="1m")
        assert report.cancelled == [handle.run_id]
        assert "did not end within its grace period" in report.stuck[0]
