"""Telling runs what to do."""

from __future__ import annotations

import asyncio

from rotor_actors.access import Access
from rotor_actors.cancellation import Cancellation, CancelReport
from rotor_actors.records import RunRow


class Controlling(Access):
    """The methods of `Runtime` that interfere with runs."""

    async def cancel(self, run_id: str, reason: str = "") -> CancelReport:
        """Cancel a run and all that runs below it.

        In one durable act they become cancelled; then their bodies and steps are interrupted, leaves first. Cleanup
        (`finally`, `except CancelledError`) has the grace period, then what still runs is abandoned, fenced and
        reported. A run that had ended stays as it is. Cancelling twice is harmless.

        Raises:
            RunNotFoundError: no run has this id.

        Cancelling the caller does not stop the cancellation.
        """
        engine = self._open()
        run = engine.tree.find(run_id) or await self._live_or_ended(run_id)
        if isinstance(run, RunRow):
            return CancelReport(already_ended=[run_id])
        if run.cancellation is None:
            Cancellation(engine, engine.finishing, [run], reason).begin()
        cancellation = run.cancellation
        assert cancellation is not None
        await engine.journal.durable(cancellation.seq)
        return await asyncio.shield(cancellation.done)
