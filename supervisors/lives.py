"""Starting a child's task, noticing its end, and bringing that end about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisors import log
from supervisors.child import Child
from supervisors.errors import ChildStartError
from supervisors.escalations import escalation
from supervisors.exits import Exit
from supervisors.info import Slot

__all__ = ["Lives"]


class Lives:
    """Starts and stops the lives of children; who lives, and why, is not its business.

    Args:
        name: the supervisor's name, for tasks and log lines.
        kill_seconds: how long a child that has used up its grace is cancelled again before it is abandoned.
        on_end: called from the event loop with a slot and the life in it that has ended, for whatever reason.
        on_teardown: called when the owner is cancelled while it waits for a child, which the host does when it tears
            down its loop. The wait goes on.

    `stuck` holds the children that were abandoned, so that their tasks are not collected while they run.
    """

    def __init__(
        self,
        name: str,
        kill_seconds: float,
        *,
        on_end: Callable[[Slot, Child], object],
        on_teardown: Callable[[], object],
    ) -> None:
        self._name = name
        self._kill_seconds = kill_seconds
        self._on_end = on_end
        self._on_teardown = on_teardown
        self._loop = asyncio.get_running_loop()
        self.stuck: list[Child] = []

    def start(self, slot: Slot) -> Child:
        """Put a new life into a slot. Raises `ChildStartError`, the slot unchanged."""
        spec = slot.spec
        try:
            task = self._loop.create_task(spec.start(*spec.args), name=f"{self._name}/{spec.id}")
        except (Exception, asyncio.CancelledError) as error:
            raise ChildStartError(spec.id, error) from error
        child = slot.child = Child(spec, task)
        # Not code around the coroutine: a task cancelled before its first step never runs any of it.
        task.add_done_callback(lambda _: self._on_task_done(slot, child))
        return child

    async def stop(self, child: Child) -> Exit:
        """Cancel a child, ever harder, and say how it ended. Comes back at its last deadline, if it has one."""
        child.ask_to_stop()
        for seconds in escalation(child.spec.shutdown, self._kill_seconds):
            if child.task.done():
                break
            child.task.cancel()
            await self._wait_for_end(child.task, seconds)
        exit = child.settle()
        if exit is None:
            return self._abandon(child)
        log.stopped(self._name, child.id, exit)
        return exit

    async def _wait_for_end(self, task: asyncio.Task[object], seconds: float | None) -> None:
        deadline = None if seconds is None else self._loop.time() + seconds
        while not task.done():
            left = None if deadline is None else max(0.0, deadline - self._loop.time())
            try:
                await asyncio.wait((task,), timeout=left)
                return
            except asyncio.CancelledError:
                self._on_teardown()

    def _abandon(self, child: Child) -> Exit:
        exit = child.abandon()
        self.stuck.append(child)
        log.abandoned(self._name, child.id, exit.chain)
        return exit

    def _on_task_done(self, slot: Slot, child: Child) -> None:
        child.settle()
        if child in self.stuck:
            self.stuck.remove(child)
        self._on_end(slot, child)
