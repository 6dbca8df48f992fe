"""The simulator's event loop: virtual time, one thread, unmodified asyncio and anyio code."""

from __future__ import annotations

import asyncio
import contextlib
import time

import anyio
import anyio.to_thread
import pytest
from loop_kit import run

from rotor_actors.simulation import DeadlockError, LivelockError
from rotor_actors.simulation.loop import SimulationLoop
from rotor_actors.simulation.tape import Tapes

POLICIES = ["sound", "chaos", "pct(3)"]


def test_a_day_passes_in_no_time() -> None:
    async def main() -> float:
        began = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            with anyio.fail_after(24 * 3600):
                await asyncio.sleep(1e9)
        return asyncio.get_running_loop().time() - began

    began = time.perf_counter()
    assert run(main) == pytest.approx(24 * 3600, abs=0.01)
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize("policy", POLICIES)
def test_asyncio_runs_unchanged(policy: str) -> None:
    async def number(value: int) -> int:
        await asyncio.sleep(value)
        return value

    async def main() -> None:
        assert await asyncio.gather(*map(number, range(4))) == [0, 1, 2, 3]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(number(value)) for value in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]
        done, left = await asyncio.wait(
            [asyncio.ensure_future(number(1)), asyncio.ensure_future(number(9))], return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == len(left) == 1
        for task in left:
            task.cancel()
        assert [await each for each in asyncio.as_completed([number(2), number(1)])] == [1, 2]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(number(5), 2)
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        await asyncio.gather(*(queue.put(value) for value in range(3)), *(queue.get() for _ in range(3)))
        lock, event = asyncio.Lock(), asyncio.Event()
        async with lock:
            asyncio.get_running_loop().call_later(3, event.set)
            await event.wait()

    run(main, policy=policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_anyio_runs_unchanged(policy: str) -> None:
    async def main() -> None:
        send, receive = anyio.create_memory_object_stream[int](1)

        async def produce() -> None:
            async with send:
                for value in range(5):
                    await send.send(value)

        async with anyio.create_task_group() as group, receive:
            group.start_soon(produce)
            assert [value async for value in receive] == [0, 1, 2, 3, 4]
        with anyio.move_on_after(2) as scope:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)  # anyio delivers the cancellation again and again meanwhile
            await anyio.sleep(100)
        assert scope.cancelled_caught

    run(main, policy=policy)


def test_executors_and_threads_are_calls_after_a_virtual_while() -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found: list[object] = [
            await loop.run_in_executor(None, lambda: "executor"),
            await asyncio.to_thread(lambda: "asyncio"),
            await anyio.to_thread.run_sync(lambda: "anyio"),
        ]
        with pytest.raises(ZeroDivisionError):
            await anyio.to_thread.run_sync(lambda: 1 // 0)
        assert 0 < loop.time() - began < 1
        return found

    assert run(main) == ["executor", "asyncio", "anyio"]


def test_timers_that_are_due_together_ring_in_an_order_that_depends_on_the_seed() -> None:
    async def main() -> tuple[int, ...]:
        order: list[int] = []
        when = asyncio.get_running_loop().time() + 1
        for number in range(4):
            asyncio.get_running_loop().call_at(when, order.append, number)
        await asyncio.sleep(2)
        return tuple(order)

    orders = {run(main, seed=seed) for seed in range(20)}
    assert len(orders) > 5
    assert run(main, seed=3) == run(main, seed=3)


def test_a_due_timer_that_was_cancelled_does_not_let_time_run_on_over_what_is_ready() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        far = loop.call_later(1_000, lambda: None)
        loop.call_later(0, lambda: None).cancel()
        began = loop.time()
        await asyncio.sleep(0)
        took = loop.time() - began
        far.cancel()
        return took

    assert run(main) < 1


def test_tasks_of_chaos_take_turns_in_any_order_and_those_of_sound_in_theirs() -> None:
    async def main() -> tuple[int, ...]:
        order: list[int] = []

        async def note(number: int) -> None:
            order.append(number)

        await asyncio.gather(*map(note, range(5)))
        return tuple(order)

    assert {run(main, seed=seed) for seed in range(10)} == {(0, 1, 2, 3, 4)}
    assert len({run(main, seed=seed, policy="chaos") for seed in range(10)}) > 3
    assert len({run(main, seed=seed, policy="pct(2)") for seed in range(10)}) > 3


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    async def main() -> None: ...

    with pytest.raises(ValueError, match=r"'sound', 'chaos' or 'pct\(3\)'"):
        run(main, policy="random")


def test_a_deadlock_is_an_error_at_once() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match="nothing can happen any more"):
        run(main)


def test_what_never_rests_is_a_livelock() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    loop = SimulationLoop(Tapes(1), most_steps=1_000)
    coroutine = main()
    try:
        with pytest.raises(LivelockError, match="1001 callbacks were run"):
            loop.run_until_complete(coroutine)
    finally:
        coroutine.close()
        for task in loop.pending_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()


def test_a_callback_that_keeps_the_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1_000_000, 2))
    monkeypatch.setattr("rotor_actors.simulation.loop._real_time", lambda: next(clock))

    async def slow_one() -> None: ...

    loop = SimulationLoop(Tapes(1))
    loop.run_until_complete(slow_one())
    loop.close()
    assert any("slow_one" in name and seconds == 2 for name, seconds in loop.busy)


def test_sets_of_tasks_and_futures_are_in_order_of_creation() -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(50)]
        assert list(set(tasks)) == tasks
        futures = [asyncio.get_running_loop().create_future() for _ in range(50)]
        assert list(set(futures)) == futures
        await asyncio.gather(*tasks)

    run(main)
