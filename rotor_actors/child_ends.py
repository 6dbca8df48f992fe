"""How an awaited run ended, as the body that awaits it sees it: a value, or an exception."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from rotor_actors.body import NIL
from rotor_actors.errors import (
    ErrorInfo,
    RunSkippedError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.messages import StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.step_specs import SKIPPED

Out = TypeVar("Out")
R = TypeVar("R")


class Invocation(NamedTuple, Generic[R]):
    """What `step.invoke` gives: the child's result, and its run id for logs and links."""

    result: R
    run_id: str


class InvokeOutcome(msgspec.Struct, Generic[Out], frozen=True):
    """How an invoked run ended, as a value: nothing is raised for the child's end.

    Attributes:
        body: the child's result; None unless it completed.
        is_failed, is_canceled, is_timed_out: at most one is true. After a timeout the child runs on.
        run_id: the child.
        error: what made it fail.
        index: of a map's child: the place of its item, from 0.
    """

    body: Out | None
    run_id: str
    is_failed: bool = False
    is_canceled: bool = False
    is_timed_out: bool = False
    error: ErrorInfo | None = None
    index: int | None = None

    @property
    def is_completed(self) -> bool:
        return not (self.is_failed or self.is_canceled or self.is_timed_out)


def as_outcome(ended: StepEnded, codec: Codec, index: int | None = None) -> InvokeOutcome[Any]:
    """The end of an invoke as a value; raises where nothing was spawned."""
    outcome = ended.outcome
    if outcome.status is OutcomeStatus.COMPLETED:
        return InvokeOutcome(codec.decode(outcome.payload or NIL), ended.run_id, index=index)
    error = invoke_error(ended)
    if not isinstance(error, WorkflowError):
        raise error  # not the child's end: nothing was spawned
    return InvokeOutcome(
        None,
        ended.run_id,
        is_failed=outcome.status is OutcomeStatus.FAILED,
        is_canceled=outcome.status is OutcomeStatus.CANCELLED,
        is_timed_out=outcome.status is OutcomeStatus.TIMED_OUT,
        error=error.error if isinstance(error, WorkflowFailedError) else None,
        index=index,
    )


def invoke_error(ended: StepEnded) -> BaseException:
    """The exception that an invoke raises for an end other than completion."""
    blob = ended.outcome.payload
    child = {"run_id": ended.run_id, "workflow_id": ended.workflow_id}
    match ended.outcome.status:
        case OutcomeStatus.TIMED_OUT:
            return WorkflowTimeoutError(timeout=msgspec.msgpack.decode(blob or NIL, type=float), **child)
        case OutcomeStatus.CANCELLED:
            return WorkflowCancelledError(reason=decode_reason(blob), **child)
        case _ if not ended.run_id:
            return rebuild(msgspec.msgpack.decode(blob or b"", type=RecordedError))
        case _:
            error = decode_error(blob)
            if error.type == SKIPPED:
                return RunSkippedError(error.message, error.traceback)
            return WorkflowFailedError(error=error, **child)


def decode_error(blob: bytes | None) -> ErrorInfo:
    """What made a run fail."""
    return msgspec.msgpack.decode(blob or b"", type=ErrorInfo)


def decode_reason(blob: bytes | None) -> str:
    """Why a run was cancelled, or ""."""
    return "" if blob is None else msgspec.msgpack.decode(blob, type=str)
