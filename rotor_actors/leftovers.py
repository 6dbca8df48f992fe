"""Executions of steps that were interrupted and have not ended. The next one of the same step waits, for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from rotor_actors.timers import Timers
from supervisors import await_chain

_logger = logging.getLogger("rotor_actors")

# An execution that cleans up has most of its grace period to itself; then it is interrupted again.
_REMINDER = 0.8

Key = tuple[int, bytes]
"""Number of the run, key of the step."""


class Leftover:
    """One of them, woken when its grace period is over."""

    __slots__ = ("_home", "deadline", "key", "run_id", "task", "what", "where")

    def __init__(
        self, home: Leftovers, key: Key, what: object, where: str, run_id: str, task: asyncio.Task[Any] | None,
        deadline: float,
    ) -> None:  # fmt: skip
        self._home = home
        self.key = key
        self.what = what
        self.where = where
        self.run_id = run_id
        self.task = task
        self.deadline = deadline

    def alarm(self, now: float) -> None:
        self._home.alarm(self, now)


class Leftovers:
    """Knows them by step, and who waits for their end.

    Args:
        grace: how many seconds each may clean up, and be waited for.
        give_up: is told what has not ended by then: it is fenced, and waited for no longer.
    """

    def __init__(
        self, timers: Timers, now: Callable[[], float], grace: float, give_up: Callable[[object], None]
    ) -> None:
        self._timers = timers
        self._now = now
        self._grace = grace
        self._give_up = give_up
        self._by_what: dict[object, Leftover] = {}
        self._by_key: dict[Key, set[Leftover]] = {}
        self._waiting: dict[Key, list[Callable[[], None]]] = {}

    def add(self, key: Key, what: object, where: str, run_id: str, task: asyncio.Task[Any] | None = None) -> None:
        """`what` was interrupted; it is a task of the host's loop, or (`task` is None) a worker thread's call."""
        now = self._now()
        left = Leftover(self, key, what, where, run_id, task, now + self._grace)
        self._by_what[what] = left
        self._by_key.setdefault(key, set()).add(left)
        self._timers.add(left, now + self._grace * (1.0 if task is None else _REMINDER))

    def ended(self, what: object) -> None:
        """It has ended, or is none of ours."""
        if self._by_what:
            left = self._by_what.get(what)
            if left is not None:
                self._remove(left)

    def hold(self, key: Key, start: Callable[[], None]) -> bool:
        """Whether an execution of this step has not ended: then `start` is called when it has, or is given up."""
        if key not in self._by_key:
            return False
        self._waiting.setdefault(key, []).append(start)
        return True

    def alarm(self, left: Leftover, now: float) -> None:
        """The grace period of one of them is nearly over, or over."""
        if left.task is not None and now < left.deadline:
            left.task.cancel()
            self._timers.add(left, left.deadline)
            return
        _logger.warning(
            "%s: an execution that was interrupted did not end within %g s; nothing it does is recorded, and another one "
            "may begin beside it; %s", left.where, self._grace, _whereabouts(left.task), extra={"run_id": left.run_id},
        )  # fmt: skip
        self._give_up(left.what)
        self._remove(left)

    def _remove(self, left: Leftover) -> None:
        self._timers.discard(left)
        del self._by_what[left.what]
        others = self._by_key[left.key]
        others.discard(left)
        if not others:
            del self._by_key[left.key]
            for start in self._waiting.pop(left.key, ()):
                start()


def _whereabouts(task: asyncio.Task[Any] | None) -> str:
    if task is None:
        return "it runs on in a worker thread, which cannot be interrupted"
    return f"it stands at {' > '.join(await_chain(task))}"
