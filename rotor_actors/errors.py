"""Every error this library raises, one base above them all.

A class tells the reader what he may do: retry, give up, or nothing. Messages name the run, the step, what was
expected, what was found, and the remedy. "What I awaited was cancelled" (`WorkflowCancelledError`, an ordinary
`Exception`) is never mixed up with "I was cancelled" (`asyncio.CancelledError`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import msgspec

__all__ = [
    "AnswerTimeoutError",
    "BudgetExceededError",
    "CompensationError",
    "DurationError",
    "EffectOutsideStepError",
    "ErrorInfo",
    "ExpressionError",
    "InvokeDepthError",
    "InvokeTargetError",
    "NoReplicaError",
    "NonDeterminismError",
    "NonRetriableError",
    "PayloadError",
    "QuorumError",
    "RetryAfterError",
    "RotorError",
    "RunExistsError",
    "RunNotFoundError",
    "RunSkippedError",
    "RunStatusError",
    "RunTimeoutError",
    "RuntimeStateError",
    "SignalInUseError",
    "SignalNotFoundError",
    "SignalTimeoutError",
    "StepFailedError",
    "StepRefusedError",
    "StepRunnerError",
    "StepRunnerMissingError",
    "StepTimeoutError",
    "StoreCorruptedError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreVersionError",
    "WorkerLostError",
    "WorkflowCancelledError",
    "WorkflowDefinitionError",
    "WorkflowError",
    "WorkflowFailedError",
    "WorkflowTimeoutError",
]


class ErrorInfo(msgspec.Struct, frozen=True):
    """What is kept of an exception once it has left its process: type name, message and traceback text.

    Attributes:
        is_final: the code is wrong, and would fail in the same way again: neither the run nor those above are retried.
    """

    type: str
    message: str
    traceback: str = ""
    is_final: bool = False


class AwaitedRun(Protocol):
    """A run that was let go of, in the hands of a workflow's body. What is done with it are steps of that body."""

    run_id: str

    async def join(self, id: str, *, timeout: str | float | timedelta, returns: Any = ...) -> Any:
        """`step.join` it."""
        ...

    async def cancel(self, id: str, reason: str = "") -> bool:
        """`step.cancel` it."""
        ...


class RotorError(Exception):
    """Base of every error of this library."""


class WorkflowError(RotorError):
    """The end of another run, seen by the one who awaited it: base of failed, timed out and cancelled.

    Attributes:
        run_id: id of the run that was awaited.
        workflow_id: id of its workflow.
    """

    def __init__(self, message: str, *, run_id: str, workflow_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.workflow_id = workflow_id

    def _identity(self) -> tuple[object, ...]:
        return (type(self), self.args, self.run_id, self.workflow_id)

    def __eq__(self, other: object) -> bool:
        """Equal by content: the error that a replay raises equals the one of the first execution."""
        return isinstance(other, WorkflowError) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self.run_id, self.workflow_id))


class WorkflowFailedError(WorkflowError):
    """The awaited run failed for good: its own retries are used up.

    Attributes:
        error: what ended it: original type name, message and remote traceback.
    """

    def __init__(self, *, run_id: str, workflow_id: str, error: ErrorInfo) -> None:
        message = f"run {run_id} of workflow {workflow_id!r} failed: {error.type}: {error.message}"
        super().__init__(message, run_id=run_id, workflow_id=workflow_id)
        self.error = error
        if error.traceback:
            self.add_note(f"remote traceback:\n{error.traceback}")


class WorkflowTimeoutError(WorkflowError):
    """The awaiting side's timeout passed. The awaited run keeps running and can be joined or cancelled by `run_id`.

    Attributes:
        timeout: the timeout that passed, in seconds.
    """

    def __init__(self, *, run_id: str, workflow_id: str, timeout: float) -> None:
        message = (
            f"run {run_id} of workflow {workflow_id!r} did not end within {timeout:g} s; "
            f"it keeps running: await it with runtime.run({run_id!r}).result(), in a workflow with step.join, or cancel it"
        )
        super().__init__(message, run_id=run_id, workflow_id=workflow_id)
        self.timeout = timeout
        self.awaited: AwaitedRun | None = None

    @property
    def child(self) -> AwaitedRun:
        """The run, to be joined or cancelled by steps of the body that caught this.

        Raises:
            RuntimeStateError: it was not raised to a workflow's body: there `runtime.run(error.run_id)` is at hand.
        """
        if self.awaited is None:
            raise RuntimeStateError(
                f"run {self.run_id}: only in the workflow that awaited it is there a child to join or cancel; "
                f"use runtime.run({self.run_id!r})"
            )
        return self.awaited


