"""An event loop with virtual time and no I/O: the same seed is the same universe.

Callbacks run first in, first out (see `policies`); when none is ready, time jumps to the next timer. Tasks and futures
hash by their number, so that sets of them iterate alike in every process. Each callback costs a little virtual time:
anyio's cancellation re-schedules itself on each turn, and a clock that moves only when idle would never reach the
timer that ends it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, Protocol, TypeVar, cast

from rotor_actors.simulation.errors import DeadlockError, LivelockError, RealWorldError
from rotor_actors.simulation.policies import Policy, Sound
from rotor_actors.simulation.tape import Tapes

T = TypeVar("T")

STEP_SECONDS = 20e-6
MOST_STEPS = 5_000_000
BUSY_SECONDS = 0.5
SLOWEST_CALL = 0.01
_COMPACT_ABOVE = 100
_real_time = time.perf_counter


class Life(Protocol):
    """What a simulated process is to the loop."""

    is_dead: bool


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
"""The simulated process that a callback belongs to: once it is dead, nothing of it is run any more."""


class SimulationTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    __slots__ = ("life", "number")

    def __init__(self, coro: Any, loop: SimulationLoop, number: int, life: Life | None, **options: Any) -> None:
        self.number = number  # first: asyncio puts the task into a set at once
        self.life = life
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self.number


class SimulationFuture(asyncio.Future[Any]):
    """A future that hashes by its number."""

    __slots__ = ("number",)

    def __init__(self, loop: SimulationLoop, number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimulationLoop(asyncio.BaseEventLoop):
    """Runs everything of one universe, in one thread.

    Args:
        tapes: the universe's chance; "latency" and "ties" are drawn from here.
        policy: who goes next.
        most_steps: after so many callbacks the universe is taken to be in a livelock.

    Attributes:
        steps: how many callbacks were run.
        busy: callbacks that kept the loop for long, with their real seconds.
        unhandled: contexts of exceptions that nobody handled.
        abort: raised by the loop once it is set.
        before_step: called before each callback.
    """

    def __init__(self, tapes: Tapes, *, policy: Policy | None = None, most_steps: int = MOST_STEPS) -> None:
        super().__init__()
        self._latency = tapes.tape("latency")
        self._ties = tapes.tape("ties")
        self._policy = policy or Sound()
        self._takes_first = isinstance(self._policy, Sound)
        self._now = 1_000.0
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_cancelled = 0
        self._order = itertools.count()
        self._created = 0
        self._most_steps = most_steps
        self.steps = 0
        self.tasks: dict[int, SimulationTask] = {}
        self._prune_at = 256
        self._stopped: dict[Life, list[asyncio.Handle]] = {}
        self.busy: list[tuple[str, float]] = []
        self.unhandled: list[dict[str, Any]] = []
        self.abort: BaseException | None = None
        self.before_step: Callable[[], None] | None = None
        self.who_waits: Callable[[], str] = lambda: ""
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    # Time

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        self._drop_cancelled()
        if self._timers and (not self._queue or self._timers[0][0] <= self._now):
            self._ring()
        if not self._queue:
            raise DeadlockError("nothing can happen any more, and the test has not ended" + self.who_waits())
        handle = self._queue.popleft() if self._takes_first else self._policy.take(self._queue)
        if handle._cancelled:  # pyright: ignore
            return
        if self._stopped and self._is_put_aside(handle):
            return
        self._now += STEP_SECONDS
        self.steps += 1
        if self.steps > self._most_steps:
            raise LivelockError(f"{self.steps} callbacks were run, the last of them {_who(handle)}{self.who_waits()}")
        if self.before_step is not None:
            self.before_step()
        began = _real_time()
        handle._run()
        took = _real_time() - began
        if took > BUSY_SECONDS:
            self.busy.append((_who(handle), took))
        if self.abort is not None:
            raise self.abort

    def _is_put_aside(self, handle: asyncio.Handle) -> bool:
        life = _context(handle).get(LIFE)
        aside = None if life is None else self._stopped.get(life)
        if aside is None:
            return False
        aside.append(handle)
        return True

    def stop_life(self, life: Life) -> None:
        """Run nothing of a process until it is told to go on: it stands still, and time passes."""
        self._stopped.setdefault(life, [])

    def resume_life(self, life: Life) -> None:
        """What became ready or due meanwhile is run now, in that order."""
        self._queue.extend(self._stopped.pop(life, ()))

    def _ring(self) -> None:
        """Make ready what is due, or due next; those due at the same moment in any order."""
        when = self._timers[0][0]
        self._now = max(self._now, when)
        together: list[asyncio.TimerHandle] = []
        while self._timers and self._timers[0][0] == when:
            together.append(heapq.heappop(self._timers)[2])
            self._drop_cancelled()
        while together:
            handle = together.pop(self._ties.choose(len(together)) if len(together) > 1 else 0)
            handle._scheduled = False  # type: ignore[attr-defined]  # pyright: ignore
            self._queue.append(handle)

    def _drop_cancelled(self) -> None:
        """So that the first timer is one that will ring: else one far off would be taken for what is due now, and time
        would run on over what is ready."""
        while self._timers and self._timers[0][2]._cancelled:  # pyright: ignore
            heapq.heappop(self._timers)
            self._timers_cancelled -= 1

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers_cancelled += 1
        if self._timers_cancelled > _COMPACT_ABOVE and 2 * self._timers_cancelled > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]  # pyright: ignore
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    # Callbacks, tasks, futures

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = events.Handle(callback, args, self, context)
        life = context.get(LIFE)
        if life is None or not life.is_dead:
            self._queue.append(handle)
        return handle

    def call_first(self, callback: Callable[..., object], *args: Any) -> None:
        """Run it before all that is ready, as part of no process."""
        self._queue.appendleft(events.Handle(callback, args, self, contextvars.Context()))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        if context is None:
            context = contextvars.copy_context()
        timer = events.TimerHandle(when, callback, args, self, context)
        life = context.get(LIFE)
        if life is None or not life.is_dead:
            timer._scheduled = True  # type: ignore[attr-defined]  # pyright: ignore
            heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def next_number(self) -> int:
        """A number for something of this loop that is put into sets."""
        self._created = number = self._created + 1
        return number

    def create_future(self) -> SimulationFuture:
        return SimulationFuture(self, self.next_number())

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_: Any,
    ) -> SimulationTask:
        if context is None:
            context = contextvars.copy_context()
        number, life = self.next_number(), context.get(LIFE)
        if life is not None and life.is_dead:
            coro.close()  # it will never be started, and nobody shall complain that it was not
        task = SimulationTask(coro, self, number, life, name=name or f"Task-{number}", context=context)
        if life is not None and life.is_dead:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            return task
        self.tasks[number] = task
        if len(self.tasks) >= self._prune_at:
            self.tasks = {number: task for number, task in self.tasks.items() if not task.done()}
            self._prune_at = 2 * len(self.tasks) + 256
        return task

    def pending_tasks(self) -> list[SimulationTask]:
        """The tasks that are not done, in order of creation."""
        return [task for task in self.tasks.values() if not task.done()]

    def forget(self, life: Life) -> None:
        """Drop all that is ready or due of a process that has died."""
        self._stopped.pop(life, None)
        self._queue = deque(handle for handle in self._queue if _context(handle).get(LIFE) is not life)
        self._timers = [entry for entry in self._timers if _context(entry[2]).get(LIFE) is not life]
        heapq.heapify(self._timers)
        self._timers_cancelled = 0

    # Executors

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Make the call inline, after a while: a universe has one thread."""
        future: asyncio.Future[T] = self.create_future()
        self.call_later(self._delay(), self._call, future, func, args)
        return future

    def _delay(self) -> float:
        return self._latency.between(0.0, SLOWEST_CALL)

    def _call(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.done():
            return  # cancelled before a thread was free
        result: object = None
        error: BaseException | None = None
        try:
            result = func(*args)
        except StopIteration as raised:
            error = RuntimeError(f"the call raised StopIteration({raised})")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as raised:
            error = raised
        self.call_later(self._delay(), _answer, future, result, error)

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        life = LIFE.get()
        if life is None or not life.is_dead:
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]  # pyright: ignore
            return
        closing = agen.aclose()  # nothing of a dead process is run: what it can do without awaiting is done here
        try:
            closing.send(None)
        except BaseException:
            pass
        closing.close()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None: ...

    def _write_to_self(self) -> None: ...

    def _process_events(self, event_list: object) -> None: ...


