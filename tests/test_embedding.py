"""A runtime inside somebody else's program: fixtures, stacks, lifespans, other loops, several at once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from rotor_actors import Context, MemoryStore, RunStatus, Runtime, workflow
from rotor_actors.errors import RunNotFoundError, StoreLockedError, WorkflowCancelledError, WorkflowFailedError

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


async def double(number: int) -> int:
    return 2 * number


def triple_in_thread(number: int) -> int:
    return 3 * number


@workflow(id="leaf")
async def leaf(ctx: Context, number: int) -> int:
    return await ctx.step.run("double", double, number) + await ctx.step.run("triple", triple_in_thread, number)


@workflow(id="fan")
async def fan(ctx: Context, width: int) -> int:
    invokes = (ctx.step.invoke("leaf", workflow=leaf, data=number, timeout="1h") for number in range(width))
    return sum(each.result for each in await asyncio.gather(*invokes))


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.step.sleep("nap", "12h")


@workflow(id="failing", retries=0)
async def failing(ctx: Context) -> None:
    async def forgotten() -> None:
        raise LookupError("a task that nobody awaits")

    task = asyncio.ensure_future(forgotten())
    unstarted = asyncio.ensure_future(forgotten())
    unstarted.cancel()
    await asyncio.sleep(1e-6)
    raise ValueError(str(task.done()))


async def hang() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await asyncio.sleep(0)


@workflow(id="hanging")
async def hanging(ctx: Context) -> None:
    left = asyncio.ensure_future(ctx.step.run("also", hang))
    await asyncio.gather(ctx.step.run("h", hang), asyncio.sleep(1e6))
    left.cancel()


async def use_all_of_it(path: Path) -> None:
    """Complete, fail, cancel, be cut off, and go on after a restart."""
    async with Runtime(path, workflows=[fan, leaf], drain_timeout=0) as runtime:
        assert await runtime.execute(fan, 20) == sum(5 * number for number in range(20))
        with pytest.raises(WorkflowFailedError):
            await runtime.execute(failing)
        handle = await runtime.start(hanging)
        await asyncio.sleep(0.01)  # let it get somewhere; wherever that is, the rest holds
        assert (await handle.cancel()).stuck == []
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await runtime.start(hanging, run_id="cut off")
        await runtime.start(fan, 20, run_id="goes on")
    async with Runtime(path, workflows=[fan, leaf, hanging], drain_timeout=0) as runtime:
        assert await runtime.run("goes on").result() == sum(5 * number for number in range(20))
        await runtime.cancel("cut off")


def on_asyncio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def on_asyncio_debug(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main(), debug=True)


def on_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(main())


def on_uvloop_factory(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


LOOPS = [on_asyncio, on_asyncio_debug, on_uvloop, on_uvloop_factory]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio has to say of tasks and futures that were not looked after."""
    gc.collect()
    records = (record for record in caplog.records if record.name == "asyncio")
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR]


def current_policy() -> object:
    return asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]


# Loops


