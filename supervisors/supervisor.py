"""The face of the library: a supervisor of asyncio tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from supervisors.child import Child, Monitor
from supervisors.errors import SupervisorError, SupervisorNotRunningError
from supervisors.exits import Exit
from supervisors.info import ChildCounts, ChildInfo, count, describe
from supervisors.messages import Call, DeleteChild, RestartChild, StartChild, TerminateChild
from supervisors.owner import Owner
from supervisors.settings import Settings
from supervisors.spec import ChildId, ChildSpec, ChildType, Restart, Shutdown, Strategy

__all__ = ["Supervisor"]

T = TypeVar("T")


class Supervisor:
    """Starts children, restarts those that fail, and stops them all in the end, in the manner of OTP.

    Use it as `async with Supervisor() as supervisor`, which may be entered in one task and left in another, or hand
    its `run` to another supervisor. A task of its own holds the children, and carries out one call after the other.
    A call that was made is carried out: to cancel its caller only gives up the answer.

    Args:
        strategy: who is restarted along with a child that is.
        max_restarts: how many restarts are allowed within `max_seconds`. With one more the supervisor stops all its
            children and ends with `MaxRestartsExceeded`. 0 allows none.
        max_seconds: the window for that, in seconds.
        children: started in this order before anything else, anew in each life of the supervisor. Children that are
            added later are gone when it is restarted (OTP: dynamic children).
        kill_seconds: how long a child that has used up its `shutdown` seconds is cancelled again and again before it
            is abandoned.
        clock: seconds that do not run backwards, for the window.
        name: what log lines, errors and tasks call it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, negative, or not finite.

    Example:
        >>> async def poll() -> None:
        ...     await asyncio.sleep(3600)
        >>> async def main() -> str:
        ...     async with Supervisor() as supervisor:
        ...         await supervisor.start_child(ChildSpec("poller", poll))
        ...         return supervisor.which_children()[0].state.value
        >>> asyncio.run(main())
        'running'
    """

    def __init__(
        self,
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        children: Iterable[ChildSpec] = (),
        kill_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        name: str = "supervisor",
    ) -> None:
        self._settings = Settings(
            name=name,
            strategy=strategy,
            max_restarts=max_restarts,
            max_seconds=max_seconds,
            kill_seconds=kill_seconds,
            clock=clock,
            children=tuple(children),
        )
        self._owner: Owner | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r} {'running' if self.is_running else 'not running'}>"

    @property
    def name(self) -> str:
        """What log lines, errors and tasks call it."""
        return self._settings.name

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._owner is not None and not self._owner.task.done()

    # -- its life ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start it and its initial children.

        Raises `ChildStartError` if one of them cannot be started, `MaxRestartsExceeded` if one ended too often at
        once; the others are stopped again. Cancelled, it leaves nothing running.
        """
        owner = self._launch()
        try:
            await asyncio.wait((owner.ready,))
        except asyncio.CancelledError:
            await _stop_and_wait(owner)
            raise
        if owner.failure is not None:
            await _stop_and_wait(owner)
            raise owner.failure
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all children, newest first, and come back when they have ended or been abandoned, cancelled or not.

        Raises `MaxRestartsExceeded` if the supervisor gave up; a cancellation on its way out goes first.
        """
        if self._owner is None:
            return
        await _stop_and_wait(self._owner)
        if error is None or isinstance(error, Exception):
            _raise_failure(self._owner)

    async def run(self) -> None:
        """Live one whole life, until cancelled: as a child's `start` this makes a tree of supervisors.

        Cancelled, it stops all children, newest first, waits for them however often it is cancelled again, and ends
        as cancelled. Its first step makes it ready for `start_child`.

        Raises:
            MaxRestartsExceeded: it gave up; all children are stopped.
            ChildStartError: one of `children` could not be started; the others are stopped.
        """
        owner = self._launch()
        try:
            await asyncio.wait((owner.task,))
        except asyncio.CancelledError:
            await _stop_and_wait(owner)
            raise
        _raise_failure(owner)

    async def wait(self) -> None:
        """Wait until it has ended, without stopping it. Cancelling does it no harm.

        Raises:
            MaxRestartsExceeded: it gave up.
            ChildStartError: one of `children` could not be started.
            SupervisorNotRunningError: it was never started.
        """
        owner = self._started_owner()
        await asyncio.wait((owner.task,))
        _raise_failure(owner)

    async def stop(self) -> None:
        """Stop all children, newest first, then the supervisor. Harmless when repeated, or before a start.

        Never raises what ended it. Cancelled, it stops waiting, not stopping. A child that calls it is among those
        that are stopped.
        """
        if self._owner is not None:
            self._owner.request_stop()
            await asyncio.wait((self._owner.task,))

    def as_child(self, id: ChildId | None = None, restart: Restart = Restart.PERMANENT) -> ChildSpec:
        """The specification of this supervisor as a child of another, with all the time it needs to stop (as in OTP).

        Its own children have deadlines, which bound its own. `id` is its name unless given.
        """
        return ChildSpec(
            id=self.name if id is None else id,
            start=self.run,
            restart=restart,
            shutdown=Shutdown.INFINITY,
            type=ChildType.SUPERVISOR,
        )

    # -- its children --------------------------------------------------------------------------------------------

    async def start_child(self, spec: ChildSpec) -> Child:
        """Add a child as the newest and start it; when this returns the child has taken its first step.

        OTP: `supervisor:start_child/2`.

        Raises:
            ChildExistsError: the id is taken, be it by a child that has ended.
            ChildStartError: `spec.start` raised or gave no coroutine; nothing is left behind.
            SupervisorNotRunningError: not started, stopping, or ended.
        """
        reply: asyncio.Future[Child] = _reply()
        return await self._call(StartChild(spec, reply), reply)

    async def terminate_child(self, child_id: ChildId) -> Exit | None:
        """Stop a child, wait for its end and say how it ended; None if it was not running.

        It stays ended: its specification is kept for `restart_child`, unless it is temporary. One that was about to
        be restarted no longer is. Under one_for_all and rest_for_one the restart of a sibling brings it back, as in
        OTP (`supervisor:terminate_child/2`). A stuck child is abandoned: `Exit.ending` tells.

        Raises:
            ChildNotFoundError: there is no such child.
            SupervisorNotRunningError: not started, stopping, or ended.
        """
        reply: asyncio.Future[Exit | None] = _reply()
        return await self._call(TerminateChild(child_id, reply), reply)

    async def restart_child(self, child_id: ChildId) -> Child:
        """Start a child that has ended, in its old place (OTP: `supervisor:restart_child/2`). Counts as no restart.

        Raises:
            ChildNotFoundError: there is no such child; an ended temporary one is forgotten.
            ChildRunningError, ChildRestartingError: it has not ended for good.
            ChildStartError: `spec.start` raised or gave no coroutine; the child stays ended.
            SupervisorNotRunningError: not started, stopping, or ended.
        """
        reply: asyncio.Future[Child] = _reply()
        return await self._call(RestartChild(child_id, reply), reply)

    async def delete_child(self, child_id: ChildId) -> None:
        """Forget a child that has ended (OTP: `supervisor:delete_child/2`).

        Raises:
            ChildNotFoundError: there is no such child.
            ChildRunningError, ChildRestartingError: it has not ended for good.
            SupervisorNotRunningError: not started, stopping, or ended.
        """
        reply: asyncio.Future[None] = _reply()
        await self._call(DeleteChild(child_id, reply), reply)

    def which_children(self) -> list[ChildInfo]:
        """All children in start order, nested ones within; none before a start (OTP: `which_children/1`)."""
        return [] if self._owner is None else describe(self._owner.table)

    def count_children(self) -> ChildCounts:
        """Count specifications, running children and children by type (OTP: `supervisor:count_children/1`)."""
        return count(self.which_children())

    def stuck_children(self) -> list[Child]:
        """Children that were abandoned and still run; their `exit.chain` says where."""
        return [] if self._owner is None else list(self._owner.stuck)

    def monitor(self, child: ChildId | Child) -> Monitor:
        """Watch the present life of a child; the monitor is told exactly once how it ended (Erlang: `monitor/2`).

        For an ended child it is told at once, for an id that nobody has it is told so. A temporary child that has
        ended is known by its `Child` only.
        """
        if isinstance(child, Child):
            return Monitor(child.id, child)
        slot = None if self._owner is None else self._owner.table.get(child)
        return Monitor(child, None if slot is None else slot.child)

    # -- private -------------------------------------------------------------------------------------------------

    def _launch(self) -> Owner:
        if self.is_running:
            raise SupervisorError(f"supervisor {self.name!r} is already running; it has one life at a time")
        self._owner = Owner(self._settings)
        return self._owner

    def _started_owner(self) -> Owner:
        if self._owner is None:
            raise SupervisorNotRunningError(f"supervisor {self.name!r} was not started; use `async with` or run()")
        return self._owner

    async def _call(self, call: Call, reply: asyncio.Future[T]) -> T:
        self._started_owner().post(call)
        return await reply


def _reply() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def _stop_and_wait(owner: Owner) -> None:
    """Stop, and wait to the end through any cancellation, which is raised then."""
    owner.request_stop()
    cancelled: asyncio.CancelledError | None = None
    while not owner.task.done():
        try:
            await asyncio.wait((owner.task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _raise_failure(owner: Owner) -> None:
    owner.task.result()
    if owner.failure is not None:
        raise owner.failure
