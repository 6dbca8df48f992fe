"""The clock port: what time it is, and being called when a time has come. The engine never reads a clock by itself."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from rotor_actors.durations import Duration, seconds

# A wall clock may be set while we wait: look again at least this often, so that a timer is late by no more.
_RECHECK_SECONDS = 30.0
_REAL_LOOK_SECONDS = 0.005

T = TypeVar("T")


class Cancellable(Protocol):
    """What `Clock.call_at` gives back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Where the runtime gets its time from.

    `now` is wall time, in seconds since the epoch: what is recorded and what durable deadlines are measured in.
    `monotonic` never goes back and has no meaning of its own: time slices are measured in it.
    """

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        """Call `callback` on the running loop, not before `now() >= when`."""
        ...


class SystemClock:
    """The machine's clock. A jump of the wall clock delays a timer by at most half a minute and loses none."""

    is_of_this_machine = True
    """Another machine's may show another time: where several share a store, the database's counts."""

    # Several looks for each child of a fan-out: not by way of a function of ours.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.perf_counter)

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        return _SystemTimer(when, callback)


class _SystemTimer:
    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self._when = when
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._arm()

    def _arm(self) -> None:
        delay = min(max(self._when - time.time(), 0.0), _RECHECK_SECONDS)
        self._handle = self._loop.call_later(delay, self._due)

    def _due(self) -> None:
        if time.time() >= self._when:
            self._callback()
        else:
            self._arm()

    def cancel(self) -> None:
        self._handle.cancel()


class ManualClock:
    """A clock that stands still until it is told to move: for tests that want time, and nothing else, simulated.

    Give it to a runtime, and durable sleeps, timeouts and retries pass as `advance` moves it; what steps do takes the
    time it takes. To test crashes, too, and with virtual time everywhere, see `rotor_actors.simulation`.

    Args:
        start: the first reading, in seconds since the epoch.

    Example:
        >>> from rotor_actors import Context, Runtime, workflow
        >>> @workflow(id="reminder")
        ... async def reminder(ctx: Context) -> str:
        ...     await ctx.step.sleep("wait", "7d")
        ...     return "a week has passed"
        >>> async def main() -> str:
        ...     clock = ManualClock()
        ...     async with Runtime(":memory:", clock=clock) as runtime:
        ...         handle = await runtime.start(reminder)
        ...         await clock.advance("6d")
        ...         assert await handle.status() == "running"
        ...         return await clock.until(handle.result())
        >>> asyncio.run(main())
        'a week has passed'
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._due: list[tuple[float, int, _ManualTimer]] = []
        self._settlers: list[Callable[[], Awaitable[bool]]] = []
        self._are_idle: dict[Callable[[], Awaitable[bool]], Callable[[], bool]] = {}

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        timer = _ManualTimer(callback)
        heapq.heappush(self._due, (when, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """When the next timer is due; None when there is none."""
        while self._due and self._due[0][2].callback is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def attach(self, settle: Callable[[], Awaitable[bool]], is_idle: Callable[[], bool] | None = None) -> None:
        """Have `settle` awaited before and after each step in time. A runtime attaches itself.

        It says whether something is still under way that takes real time. `is_idle`: whether nothing moves; runtimes
        that share a store set each other off, so all are awaited again until none moves.
        """
        self._settlers.append(settle)
        if is_idle is not None:
            self._are_idle[settle] = is_idle

    def detach(self, settle: Callable[[], Awaitable[bool]]) -> None:
        self._settlers.remove(settle)
        self._are_idle.pop(settle, None)

    async def advance(self, duration: Duration) -> None:
        """Move on by `duration`, stopping at each timer on the way, and let all that this sets off come to rest."""
        end = self._now + seconds(duration, name="duration")
        await self._settle()
        while self._due and self._due[0][0] <= end:
            when, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback()
                await self._settle()
        self._now = end
        await self._settle()

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Wait for something, and move time from timer to timer for as long as that takes.

        While the bodies of steps are executed time stands still, for they take real time: a step that never ends is
        waited for without end. To see its timeout pass, use `advance`.

        Cancelling it cancels what it waits for.
        """
        waiting = asyncio.ensure_future(awaitable)
        try:
            while not waiting.done():
                is_busy = await self._settle()
                due = None if is_busy or waiting.done() else self.next_due()
                if due is None:
                    await asyncio.wait((waiting,), timeout=_REAL_LOOK_SECONDS)
                else:
                    await self.advance(max(0.0, due - self._now))
            return await waiting
        finally:
            waiting.cancel()

    async def _settle(self) -> bool:
        """Whether anything is still under way that takes real time."""
        while True:
            is_busy = any([await settle() for settle in tuple(self._settlers)])
            if len(self._settlers) < 2 or all(is_idle() for is_idle in tuple(self._are_idle.values())):
                return is_busy


class _ManualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
