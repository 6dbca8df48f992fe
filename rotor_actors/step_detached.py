"""The steps that deal with runs which this run does not own: started, joined, cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from rotor_actors.body import NIL, checked_step_id
from rotor_actors.child_ends import Invocation, invoke_error
from rotor_actors.durations import Duration
from rotor_actors.errors import InvokeTargetError, WorkflowTimeoutError
from rotor_actors.ids import checked_run_id
from rotor_actors.invoke_request import LONGEST_INVOKE
from rotor_actors.messages import StepEnded
from rotor_actors.records import Kind, Outcome, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.run_input import encode_data, encode_headers
from rotor_actors.step_run import RunSteps
from rotor_actors.step_specs import CancelSpec, EndNote, JoinSpec, StartSpec
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

ANY: Any = Any
"""Whatever type the workflow itself says."""


class LateChild:
    """The run that a `WorkflowTimeoutError` tells of: the body may join it, or cancel it, by steps of its own.

    Attributes:
        run_id: the run.
    """

    __slots__ = ("_step", "run_id")

    def __init__(self, step: DetachedSteps, run_id: str) -> None:
        self._step = step
        self.run_id = run_id

    async def join(self, id: str, *, timeout: Duration, returns: Any = ANY) -> Any:
        """See `Step.join`."""
        return await self._step.join(id, run_id=self.run_id, timeout=timeout, returns=returns)

    async def cancel(self, id: str, reason: str = "") -> bool:
        """See `Step.cancel`."""
        return await self._step.cancel(id, run_id=self.run_id, reason=reason)


class DetachedSteps(RunSteps):
    """Start a run of its own, wait for the end of any run, cancel any run."""

    __slots__ = ()

    async def start(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        data: In,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Start a run that is not a child: it is neither awaited by this run nor cancelled with it. Gives its run id.

        It is the top of a tree of its own, and linked to this run (`RunInfo.started_by`). It is started once, whatever
        crashes; await it with `join`.

        Args:
            id: the step's name within this run.
            workflow: what to run. data: its input. headers: for its `ctx.headers`.
            run_id: an id of your choice: starting the same again gives the same run.

        Raises:
            RunExistsError: another run, of other content, has this `run_id`.
            PayloadError: `data` does not fit the workflow's annotation, or cannot be stored.

        Cancelling the scope that waits here does not undo the start.
        """
        if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"step {id!r} cannot start {workflow!r}; expected a function decorated with @workflow")
        if workflow.rules is not None and workflow.rules.merges:
            raise InvokeTargetError(
                f"{self._body.where}: step {id!r} cannot start workflow {workflow.id!r}: by its batch or debounce "
                f"several starts become one run; send an event that starts it, with step.send_event"
            )
        codec, _ = self._body.codecs_of(workflow)
        spec = StartSpec(
            workflow_id=workflow.id,
            data=encode_data(workflow, codec, data),
            headers=encode_headers(headers),
            run_id=None if run_id is None else checked_run_id(run_id),
        )
        asked = self._body.ask(checked_step_id(id), Kind.START, workflow.id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return _value_or_raise(ended, str)

    async def join(self, id: str, *, run_id: str, timeout: Duration, returns: type[T] = ANY) -> Invocation[T]:
        """Wait for the end of any run: one that was started, one whose invoke timed out, one of somebody else's.

        Args:
            id: the step's name within this run.
            run_id: the run; it may have ended before.
            timeout: how long to wait, at most 24 h.
            returns: the type of its result; left out, what its workflow is annotated with, if that is registered.

        Raises:
            WorkflowFailedError, WorkflowCancelledError, WorkflowTimeoutError: how it ended, or that it has not.
            RunNotFoundError: there is no such run.

        Awaiting it is not owning it: cancelling the scope that waits here, or this run, leaves it alone.
        """
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        if checked_run_id(run_id) == self._body.run_id:
            raise ValueError(f"step {id!r} would have run {run_id!r} wait for itself")
        asked = self._body.ask(checked_step_id(id), Kind.JOIN, run_id, JoinSpec(run_id, limit))
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        note = msgspec.msgpack.decode(ended.outcome.payload or b"", type=EndNote)
        end = StepEnded(ended.key, Outcome(ended.outcome.status, note.payload), 0, 0.0, note.run_id, note.workflow_id)
        if end.outcome.status is OutcomeStatus.COMPLETED:
            codec = self._body.result_codec(note.workflow_id) if returns is ANY else self._body.codec_of(returns)
            return Invocation(codec.decode(note.payload or NIL), note.run_id)
        raise self._with_child(invoke_error(end))

    async def cancel(self, id: str, *, run_id: str, reason: str = "") -> bool:
        """Cancel a run with all that runs below it, once, whatever crashes. True; False if it had ended before.

        It returns when the cancellation is recorded, not when all has cleaned up. For this run use `ctx.cancel`.

        Raises:
            RunNotFoundError: there is no such run.
        """
        spec = CancelSpec(checked_run_id(run_id), reason)
        asked = self._body.ask(checked_step_id(id), Kind.CANCEL, run_id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return _value_or_raise(ended, bool)

    def _with_child(self, error: BaseException) -> BaseException:
        if isinstance(error, WorkflowTimeoutError):
            error.awaited = LateChild(self, error.run_id)
        return error


def _value_or_raise(ended: StepEnded, type_: type[T]) -> T:
    payload = ended.outcome.payload or b""
    if ended.outcome.status is OutcomeStatus.COMPLETED:
        return msgspec.msgpack.decode(payload, type=type_)
    raise rebuild(msgspec.msgpack.decode(payload, type=RecordedError))