class WorkflowCancelledError(WorkflowError):
    """The awaited run was cancelled. The awaiting one was not: this is an ordinary exception.

    Attributes:
        reason: what the canceller gave as reason, or "".
    """

    def __init__(self, *, run_id: str, workflow_id: str, reason: str = "") -> None:
        message = f"run {run_id} of workflow {workflow_id!r} was cancelled" + (f": {reason}" if reason else "")
        super().__init__(message, run_id=run_id, workflow_id=workflow_id)
        self.reason = reason


class StepTimeoutError(RotorError):
    """A step's body took longer than its `timeout`.

    Attributes:
        step_id: the step. timeout: its cap, in seconds.
    """

    def __init__(self, message: str, *, step_id: str = "", timeout: float = 0.0) -> None:
        super().__init__(message)
        self.step_id = step_id
        self.timeout = timeout


class StepFailedError(RotorError):
    """A step raised an exception whose class cannot be built again from the journal.

    A failed step raises its original exception, rebuilt from what was recorded, in the first execution as on replay.
    Where that cannot be done (a class local to a function, arguments that cannot be stored), this one stands in.

    Attributes:
        error: original type name, message and traceback.
        retriable: False if the original was a `NonRetriableError`.
    """

    def __init__(self, message: str, *, error: ErrorInfo, retriable: bool = True) -> None:
        super().__init__(message)
        self.error = error
        self.retriable = retriable


class StepRefusedError(RotorError):
    """A step was called where none may start: while cleaning up after a cancellation, or after its attempt ended."""


class NonRetriableError(RotorError):
    """Raised by user code: do not retry, neither this step nor this run."""


class StepRunnerError(NonRetriableError):
    """A step cannot be executed by the runner that was asked for: no runner has that name, its function cannot be
    imported elsewhere, or its arguments cannot be pickled. Nothing was submitted."""


class StepRunnerMissingError(RotorError):
    """Many replicas: the one that owns the run has no step runner of the name that a step asks for. Nothing was
    submitted. It is retriable, for a later attempt may be another replica's, one that has it."""


class WorkerLostError(RotorError):
    """The process or the machine that executed a step has died. Whether the step had its effect is not known: `retries`
    execute it again.

    Attributes:
        exit_code: of the process, where it is known; negative: the signal that ended it.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RetryAfterError(RotorError):
    """Raised by user code: retry, but not before `after` has passed.

    Attributes:
        after: the delay, a duration (`"90s"`, a `timedelta`, or a number of seconds).
    """

    def __init__(self, message: str = "", after: str | float | timedelta = 0) -> None:
        super().__init__(message, after)
        self.after = after

    def __str__(self) -> str:
        return str(self.args[0])


class BudgetExceededError(RotorError):
    """A run, with all below it, would spend more than its budget, or has.

    Attributes:
        run_id: whose budget it is: the run that had asked for it, this one or one above.
        what: the limit: `"runs"`, `"depth"`, `"concurrent"`, `"deadline"`, or the name of a unit.
        allowed: how much of it. spent: what the run and all below it had spent until then, by unit, and `"runs"`.
    """

    def __init__(
        self, message: str, run_id: str = "", what: str = "", allowed: float = 0.0,
        spent: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, run_id, what, allowed, dict(spent or {}))
        self.run_id = run_id
        self.what = what
        self.allowed = allowed
        self.spent = dict(spent or {})

    def __str__(self) -> str:
        return str(self.args[0])


class CompensationError(NonRetriableError):
    """Some steps of a run could not be undone; the others were. It is what the run that undoes them has failed of."""


class NonDeterminismError(RotorError):
    """The workflow's code asked for something else than what the journal recorded under the same step key."""


