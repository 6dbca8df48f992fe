"""What other replicas ask of the runs that we own: to be cancelled, or that nobody awaits them any more."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import msgspec

from rotor_actors.cancellation import Cancellation, CancelReport
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.records import CancelNote, RunFlag
from rotor_actors.run import Run
from rotor_actors.stores.shared import Mail

_logger = logging.getLogger("rotor_actors")


class Requests:
    """Handles mail of the kinds CANCEL and RELEASE that is for runs."""

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing

    def cancel(self, run: Run, mail: Mail) -> None:
        """Cancel the run, with all of ours below it; the owners of the rest are asked in the same entry."""
        if not run.is_doomed:
            self.cancel_by(run, msgspec.msgpack.decode(mail.body or b"", type=CancelNote))

    def cancel_by(self, run: Run, note: CancelNote) -> None:
        withdrawn = run if note.is_withdrawn else None
        cancellation = Cancellation(self._kernel, self._finishing, [run], note.reason, withdrawn=withdrawn)
        cancellation.begin()
        cancellation.done.add_done_callback(partial(_report, run))

    def release(self, mail: Mail, run: Run | None) -> None:
        """Its parent timed out on it: the run's end goes to nobody. Its row says so already."""
        if run is not None and not run.is_doomed:
            run.row.flags |= RunFlag.RELEASED
            self._kernel.gate.let_go(run)


def _report(run: Run, done: asyncio.Future[CancelReport]) -> None:
    """Whoever asked learns what was cancelled, by the rows; what went wrong with that is to be seen here."""
    report = done.result()
    for problem in (*report.cleanup_errors, *report.stuck):
        _logger.warning(
            "%s was cancelled for another replica: %s", run.where, problem, extra={"run_id": run.row.run_id}
        )
