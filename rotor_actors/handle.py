"""A run from outside: wait for it, look at it, cancel it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Generic, Protocol, TypeVar

from rotor_actors.cancellation import CancelReport
from rotor_actors.durations import Duration
from rotor_actors.records import RunStatus
from rotor_actors.views import RunInfo, RunTree, Update

Out = TypeVar("Out", covariant=True)


class Runs(Protocol):
    """What a handle asks of its runtime."""

    async def result_of(self, run_id: str, timeout: Duration | None) -> Any: ...

    async def info(self, run_id: str) -> RunInfo: ...

    async def tree(self, run_id: str) -> RunTree: ...

    async def cancel(self, run_id: str, reason: str = "") -> CancelReport: ...

    async def progress(self, run_id: str) -> dict[str, Update]: ...

    def updates_of(self, run_id: str, key: str | None) -> AsyncGenerator[Update, None]: ...


class RunHandle(Generic[Out]):
    """A run, by its id. It holds no state of its own: any number of them may stand for one run.

    Attributes:
        run_id: the run.
    """

    __slots__ = ("_runs", "run_id")

    def __init__(self, runs: Runs, run_id: str) -> None:
        self._runs = runs
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id}>"

    async def result(self, timeout: Duration | None = None) -> Out:
        """Wait for the end, and give the result.

        Args:
            timeout: how long to wait; None for ever.

        Raises:
            WorkflowFailedError, WorkflowCancelledError: how else it ended.
            WorkflowTimeoutError: it has not ended within `timeout`; it runs on.
            RunNotFoundError: no run has this id.
            StoreError: the store failed; the run goes on when it is opened again.
            RuntimeStateError: the runtime was closed before the run ended.

        Cancelling the waiter cancels neither the run nor other waiters.
        """
        result: Out = await self._runs.result_of(self.run_id, timeout)
        return result

    async def status(self) -> RunStatus:
        """Raises RunNotFoundError when no run has this id."""
        return (await self.info()).status

    async def info(self) -> RunInfo:
        """All that is known of the run. Raises RunNotFoundError when no run has this id."""
        return await self._runs.info(self.run_id)

    async def tree(self) -> RunTree:
        """The run and all below it. Raises RunNotFoundError when no run has this id."""
        return await self._runs.tree(self.run_id)

    async def progress(self) -> dict[str, Update]:
        """The newest value that the run has reported under each key. Raises RunNotFoundError."""
        return await self._runs.progress(self.run_id)

    def updates(self, key: str | None = None) -> AsyncGenerator[Update, None]:
        """Follow what the run reports of itself: first the newest value of each key, then each new one, until it ends.

            async for update in handle.updates():
                print(update.value)

        Any number of readers may follow a run, in any task, from whenever. What is shown is durable. A reader that is
        slow gets the newest value of each key and learns from `missed` how many it has not seen; it keeps nobody
        waiting. The last value of each key is always given before the iteration ends.

        Args:
            key: only what is reported under it; None for all.

        Raises (while iterating):
            RunNotFoundError: no run has this id. StoreError, RuntimeStateError: the runtime stopped before the run's end.
        """
        return self._runs.updates_of(self.run_id, key)

    async def cancel(self, reason: str = "") -> CancelReport:
        """Cancel the run and all below it; see `Runtime.cancel`."""
        return await self._runs.cancel(self.run_id, reason)
