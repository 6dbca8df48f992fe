"""Telling runs what to do."""

from __future__ import annotations

import asyncio

import msgspec

from rotor_actors.access import Access
from rotor_actors.cancellation import Cancellation, CancelReport
from rotor_actors.engine import Engine
from rotor_actors.error_texts import bounded
from rotor_actors.records import RunRow, Together
from rotor_actors.replicas.elsewhere import Elsewhere
from rotor_actors.run import Phase, Run


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
        if run.phase is Phase.REMOTE:
            return await self._cancel_elsewhere(engine, run, reason)
        if run.cancellation is None:
            Cancellation(engine, engine.finishing, [run], reason).begin()
        cancellation = run.cancellation
        assert cancellation is not None
        await engine.journal.durable(cancellation.seq)
        report: CancelReport = await asyncio.shield(cancellation.done)
        if cancellation.elsewhere is None:
            return report
        known = set(report.cancelled)
        others = [run_id for run_id in await cancellation.elsewhere.over() if run_id not in known]
        return msgspec.structs.replace(report, cancelled=[*report.cancelled, *others])

    async def _cancel_elsewhere(self, engine: Engine, run: Run, reason: str) -> CancelReport:
        """Ask whoever owns it, or will claim it."""
        remote, row, began_at = engine.finishing.remote, run.row, engine.now()
        assert remote is not None
        elsewhere = Elsewhere(engine, remote, row.root_n, [], [row.n], bounded(reason))
        await engine.journal.durable(engine.journal.append(Together(elsewhere.entries())))
        cancelled = await elsewhere.over()
        already_ended = [] if row.run_id in cancelled else [row.run_id]
        return CancelReport(cancelled=cancelled, already_ended=already_ended, seconds=engine.now() - began_at)
