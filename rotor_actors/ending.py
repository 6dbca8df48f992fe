"""How runs end: completed, failed for good, or failed for now and tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.errors import (
    BudgetExceededError,
    DurationError,
    EffectOutsideStepError,
    ErrorInfo,
    ExpressionError,
    InvokeDepthError,
    InvokeTargetError,
    NonDeterminismError,
    PayloadError,
    RotorError,
    RunExistsError,
    RunNotFoundError,
    StepRefusedError,
    WorkflowDefinitionError,
    WorkflowFailedError,
)
from rotor_actors.finishing import Finishing
from rotor_actors.kernel import Kernel
from rotor_actors.loading import AttemptNote, FailureNote
from rotor_actors.messages import StepEnded
from rotor_actors.records import (
    Entry,
    Kind,
    Outcome,
    OutcomeStatus,
    RunChanged,
    RunFlag,
    RunStatus,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.remote_errors import record
from rotor_actors.retry import RetryPolicy, RetryRecord, is_retriable, leaves, next_delay, retry_after
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor

# The code is wrong, or its budget is spent: the same code would fail in the same way again.
_PROGRAMMING_ERRORS = (BudgetExceededError, DurationError,
                       EffectOutsideStepError, ExpressionError, InvokeDepthError, InvokeTargetError,
                       NonDeterminismError,
                       PayloadError, RunExistsError, RunNotFoundError, StepRefusedError, WorkflowDefinitionError)  # fmt: skip

_LEFT_BEHIND = RunFlag.RELEASED | RunFlag.ABANDON
_OUTCOME_OF = {RunStatus.COMPLETED: OutcomeStatus.COMPLETED, RunStatus.FAILED: OutcomeStatus.FAILED}


class Ending:
    """What becomes of a run whose attempt has ended."""

    def __init__(self, kernel: Kernel, finishing: Finishing) -> None:
        self._kernel = kernel
        self._finishing = finishing

    def attempt_ended(
        self, run: Run, task: asyncio.Future[Any], failed_keys: list[bytes], sleeps: dict[bytes, float]
    ) -> None:
        """The body has returned or raised: end the run, or have it tried again."""
        if run.is_doomed:
            assert run.cancellation is not None
            run.cancellation.cleaned_up(run, task)
            return
        if task.cancelled():
            error: BaseException | None = RotorError(
                f"{run.where}: raised CancelledError, though nobody had cancelled it"
            )
        else:
            error = task.exception()
        if error is not None:
            self._failed(run, error, failed_keys, sleeps, task)
        else:
            self._completed(run, task.result())

    def _completed(self, run: Run, result: Any) -> None:
        assert run.workflow is not None
        try:
            blob, _ = self._kernel.registry.result_codec(run.workflow).round_trip(result)
        except PayloadError as error:
            self._failed(run, PayloadError(f"{run.where}: its result cannot be stored: {error}"), [], {})
        else:
            self.end(run, RunStatus.COMPLETED, result=blob)

    def _failed(
        self, run: Run, error: BaseException, failed_keys: list[bytes], sleeps: dict[bytes, float],
        task: asyncio.Future[Any] | None = None,
    ) -> None:  # fmt: skip
        info = record(error, self._kernel.registry.codecs).info
        if any(map(_is_final, leaves(error))):
            info = msgspec.structs.replace(info, is_final=True)
        encoded = msgspec.msgpack.encode(info)
        delay = None if info.is_final else self._retry_delay(run, error)
        if delay is None:
            invokes = run.actor.invokes_that_ended(task) if isinstance(run.actor, RunActor) and task is not None else []
            self.end(run, RunStatus.FAILED, error=encoded, note=FailureNote(failed_keys, invokes))
        else:
            children = [child.row.parent_key for child in run.each_child() if child.is_owned and not child.is_doomed]
            left = [*(key for key in children if key), *(self._kernel.features.waiting(run) or ())]
            self._try_again(run, delay, AttemptNote(encoded, failed_keys, sleeps, left))

    def _retry_delay(self, run: Run, error: BaseException) -> float | None:
        if not is_retriable(error):
            return None
        policy = self._policy(run)
        return next_delay(policy, run.row.attempt - run.row.attempts_before, retry_after(error), self._kernel.chance())

    def _policy(self, run: Run) -> RetryPolicy:
        assert run.workflow is not None
        if run.row.retries is None:
            return run.workflow.retries
        return RetryPolicy.from_record(msgspec.msgpack.decode(run.row.retries, type=RetryRecord))

    def _try_again(self, run: Run, delay: float, note: AttemptNote) -> None:
        kernel, row = self._kernel, run.row
        due = kernel.now() + delay
        seq = kernel.journal.next_seq
        step = StepRow(row.n, kernel.now(), Kind.ATTEMPT, status=OutcomeStatus.FAILED,
                       payload=msgspec.msgpack.encode(note), began_at=row.attempt_at, attempts=row.attempt, due=due,
                       seq=seq)  # fmt: skip
        row.attempt += 1
        row.attempt_at, row.wake_at, row.rest_seq = None, due, seq
        row.error = note.error
        run.actor, run.phase = None, Phase.STORED
        kernel.journal.forget_rest(
            row.n
        )  # of the attempt that is over: written after the change, it would undo wake_at
        kernel.append(run, Together([StepRecorded(step), RunChanged(run.snapshot())]))
        kernel.timers.add(run, due)

    def end(
        self, run: Run, status: RunStatus, *, result: bytes | None = None, error: bytes | None = None,
        note: FailureNote | None = None,
    ) -> None:  # fmt: skip
        """End the run, with those of its children that it does not leave behind, in one act."""
        kernel, row = self._kernel, run.row
        row.status, row.result, row.error = status, result, error
        row.ended_at, row.end_seq = kernel.now(), kernel.journal.next_seq
        entries: list[Entry] = [RunChanged(row)]  # the last there is: it changes no more
        if run.parent is None and row.parent_n is not None and self._finishing.remote is not None:
            entries += self._finishing.remote.end_entries(run)
        if note is not None and (note.steps or note.invokes):
            entries.append(StepRecorded(self._failure_row(run, note)))
        handler = run.workflow.on_failure if run.workflow is not None and status is RunStatus.FAILED else None
        if handler is not None and error is not None:
            info = msgspec.msgpack.decode(error, type=ErrorInfo)
            entries.append(self._finishing.handler_entry(run, handler, "on_failure", info, ""))
        left = [child for child in run.each_child() if not child.is_doomed and not child.row.flags & _LEFT_BEHIND]
        also = kernel.features.run_ends([run])
        if left:
            Cancellation(kernel, self._finishing, left, f"its parent ended ({status.value})").begin(
                [*entries, *also], run
            )
        else:
            together = [*entries, *also]
            kernel.append(run, entries[0] if len(together) == 1 else Together(together))
        # First of all its parent: what features record of this end comes after it in the journal, and so on replay.
        self._tell_parent(run, Outcome(_OUTCOME_OF[status], result if status is RunStatus.COMPLETED else error))
        if len(entries) > 1:
            self._finishing.begin_handlers(entries)
        kernel.features.run_ended(run)
        self._finishing.finish(run)

    def _failure_row(self, run: Run, note: FailureNote) -> StepRow:
        row = run.row
        return StepRow(row.n, row.ended_at or 0.0, Kind.FAILURE, status=OutcomeStatus.FAILED,
                       payload=msgspec.msgpack.encode(note), attempts=row.attempt, seq=row.end_seq or 0)  # fmt: skip

    def _tell_parent(self, run: Run, outcome: Outcome) -> None:
        row, parent = run.row, run.parent
        if parent is not None and run.is_owned and row.parent_key is not None:
            parent.post(
                StepEnded(row.parent_key, outcome, row.end_seq or 0, row.ended_at or 0.0, row.run_id, row.workflow_id)
            )


def _is_final(error: BaseException) -> bool:
    # Of a child, too: how it ended is never forgotten, so each level above would get the same error at each attempt. A
    # workflow that invokes itself without end would be tried again at a hundred levels.
    return isinstance(error, _PROGRAMMING_ERRORS) or (isinstance(error, WorkflowFailedError) and error.error.is_final)
