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
import logging
import sys
import threading
import zlib
from asyncio import events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import CodeType, MethodType
from typing import Any, NoReturn, TypeVar

from rotor_actors.errors import EffectOutsideStepError
from rotor_actors.loop_handles import Handle, RunTimers
from rotor_actors.loop_tasks import Asker, Guard, RunFuture, RunTask, StepFuture

T = TypeVar("T")

# Called a few times for each turn of each run.
_get_running_loop, _set_running_loop = events._get_running_loop, events._set_running_loop
_get_asyncgen_hooks, _set_asyncgen_hooks = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks

_logger = logging.getLogger("rotor_actors")

# How many callbacks run between two looks at the clock: a look costs about as much as a callback.
_CALLBACKS_PER_LOOK = 64

# So often may one task give way in one turn, before it is taken to wait for something that a message brings.
_MOST_YIELDS = 1_000

# How often anyio's cancellation retries are run in one turn.
_MOST_ROUNDS = 100
# Tasks that are done are forgotten in bulk: a callback on each task would cost more than the task's own bookkeeping.
_FIRST_PRUNING = 32
# Spreads the first numbers of loops over all of a hash, its low bits included.
_SCATTER = 0x1000_0001


class RunLoop(asyncio.AbstractEventLoop):
    """An event loop for one attempt of one run.

    Args:
        now: the loop's time at the start, in seconds since the epoch.
        name: of the run; its tasks are called so.
        where: its text names the run in messages.
        plain: code of coroutines that set no context variable. Their tasks share a context where they would see the
            same in contexts of their own: of a wide fan-out there would be one for each.
    """

    # What most loops never need is made when it is: a run has a loop of its own, and there may be a million runs.
    timers: RunTimers | None = None
    closed = False
    is_ending = False
    """The attempt that it belongs to is over: what still runs on it has no effect."""
    on_foreign: Callable[[], None] | None = None
    _foreign_calls: list[tuple[Callable[..., object], tuple[Any, ...]]] | None = None
    is_spinning = False
    """Some task gives way again and again: it may be waiting for what only a message will bring."""
    _yields: dict[object, int] | None = None
    _rounds = 0  # of retries in this turn; not of this call, for slices must not make a difference
    _prune_at = _FIRST_PRUNING
    _shared_context: contextvars.Context | None = None

    def __init__(
        self, now: float, name: str, host: asyncio.AbstractEventLoop | None = None, where: object = None,
        plain: frozenset[CodeType] = frozenset(),
    ) -> None:  # fmt: skip
        self.now = now
        self._name = name
        self._where = where or name
        self._host = host
        self._plain = plain
        self.mark = object()
        """What tells its futures from those of other loops."""
        self._thread = threading.get_ident()
        self._ready: deque[Handle] = deque()
        self._retries: list[Handle] = []
        self._tasks: list[RunTask] = []
        # Numbers start far apart from run to run, for asyncio keeps all tasks of the process in one set: equal hashes
        # there would make each insertion a walk through all of them. From the run, so the same on replay.
        self.created = zlib.crc32(name.encode("utf-8", "surrogatepass")) * _SCATTER

    # Driving it

    def set_time(self, now: float) -> None:
        """Move the loop's clock to the time of the message at hand; it never goes back. A new turn begins."""
        self._rounds = 0
        if self._yields is not None:
            self.spin_on()
        if now > self.now:
            self.now = now

    def spin_on(self) -> None:
        """Let tasks that give way again and again do so for another while."""
        self._yields, self.is_spinning = None, False

    def yielded(self, task: object) -> None:
        """A task gave way to the others, and waits for nothing."""
        if self._yields is None:
            self._yields = {}
        self._yields[task] = times = self._yields.get(task, 0) + 1
        if times > _MOST_YIELDS:
            self.is_spinning = True

    def run(self, is_over: Callable[[], bool] | None = None) -> bool:
        """Run until at rest and return True; return False, to be called again, once `is_over()` says so, or once a task
        is found spinning.

        At rest means that nothing is ready, or nothing but anyio's cancellation retries, which re-schedule themselves
        for as long as a shielded task lives and would otherwise spin. Where something comes of them each time (a wait
        that catches each cancellation and waits on) they are left alone after some rounds, until the next message: it
        may be what ends the shielded task.
        """
        # As a tuple: the collector does not look into what sys gives, and an exception's frames may keep this one.
        previous, hooks = _get_running_loop(), tuple(_get_asyncgen_hooks())
        _set_running_loop(self)
        _set_asyncgen_hooks(None, self._close_generator)
        try:
            while not self._ready or self._work_off(self._ready, is_over):
                if not self._retries or self._rounds >= _MOST_ROUNDS:
                    return True
                self._rounds += 1
                retries, self._retries = self._retries, []
                self._work_off(deque(retries), None)
                if not self._ready:
                    return True  # nothing came of the retries but new retries
            return False
        finally:
            _set_asyncgen_hooks(*hooks)
            _set_running_loop(previous)

    def _work_off(self, handles: deque[Handle], is_over: Callable[[], bool] | None) -> bool:
        """Run what is ready, and what becomes ready by that; False when the slice is used up before all of it is."""
        until_look = _CALLBACKS_PER_LOOK
        while handles:
            handle = handles.popleft()
            if handle.callback is None:
                continue
            try:
                handle.context.run(handle.callback, *handle.args)
            except SystemExit:
                pass  # the task that raised it carries it as its result; it must not end the host's loop
            except Exception as error:
                self.call_exception_handler({"message": f"callback {handle.callback!r} raised", "exception": error})
            until_look -= 1
            if not until_look:
                until_look = _CALLBACKS_PER_LOOK
                if is_over is not None and handles and (self.is_spinning or is_over()):
                    return False
        return True

    def next_due(self) -> float | None:
        """When a timer is due next."""
        return None if self.timers is None else self.timers.next_due()

    def pop_due(self, now: float) -> int | None:
        """The number of the timer that is due first."""
        return None if self.timers is None else self.timers.pop_due(now)

    @property
    def timers_set(self) -> int:
        """How many timers were set so far."""
        return 0 if self.timers is None else self.timers.count

    def fire(self, number: int) -> bool:
        """Make the timer of this number ready. False when it was cancelled or has fired."""
        timer = None if self.timers is None else self.timers.take(number)
        if timer is not None:
            self._ready.append(timer)
        return timer is not None

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
        tasks = self._tasks
        if len(tasks) == 1 and tasks[0].done():
            return []  # as at the end of most runs
        return [task for task in tasks if not task.done()]

    def let_go(self) -> None:
        """Hold nothing that holds this loop: what is over then goes at once, and is not left to the cyclic collector."""
        self._tasks = []
        self._ready.clear()
        self._retries = []
        self.timers = self._yields = self._shared_context = None

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now

    # asyncio asks this for each task and each future; `bool()`, which is False, is the cheapest way to answer.
    get_debug = staticmethod(bool)  # pyright: ignore[reportAssignmentType]

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
        self.let_go()

    def get_task_factory(self) -> None:
        return None

    def next_number(self) -> int:
        """A number for something of this loop that is put into sets."""
        self.created = number = self.created + 1
        return number

    def create_future(self) -> RunFuture:
        return RunFuture(loop=self)

    def step_future(self, asker: Asker, key: bytes) -> StepFuture:
        """A future for the outcome of a step."""
        future = StepFuture(loop=self)
        future.asker = asker
        future.key = key
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_: Any,
    ) -> RunTask:
        if context is None and getattr(coro, "cr_code", None) in self._plain:
            context = self.context_to_share()
        task = RunTask.__new__(RunTask)
        self.created = task.number = self.created + 1
        task.__init__(Guard(coro, self.mark), loop=self, name=name or self._name, context=context)  # type: ignore[misc]
        self._tasks.append(task)
        if len(self._tasks) >= self._prune_at:
            self._tasks = self.pending_tasks()
            self._prune_at = 2 * len(self._tasks) + _FIRST_PRUNING
        return task

    def context_to_share(self) -> contextvars.Context:
        """A copy of the current context; the same one as the last time, where nothing has been set since."""
        context, shared = contextvars.copy_context(), self._shared_context
        try:
            if shared is not None and context == shared:
                return shared
        except Exception:
            pass  # some value cannot say whether it equals another
        self._shared_context = context
        return context

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context())
        if type(callback) is MethodType and callback.__name__ == "_deliver_cancellation":
            self._retries.append(handle)
        else:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        if self.timers is None:
            self.timers = RunTimers()
        return self.timers.set(when, callback, args, context or contextvars.copy_context())

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
            raise self.refusal("call_soon_threadsafe")
        # A thread that the body started (anyio's worker threads come here) answers. Its result must not enter the
        # body, for on replay there would be another: hand in the named error in its place, on the host's thread.
        if self._foreign_calls is None:
            self._foreign_calls = []
        self._foreign_calls.append((callback, args))
        if self._host is not None and self.on_foreign is not None:
            self._host.call_soon_threadsafe(self.on_foreign)
        return None

    def refuse_foreign_calls(self) -> None:
        """Answer whoever waits for a thread with `EffectOutsideStepError`."""
        calls, self._foreign_calls = self._foreign_calls, None
        for _, args in calls or ():
            for arg in args:
                if isinstance(arg, asyncio.Future) and not arg.done():
                    arg.set_exception(self.refusal("a worker thread"))

    def refusal(self, what: str) -> EffectOutsideStepError:
        """The error for an effect that the body had by itself."""
        return EffectOutsideStepError(
            f"{self._where}: the workflow body used {what}, which replay could not repeat; put it in step.run"
        )

    async def shutdown_asyncgens(self) -> None: ...

    async def shutdown_default_executor(self, timeout: float | None = None) -> None: ...


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: RunLoop, *args: object, **kwargs: object) -> NoReturn:
        raise self.refusal(f"loop.{name}")

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
