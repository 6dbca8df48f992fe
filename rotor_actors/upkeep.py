"""What can be done with runs after their end: restart, resume, fork, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from rotor_actors.durations import Duration, seconds
from rotor_actors.engine import Engine
from rotor_actors.errors import RunExistsError, RunNotFoundError, RunStatusError
from rotor_actors.forking import NoSuchStepError, memo_before
from rotor_actors.handle import RunHandle
from rotor_actors.ids import checked_run_id
from rotor_actors.kernel import Started
from rotor_actors.messages import AttemptDue
from rotor_actors.pruning import PruneReport, Pruning, is_half_deleted
from rotor_actors.records import (
    Entry,
    EventNote,
    RunCreated,
    RunFlag,
    RunRow,
    RunsReleased,
    RunStatus,
    StepRecorded,
    StepRow,
)
from rotor_actors.replicas.asking import Asker
from rotor_actors.replicas.forwarding import StartNote
from rotor_actors.replicas.taking_back import TakingBack
from rotor_actors.reviving import Revival, Reviving, check_resumable, unknown_workflow
from rotor_actors.roots import root_row, start_root, start_root_as
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing
from rotor_actors.starting import Starting
from rotor_actors.stores.base import EndsQuery, RunQuery
from rotor_actors.workflows import Workflow

_ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
_ALL = 2**62
_MOST_FORKED_STEPS = 20_000


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


class Upkeep(Starting):
    """The methods of `Runtime` for what comes after a run's end."""

    # From the top

    async def restart(self, run_id: str, *, new_run_id: str | None = None) -> RunHandle[Any]:
        """Start a run from zero: a new run, with the same input and headers, that names the old one as its origin.

        Args:
            run_id: a run that has ended, however. One that somebody invoked is started at the top of a tree of its
                own: its invoker has had its end.
            new_run_id: an id of your choice for the new run, so that asking twice starts once.

        Raises:
            RunNotFoundError: no run has this id.
            RunStatusError: it has not ended (cancel it first), or its workflow is not registered.
            RunExistsError: `new_run_id` belongs to a run that is no restart of this one.

        Durable when it returns. The new run stands in the lines of flow control; debounce, batch and idempotency, by
        which several starts become one, are not asked.
        """
        engine = self._accepting()
        row = await self._ended_row(run_id, "restart")
        workflow = self._workflow_of(engine, row, "restart")
        if new_run_id is None:
            started = await self._start_again(engine, row, workflow, engine.ports.ids.new_run_id(engine.now()))
            await engine.journal.durable(started.seq)
            return RunHandle(self, started.run_id)
        async with engine.claims.hold(checked_run_id(new_run_id)):
            existing = await self._find(engine, new_run_id)
            if existing is None:
                started = await self._start_again(engine, row, workflow, new_run_id, is_chosen=True)
                await engine.journal.durable(started.seq)
                existing = await self._find(engine, new_run_id)
            if existing is not None and existing.origin_run_id != run_id:
                raise RunExistsError(
                    f"run id {new_run_id!r} belongs to a run of workflow {existing.workflow_id!r} that is no restart "
                    f"of {run_id!r}: choose another"
                )
        return RunHandle(self, new_run_id)

    async def _start_again(
        self, engine: Engine, row: RunRow, workflow: Workflow[Any, Any], run_id: str, *, is_chosen: bool = False
    ) -> Started:
        flags = row.flags & RunFlag.HANDLER
        event = None if row.event is None else msgspec.msgpack.decode(row.event, type=EventNote)
        if is_chosen and engine.sharing is not None and workflow.rules is None:
            again = root_row(
                engine, workflow, row.input, run_id, headers=row.headers, event=event, retries=row.retries,
                origin_run_id=row.run_id, flags=flags,
            )  # fmt: skip
            await start_root_as(engine, again, workflow, None)  # or another replica has, just now
            return Started(run_id, engine.journal.durable_seq, is_new=True)
        if engine.forwarding is not None and engine.forwarding.is_needed(workflow, merges=False, is_chosen=is_chosen):
            note = StartNote(
                Asker(), run_id, workflow.id, row.input, row.headers, row.retries, row.event,
                origin_run_id=row.run_id, version=workflow.version, flags=flags, merges=False,
                is_chosen=is_chosen,
            )  # fmt: skip
            started = await engine.forwarding.start(workflow, note)
        else:
            started = start_root(
                engine, workflow, row.input, run_id, headers=row.headers, event=event, retries=row.retries,
                origin_run_id=row.run_id, flags=flags, merges=False,
            )  # fmt: skip
        if not started.is_new:
            raise RunStatusError(
                f"cannot restart run {row.run_id}: workflow {workflow.id!r} is a singleton, and run {started.run_id} of "
                f"it has not ended", run_id=row.run_id, status=row.status.value,
            )  # fmt: skip
        return started

    # From what failed

    async def resume(self, run_id: str) -> RunHandle[Any]:
        """Let a failed or cancelled run go on, under its id: a new attempt, with all that is recorded answering at once.

        What ended it is forgotten: the steps whose failure it was run again, and the children whose end it was go on
        likewise, from what failed in them. Children that were cancelled along with it go on, too. It has all its
        retries again, and its invokes all of their timeouts.

        A parent that awaited the run has had its end, and keeps it: resume the parent, and the run goes on with it.
        An `on_failure` or `on_cancel` handler that has run is not undone; should the run fail again, it is started
        again.

        Raises:
            RunNotFoundError: no run has this id.
            RunStatusError: it has completed, it has not ended, it is one of a map's runs, it is damaged, or its
                workflow is not registered.

        Durable when it returns.
        """
        engine = self._accepting()
        row = await self._row(run_id)
        async with engine.claims.hold(row.root_run_id):
            await self._cleaned_up(engine, run_id)
            row = await self._row(run_id)
            await self._check_whole(row, "resumed")
            check_resumable(row)
            self._workflow_of(engine, row, "resume")
            parent = None if row.parent_n is None else await self._row_of(row.parent_n)
            adopter = await self._living_above(engine, parent)
            reviving = Reviving(engine)
            plan = await reviving.plan(row)
            if engine.sharing is not None:
                await self._resume_taken(engine, engine.sharing, reviving, plan, parent, adopter)
                return RunHandle(self, run_id)
            while not reviving.still_holds(plan):  # something below has ended, or was taken back, meanwhile
                for revival in plan:
                    await self._cleaned_up(engine, revival.row.run_id)
                await asyncio.sleep(0)  # nothing else here need wait for anything: what has to move must get its turn
                await engine.journal.durable(engine.journal.last_seq)
                plan = await reviving.plan(await self._row(run_id))
            self._accepting()
            await engine.journal.durable(reviving.revive(plan, parent, adopter))
        return RunHandle(self, run_id)

    async def _resume_taken(
        self, engine: Engine, sharing: Sharing, reviving: Reviving, plan: list[Revival], parent: RunRow | None,
        adopter: Run | None,
    ) -> None:  # fmt: skip
        """Of many replicas: what is to come back is made ours first, and its parent, which keeps its end, with it."""
        taking, row = TakingBack(engine, sharing), plan[0].row
        has_parent_ended = parent is not None and parent.ended_at is not None
        must_be_here = [n for revival in plan for n in revival.running]
        if parent is not None and not has_parent_ended:
            must_be_here.append(parent.n)
        await taking.check_here("resumed", row, must_be_here)
        kept = [parent] if parent is not None and has_parent_ended else []
        await taking.take("resumed", row, [*(revival.row for revival in plan), *kept])
        is_back = False
        try:
            for revival in plan:
                await self._cleaned_up(engine, revival.row.run_id)
            self._accepting()
            if not reviving.still_holds(plan):
                raise RunStatusError(
                    f"run {row.run_id} cannot be resumed: something below it has ended just now; resume it again",
                    run_id=row.run_id, status=row.status.value,
                )  # fmt: skip
            released = [RunsReleased([each.n for each in kept])] if kept else []
            seq, is_back = reviving.revive(plan, parent, adopter, released), True
        finally:
            if not is_back:
                taking.give_back([*(revival.row.n for revival in plan), *(each.n for each in kept)])
        await engine.journal.durable(seq)

    async def _cleaned_up(self, engine: Engine, run_id: str) -> None:
        """A cancelled run may still be cleaning up; two of it must not be alive."""
        run = engine.tree.find(run_id)
        if run is not None and run.cancellation is not None:
            await asyncio.shield(run.cancellation.done)

    async def _living_above(self, engine: Engine, above: RunRow | None) -> Run | None:
        """The nearest run above that has not ended: cancelling that one will find what is resumed below it."""
        while above is not None:
            if (run := engine.tree.get(above.n)) is not None and not run.is_doomed:
                return run
            above = None if above.parent_n is None else await self._row_of(above.parent_n)
        return None

    async def _row_of(self, n: int) -> RunRow | None:
        rows = await self._read(lambda store: store.rows([n]))
        return rows[0] if rows else None

    # From a step

    async def fork(self, run_id: str, *, from_step: str, use: int = 1, new_run_id: str | None = None) -> RunHandle[Any]:
        """Start a new run with the input of another and with what that one had recorded before a step, which runs anew.

        The outcomes recorded before that of the step answer at once, in the new run as in the old: steps are not
        executed again, children not spawned again. From the step on everything is done anew.

        Args:
            run_id: a run, ended or not.
            from_step: the id of a step of it that has an outcome. use: which use of that id, where it has several.
            new_run_id: an id of your choice for the new run.

        Raises:
            RunNotFoundError: no run has this id.
            RunStatusError: no such step is recorded (those that are, are named), too much is, its workflow is not
                registered, or a part of its tree is deleted already.
            RunExistsError: another run has the id `new_run_id`.

        Durable when it returns.
        """
        engine = self._accepting()
        row = await self._row(run_id)
        workflow = self._workflow_of(engine, row, "fork")
        async with engine.claims.hold(row.root_run_id):  # nobody deletes it meanwhile
            row = await self._row(run_id)
            await self._check_whole(row, "forked")
            memo = await self._memo_before(row, from_step, use)
        chosen = engine.ports.ids.new_run_id(engine.now()) if new_run_id is None else checked_run_id(new_run_id)
        async with engine.claims.hold(chosen):
            if await self._find(engine, chosen) is not None:
                raise RunExistsError(f"run id {chosen!r} belongs to another run; choose a new one, or leave it out")
            self._accepting()
            if not await self._start_fork(engine, row, workflow, memo, chosen):
                raise RunExistsError(f"run id {chosen!r} belongs to another run; choose a new one, or leave it out")
        return RunHandle(self, chosen)

    async def _check_whole(self, row: RunRow, done: str) -> None:
        if await self._read(lambda store: is_half_deleted(store, row)):
            raise RunStatusError(
                f"run {row.run_id} cannot be {done}: a part of its tree is deleted already; delete run "
                f"{row.root_run_id} once more, and the rest goes, too", run_id=row.run_id, status=row.status.value,
            )  # fmt: skip

    async def _memo_before(self, row: RunRow, from_step: str, use: int) -> list[StepRow]:
        if isinstance(use, bool) or not isinstance(use, int) or use < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"use must be a number of at least 1 (the first use of the step's id), got {use!r}")
        history = (await self._read(lambda store: store.histories([row.n])))[row.n]
        ends = await self._read(
            lambda store: store.child_ends(EndsQuery(row.n, (0, 0), _ALL, limit=_MOST_FORKED_STEPS + 1))
        )
        if len(ends) + len(history.steps) > _MOST_FORKED_STEPS:
            raise RunStatusError(
                f"run {row.run_id} has recorded more than {_MOST_FORKED_STEPS} outcomes, too many to be taken along by "
                f"a fork; restart it instead", run_id=row.run_id, status=row.status.value,
            )  # fmt: skip
        children = await self._read(lambda store: store.list_runs(RunQuery(parent_n=row.n, limit=_ALL)))
        names = {child.parent_key: child.parent_step_id or "" for child in children if child.parent_key is not None}
        try:
            return memo_before(history, ends, names, from_step, use)
        except NoSuchStepError as error:
            which = "" if use == 1 else f" (use {use})"
            raise RunStatusError(
                f"run {row.run_id} has recorded no outcome of step {from_step!r}{which}; it has of "
                f"{', '.join(map(repr, error.known)) or 'none'}", run_id=row.run_id, status=row.status.value,
            ) from None  # fmt: skip

    async def _start_fork(
        self, engine: Engine, row: RunRow, workflow: Workflow[Any, Any], memo: list[StepRow], run_id: str
    ) -> bool:
        """False: another replica has started a run of that id, just now."""
        journal, now, n = engine.journal, engine.now(), engine.tree.next_n()
        new = RunRow(
            n=n, run_id=run_id, workflow_id=row.workflow_id, root_n=n, root_run_id=run_id, created_at=now,
            input=row.input, headers=row.headers, retries=row.retries, event=row.event, version=workflow.version,
            origin_run_id=row.run_id, wake_at=now, flags=row.flags & RunFlag.HANDLER,
        )  # fmt: skip
        entries: list[Entry] = [RunCreated(new)]
        for at, step in enumerate(memo, 1):
            step.n, step.seq = n, journal.next_seq + at
            entries.append(StepRecorded(step))
        return await journal.attempt(entries, partial(self._place_fork, engine, new, workflow))

    def _place_fork(self, engine: Engine, new: RunRow, workflow: Workflow[Any, Any]) -> None:
        journal = engine.journal
        run = Run(engine, msgspec.structs.replace(new), None, Phase.STORED)
        run.workflow, run.seen_seq = workflow, journal.last_seq
        engine.tree.add(run)
        if workflow.budget is not None:
            engine.features.run_spends(run)
        engine.features.run_known(run)
        engine.admission.take(run)
        run.post(AttemptDue(new.created_at))
        engine.queue_of_runs.poke()
        journal.kick()

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

    # Checks

    async def _ended_row(self, run_id: str, doing: str) -> RunRow:
        row = await self._row(run_id)
        if not row.status.is_terminal:
            raise RunStatusError(
                f"cannot {doing} run {run_id} of workflow {row.workflow_id!r}: it has not ended, it is "
                f"{row.status.value}; cancel it first", run_id=run_id, status=row.status.value,
            )  # fmt: skip
        return row

    def _workflow_of(self, engine: Engine, row: RunRow, doing: str) -> Workflow[Any, Any]:
        workflow = engine.registry.get(row.workflow_id) or engine.compensations.workflow_of(row)
        if workflow is None:
            raise unknown_workflow(row, doing, engine.registry.known_ids())
        return workflow


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