class EffectOutsideStepError(RotorError):
    """A workflow body did I/O, used a thread, or awaited a future of another loop: put it in `step.run`."""


class InvokeTargetError(RotorError):
    """The workflow to be invoked is unknown, or is started by a schedule and so cannot be invoked."""


class InvokeDepthError(RotorError):
    """Invoking once more would exceed `max_depth`; the message names the chain of invokers."""


class QuorumError(RotorError):
    """Too many runs of `step.quorum` or `step.first` have not completed.

    Attributes:
        outcomes: the ends of those that did not (`InvokeOutcome`), in the order in which they came.
    """

    def __init__(self, message: str, *, outcomes: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.outcomes = outcomes


class SignalTimeoutError(RotorError):
    """No signal of that name came within the `timeout` of `step.wait_for_signal`.

    Attributes:
        signal: its name. timeout: how long it was waited for, in seconds.
    """

    def __init__(self, message: str, *, signal: str = "", timeout: float = 0.0) -> None:
        super().__init__(message)
        self.signal = signal
        self.timeout = timeout


class SignalNotFoundError(RotorError, LookupError):
    """No run waits for a signal of this name now."""


class SignalInUseError(RotorError):
    """Another step waits for a signal of this name already: a signal has one receiver."""


class ExpressionError(RotorError, ValueError):
    """A `match` path or a `where` expression that cannot work; the message shows the place.

    Attributes:
        expression: the text. position: the offset in it, from 0.
    """

    def __init__(self, message: str, *, expression: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.expression = expression
        self.position = position


class WorkflowDefinitionError(RotorError, ValueError):
    """A workflow or a trigger is defined in a way that cannot work, or two workflows share one id."""


class DurationError(RotorError, ValueError):
    """Not a usable duration; the message names the parameter and shows a right value."""


class PayloadError(RotorError, ValueError):
    """A value cannot be stored and given back unaltered, or is larger than the payload limit."""


class RunNotFoundError(RotorError, LookupError):
    """No run has this id."""


class RunSkippedError(RotorError):
    """An invoke of a singleton met a run of it that has not ended, and spawned nothing.

    Attributes:
        run_id: the run that is there.
    """

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message, run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return str(self.args[0])


class RunStatusError(RotorError):
    """The run's status does not allow what was asked: it runs and should have ended, or the other way round.

    Attributes:
        run_id: the run. status: what it is.
    """

    def __init__(self, message: str, *, run_id: str = "", status: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        self.status = status


class RunExistsError(RotorError):
    """The chosen run id belongs to a run of other content."""


class RunTimeoutError(RotorError):
    """A run took longer than its workflow's `timeout`. It has failed of that, whatever its code did: it is the name in
    the `error` of the `WorkflowFailedError` that its awaiters get."""


class RuntimeStateError(RotorError):
    """The runtime is not open (not yet entered, closing, or closed)."""


class AnswerTimeoutError(RotorError):
    """Many replicas: what was asked of another is recorded and will be done once, but nobody has done it yet. Asking
    again would ask for it a second time: look first what has become of it."""


class NoReplicaError(RotorError):
    """Many replicas: nobody is there who could do what was asked. The message says whether it was recorded; if not, start a
    replica (`rotor serve`), then ask again."""


class StoreError(RotorError):
    """The store failed. After a failed commit its outcome is unknown: the runtime stops, reopening re-reads the file."""


class StoreFullError(StoreError):
    """The disk is full: nothing of the refused commit was acknowledged. Make room, then open the store again."""


class StoreLockedError(StoreError):
    """Another process owns this store; the message names its pid."""


class StoreCorruptedError(StoreError):
    """The file is not one of ours, or a checksum says that it was damaged."""


class StoreVersionError(StoreError):
    """The file was written by a newer version of this library."""


class StoreUnavailableError(StoreError):
    """The database cannot be reached, or was lost; the message says what was tried, and what to do."""


class ReplicaFencedError(StoreError):
    """This replica's lease ran out and its runs were given to others: nothing it does is recorded any more."""
