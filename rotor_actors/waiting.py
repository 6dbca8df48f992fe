"""Waiting for runs to end, and what their end is to whoever waits."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from rotor_actors.body import NIL
from rotor_actors.controlling import Controlling
from rotor_actors.durations import Duration, seconds
from rotor_actors.engine import Engine
from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.following import Following
from rotor_actors.handle import RunHandle
from rotor_actors.records import RunRow, RunStatus
from rotor_actors.run import Run
from rotor_actors.step import decode_error, decode_reason


class Waiting(Controlling, Following):
    """The methods of `Runtime` that wait, and the handles which use them."""

    def run(self, run_id: str) -> RunHandle[Any]:
        """A handle for a run by its id; whether there is one is found out when it is used."""
        return RunHandle(self, run_id)

    async def result_of(self, run_id: str, timeout: Duration | None = None) -> Any:
        """What `RunHandle.result` gives, by run id."""
        engine = self._engine
        limit = None if timeout is None else seconds(timeout, name="timeout")
        run = await self._live_or_ended(run_id)
        return self._outcome(engine, run if isinstance(run, RunRow) else await self._wait(engine, run, limit))

    async def _wait(self, engine: Engine, run: Run, limit: float | None) -> RunRow:
        assert self._service is not None
        waiter = self._service.wait_for(run)
        alarm = None
        if limit is not None:
            error = WorkflowTimeoutError(run_id=run.row.run_id, workflow_id=run.row.workflow_id, timeout=limit)
            alarm = engine.ports.clock.call_at(engine.ports.clock.now() + limit, partial(_refuse, waiter, error))
        try:
            return await waiter
        finally:
            if alarm is not None:
                alarm.cancel()

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


def _refuse(waiter: asyncio.Future[Any], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
