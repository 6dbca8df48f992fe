"""One execution of a step's body, as the coroutine of a task of the host's loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn, Protocol


class Owner(Protocol):
    """Whose execution it is."""

    def execute(self) -> Coroutine[Any, Any, Any]:
        """The coroutine that does it; called within its task."""
        ...

    def suspended(self) -> None:
        """Its first part is over, and it goes on later."""
        ...

    def returned(self, execution: Execution, result: Any) -> None:
        """It has ended."""
        ...

    def raised(self, execution: Execution, error: BaseException) -> None:
        """It has ended, or never began."""
        ...


class Execution(Coroutine[Any, Any, None]):
    """One execution of a step's body, as the coroutine of its task.

    It learns of the end within the task's own last part: a done callback would take another pass of the host's loop.
    And it learns of a cancellation that comes before the first part, of which no coroutine's `finally` would.
    """

    __slots__ = ("_inner", "_owner")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._inner: Coroutine[Any, Any, Any] | None = None

    def send(self, value: Any) -> Any:
        try:
            inner = self._inner
            if inner is not None:
                return inner.send(value)
            inner = self._inner = self._owner.execute()
            yielded = inner.send(value)
            self._owner.suspended()
            return yielded
        except StopIteration as end:
            result = end.value
        except BaseException as error:
            return self._raised(error)
        self._owner.returned(self, result)
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        try:
            if self._inner is None:
                raise error[0]
            return self._inner.throw(*error)
        except StopIteration as end:
            result = end.value
        except BaseException as raised:
            return self._raised(raised)
        self._owner.returned(self, result)
        raise StopIteration

    def _raised(self, error: BaseException) -> NoReturn:
        self._owner.raised(self, error)
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            raise error
        raise StopIteration

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError  # it is driven by its task

    # For whoever asks where it stands: see `supervisors.await_chain`.

    @property
    def cr_frame(self) -> Any:
        return getattr(self._inner, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self._inner, "cr_await", None)


def is_async(fn: Callable[..., Any]) -> bool:
    """Does calling it give a coroutine? The common case is a look at a flag; the rest is left to inspect."""
    if gives_coroutine(fn) or inspect.iscoroutinefunction(fn):
        return True
    return inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - an object with an async __call__


def gives_coroutine(fn: Callable[..., Any]) -> bool:
    """Calling it gives a coroutine, and nothing else happens by that."""
    code = getattr(fn, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)
