"""`Runtime.fork`: a new run that begins with what an old one had recorded before one of its steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import RunExistsError, RunStatusError
from rotor_actors.forking import NoSuchStepError, memo_before
from rotor_actors.handle import RunHandle
from rotor_actors.ids import checked_run_id
from rotor_actors.messages import AttemptDue
from rotor_actors.records import (
    Entry,
    RunCreated,
    RunFlag,
    RunRow,
    StepRecorded,
    StepRow,
)
from rotor_actors.restarting import Restarting
from rotor_actors.run import Phase, Run
from rotor_actors.stores.base import EndsQuery, RunQuery
from rotor_actors.workflows import Workflow

_ALL = 2**62
_MOST_FORKED_STEPS = 20_000


class Branching(Restarting):
    """The methods of `Runtime` that let a run go again from a step."""

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
