"""Workflow bodies in plain asyncio and anyio, one for each thing that must work unchanged on the run loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream
from crash_kit import ActError, Body, ChildPlan, Play

from rotor_actors import RetryPolicy
from rotor_actors.errors import (
    QuorumError,
    RunNotFoundError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)

BODIES: dict[str, Body] = {}


def body(fn: Body) -> Body:
    BODIES[fn.__name__] = fn
    return fn


async def _noted(play: Play, name: str, takes: float, *, error: str = "") -> str:
    """Act, and note how that ended, in whichever way."""
    try:
        did = await play.act(name, takes, error=error)
    except BaseException as end:
        play.saw(f"{name} ended by {type(end).__name__}")
        raise
    play.saw(did)
    return did


# asyncio


@body
async def gather(play: Play) -> None:
    play.saw(await asyncio.gather(*(_noted(play, name, takes) for name, takes in [("a", 1.3), ("b", 0.7), ("c", 2.1)])))
    ends = await asyncio.gather(_noted(play, "d", 1.0, error="bad"), _noted(play, "e", 0.5), return_exceptions=True)
    play.saw([type(end).__name__ for end in ends])


@body
async def gather_that_fails(play: Play) -> None:
    try:
        await asyncio.gather(_noted(play, "a", 1.0, error="bad"), _noted(play, "b", 3.0))
    except ActError as error:
        play.saw(f"caught {error}")
    await asyncio.sleep(1)
    play.saw("the other goes on meanwhile")
    await asyncio.sleep(5)


@body
async def task_group(play: Play) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_noted(play, name, takes)) for name, takes in [("a", 0.3), ("b", 0.2), ("c", 0.1)]]
    play.saw([task.result() for task in tasks])


@body
async def failing_task_group(play: Play) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(_noted(play, f"slow-{number}", 5.0 + number))
            group.create_task(_noted(play, "bad", 1.0, error="bad"))
            group.create_task(play.child("kid", 9.0))
    except* ActError as errors:
        play.saw([str(error) for error in errors.exceptions])
    play.saw(await play.act("after", 1.0))


@body
async def nested_task_groups(play: Play) -> None:
    async def inner(name: str) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(_noted(play, f"{name}-{number}", 1.0 + number / 7))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner("x"))
            group.create_task(inner("y"))
            await _noted(play, "bad", 1.2, error="bad")
    except* ActError:
        play.saw("all cancelled")


@body
async def timeout(play: Play) -> None:
    try:
        async with asyncio.timeout(2.0):
            await _noted(play, "quick", 1.0)
            await _noted(play, "slow", 5.0)
    except TimeoutError:
        play.saw("timed out")
    async with asyncio.timeout(2.0) as limit:
        limit.reschedule(asyncio.get_running_loop().time() + 10.0)
        await _noted(play, "long", 5.0)
    play.saw("in time")


@body
async def wait_for(play: Play) -> None:
    for number, takes in enumerate([1.0, 3.0, 0.5]):
        try:
            play.saw(await asyncio.wait_for(_noted(play, f"a-{number}", takes), 2.0))
        except TimeoutError:
            play.saw("timed out")
    try:
        await asyncio.wait_for(play.child("kid", 1.0, 4.0), 2.5)
    except TimeoutError:
        play.saw("child timed out")


@body
async def wait_first_completed(play: Play) -> None:
    pending = {asyncio.ensure_future(_noted(play, f"a-{number}", 1.0 + (number * 5 % 7) / 3)) for number in range(7)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        play.saw([task.result() for task in done])
        if len(pending) == 2:
            for task in pending:
                task.cancel()
            break
    done, pending = await asyncio.wait(pending, timeout=1.0)
    play.saw((len(done), len(pending)))
    slow = asyncio.ensure_future(_noted(play, "slow", 3.0))
    done, pending = await asyncio.wait([slow], timeout=1.0)
    play.saw((len(done), len(pending)))
    play.saw(await slow)


@body
async def as_completed(play: Play) -> None:
    acts = [_noted(play, f"a-{number}", 1.0 + (number * 3 % 5) / 4) for number in range(5)]
    for next_done in asyncio.as_completed(acts):
        play.saw(await next_done)
    late = [_noted(play, "in time", 1.0), _noted(play, "late", 9.0)]
    try:
        for next_done in asyncio.as_completed(late, timeout=2.0):
            play.saw(await next_done)
    except TimeoutError:
        play.saw("timed out")


@body
async def sleep(play: Play) -> None:
    async def ticks() -> None:
        for _ in range(4):
            await asyncio.sleep(0.8)
            play.saw("tick")

    ticking = asyncio.ensure_future(ticks())
    play.saw(await asyncio.sleep(3600, "an hour"))
    await asyncio.sleep(0)
    await play.step.sleep("durable", "2m")
    await ticking
    play.saw("awake")


@body
async def queue(play: Play) -> None:
    work: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)

    async def worker(name: str, pace: float) -> None:
        while (item := await work.get()) is not None:
            await _noted(play, f"{name}-{item}", pace)
            work.task_done()
        await work.put(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(worker("one", 0.31))
        group.create_task(worker("two", 0.47))
        for number in range(7):
            await work.put(str(number))
            play.saw(f"put {number}")
        await work.join()
        await work.put(None)


@body
async def lock(play: Play) -> None:
    one_at_a_time = asyncio.Lock()

    async def careful(name: str, takes: float) -> None:
        async with one_at_a_time:
            play.saw(f"{name} holds it")
            await _noted(play, name, takes)

    tasks = [asyncio.ensure_future(careful(f"a-{number}", 1.0 + number / 9)) for number in range(4)]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@body
async def event(play: Play) -> None:
    opened = asyncio.Event()

    async def waiter(name: str) -> None:
        await opened.wait()
        play.saw(f"{name} goes")
        await _noted(play, name, 0.1)

    waiters = [asyncio.ensure_future(waiter(f"a-{number}")) for number in range(3)]
    await _noted(play, "prepare", 1.0)
    opened.set()
    await asyncio.gather(*waiters)


@body
async def condition(play: Play) -> None:
    changed = asyncio.Condition()
    level = 0

    async def waiter(least: int) -> None:
        async with changed:
            await changed.wait_for(lambda: level >= least)
            play.saw(f"reached {least}")

    waiters = [asyncio.ensure_future(waiter(least)) for least in (3, 1, 2)]
    for number in range(3):
        await _noted(play, f"raise-{number}", 0.6)
        async with changed:
            level += 1
            changed.notify_all()
    await asyncio.gather(*waiters)


@body
async def semaphore(play: Play) -> None:
    two_at_a_time = asyncio.Semaphore(2)

    async def careful(name: str, takes: float) -> None:
        async with two_at_a_time:
            await _noted(play, name, takes)

    await asyncio.gather(*(careful(f"a-{number}", 1.0 + number / 9) for number in range(5)))


@body
async def shield(play: Play) -> None:
    kept = asyncio.ensure_future(_noted(play, "kept", 3.0))
    try:
        await asyncio.wait_for(asyncio.shield(kept), 1.0)
    except TimeoutError:
        play.saw("not waiting any longer")
    play.saw(await kept)


@body
async def cleaning_up(play: Play) -> None:
    async def tidy() -> None:
        try:
            await _noted(play, "long", 10.0)
        finally:
            play.saw(await play.act("tidy up", 1.0))

    task = asyncio.ensure_future(tidy())
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    play.saw(task.cancelled())


@body
async def async_generator_left_early(play: Play) -> None:
    async def pages() -> AsyncIterator[str]:
        try:
            for number in range(5):
                yield await play.act(f"page-{number}", 0.5)
        finally:
            play.saw(await play.act("close", 0.2))

    async for page in pages():
        play.saw(page)
        if page == "did page-1":
            break
    play.saw("broke off")
    await asyncio.sleep(1)
    play.saw("closed by now")


# Children, and failures that are caught


@body
async def children(play: Play) -> None:
    async def invoke(name: str, *takes: float, fails: bool = False, timeout: float = 1000.0) -> None:
        try:
            play.saw(await play.child(name, *takes, fails=fails, timeout=timeout))
        except Exception as error:
            play.saw(f"{name}: {type(error).__name__}")

    await asyncio.gather(
        invoke("one", 0.5, 0.7), invoke("two", 0.1, fails=True), invoke("three", 0.9, fails=True),
        invoke("late", 4.0, timeout=2.0), invoke("late-too", 1.0, 4.0, timeout=2.5),
    )  # fmt: skip
    play.saw(await play.act("after", 0.3))
    await asyncio.sleep(10)


@body
async def withdrawn_children(play: Play) -> None:
    invokes = [asyncio.ensure_future(play.child(f"kid-{number}", 1.0 + number, 9.0)) for number in range(3)]
    await _noted(play, "think", 2.2)
    for invoke in invokes:
        invoke.cancel()
    ends = await asyncio.gather(*invokes, return_exceptions=True)
    play.saw([type(end).__name__ for end in ends])
    play.saw(await play.act("after", 20.0))


@body
async def caught_failures(play: Play) -> None:
    policy = RetryPolicy(2, initial="3s", jitter=False)
    for number in range(2):
        try:
            await play.act(f"bad-{number}", error="bad", retries=policy if number else None)
        except ActError as error:
            play.saw(f"caught {error}")
    play.saw(await play.act("good", 0.5))


# anyio


@body
async def anyio_task_group(play: Play) -> None:
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(_noted, play, f"a-{number}", 1.0 + (number * 3 % 4) / 5)
    try:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(_noted, play, f"slow-{number}", 5.0)
            await anyio.sleep(0.5)
            await _noted(play, "bad", 1.0, error="bad")
    except* ActError:
        play.saw("all cancelled")


@body
async def anyio_group_cancelled_within(play: Play) -> None:
    async def racer(name: str, takes: float) -> None:
        await _noted(play, name, takes)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(racer, f"a-{number}", 2.0 - (number * 2 % 5) / 7)
    play.saw("first one won")


@body
async def move_on_after(play: Play) -> None:
    with anyio.move_on_after(2.0) as scope:
        await _noted(play, "quick", 1.0)
        await _noted(play, "slow", 5.0)
    play.saw(scope.cancelled_caught)
    with anyio.move_on_after(2.0) as scope:
        await play.child("kid", 0.5, 9.0)
    play.saw(scope.cancelled_caught)


@body
async def fail_after(play: Play) -> None:
    for number, takes in enumerate([1.0, 5.0]):
        try:
            with anyio.fail_after(2.0):
                await _noted(play, f"a-{number}", takes)
        except TimeoutError:
            play.saw("failed after")


@body
async def anyio_shield(play: Play) -> None:
    async def tidy(name: str) -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                play.saw(await play.act(f"tidy-{name}", 1.5))
                await anyio.sleep(0.3)
                play.saw(f"{name} is tidy")

    with anyio.move_on_after(1.0):
        async with anyio.create_task_group() as group:
            for name in "xyz":
                group.start_soon(tidy, name)
    play.saw("done")


@body
async def anyio_nested_scopes(play: Play) -> None:
    async def nested(name: str) -> None:
        with anyio.CancelScope(), anyio.move_on_after(7.0), anyio.CancelScope():
            await _noted(play, name, 5.0)

    with anyio.move_on_after(2.0):
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(nested, f"a-{number}")
    play.saw("moved on")


@body
async def memory_stream(play: Play) -> None:
    send, receive = anyio.create_memory_object_stream[str](1)

    async def worker(name: str, pace: float, mine: MemoryObjectReceiveStream[str]) -> None:
        async with mine:
            async for item in mine:
                await _noted(play, f"{name}-{item}", pace)

    async with anyio.create_task_group() as group:
        group.start_soon(worker, "one", 0.31, receive.clone())
        group.start_soon(worker, "two", 0.47, receive)
        async with send:
            for number in range(6):
                await send.send(str(number))
                play.saw(f"sent {number}")


@body
async def anyio_event_and_lock(play: Play) -> None:
    opened, one_at_a_time, limiter = anyio.Event(), anyio.Lock(), anyio.CapacityLimiter(2)

    async def waiter(name: str) -> None:
        await opened.wait()
        async with limiter, one_at_a_time:
            await _noted(play, name, 0.4)

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(waiter, f"a-{number}")
        await _noted(play, "prepare", 1.0)
        opened.set()


@body
async def anyio_start(play: Play) -> None:
    async def service(*, task_status: TaskStatus[str]) -> None:
        task_status.started(await play.act("warm up", 1.0))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        play.saw(await group.start(service))
        await _noted(play, "use it", 0.5)
        group.cancel_scope.cancel()
    play.saw("stopped")


# Maps


@body
async def step_map(play: Play) -> None:
    plans = [ChildPlan([(number * 7 % 5) / 3 + 0.5], fails=number == 4) for number in range(9)]
    ends = play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=3, on_error="collect")
    async for outcome in ends:
        play.saw((outcome.index, outcome.body, outcome.is_failed))


@body
async def step_map_with_a_slow_consumer(play: Play) -> None:
    plans = (ChildPlan([(number * 3 % 4) / 3]) for number in range(7))
    async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=3):
        play.saw(await play.act(f"use-{outcome.index}", 0.7))


@body
async def step_map_of_what_steps_give(play: Play) -> None:
    async def plans() -> AsyncIterator[ChildPlan]:
        for page in range(3):
            await play.act(f"page-{page}", 0.4)
            for number in range(2):
                yield ChildPlan([0.3 + (page + number) % 2])

    async for outcome in play.step.map("kids", workflow=play.world.child, items=plans(), timeout=100, concurrency=3):
        play.saw(outcome.index)


@body
async def step_map_that_raises(play: Play) -> None:
    plans = [ChildPlan([1.0 + number], fails=number == 1) for number in range(5)]
    try:
        async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=4):
            play.saw(outcome.index)
    except WorkflowFailedError as error:
        play.saw(error.__notes__[-1])
    play.saw(await play.act("after", 2.0))


@body
async def step_map_left_early(play: Play) -> None:
    plans = [ChildPlan([1.0 + number * 4 % 9 / 3.3]) for number in range(9)]
    async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=4):
        play.saw(outcome.index)
        if outcome.index == 4:
            break
    play.saw(await play.act("after", 0.2))
    try:
        async with asyncio.timeout(2.5):
            async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100):
                play.saw(outcome.index)
    except TimeoutError:
        play.saw("timed out")


@body
async def step_map_whose_children_time_out(play: Play) -> None:
    plans = [ChildPlan([1.0 + 3 * (number % 2)]) for number in range(6)]
    ends = play.step.map("kids", workflow=play.world.child, items=plans, timeout=2.3, concurrency=2, on_error="collect")
    async for outcome in ends:
        play.saw((outcome.index, outcome.is_timed_out))
    await asyncio.sleep(10)


@body
async def two_maps_at_once(play: Play) -> None:
    async def one(name: str, pace: float) -> None:
        plans = [ChildPlan([pace]) for _ in range(4)]
        async for outcome in play.step.map("kids", workflow=play.world.child, items=plans, timeout=100, concurrency=2):
            play.saw((name, outcome.index))
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(one("a", 0.7))
        group.create_task(one("b", 0.4))


@body
async def step_first_and_quorum(play: Play) -> None:
    plans = [ChildPlan([3.0]), ChildPlan([1.0], fails=True), ChildPlan([2.0]), ChildPlan([0.5])]
    won = await play.step.first("fastest", workflow=play.world.child, items=plans[:3], timeout=100)
    play.saw((won.index, won.body))
    most = await play.step.quorum("two", workflow=play.world.child, items=plans, needed=2, timeout=100)
    play.saw([outcome.index for outcome in most])
    try:
        await play.step.quorum("four", workflow=play.world.child, items=plans, needed=4, timeout=100)
    except QuorumError as error:
        play.saw(len(error.outcomes))


# Runs that are no children


@body
async def start_and_join(play: Play) -> None:
    step, child = play.step, play.world.child
    one = await step.start("one", workflow=child, data=ChildPlan([2.0]))
    two = await step.start("two", workflow=child, data=ChildPlan([1.0], fails=True), run_id="chosen")
    play.saw((one, two, await step.start("same", workflow=child, data=ChildPlan([1.0], fails=True), run_id="chosen")))
    play.saw(await play.act("meanwhile", 0.3))
    play.saw((await step.join("one", run_id=one, timeout=100, returns=str)).result)
    try:
        await step.join("two", run_id=two, timeout=100)
    except WorkflowFailedError as error:
        play.saw(error.error.message)
    try:
        await step.join("nobody", run_id="nobody", timeout=100)
    except RunNotFoundError as error:
        play.saw(error)


@body
async def join_after_a_timeout(play: Play) -> None:
    try:
        await play.child("late", 3.0, timeout=1.1)
    except WorkflowTimeoutError as error:
        play.saw(error)
        try:
            await error.child.join("too soon", timeout=0.7)
        except WorkflowTimeoutError as again:
            play.saw(again)
        play.saw((await error.child.join("at last", timeout=100)).result)
        play.saw(await error.child.cancel("too late"))


@body
async def join_withdrawn_and_cancel(play: Play) -> None:
    run_id = await play.step.start("long", workflow=play.world.child, data=ChildPlan([50.0]))
    try:
        async with asyncio.timeout(1.3):
            await play.step.join("a while", run_id=run_id, timeout=100)
    except TimeoutError:
        play.saw("no longer")
    play.saw(await play.step.cancel("stop", run_id=run_id, reason="enough"))
    play.saw(await play.step.cancel("stop", run_id=run_id))
    try:
        await play.step.join("the end", run_id=run_id, timeout=100)
    except WorkflowCancelledError as error:
        play.saw(error)


@body
async def joined_by_two(play: Play) -> None:
    run_id = await play.step.start("one", workflow=play.world.child, data=ChildPlan([2.0]))

    async def join(name: str) -> None:
        play.saw((name, (await play.step.join("join", run_id=run_id, timeout=100)).result))

    async with asyncio.TaskGroup() as group:
        group.create_task(join("a"))
        group.create_task(join("b"))
