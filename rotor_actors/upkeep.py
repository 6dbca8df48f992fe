"""What can be done with many runs after their end, and with the store that keeps them: delete, prune, compact."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from rotor_actors.branching import Branching
from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import RunNotFoundError, RunStatusError
from rotor_actors.handle import RunHandle
from rotor_actors.pruning import PruneReport, Pruning
from rotor_actors.records import (
    RunStatus,
)
from rotor_actors.workflows import Workflow

_ALL = 2**62
_ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class BulkReport(msgspec.Struct):
    """What `restart_all` or `resume_all` did, or with `dry_run` would do.

    Attributes:
        run_ids: the runs that were chosen and taken, newest first.
        started: of `restart_all`: the new runs, in the same order.
        skipped: chosen, but not taken: why, by run id.
    """

    run_ids: list[str] = []
    started: list[str] = []
    skipped: dict[str, str] = {}


class Upkeep(Branching):
    """The methods of `Runtime` for what comes after the ends of runs."""

    # Many

    async def restart_all(
        self,
        *,
        status: RunStatus | str | Sequence[RunStatus | str] = RunStatus.FAILED,
        workflow: str | Workflow[Any, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error: str | None = None,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> BulkReport:
        """`restart` each top-level run that the filters choose (see `runs`), newest first; say what with `dry_run`."""
        report = await self._choose(status, workflow, since, until, error, limit)
        if not dry_run:
            report.started = await self._each(report, self.restart)
        return report

    async def resume_all(
        self,
        *,
        status: RunStatus | str | Sequence[RunStatus | str] = RunStatus.FAILED,
        workflow: str | Workflow[Any, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error: str | None = None,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> BulkReport:
        """`resume` each top-level run that the filters choose (see `runs`), newest first; say what with `dry_run`."""
        report = await self._choose(status, workflow, since, until, error, limit)
        if not dry_run:
            await self._each(report, self.resume)
        return report

    async def _each(self, report: BulkReport, act: Callable[[str], Awaitable[RunHandle[Any]]]) -> list[str]:
        """Act on each run that was chosen; gives the ids of those that go on now. What is refused is skipped."""
        going: list[str] = []
        for run_id in tuple(report.run_ids):
            try:
                going.append((await act(run_id)).run_id)
            except (RunStatusError, RunNotFoundError) as refused:  # the latter: deleted since it was chosen
                _skip(report, run_id, refused)
        return going

    async def _choose(
        self,
        status: RunStatus | str | Sequence[RunStatus | str],
        workflow: str | Workflow[Any, Any] | None,
        since: datetime | None,
        until: datetime | None,
        error: str | None,
        limit: int,
    ) -> BulkReport:
        query = self._query(_checked_ends(status), workflow, since, until, error, limit)
        query = msgspec.structs.replace(query, is_root=True)
        rows = await self._read(lambda store: store.list_runs(query))
        return BulkReport([row.run_id for row in rows])

    # Gone

    async def delete(self, run_id: str) -> int:
        """Delete a top-level run that has ended, with all below it; gives how many runs went.

        What is recorded of them is gone for good, and their ids are free again. A tree goes as a whole, and not while
        something in it runs.

        Raises:
            RunNotFoundError: no run has this id.
            RunStatusError: it is part of another's tree, or something in its tree has not ended.

        Durable when it returns. Disk space is used again; `prune`, a `Retention` and `compact` give it back.
        """
        engine = self._open()
        row = await self._row(run_id)
        if row.parent_n is not None:
            raise RunStatusError(
                f"run {run_id} is part of the tree of run {row.root_run_id}, which goes as a whole: delete that one",
                run_id=run_id, status=row.status.value,
            )  # fmt: skip
        pruning = Pruning(engine)
        async with engine.claims.hold(run_id):
            if await pruning.is_live(row):
                live = sum(1 for run in engine.tree if run.row.root_n == row.n)
                raise RunStatusError(
                    f"run {run_id} of workflow {row.workflow_id!r} cannot be deleted: {live} runs of its tree have not "
                    f"ended; cancel it first", run_id=run_id, status=row.status.value,
                )  # fmt: skip
            return await pruning.delete_tree(row)

    async def prune(
        self,
        *,
        older_than: Duration,
        status: RunStatus | str | Sequence[RunStatus | str] = _ENDED,
        workflow: str | Workflow[Any, Any] | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Delete the trees whose top-level run ended longer ago than that, and give the disk space back.

        Args:
            older_than: the age of the end of the top-level run; a tree below which something runs is kept.
            status: how the top-level run ended. workflow: its workflow. limit: how many trees at most.
            dry_run: delete nothing, and say what would go.

        Raises:
            DurationError, ValueError: what was given makes no sense.

        It goes in slices, while runs go on. See `Retention` for doing so by itself.
        """
        engine = self._open()
        age = seconds(older_than, name="older_than")
        workflow_id = workflow.id if isinstance(workflow, Workflow) else workflow
        most = _ALL if limit is None else limit
        pruning = Pruning(engine)
        report = await pruning.prune(_checked_ends(status), engine.now() - age, workflow_id, most, dry_run=dry_run)
        if report.runs and not dry_run:
            await pruning.give_back()
        return report

    async def compact(self) -> None:
        """Give back all disk space that is not in use, and put the file in order.

        It writes the whole file anew: commits wait meanwhile, about a second for each few hundred megabytes. `prune`
        and `Retention` give space back in slices instead.
        """
        engine = self._open()
        await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        async with engine.journal.commit_lock.writer_lock:
            await engine.ports.writer.call(engine.ports.store.compact)


def _checked_ends(status: RunStatus | str | Sequence[RunStatus | str]) -> tuple[RunStatus, ...]:
    statuses = (RunStatus(status),) if isinstance(status, str) else tuple(RunStatus(each) for each in status)
    wrong = [each.value for each in statuses if not each.is_terminal]
    if wrong or not statuses:
        raise ValueError(
            f"status must be of runs that have ended (completed, failed, cancelled), got {wrong or status!r}"
        )
    return statuses


def _skip(report: BulkReport, run_id: str, refused: Exception) -> None:
    report.run_ids.remove(run_id)
    report.skipped[run_id] = str(refused)
