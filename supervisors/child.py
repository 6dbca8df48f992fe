"""One life of a child, and the monitors that are told of its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from supervisors.chain import await_chain
from supervisors.exits import Ending, Exit, classify
from supervisors.spec import ChildId, ChildSpec

__all__ = ["Child", "Down", "Monitor"]


class Child:
    """One life of a child: what a pid is in OTP. A child that is restarted gets a new one.

    Attributes:
        spec: what it was started from.
        task: the task that runs it. Stop it through its supervisor; cancelled directly it counts as failed.
        exit: how it ended, None while it runs. Fixed once set, also for an abandoned child that ends later.
    """

    __slots__ = ("_ended", "_is_asked_to_stop", "spec", "task")

    def __init__(self, spec: ChildSpec, task: asyncio.Task[object]) -> None:
        self.spec = spec
        self.task = task
        self._ended: asyncio.Future[Exit] = task.get_loop().create_future()
        self._is_asked_to_stop = False

    def __repr__(self) -> str:
        return f"<Child {self.id!r} {'running' if self.exit is None else self.exit.kind.value}>"

    @property
    def id(self) -> ChildId:
        """Its id within its supervisor."""
        return self.spec.id

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> Exit:
        """Wait for its end and say how it ended. Never raises what the child raised; cancelling harms nothing."""
        # a plain await would hand the waiter's cancellation on to the future that all waiters share
        return await asyncio.shield(self._ended)

    def add_end_callback(self, callback: Callable[[Exit], object]) -> None:
        """Call back exactly once from the event loop when it has ended, soon if it has already."""
        self._ended.add_done_callback(lambda ended: callback(ended.result()))

    def ask_to_stop(self) -> None:
        """Have its end judged as requested, unless it has ended already. For its supervisor."""
        self.settle()
        self._is_asked_to_stop = True

    def settle(self) -> Exit | None:
        """Note the end if the task has ended, and take its exception, which asyncio would complain about otherwise.

        Harmless when repeated. For its supervisor.
        """
        if self.task.done():
            self._end(*_outcome(self.task))
        return self.exit

    def abandon(self) -> Exit:
        """Give up waiting for a task that refuses to end. For its supervisor."""
        self._end(Ending.ABANDONED, None, await_chain(self.task))
        return self._ended.result()

    def _end(self, ending: Ending, error: BaseException | None, chain: tuple[str, ...] = ()) -> None:
        if not self._ended.done():
            kind = classify(ending, error, is_requested=self._is_asked_to_stop)
            self._ended.set_result(Exit(kind, ending, error, self._is_asked_to_stop, chain))


def _outcome(task: asyncio.Task[Any]) -> tuple[Ending, BaseException | None]:
    try:
        error = task.exception()
    except asyncio.CancelledError as cancelled:
        return Ending.CANCELLED, cancelled
    return (Ending.RETURNED, None) if error is None else (Ending.RAISED, error)


@dataclass(frozen=True, slots=True)
class Down:
    """The one message a monitor gets (Erlang: `'DOWN'`).

    Attributes:
        child_id: whom it watched.
        exit: how that child ended; None if there was no such child (Erlang: `noproc`).
    """

    child_id: ChildId
    exit: Exit | None


class Monitor:
    """Watches one life of a child; await it for its `Down`.

    Awaiting it again gives the same message at once. Cancelling an await leaves monitor and child as they were.
    """

    __slots__ = ("_child", "child_id")

    def __init__(self, child_id: ChildId, child: Child | None) -> None:
        self.child_id = child_id
        self._child = child

    def __await__(self) -> Generator[Any, None, Down]:
        exit = None if self._child is None else (yield from self._child.wait().__await__())
        return Down(self.child_id, exit)

    def add_callback(self, callback: Callable[[Down], object]) -> None:
        """Call back exactly once from the event loop with the `Down`, soon if the child has already ended."""
        if self._child is None:
            asyncio.get_running_loop().call_soon(callback, Down(self.child_id, None))
        else:
            self._child.add_end_callback(lambda exit: callback(Down(self.child_id, exit)))
