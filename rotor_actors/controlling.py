"""Telling runs what to do."""

from __future__ import annotations

import asyncio

import msgspec

from rotor_actors.access import Access
from rotor_actors.cancellation import Cancellation, CancelReport
from rotor_actors.child_ends import decode_reason
from rotor_actors.error_texts import bounded
from rotor_actors.errors import StoreError
from rotor_actors.records import RunRow, RunStatus, Together
from rotor_actors.replicas.elsewhere import CLOCKS_DIFFER_AT_MOST, Elsewhere
from rotor_actors.run import Phase
from rotor_actors.service import Service


class Controlling(Access):
    """The methods of `Runtime` that interfere with runs."""

    async def cancel(self, run_id: str, reason: str = "") -> CancelReport:
        """Cancel a run and all that runs below it.

        In one durable act they become cancelled; then their bodies and steps are interrupted, leaves first. Cleanup
        (`finally`, `except CancelledError`) has the grace period, then what still runs is abandoned, fenced and
        reported. A run that had ended stays as it is. Cancelling twice is harmless.

        Raises:
            RunNotFoundError: no run has this id.

        Where replicas share the store, the owners of the rest are asked in the same act, and cancel what is theirs. It
        returns when all of it has ended, for the record; what still cleans up there, they log.

        Cancelling the caller does not stop the cancellation.
        """
        began_at: float | None = None
        margin = 0.0
        while True:
            service = self._service
            try:
                began_at = self._engine.now() if began_at is None else began_at
                return await self._cancel(run_id, reason, began_at - margin)
            except StoreError as error:
                assert service is not None
                await self._next_life(service, error)  # then ask again, for what became of it is unknown
                margin = CLOCKS_DIFFER_AT_MOST  # whoever has done it meanwhile has said when, by a clock of his own

    async def _cancel(self, run_id: str, reason: str, began_at: float) -> CancelReport:
        engine, service = self._open(), self._service
        assert service is not None
        run = engine.tree.find(run_id) or await self._live_or_ended(run_id)
        service.check_open()  # what is begun on an engine that has been given up comes to no end
        if isinstance(run, RunRow):
            if engine.finishing.remote is not None and _was_cancelled(run, reason, began_at):
                return await self._report_of(Elsewhere(engine, engine.finishing.remote, run, [run.n], [], reason), run)
            return CancelReport(already_ended=[run_id])
        if run.phase is Phase.REMOTE:
            return await self._cancel_elsewhere(service, run.row, reason)
        if run.cancellation is None:
            Cancellation(engine, engine.finishing, [run], reason).begin()
        cancellation = run.cancellation
        assert cancellation is not None
        await engine.journal.durable(cancellation.seq)
        report: CancelReport = await asyncio.shield(cancellation.done)
        if cancellation.elsewhere is None:
            return report
        service.check_open()  # what was cut off by the loss of the store is asked again
        others = await self._report_of(cancellation.elsewhere, run.row)
        known = set(report.cancelled)
        cancelled = [*report.cancelled, *(run_id for run_id in others.cancelled if run_id not in known)]
        return msgspec.structs.replace(report, cancelled=cancelled, stuck=[*report.stuck, *others.stuck])

    async def _cancel_elsewhere(self, service: Service, row: RunRow, reason: str) -> CancelReport:
        """Ask whoever owns it, or will claim it."""
        engine = service.engine
        assert engine.finishing.remote is not None
        elsewhere = Elsewhere(engine, engine.finishing.remote, row, [], [row.n], bounded(reason))
        await engine.journal.durable(engine.journal.append(Together(elsewhere.entries())))
        service.check_open()
        return await self._report_of(elsewhere, row)

    async def _report_of(self, elsewhere: Elsewhere, row: RunRow) -> CancelReport:
        cancelled = await elsewhere.over()
        report = CancelReport(cancelled=cancelled, seconds=self._engine.now() - elsewhere.began_at)
        if not elsewhere.is_over:
            report.stuck.append(
                f"run {row.run_id}: the runtime was closed before all of its owners had answered; they go on"
            )
        elif row.run_id not in cancelled:
            report.already_ended.append(row.run_id)
        return report


def _was_cancelled(row: RunRow, reason: str, since: float) -> bool:
    """By us, before the store was lost in the middle of it."""
    if row.status is not RunStatus.CANCELLED:
        return False  # what is recorded of one that failed is no reason
    return (row.ended_at or 0.0) >= since and decode_reason(row.error) == bounded(reason)