@pytest.mark.parametrize("run", LOOPS)
def test_all_of_it_on_each_loop_without_complaints(
    run: Callable[[Callable[[], Coroutine[Any, Any, None]]], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(lambda: use_all_of_it(tmp_path / "store.db"))
    assert complaints(caplog) == []


def test_it_installs_no_signal_handlers_and_no_loop_policy(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    policy = current_policy()
    inside: list[object] = []

    async def main() -> None:
        ours = {number: signal.getsignal(number) for number in signal.valid_signals()}
        async with Runtime(tmp_path / "store.db", drain_timeout=0) as runtime:
            await runtime.execute(fan, 3)
            inside.append(ours == {number: signal.getsignal(number) for number in signal.valid_signals()})
            inside.append(current_policy() is policy)

    asyncio.run(main())
    assert inside == [True, True]
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert current_policy() is policy


def test_it_leaves_no_threads_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    asyncio.run(use_all_of_it(tmp_path / "store.db"))
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5)  # anyio tells its workers to stop and does not wait for them
    assert not any(thread.is_alive() for thread in left)


def test_one_store_after_another_in_loops_of_their_own() -> None:
    store = MemoryStore()

    async def begin() -> None:
        async with Runtime(store, drain_timeout=0) as runtime:
            await runtime.start(sleeper, run_id="it")

    async def go_on() -> None:
        async with Runtime(store, workflows=[sleeper], drain_timeout=0) as runtime:
            assert await runtime.run("it").status() is RunStatus.RUNNING
            await runtime.cancel("it")

    asyncio.run(begin())
    uvloop.run(go_on())


# Ways in and out


@pytest_asyncio.fixture
async def fixture_runtime() -> AsyncIterator[Runtime]:
    async with Runtime(":memory:", drain_timeout=0) as runtime:
        yield runtime


@pytest.mark.asyncio
async def test_a_yield_fixture(fixture_runtime: Runtime) -> None:
    assert await fixture_runtime.execute(fan, 3) == 15
    await fixture_runtime.start(sleeper)


@pytest.mark.asyncio
async def test_an_exit_stack(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(Runtime(tmp_path / "one.db", drain_timeout=0))
        other = await stack.enter_async_context(Runtime(tmp_path / "other.db", drain_timeout=0))
        assert tuple(await asyncio.gather(one.execute(fan, 3), other.execute(fan, 4))) == (15, 30)


@pytest.mark.asyncio
async def test_entered_and_left_in_different_tasks() -> None:
    runtime = Runtime(":memory:", drain_timeout=0)
    await asyncio.create_task(enter(runtime))
    assert await asyncio.create_task(runtime.execute(fan, 3)) == 15
    await asyncio.create_task(leave(runtime))


async def enter(runtime: Runtime) -> None:
    async with asyncio.TaskGroup():  # a scope of the caller's own, that ends before the runtime does
        await runtime.__aenter__()


async def leave(runtime: Runtime) -> None:
    async with asyncio.timeout(10):
        await runtime.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_the_end_of_the_task_that_entered_does_not_stop_it() -> None:
    runtime, opened = Runtime(":memory:", drain_timeout=0), asyncio.Event()

    async def enter_and_be_cancelled() -> None:
        await runtime.__aenter__()
        opened.set()
        await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(enter_and_be_cancelled())
    await opened.wait()
    task.cancel()
    await asyncio.wait([task])
    assert await runtime.execute(fan, 3) == 15
    await runtime.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_an_asgi_lifespan() -> None:
    """As servers do it: one task that lives through startup and shutdown, requests in others."""
    startup, started, shutdown = asyncio.Event(), asyncio.Event(), asyncio.Event()
    state: dict[str, Runtime] = {}

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[dict[str, Runtime], None]:
        async with Runtime(":memory:", drain_timeout=0) as runtime:
            yield {"runtime": runtime}

    async def serve() -> None:
        await startup.wait()
        async with lifespan() as made:
            state.update(made)
            started.set()
            await shutdown.wait()

    server = asyncio.create_task(serve())
    startup.set()
    await started.wait()
    requests = [asyncio.create_task(state["runtime"].execute(fan, width)) for width in (3, 4)]
    assert [await request for request in requests] == [15, 30]
    await state["runtime"].start(sleeper)
    shutdown.set()
    await server


@pytest.mark.asyncio
async def test_an_error_in_the_block_comes_through() -> None:
    async def use() -> None:
        async with Runtime(":memory:", drain_timeout=0) as runtime:
            await runtime.start(sleeper)
            raise LookupError("the block's own")

    with pytest.raises(LookupError, match="the block's own"):
        await use()


@pytest.mark.asyncio
async def test_entering_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with Runtime(tmp_path / "store.db", drain_timeout=0):
        inner = set(threading.enumerate())
        with pytest.raises(StoreLockedError):
            await Runtime(tmp_path / "store.db").__aenter__()
        assert set(threading.enumerate()) <= inner
    assert asyncio.all_tasks() == tasks
    assert set(threading.enumerate()) <= threads


# Several at once


@pytest.mark.asyncio
async def test_two_runtimes_do_not_know_of_each_other(tmp_path: Path) -> None:
    @workflow(id="leaf")
    async def other_leaf(ctx: Context, number: int) -> str:
        return f"another workflow of the same id, {number}"

    one = Runtime(tmp_path / "one.db", drain_timeout=0)
    other = Runtime(tmp_path / "other.db", drain_timeout=0)
    async with one, other:
        first = await one.start(leaf, 1, run_id="same")
        second = await other.start(other_leaf, 2, run_id="same")
        assert await first.result() == 5
        assert await second.result() == "another workflow of the same id, 2"
        stays = await one.start(sleeper, run_id="stays")
        with pytest.raises(RunNotFoundError):
            await other.cancel("stays")
        await other.__aexit__(None, None, None)
        assert await stays.status() is RunStatus.RUNNING
        assert await one.execute(fan, 3) == 15


# Contextvars


@pytest.mark.asyncio
async def test_contextvars_of_the_caller_reach_the_run_its_steps_and_its_children() -> None:
    async def read() -> str:
        return request_id.get()

    def read_in_thread() -> str:
        return request_id.get()

    @workflow(id="reading")
    async def reading(ctx: Context, depth: int) -> list[str]:
        found = [request_id.get(), await ctx.step.run("s", read), await ctx.step.run("t", read_in_thread)]
        if depth:
            found += (await ctx.step.invoke("c", workflow=reading, data=depth - 1, timeout="1h")).result
        return found

    async with Runtime(":memory:", drain_timeout=0) as runtime:
        token = request_id.set("r-1")
        one = await runtime.start(reading, 1)
        request_id.set("r-2")
        other = await runtime.start(reading, 1)
        request_id.reset(token)
        assert await one.result() == ["r-1"] * 6
        assert await other.result() == ["r-2"] * 6


@pytest.mark.asyncio
async def test_what_a_run_sets_in_its_context_is_not_seen_by_parents_siblings_or_the_caller() -> None:
    @workflow(id="setting")
    async def setting(ctx: Context, name: str) -> str:
        found = request_id.get()
        request_id.set(name)
        await ctx.step.sleep("a moment", 0.001)
        return found

    @workflow(id="above")
    async def above(ctx: Context) -> list[str]:
        invokes = (ctx.step.invoke("c", workflow=setting, data=name, timeout="1h") for name in ("a", "b"))
        found = [each.result for each in await asyncio.gather(*invokes)]
        return [*found, request_id.get()]

    async with Runtime(":memory:", drain_timeout=0) as runtime:
        token = request_id.set("caller")
        assert await runtime.execute(above) == ["caller"] * 3
        assert request_id.get() == "caller"
        request_id.reset(token)
