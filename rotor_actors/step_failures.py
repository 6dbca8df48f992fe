"""Which of the failures that a body was shown ended its attempt.

A step whose failure ended the attempt runs again in the next one, and the end of a child that ended the run can be
taken back. What the body caught stands, recorded like a result.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast


class StepFailures:
    """The exceptions that were raised in one body for steps and invokes, with their keys."""

    __slots__ = ("_invokes", "_steps")

    def __init__(self) -> None:
        self._steps: list[tuple[BaseException, bytes]] = []
        self._invokes: list[tuple[BaseException, bytes]] = []

    def note_step(self, error: BaseException, key: bytes) -> None:
        self._steps.append((error, key))

    def note_invoke(self, error: BaseException, key: bytes) -> None:
        self._invokes.append((error, key))

    def steps_that_ended(self, task: asyncio.Future[Any]) -> list[bytes]:
        """Keys of the step failures that ended the attempt: raised as such, in a group, or as an explicit cause.

        Not those in `__context__`: what was caught, and what was done about it, stands.
        """
        return _that_ended(task, self._steps)

    def invokes_that_ended(self, task: asyncio.Future[Any]) -> list[bytes]:
        """Keys of the children whose end ended the attempt in the same ways."""
        return _that_ended(task, self._invokes)


def _that_ended(task: asyncio.Future[Any], failures: list[tuple[BaseException, bytes]]) -> list[bytes]:
    if task.cancelled() or not failures:
        return []
    ended_by = _leaves_and_causes(task.exception())
    return [key for error, key in failures if id(error) in ended_by]


def _leaves_and_causes(error: BaseException | None) -> dict[int, BaseException]:
    """By identity: there may be many, and exceptions need not be hashable."""
    found: dict[int, BaseException] = {}
    todo = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in found:
            continue
        found[id(each)] = each
        todo.append(each.__cause__)
        if isinstance(each, BaseExceptionGroup):
            todo.extend(cast("BaseExceptionGroup[BaseException]", each).exceptions)
    return found
