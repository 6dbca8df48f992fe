"""Tasks and futures of a run loop: they hash by number, and a task refuses to wait for what is not its loop's."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import types
from abc import ABCMeta
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, cast

import msgspec

from rotor_actors.errors import EffectOutsideStepError

# What is called back by these sets no context variable, so callbacks of theirs need no context each.
_PLAIN_CALLBACKS = frozenset({"asyncio.tasks", "asyncio.taskgroups"})


class NumberingLoop(Protocol):
    """What these ask of their loop."""

    created: int
    """The newest number it gave."""

    def refusal(self, what: str) -> EffectOutsideStepError: ...

    def yielded(self, task: object) -> None:
        """A task gave way to the others, as `asyncio.sleep(0)` does, and waits for nothing."""
        ...


class Asker(Protocol):
    """Who asked for a step, and is told when it is no longer waited for."""

    def withdraw(self, key: bytes) -> None: ...


class RunFuture(asyncio.Future[Any]):
    """A future that hashes by a number of its loop, given when it is first asked for.

    Sets of futures then iterate in the same order on each replay, not by address.
    """

    __slots__ = ("number",)

    number: int

    def __hash__(self) -> int:
        try:
            return self.number
        except AttributeError:
            loop: Any = self.get_loop()
            loop.created = self.number = loop.created + 1
            return self.number


class StepFuture(RunFuture):
    """The outcome of a step. When the scope that awaits it is cancelled, its asker is told."""

    __slots__ = ("asker", "key")

    asker: Asker
    key: bytes

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.asker.withdraw(self.key)
        return super().cancel(msg)


class RunTask(asyncio.Task[Any]):
    """A task that hashes by a number of its loop, given before it is made: asyncio puts it into a set at once."""

    __slots__ = ("number",)

    number: int

    def __hash__(self) -> int:
        return self.number

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None) -> None:
        if context is None and getattr(fn, "__module__", None) in _PLAIN_CALLBACKS:
            loop: Any = self.get_loop()
            context = loop.context_to_share()
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        # Before its first step only the guard gets the cancellation: the coroutine in it would be "never awaited".
        inner: Any = self.get_coro()
        if type(inner) is types.CoroutineType and inspect.getcoroutinestate(inner) == inspect.CORO_CREATED:  # pyright: ignore[reportUnknownArgumentType]
            self.add_done_callback(_close_inner)
        return super().cancel(msg)

    def get_coro(self) -> Any:
        """The coroutine that was given, not the guard around it."""
        guard: Any = super().get_coro()
        return guard.inner

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
    coro: Any = task.get_coro()
    coro.close()


class Guard(msgspec.Struct, eq=False, gc=False):
    """Drives a coroutine, and answers a future of another loop with the named error, not asyncio's RuntimeError.

    One small object for each task, and no frame of its own: there may be a million tasks. The cyclic collector does not
    see it, so it does not hold its loop, which holds its tasks, but the loop's mark. Its coroutine lets go of everything
    when it has ended.
    """

    inner: Coroutine[Any, Any, Any]
    mark: object

    def send(self, value: Any) -> Any:
        yielded = self.inner.send(value)
        if yielded is None:
            _running_loop().yielded(self)
            return None
        try:
            if yielded.get_loop().mark is self.mark:
                return yielded
        except AttributeError:
            pass  # no loop of ours
        return self._refuse(yielded)

    def throw(self, *error: Any) -> Any:
        yielded = self.inner.throw(*error)
        if yielded is None or getattr(yielded.get_loop(), "mark", None) is self.mark:
            return yielded
        return self._refuse(yielded)

    def close(self) -> None:
        self.inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.inner.__await__()

    def _refuse(self, future: Any) -> Any:
        # Nobody may be left believing that this future blocks a task of its own loop.
        future._asyncio_future_blocking = False
        return self.throw(_running_loop().refusal(f"a future of another event loop ({future!r})"))


def _running_loop() -> NumberingLoop:
    return cast("NumberingLoop", events._get_running_loop())


# asyncio takes nothing for a task but a coroutine, and a Struct, whose metaclass is its own, cannot inherit from that.
cast("ABCMeta", Coroutine).register(Guard)
