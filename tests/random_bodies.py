"""Random workflow bodies: a seed gives a tree of everything that asyncio, anyio and steps offer, nested at will."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from crash_kit import ActError, Body, Play

from rotor_actors import Event, RetryPolicy

Op = Callable[[Play], Coroutine[Any, Any, None]]
Ended = (Exception, asyncio.CancelledError)


def random_body(seed: int, *, size: int = 3, with_events: bool = False) -> Body:
    """The body that this seed stands for: the same in each process, but not from one version of this file to another."""
    maker = _Maker(random.Random(f"body-{seed}"), with_events)
    ops = [maker.op(size) for _ in range(maker.rng.randint(1, 3))]

    async def body(play: Play) -> None:
        for op in ops:
            try:
                await op(play)
            except Exception as error:
                if _is_fatal(error):
                    raise
                play.saw(f"top caught {_named(error)}")
        play.saw("the end")

    return body


def _members(error: BaseException) -> tuple[BaseException, ...] | None:
    """Of a group; None of any other exception."""
    return getattr(error, "exceptions", None)


def _named(error: BaseException) -> str:
    name, members = type(error).__name__, _members(error)
    if members is not None:
        return f"{name}[{' '.join(map(_named, members))}]"
    return f"{name}({error})" if isinstance(error, ActError) else name


def _is_fatal(error: BaseException) -> bool:
    """The one failure that shall end the attempt."""
    return any(map(_is_fatal, _members(error) or ())) or (isinstance(error, ActError) and str(error) == "fatal")


async def _noted(play: Play, name: str, op: Callable[[], Awaitable[object]]) -> None:
    try:
        value = await op()
    except Ended as end:
        play.saw(f"{name} !{_named(end)}")
        raise
    play.saw(f"{name} {value}")


class _Maker:
    def __init__(self, rng: random.Random, with_events: bool) -> None:
        self.rng = rng
        self._numbers = itertools.count()
        self._leaves: list[Callable[[str], Op]] = [
            self._act, self._act, self._act, self._failing_act, self._retried_act, self._flaky_act, self._child,
            self._child, self._sleep, self._durable_sleep, self._yield,
        ]  # fmt: skip
        if with_events:
            self._leaves += [self._wait_for_event, self._wait_for_event, self._send_event, self._send_event,
                             self._wait_for_signal]  # fmt: skip
        self._nodes: list[Callable[[str, list[Op]], Op]] = [
            self._in_turn, self._gather, self._task_group, self._wait, self._wait_for, self._timeout,
            self._as_completed, self._queue, self._lock, self._cancelled_task, self._shield, self._tidy, self._caught,
            self._anyio_group, self._anyio_race, self._move_on_after, self._fail_after, self._anyio_shield,
            self._stream, self._events, self._generator, self._wait_of_gathers,
        ]  # fmt: skip

    def op(self, depth: int) -> Op:
        if depth <= 0 or self.rng.random() < 0.2:
            kind = self.rng.choice(self._leaves)
            return kind(f"{kind.__name__[1:]}-{next(self._numbers)}")
        node = self.rng.choice(self._nodes)
        name = f"{node.__name__[1:]}-{next(self._numbers)}"
        return node(name, [self.op(depth - 1) for _ in range(self.rng.randint(1, 4))])

    def span(self, longest: float = 4.0) -> float:
        return self.rng.uniform(0.05, longest)

    # Leaves

    def _act(self, name: str) -> Op:
        takes = self.span()
        return lambda play: _noted(play, name, lambda: play.act(name, takes))

    def _failing_act(self, name: str) -> Op:
        takes = self.span()
        return lambda play: _noted(play, name, lambda: play.act(name, takes, error=name))

    def _retried_act(self, name: str) -> Op:
        policy = RetryPolicy(self.rng.randint(1, 2), initial=self.span(), jitter=False)
        return lambda play: _noted(play, name, lambda: play.act(name, error=name, retries=policy))

    def _flaky_act(self, name: str) -> Op:
        takes, is_fatal = self.span(), self.rng.random() < 0.2
        return lambda play: _noted(
            play, name, lambda: play.act(name, takes, error="fatal" if is_fatal and play.ctx.attempt == 1 else "")
        )

    def _child(self, name: str) -> Op:
        parts = [self.span() for _ in range(self.rng.randint(1, 3))]
        fails, timeout = self.rng.random() < 0.2, self.span(12.0)
        return lambda play: _noted(play, name, lambda: play.child(name, *parts, fails=fails, timeout=timeout))

    def _sleep(self, name: str) -> Op:
        span = self.span()
        return lambda play: _noted(play, name, lambda: asyncio.sleep(span))

    def _durable_sleep(self, name: str) -> Op:
        span = self.span()
        return lambda play: _noted(play, name, lambda: play.step.sleep(name, span))

    def _yield(self, name: str) -> Op:
        return lambda play: _noted(play, name, lambda: asyncio.sleep(0))

    def _wait_for_event(self, name: str) -> Op:
        event, limit = f"event-{self.rng.randint(0, 1)}", self.span(8.0)
        where = self.rng.choice([None, "data == 'x'", "data != 'y'"])

        async def run(play: Play) -> None:
            found = await play.step.wait_for_event(name, event=event, timeout=limit, where=where)
            play.saw(f"{name} {None if found is None else found.data}")

        return run

    def _send_event(self, name: str) -> Op:
        events = [Event(f"event-{self.rng.randint(0, 1)}", self.rng.choice("xyz")) for _ in range(2)]
        id = name if self.rng.random() < 0.3 else None
        events[0] = Event(events[0].name, events[0].data, id)
        takes = self.span()

        async def run(play: Play) -> None:
            await play.act(f"before {name}", takes)
            play.saw(f"{name} {await play.step.send_event(name, events)}")

        return run

    def _wait_for_signal(self, name: str) -> Op:
        signal, limit = f"signal-{self.rng.randint(0, 1)}", self.span()
        return lambda play: _noted(play, name, lambda: play.step.wait_for_signal(name, signal=signal, timeout=limit))

    # Nodes

    def _in_turn(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            for op in ops:
                await op(play)

        return run

    def _gather(self, name: str, ops: list[Op]) -> Op:
        keeps = self.rng.random() < 0.5

        async def run(play: Play) -> None:
            ends = await asyncio.gather(*(op(play) for op in ops), return_exceptions=keeps)
            play.saw(f"{name} {[_named(end) if isinstance(end, BaseException) else end for end in ends]}")

        return run

    def _task_group(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            async with asyncio.TaskGroup() as group:
                for op in ops[1:]:
                    group.create_task(op(play))
                await ops[0](play)
            play.saw(name)

        return run

    def _wait(self, name: str, ops: list[Op]) -> Op:
        mode = self.rng.choice([asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED])
        limit, leaves = self.rng.choice([None, self.span(8.0)]), self.rng.random() < 0.3

        async def run(play: Play) -> None:
            tasks = [asyncio.ensure_future(op(play)) for op in ops]
            done, pending = await asyncio.wait(tasks, timeout=limit, return_when=mode)
            play.saw(f"{name} {[tasks.index(task) for task in done]} {[tasks.index(task) for task in pending]}")
            _look_at(done)
            for task in pending:
                if leaves:
                    task.add_done_callback(lambda task: _look_at([task]))
                else:
                    task.cancel()
            if pending and not leaves:
                done, _ = await asyncio.wait(pending)
                _look_at(done)

        return run

    def _wait_of_gathers(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            gathers = [asyncio.gather(op(play), asyncio.sleep(0), return_exceptions=True) for op in ops]
            done, _ = await asyncio.wait(gathers)
            for each in done:
                play.saw(f"{name} {gathers.index(each)}")

        return run

    def _wait_for(self, name: str, ops: list[Op]) -> Op:
        limit = self.span(6.0)

        async def run(play: Play) -> None:
            for op in ops:
                try:
                    await asyncio.wait_for(op(play), limit)
                except TimeoutError:
                    play.saw(f"{name} timed out")

        return run

    def _timeout(self, name: str, ops: list[Op]) -> Op:
        limit = self.span(6.0)

        async def run(play: Play) -> None:
            try:
                async with asyncio.timeout(limit):
                    for op in ops:
                        await op(play)
            except TimeoutError:
                play.saw(f"{name} timed out")

        return run

    def _as_completed(self, name: str, ops: list[Op]) -> Op:
        limit, wanted = self.rng.choice([None, self.span(8.0)]), self.rng.randint(1, len(ops))

        async def run(play: Play) -> None:
            tasks = [op(play) for op in ops]
            try:
                for number, done in enumerate(asyncio.as_completed(tasks, timeout=limit)):
                    try:
                        await done
                    except ActError as error:
                        play.saw(f"{name} {number} {_named(error)}")
                        if _is_fatal(error):
                            raise
                    if number + 1 == wanted and wanted < len(ops):
                        play.saw(f"{name} has enough")
            except TimeoutError:
                play.saw(f"{name} timed out")

        return run

    def _queue(self, name: str, ops: list[Op]) -> Op:
        size, workers = self.rng.randint(0, 2), self.rng.randint(1, 3)

        async def run(play: Play) -> None:
            work: asyncio.Queue[Op | None] = asyncio.Queue(size)

            async def worker(number: int) -> None:
                while (op := await work.get()) is not None:
                    play.saw(f"{name} worker {number}")
                    await op(play)

            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(worker(number))
                for op in [*ops, *[None] * workers]:
                    await work.put(op)

        return run

    def _lock(self, name: str, ops: list[Op]) -> Op:
        at_a_time = self.rng.randint(1, 2)

        async def run(play: Play) -> None:
            lock = asyncio.Semaphore(at_a_time)

            async def careful(number: int, op: Op) -> None:
                async with lock:
                    play.saw(f"{name} {number} holds it")
                    await op(play)

            await asyncio.gather(*(careful(number, op) for number, op in enumerate(ops)))

        return run

    def _events(self, name: str, ops: list[Op]) -> Op:
        after = self.span()

        async def run(play: Play) -> None:
            opened = asyncio.Event()

            async def waiter(op: Op) -> None:
                await opened.wait()
                await op(play)

            async with asyncio.TaskGroup() as group:
                for op in ops:
                    group.create_task(waiter(op))
                await asyncio.sleep(after)
                play.saw(f"{name} opens")
                opened.set()

        return run

    def _cancelled_task(self, name: str, ops: list[Op]) -> Op:
        after = self.span()

        async def run(play: Play) -> None:
            tasks = [asyncio.ensure_future(op(play)) for op in ops]
            await asyncio.sleep(after)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            play.saw(f"{name} {[None if end is None else _named(end) for end in ends]}")

        return run

    def _shield(self, name: str, ops: list[Op]) -> Op:
        limit = self.span()

        async def run(play: Play) -> None:
            kept = [asyncio.ensure_future(op(play)) for op in ops]
            for task in kept:
                try:
                    await asyncio.wait_for(asyncio.shield(task), limit)
                except TimeoutError:
                    play.saw(f"{name} waits no longer")
                    task.add_done_callback(lambda task: _look_at([task]))

        return run

    def _tidy(self, name: str, ops: list[Op]) -> Op:
        takes = self.span(1.0)

        async def run(play: Play) -> None:
            try:
                for op in ops:
                    await op(play)
            finally:
                play.saw(f"{name} tidies")
                await _noted(play, f"{name}-tidy", lambda: play.act(f"{name}-tidy", takes))

        return run

    def _caught(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            for op in ops:
                try:
                    await op(play)
                except Exception as error:
                    if _is_fatal(error):
                        raise
                    play.saw(f"{name} caught {_named(error)}")

        return run

    def _generator(self, name: str, ops: list[Op]) -> Op:
        wanted, takes = self.rng.randint(1, len(ops)), self.span(1.0)

        async def run(play: Play) -> None:
            async def each() -> AsyncIterator[int]:
                try:
                    for number, op in enumerate(ops, start=1):
                        await op(play)
                        yield number
                finally:
                    await _noted(play, f"{name}-close", lambda: play.act(f"{name}-close", takes))

            async for number in each():
                if number == wanted:
                    break
            play.saw(f"{name} broke off")

        return run

    # anyio

    def _anyio_group(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            async with anyio.create_task_group() as group:
                for op in ops[1:]:
                    group.start_soon(op, play)
                await ops[0](play)
            play.saw(name)

        return run

    def _anyio_race(self, name: str, ops: list[Op]) -> Op:
        async def run(play: Play) -> None:
            async def racer(number: int, op: Op) -> None:
                await op(play)
                play.saw(f"{name} {number} wins")
                group.cancel_scope.cancel()

            async with anyio.create_task_group() as group:
                for number, op in enumerate(ops):
                    group.start_soon(racer, number, op)

        return run

    def _move_on_after(self, name: str, ops: list[Op]) -> Op:
        limit = self.span(6.0)

        async def run(play: Play) -> None:
            with anyio.move_on_after(limit) as scope:
                async with anyio.create_task_group() as group:
                    for op in ops:
                        group.start_soon(op, play)
            play.saw(f"{name} {scope.cancelled_caught}")

        return run

    def _fail_after(self, name: str, ops: list[Op]) -> Op:
        limit = self.span(6.0)

        async def run(play: Play) -> None:
            try:
                with anyio.fail_after(limit):
                    for op in ops:
                        await op(play)
            except TimeoutError:
                play.saw(f"{name} failed after")

        return run

    def _anyio_shield(self, name: str, ops: list[Op]) -> Op:
        limit = self.span(2.0)

        async def shielded(play: Play, op: Op) -> None:
            with anyio.CancelScope(shield=True):
                await op(play)
                play.saw(f"{name} shielded")
            await anyio.sleep(limit)
            play.saw(f"{name} open again")

        async def run(play: Play) -> None:
            with anyio.move_on_after(limit):
                async with anyio.create_task_group() as group:
                    for op in ops:
                        group.start_soon(shielded, play, op)
            play.saw(name)

        return run

    def _stream(self, name: str, ops: list[Op]) -> Op:
        size, workers = self.rng.randint(0, 2), self.rng.randint(1, 3)

        async def run(play: Play) -> None:
            send, receive = anyio.create_memory_object_stream[Op](size)

            async def worker(number: int, mine: MemoryObjectReceiveStream[Op]) -> None:
                async with mine:
                    async for op in mine:
                        play.saw(f"{name} worker {number}")
                        await op(play)

            async with send, receive, anyio.create_task_group() as group:
                for number in range(workers):
                    group.start_soon(worker, number, receive.clone())
                for op in ops:
                    await send.send(op)
                send.close()

        return run


def _look_at(tasks: Iterable[asyncio.Task[None]]) -> None:
    """So that asyncio does not complain about exceptions that nobody looked at."""
    for task in tasks:
        if not task.cancelled():
            task.exception()
