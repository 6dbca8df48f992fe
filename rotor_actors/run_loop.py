"""The deterministic event loop that a workflow's body runs on.

It has a ready queue, futures, tasks and timers, and no I/O. Its actor drives it: set the time to that of the message
at hand, resolve what the message answers, and run until the loop is at rest. Given the same messages in the same order
it does the same things in the same order, which is what makes replay possible.

Where asyncio and anyio iterate sets of objects hashed by address, the order would differ from process to process.
Three things give them an order here, and none of them changes anything outside this loop: tasks and futures of this
loop hash by their number; `asyncio.as_completed` makes its tasks in the caller's order; anyio's cancel scopes get
ordered sets (the latter two in `set_order`).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import threading
import types
import zlib
from asyncio import events
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, NoReturn, Protocol, TypeVar, cast

from rotor_actors.alarms import Alarms
from rotor_actors.errors import EffectOutsideStepError

T = TypeVar("T")

_logger = logging.getLogger("rotor_actors")

# How many callbacks run between two looks at the clock: a look costs about as much as a callback.
_CALLBACKS_PER_LOOK = 64

# How often anyio's cancellation retries are run in one turn.
_MOST_ROUNDS = 100
# Tasks that are done are forgotten in bulk: a callback on each task would cost more than the task's own bookkeeping.
_FIRST_PRUNING = 32


class RunTask(asyncio.Task[Any]):
    """A task that hashes by its number in its loop, so that sets of tasks iterate in order of creation."""

    __slots__ = ("inner", "number")

    def __init__(self, coro: Coroutine[Any, Any, Any], loop: RunLoop, number: int, **options: Any) -> None:
        self.number = number  # first: asyncio puts the task into a set at once
        self.inner = coro
        super().__init__(_Guard(coro, loop), loop=loop, **options)

    def __hash__(self) -> int:
        return self.number

    def cancel(self, msg: Any | None = None) -> bool:
        # Before its first step only the guard gets the cancellation: the coroutine in it would be "never awaited".
        if (
            isinstance(self.inner, types.CoroutineType)
            and inspect.getcoroutinestate(self.inner) == inspect.CORO_CREATED
        ):
            self.add_done_callback(_close_inner)
        return super().cancel(msg)

    def get_coro(self) -> Any:
        """The coroutine that was given, not the guard around it."""
        return self.inner

    def look_away(self) -> None:
        """Its attempt is over: what it raises from here on is of no interest, and asyncio shall not complain."""
        self.add_done_callback(_retrieve)

    def drop(self) -> None:
        """It refuses to end and is waited for no longer, on purpose: asyncio shall not complain."""
        self._log_destroy_pending = False


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _close_inner(task: asyncio.Task[Any]) -> None:
    cast(RunTask, task).inner.close()


class RunFuture(asyncio.Future[Any]):
    """A future that hashes by its number in its loop."""

    __slots__ = ("number",)

    def __init__(self, loop: RunLoop, number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class Asker(Protocol):
    """Who asked for a step, and is told when it is no longer waited for."""

    def withdraw(self, key: bytes) -> None: ...


class StepFuture(RunFuture):
    """The outcome of a step. When the scope that awaits it is cancelled, its asker is told."""

    __slots__ = ("_asker", "_key")

    def __init__(self, loop: RunLoop, number: int, asker: Asker, key: bytes) -> None:
        super().__init__(loop, number)
        self._asker = asker
        self._key = key

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self._asker.withdraw(self._key)
        return super().cancel(msg)


class _Handle:
    """A callback to be run. `asyncio.Handle` does the same with twice the work."""

    __slots__ = ("_args", "_callback", "_context")

    def __init__(self, callback: Callable[..., object], args: Any, context: contextvars.Context) -> None:
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._context = context

    def run(self, loop: RunLoop) -> None:
        if self._callback is None:
            return
        try:
            self._context.run(self._callback, *self._args)
        except SystemExit:
            pass  # the task that raised it carries it as its result; it must not end the host's loop
        except Exception as error:
            loop.call_exception_handler({"message": f"callback {self._callback!r} raised", "exception": error})

    def cancel(self) -> None:
        self._callback = None
        self._args = ()

    def cancelled(self) -> bool:
        return self._callback is None


class RunTimer(_Handle):
    """A timer, known by its number: the count of timers that this loop had set before it."""

    __slots__ = ("_loop", "_when", "number")

    def __init__(
        self,
        number: int,
        when: float,
        callback: Callable[..., object],
        args: Any,
        loop: RunLoop,
        context: contextvars.Context,
    ) -> None:
        super().__init__(callback, args, context)
        self.number = number
        self._when = when
        self._loop = loop

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        if self._callback is not None:
            super().cancel()
            self._loop.timers.discard(self.number)
            self._loop.armed.pop(self.number, None)


class RunLoop(asyncio.AbstractEventLoop):
    """An event loop for one attempt of one run.

    Args:
        now: the loop's time at the start, in seconds since the epoch.
        where: names the run, for messages.
    """

    def __init__(self, now: float, where: str, host: asyncio.AbstractEventLoop | None = None) -> None:
        self._now = now
        self._where = where
        self._host = host
        self._thread = threading.get_ident()
        self._ready: list[_Handle] = []
        self._retries: list[_Handle] = []
        self._rounds = 0  # of retries in this turn; not of this call, for slices must not make a difference
        # Numbers start high and far apart from run to run, for asyncio keeps all tasks of the process in one set: equal
        # hashes there would make each insertion a walk through all of them. From the run, so the same on replay.
        self._created = zlib.crc32(where.encode("utf-8", "surrogatepass")) << 24
        self._tasks: list[RunTask] = []
        self._prune_at = _FIRST_PRUNING
        self.timers: Alarms[int] = Alarms()
        self.armed: dict[int, RunTimer] = {}
        self.timers_set = 0
        self.closed = False
        self.is_ending = False
        self.on_foreign: Callable[[], None] | None = None
        self.foreign_calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    # Driving it

    def set_time(self, now: float) -> None:
        """Move the loop's clock to the time of the message at hand; it never goes back. A new turn begins."""
        self._rounds = 0
        if now > self._now:
            self._now = now

    def run(self, is_over: Callable[[], bool] | None = None) -> bool:
        """Run until at rest and return True; return False, to be called again, once `is_over()` says so.

        At rest means that nothing is ready, or nothing but anyio's cancellation retries, which re-schedule themselves
        for as long as a shielded task lives and would otherwise spin. Where something comes of them each time (a wait
        that catches each cancellation and waits on) they are left alone after some rounds, until the next message: it
        may be what ends the shielded task.
        """
        previous, hooks = events._get_running_loop(), sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._close_generator)
        until_look = _CALLBACKS_PER_LOOK
        try:
            while True:
                while self._ready:
                    until_look -= len(self._ready)
                    if not self._run_batch(is_over):
                        return False
                    if until_look <= 0:  # many small batches: one task that never rests is one handle in each
                        until_look = _CALLBACKS_PER_LOOK
                        if is_over is not None and self._ready and is_over():
                            return False
                if not self._retries or self._rounds >= _MOST_ROUNDS:
                    return True
                self._rounds += 1
                self._ready, self._retries = self._retries, []
                self._run_batch(None)
                if not self._ready:
                    return True  # nothing came of the retries but new retries
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(previous)

    def _run_batch(self, is_over: Callable[[], bool] | None) -> bool:
        batch, self._ready = self._ready, []
        for position, handle in enumerate(batch, start=1):
            handle.run(self)
            if is_over is not None and position % _CALLBACKS_PER_LOOK == 0 and is_over():
                self._ready = batch[position:] + self._ready
                return not self._ready
        return True

    def fire(self, number: int) -> bool:
        """Make the timer of this number ready. False when it was cancelled or has fired."""
        timer = self.armed.pop(number, None)
        if timer is None:
            return False
        self.timers.discard(number)
        self._ready.append(timer)
        return True

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator was left early: its `finally` belongs to the body, and runs here, not on the host's loop.

        One that only the cyclic collector found is dropped: when it comes round is nothing that replay could repeat.
        """
        if events._get_running_loop() is self:
            task = self.create_task(generator.aclose())
            if self.is_ending:
                task.look_away()

    def pending_tasks(self) -> list[RunTask]:
        """The tasks that are not done, in order of creation."""
        return [task for task in self._tasks if not task.done()]

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_task_factory(self) -> None:
        return None

    def next_number(self) -> int:
        """A number for something of this loop that is put into sets."""
        self._created = number = self._created + 1
        return number

    def create_future(self) -> RunFuture:
        self._created = number = self._created + 1
        return RunFuture(self, number)

    def step_future(self, asker: Asker, key: bytes) -> StepFuture:
        """A future for the outcome of a step."""
        self._created = number = self._created + 1
        return StepFuture(self, number, asker, key)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_: Any,
    ) -> RunTask:
        self._created = number = self._created + 1
        task = RunTask(coro, self, number, name=name or self._where, context=context)
        self._tasks.append(task)
        if len(self._tasks) >= self._prune_at:
            self._tasks = self.pending_tasks()
            self._prune_at = 2 * len(self._tasks) + _FIRST_PRUNING
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = _Handle(callback, args, context if context is not None else contextvars.copy_context())
        if type(callback) is types.MethodType and callback.__name__ == "_deliver_cancellation":
            self._retries.append(handle)
        else:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        number = self.timers_set
        self.timers_set += 1
        timer = RunTimer(number, when, callback, args, self, context or contextvars.copy_context())
        self.armed[number] = timer
        self.timers.add(number, when)
        return timer

    def _timer_handle_cancelled(self, handle: Any) -> None: ...

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        _logger.error("%s: %s", self._where, context.get("message"), exc_info=context.get("exception"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        return None

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        if threading.get_ident() == self._thread:
            raise self._refuse("call_soon_threadsafe")
        # A thread that the body started (anyio's worker threads come here) answers. Its result must not enter the
        # body, for on replay there would be another: hand in the named error in its place, on the host's thread.
        self.foreign_calls.append((callback, args))
        if self._host is not None and self.on_foreign is not None:
            self._host.call_soon_threadsafe(self.on_foreign)
        return None

    def refuse_foreign_calls(self) -> None:
        """Answer whoever waits for a thread with `EffectOutsideStepError`."""
        calls, self.foreign_calls = self.foreign_calls, []
        for _, args in calls:
            for arg in args:
                if isinstance(arg, asyncio.Future) and not arg.done():
                    arg.set_exception(self._refuse("a worker thread"))

    def _refuse(self, what: str) -> EffectOutsideStepError:
        return EffectOutsideStepError(
            f"{self._where}: the workflow body used {what}, which replay could not repeat; put it in step.run"
        )

    async def shutdown_asyncgens(self) -> None: ...

    async def shutdown_default_executor(self, timeout: float | None = None) -> None: ...


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: RunLoop, *args: object, **kwargs: object) -> NoReturn:
        raise self._refuse(f"loop.{name}")  # pyright: ignore[reportPrivateUsage]

    refuse.__name__ = name
    return refuse


# Everything else that a loop offers is I/O, threads or signals. Plain functions also where asyncio's are coroutines:
# the error is then raised at the call, not at an await that may never come.
for _name in (
    "run_in_executor", "set_default_executor", "getaddrinfo", "getnameinfo", "create_connection", "create_server",
    "start_tls", "sendfile", "create_unix_connection", "create_unix_server", "connect_accepted_socket",
    "create_datagram_endpoint", "connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec",
    "add_reader", "remove_reader", "add_writer", "remove_writer", "sock_recv", "sock_recv_into", "sock_recvfrom",
    "sock_recvfrom_into", "sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile",
    "add_signal_handler", "remove_signal_handler", "run_forever", "run_until_complete", "stop", "set_debug",
    "set_exception_handler", "set_task_factory",
):  # fmt: skip
    setattr(RunLoop, _name, _refused(_name))


class _Guard(Coroutine[Any, Any, Any]):
    """Drives a coroutine, and answers a future of another loop with the named error, not asyncio's RuntimeError.

    One small object for each task, and no frame of its own: there may be a million tasks.
    """

    __slots__ = ("_coro", "_loop")

    def __init__(self, coro: Coroutine[Any, Any, Any], loop: RunLoop) -> None:
        self._coro = coro
        self._loop = loop

    def send(self, value: Any) -> Any:
        yielded = self._coro.send(value)
        if yielded is None or yielded.get_loop() is self._loop:
            return yielded
        return self._refuse(yielded)

    def throw(self, *error: Any) -> Any:
        yielded = self._coro.throw(*error)
        if yielded is None or yielded.get_loop() is self._loop:
            return yielded
        return self._refuse(yielded)

    def close(self) -> None:
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def _refuse(self, future: Any) -> Any:
        # Nobody may be left believing that this future blocks a task of its own loop.
        future._asyncio_future_blocking = False
        return self.throw(_foreign_future(self._loop, future))


def _foreign_future(loop: RunLoop, future: object) -> EffectOutsideStepError:
    return loop._refuse(f"a future of another event loop ({future!r})")  # pyright: ignore[reportPrivateUsage]
