"""Where a task stands: the line of each coroutine between its first and the one that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

__all__ = ["await_chain"]

_DEEPEST: Final = 100  # a report, not a dump: a chain deeper than that is a recursion

# the three kinds of frame that can wait for another: coroutines, generators and asynchronous generators
_LINKS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def await_chain(task: asyncio.Task[Any]) -> tuple[str, ...]:
    """Follow `cr_await` from the task's coroutine inwards; one "function (file:line)" each, outermost first.

    Empty for a task that has ended.
    """
    return tuple(_lines(task.get_coro()))


def _lines(awaited: object) -> Iterator[str]:
    for _ in range(_DEEPEST):
        link = next((names for names in _LINKS if hasattr(awaited, names[0])), None)
        frame: Any = getattr(awaited, link[0]) if link is not None else None
        if link is None or frame is None:
            return
        yield _line(frame.f_code, frame.f_lineno)
        awaited = getattr(awaited, link[1])


def _line(code: CodeType, line: int) -> str:
    return f"{code.co_qualname} ({code.co_filename}:{line})"