def _answer(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _who(handle: asyncio.Handle) -> str:
    callback = cast(object, handle._callback)  # type: ignore[attr-defined]  # pyright: ignore
    task: object = getattr(callback, "__self__", None)
    if isinstance(task, SimulationTask):
        coro = cast(object, task.get_coro())
        return f"{getattr(coro, '__qualname__', coro)} (task {task.get_name()})"
    return repr(callback)


def _context(handle: asyncio.Handle) -> contextvars.Context:
    return cast(contextvars.Context, handle._context)  # type: ignore[attr-defined]  # pyright: ignore


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: SimulationLoop, *args: object, **kwargs: object) -> NoReturn:
        raise RealWorldError(
            f"loop.{name} was called inside a simulation, which has no network, processes or signals: replace the "
            f"function that needs it with sim.stub(function, returns=…)"
        )

    refuse.__name__ = name
    return refuse


# Plain functions also where asyncio's are coroutines: the error is then raised at the call.
for _name in (
    "getaddrinfo", "getnameinfo", "create_connection", "create_server", "start_tls", "sendfile",
    "create_unix_connection", "create_unix_server", "connect_accepted_socket", "create_datagram_endpoint",
    "connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec", "add_reader", "remove_reader",
    "add_writer", "remove_writer", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into",
    "sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile", "add_signal_handler",
    "remove_signal_handler",
):  # fmt: skip
    setattr(SimulationLoop, _name, _refused(_name))
