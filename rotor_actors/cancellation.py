"""Cancelling runs with all that runs below them: first the fact, in one act, then the tasks, leaf first, in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from rotor_actors.error_texts import bounded
from rotor_actors.errors import ErrorInfo
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Interrupt, StepEnded
from rotor_actors.records import (
    Entry,
    FlagsAdded,
    Outcome,
    OutcomeStatus,
    RunChanged,
    RunCreated,
    RunFlag,
    RunsCancelled,
    RunStatus,
    Together,
)
from rotor_actors.replicas.elsewhere import Elsewhere
from rotor_actors.replicas.remote import RemoteRuns
from rotor_actors.run import Canceller, Phase, Run, subtree
from rotor_actors.run_actor import RunActor
from rotor_actors.step_task import StepTask
from supervisors import await_chain

# Cleanup has most of the grace period to itself. Only then is whatever still runs interrupted again, twice.
_REMINDERS = (0.8, 0.9)


class CancelReport(msgspec.Struct):
    """What a cancellation did.

    Attributes:
        cancelled: ids of the runs that became cancelled, parents before children.
        already_ended: ids of the runs that had ended before: they stay as they are.
        interrupted_steps: how many step bodies were under way.
        cleanup_errors: what was raised, or returned, instead of letting the cancellation through.
        stuck: what had not ended when the grace period was over, and where it stood. It is fenced: nothing it does
            is recorded.
        seconds: how long it took.
    """

    cancelled: list[str] = []
    already_ended: list[str] = []
    interrupted_steps: int = 0
    cleanup_errors: list[str] = []
    stuck: list[str] = []
    seconds: float = 0.0


class Cancellation:
    """One cancellation of some runs and all below them.

    Args:
        tops: the runs to cancel, none of them cancelled already.
        withdrawn: the one among them whose awaiting scope was cancelled: that is no outcome.
        failure: what the one run to end has failed of, where that is no cancellation: it took too long, or spent too
            much. What is below it is cancelled, save for children that outlive their parent.
    """

    def __init__(
        self, kernel: Kernel, finishing: Finishing, tops: list[Run], reason: str, *, withdrawn: Run | None = None,
        failure: ErrorInfo | None = None,
    ) -> None:  # fmt: skip
        self._kernel = kernel
        self._finishing = finishing
        self._tops = tops
        self._reason = bounded(reason)
        self._withdrawn = withdrawn
        self._failure = failure
        self._runs: list[Run] = []
        self._stubs: list[Run] = []
        self._to_interrupt: list[Run] = []
        self._unfinished: set[Run] = set()
        self._steps: set[StepTask] = set()
        self._below: dict[Canceller, None] = {}
        self._began_at = 0.0
        self._deadline = 0.0
        self._reminders: list[float] = []
        self.report = CancelReport()
        self.elsewhere: Elsewhere | None = None
        self.done: asyncio.Future[CancelReport] = asyncio.get_running_loop().create_future()
        self.seq = 0

    # The fact

    def begin(self, entries: list[Entry] | None = None, run: Run | None = None) -> None:
        """Make the runs cancelled, together with `entries` (the end of their parent `run`), as one entry.

        From here on they are doomed: they admit no child, record nothing, and answer to nobody.
        """
        kernel = self._kernel
        self._runs = subtree(self._tops) if self._failure is None else self._failing_tree()
        told = [] if self._finishing.remote is None else self._tell_others(self._finishing.remote)
        for each in self._runs:
            each.is_doomed = True
            each.cancellation = self
        at, seq = kernel.now(), kernel.journal.next_seq
        error = msgspec.msgpack.encode(self._reason) if self._reason else None
        withdrawn = None if self._withdrawn is None else self._withdrawn.row.n
        cancelled = self._runs if self._failure is None else self._runs[1:]
        fact = RunsCancelled([each.row.n for each in cancelled], at, error, withdrawn, seq)
        ends = [*self._end_by_failure(at, seq), *(entries or [])]
        handlers = self._handler_entries(cancelled)
        also = [*handlers, *kernel.features.run_ends(self._runs), *told]
        entry = Together([*ends, fact, *also]) if ends or also else fact
        self.seq = kernel.journal.append(entry)
        if run is not None:
            run.seen_seq = self.seq
        for each in cancelled:
            row = each.row
            row.status, row.ended_at, row.end_seq, row.error = RunStatus.CANCELLED, at, self.seq, error
        if self._withdrawn is not None:
            self._withdrawn.row.flags |= RunFlag.WITHDRAWN
        self.report.cancelled.extend([each.row.run_id for each in cancelled])
        self._finishing.begin_handlers(list(handlers))
        self._join_those_below()
        self._tell_parents(at, error)
        if self._finishing.remote is not None:
            self._finishing.remote.drop_all(self._stubs)
        self._begin_interrupting()

    def _tell_others(self, remote: RemoteRuns) -> list[Entry]:
        """What goes to other replicas with it: the owners of what is below, and of the parents of the tops.

        What stands here for runs of theirs goes, too: their end is nothing to a parent that has ended.
        """
        stubs = [run for run in self._runs if run.phase is Phase.REMOTE]
        if stubs:
            self._runs = [run for run in self._runs if run.phase is not Phase.REMOTE]
        cancelled = self._runs if self._failure is None else self._runs[1:]
        entries: list[Entry] = []
        for top in self._tops:
            if top is not self._withdrawn and top.phase is not Phase.REMOTE and (end := remote.end_entries(top)):
                entries += [FlagsAdded(top.row.n, RunFlag.UNSEEN), *end]
        if stubs or any(map(remote.may_have_crossed, self._tops)):
            ours = {run.row.n for run in cancelled}
            tops = [run.row.n for run in cancelled if run.parent is None or run.parent.row.n not in ours]
            asked = [stub.row.n for stub in stubs]
            self.elsewhere = Elsewhere(self._kernel, remote, self._tops[0].row, tops, asked, self._reason)
            entries += self.elsewhere.entries()
        self._stubs = stubs
        return entries

    def _handler_entries(self, cancelled: list[Run]) -> list[RunCreated]:
        finishing = self._finishing
        handlers = [
            finishing.handler_entry(run, run.workflow.on_cancel, "on_cancel", None, self._reason)
            for run in cancelled
            if run.workflow is not None and run.workflow.on_cancel is not None
        ]
        if self._failure is not None:
            run = self._tops[0]
            if run.workflow is not None and run.workflow.on_failure is not None:
                handlers.append(finishing.handler_entry(run, run.workflow.on_failure, "on_failure", self._failure, ""))
        return handlers

    def _failing_tree(self) -> list[Run]:
        top = self._tops[0]
        left = [child for child in top.each_child() if not child.row.flags & (RunFlag.RELEASED | RunFlag.ABANDON)]
        return [top, *subtree([child for child in left if not child.is_doomed])]

    def _end_by_failure(self, at: float, seq: int) -> list[Entry]:
        if self._failure is None:
            return []
        top = self._tops[0]
        top.row.status, top.row.error = RunStatus.FAILED, msgspec.msgpack.encode(self._failure)
        top.row.ended_at, top.row.end_seq = at, seq
        return [RunChanged(top.snapshot())]

    def _tell_parents(self, at: float, error: bytes | None) -> None:
        for run in self._tops:
            row, parent = run.row, run.parent
            if parent is not None and row.parent_key is not None and run.is_owned and run.phase is not Phase.REMOTE:
                outcome = Outcome(OutcomeStatus.CANCELLED, error)
                if self._failure is not None:
                    outcome = Outcome(OutcomeStatus.FAILED, row.error)
                parent.post(StepEnded(row.parent_key, outcome, self.seq, at, row.run_id, row.workflow_id))

    def _join_those_below(self) -> None:
        """Children withdrawn before, or left by a run that ended, may still clean up: we are not done before they are."""
        self._kernel.cancellations[self] = None
        for run in self._runs:
            self._below.update((other, None) for other in run.cleaning or () if not other.done.done())
        for other in self._below:
            other.done.add_done_callback(partial(self._is_done_below, other))
        parent = self._tops[0].parent
        if parent is not None:
            parent.add_cleaning([self])

    def _is_done_below(self, other: Canceller, _: object) -> None:
        self._below.pop(other, None)
        self.report.cleanup_errors.extend(other.report.cleanup_errors)
        self.report.stuck.extend(other.report.stuck)
        self._check_done()

    # The tasks

    def _begin_interrupting(self) -> None:
        kernel = self._kernel
        self._began_at = kernel.now()
        grace = kernel.options.cancel_grace
        self._deadline = self._began_at + grace
        self._reminders = [self._began_at + grace * share for share in _REMINDERS]
        self._to_interrupt = list(self._runs)  # taken from the end: leaves first
        self._unfinished = set(self._runs)
        kernel.queue_of_runs.push(self)

    def go_on(self, is_over: Callable[[], bool]) -> bool:
        """Interrupt the next runs; called by the run queue."""
        while self._to_interrupt:
            self._interrupt(self._to_interrupt.pop())
            if is_over():
                return True
        self._arm()
        self._check_done()
        return False

    def _interrupt(self, run: Run) -> None:
        # In slices, as all that need not be in the act itself: there may be a hundred thousand runs.
        self._kernel.features.run_ended(run)
        self._finishing.tell_waiters(run)
        self._steps |= self._kernel.steps.leaving(run)
        actor = run.actor
        if not isinstance(actor, RunActor) or actor.is_closed:
            self._finished(run)
            return
        for step in actor.step_tasks():
            if step.task is not None:
                self.report.interrupted_steps += 1
                self._steps.add(step)
            if step.is_in_thread:
                self.report.stuck.append(f"{step.where}: runs on in a worker thread, which cannot be interrupted")
        run.post_control(Interrupt(self._reason))

    def step_gone(self, step: StepTask, error: BaseException | None) -> None:
        """The task of an interrupted step has ended."""
        if error is not None:
            self.report.cleanup_errors.append(f"{step.where}: {type(error).__name__}: {error}")
        self._steps.discard(step)
        self._check_done()

    def cleaned_up(self, run: Run, task: asyncio.Future[Any]) -> None:
        """The body of a run has ended."""
        if task.cancelled():
            pass
        elif (error := task.exception()) is not None:
            self.report.cleanup_errors.append(f"{run.where}: {type(error).__name__}: {error}")
        else:
            self.report.cleanup_errors.append(f"{run.where}: swallowed the cancellation and returned a result")
        self._finished(run)
        self._check_done()

    def _finished(self, run: Run) -> None:
        if run in self._unfinished:
            self._unfinished.discard(run)
            self._finishing.finish(run)

    # Grace

    def _arm(self) -> None:
        if self._unfinished or self._steps:
            self._kernel.timers.add(self, self._reminders[0] if self._reminders else self._deadline)

    def alarm(self, now: float) -> None:
        """The grace period is nearly over, or over."""
        if self._reminders:
            self._reminders.pop(0)
            self._remind()
            self._arm()
        else:
            self._abandon()

    def _remind(self) -> None:
        for run in sorted(self._unfinished, key=lambda run: run.row.n):
            if isinstance(run.actor, RunActor):
                run.actor.interrupt_again()
        for step in sorted(self._steps, key=_place):
            if step.task is not None:
                step.task.cancel()

    def _abandon(self) -> None:
        for run in sorted(self._unfinished, key=lambda run: run.row.n):
            actor = run.actor
            if isinstance(actor, RunActor):
                body = actor.body
                chain = "" if body is None else " > ".join(await_chain(body))
                self.report.stuck.append(f"{run.where}: did not end within its grace period; it stands at {chain}")
                actor.abandon()
                self._kernel.stuck.keep_body(actor)
            self._finished(run)
        for step in sorted(self._steps, key=_place):
            task = step.task
            if task is not None and not step.is_in_thread:
                chain = " > ".join(await_chain(task))
                self.report.stuck.append(f"{step.where}: did not end within its grace period; it stands at {chain}")
            self._kernel.stuck.keep_task(task)
            self._kernel.steps.gone(step)
        self._steps.clear()
        self._check_done()

    def cut_off(self) -> None:
        """The runtime has closed, and interrupted all that still cleaned up: say what became of it."""
        for run in sorted(self._unfinished, key=lambda run: run.row.n):
            actor = run.actor
            if isinstance(actor, RunActor) and actor.body is not None and not actor.body.done():
                self.report.stuck.append(f"{run.where}: was cut off while cleaning up, for the runtime was closed")
        self._to_interrupt.clear()
        self._unfinished.clear()
        self._steps.clear()
        self._below.clear()
        self._check_done()

    def _check_done(self) -> None:
        if self._to_interrupt or self._unfinished or self._steps or self._below or self.done.done():
            return
        self._kernel.timers.discard(self)
        self._kernel.cancellations.pop(self, None)
        self.report.seconds = self._kernel.now() - self._began_at
        self.done.set_result(self.report)


def _place(step: StepTask) -> tuple[int, bytes]:
    """An order of steps that is the same in every process."""
    return step.run.row.n, step.pending.key
