"""Waiting for runs to end, and what their end is to whoever waits."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from rotor_actors.body import NIL
from rotor_actors.child_ends import decode_error, decode_reason
from rotor_actors.controlling import Controlling
from rotor_actors.durations import Duration, seconds
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError, WorkflowCancelledError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.following import Following
from rotor_actors.handle import RunHandle
from rotor_actors.records import RunRow, RunStatus
from rotor_actors.run import Run

T = TypeVar("T")


class Waiting(Controlling, Following):
    """The methods of `Runtime` that wait, and the handles which use them."""

    def run(self, run_id: str) -> RunHandle[Any]:
        """A handle for a run by its id; whether there is one is found out when it is used."""
        return RunHandle(self, run_id)

    async def result_of(self, run_id: str, timeout: Duration | None = None) -> Any:
        """What `RunHandle.result` gives, by run id."""
        engine, service = self._engine, self._service
        limit = None if timeout is None else _Limit(engine, run_id, seconds(timeout, name="timeout"))
        while True:
            try:
                run = await self._live_or_ended(run_id)
                row = run if isinstance(run, RunRow) else await self._wait(run, limit)
            except StoreError as error:
                assert service is not None
                if service.failure is None:
                    if limit is not None and limit.is_over:
                        raise limit.error() from error
                    await self._next_life(service, error)
                else:
                    await _within(self._life_after(service, error), limit)
                service = self._service
            else:
                return self._outcome(self._engine, row)

    async def _wait(self, run: Run, limit: _Limit | None) -> RunRow:
        assert self._service is not None
        if limit is not None:
            limit.workflow_id = run.row.workflow_id
        return await _within(self._service.wait_for(run), limit)

    def _outcome(self, engine: Engine, row: RunRow) -> Any:
        match row.status:
            case RunStatus.COMPLETED:
                workflow = engine.registry.get(row.workflow_id)
                codec = engine.codec_of(Any) if workflow is None else engine.registry.result_codec(workflow)
                return codec.decode(row.result or NIL)
            case RunStatus.FAILED:
                raise WorkflowFailedError(run_id=row.run_id, workflow_id=row.workflow_id, error=decode_error(row.error))
            case _:
                raise WorkflowCancelledError(
                    run_id=row.run_id, workflow_id=row.workflow_id, reason=decode_reason(row.error)
                )


class _Limit:
    """Until when somebody waits, through whatever lives the runtime has meanwhile."""

    def __init__(self, engine: Engine, run_id: str, seconds: float) -> None:
        self.clock = engine.ports.clock
        self.until = self.clock.now() + seconds
        self.run_id, self.workflow_id, self.seconds = run_id, "", seconds

    @property
    def is_over(self) -> bool:
        return self.clock.now() >= self.until

    def error(self) -> WorkflowTimeoutError:
        return WorkflowTimeoutError(run_id=self.run_id, workflow_id=self.workflow_id, timeout=self.seconds)


async def _within(waiter: asyncio.Future[T], limit: _Limit | None) -> T:
    alarm = None if limit is None else limit.clock.call_at(limit.until, lambda: _refuse(waiter, limit.error()))
    try:
        return await waiter
    finally:
        if alarm is not None:
            alarm.cancel()


def _refuse(waiter: asyncio.Future[Any], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
