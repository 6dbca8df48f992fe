"""What can be done with one run after its end: restart it from the top, or resume it from what failed."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import RunExistsError, RunStatusError
from rotor_actors.handle import RunHandle
from rotor_actors.ids import checked_run_id
from rotor_actors.kernel import Started
from rotor_actors.pruning import is_half_deleted
from rotor_actors.records import (
    EventNote,
    RunFlag,
    RunRow,
    RunsReleased,
)
from rotor_actors.replicas.asking import Asker
from rotor_actors.replicas.forwarding import StartNote
from rotor_actors.replicas.taking_back import TakingBack
from rotor_actors.reviving import Revival, Reviving, check_resumable, unknown_workflow
from rotor_actors.roots import root_row, start_root, start_root_as
from rotor_actors.run import Run
from rotor_actors.sharing import Sharing
from rotor_actors.starting import Starting
from rotor_actors.workflows import Workflow


class Restarting(Starting):
    """The methods of `Runtime` that let a run go again."""

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

    # Checks

    async def _check_whole(self, row: RunRow, done: str) -> None:
        if await self._read(lambda store: is_half_deleted(store, row)):
            raise RunStatusError(
                f"run {row.run_id} cannot be {done}: a part of its tree is deleted already; delete run "
                f"{row.root_run_id} once more, and the rest goes, too", run_id=row.run_id, status=row.status.value,
            )  # fmt: skip

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
