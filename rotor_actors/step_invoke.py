"""`step.invoke` and `ctx.invoke`: a child run, owned and awaited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from rotor_actors.body import NIL, Body, checked_step_id
from rotor_actors.budget import Budget
from rotor_actors.child_ends import Invocation, InvokeOutcome, as_outcome, invoke_error
from rotor_actors.durations import Duration
from rotor_actors.flow.options import FlowControl
from rotor_actors.invoke_request import LONGEST_INVOKE, checked_workflow, invoke_spec
from rotor_actors.messages import StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.replicas.room import Placement
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_detached import DetachedSteps
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")


class InvokeSteps(DetachedSteps):
    """The steps that run a child and wait for its end."""

    __slots__ = ()

    async def invoke(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        data: In,
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        flow_control: FlowControl | None = None,
        run_id: str | None = None,
        on_parent_close: Literal["cancel", "abandon"] = "cancel",
        budget: Budget | None = None,
        placement: Placement | None = None,
    ) -> Invocation[Out]:
        """Run a child workflow and wait for its end.

        Args:
            id: the step's name within this run.
            workflow: the target; started by an event or directly, not by the clock.
            data: its input.
            timeout: how long to wait, at most 24 h. When it passes the child runs on.
            headers: for the child's `ctx.headers`.
            retries: in place of the target's own; with `retry_delay` a constant delay before each.
            flow_control: in place of the target's own. While the child waits its timeout runs.
            run_id: in place of a derived one.
            on_parent_close: what happens to the child when this run ends before it does.
            budget: what the child may spend, with all that run below it; what it spends counts here, too.
            placement: with many replicas: `"local"`: the child is run by the replica that runs this one; `"any"`: by
                whichever takes it first. None: here, and elsewhere where there is too much to do here (`spill_above`).
                Without others, with a budget, or on a store with one owner, here.

        Raises:
            BudgetExceededError: this run may not spend another run; nothing was spawned.
            WorkflowFailedError, WorkflowCancelledError, WorkflowTimeoutError: how the child ended, or that it has not.
            InvokeTargetError, InvokeDepthError: nothing was spawned.
            RunExistsError: `run_id` belongs to another run.
            RunSkippedError: the target is a singleton, and a run of it is there.
            TypeError, DurationError: `timeout` is missing or not a duration within 24 h.

        When the scope that waits here is cancelled (a task group, `asyncio.timeout`), the child is withdrawn:
        cancelled, for awaiting is owning. A later attempt that comes here again spawns it anew.
        """
        codecs = self._body.check_invoke(id, checked_workflow(self._body, id, workflow))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, flow_control, run_id,
                            on_parent_close, budget, placement=placement)  # fmt: skip
        asked = self._body.ask(checked_step_id(id), Kind.INVOKE, workflow.id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return self._invocation(ended, codecs[1])

    async def invoke_by_id(
        self,
        id: str,
        *,
        workflow: str,
        returns: type[T],
        data: object,
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        flow_control: FlowControl | None = None,
        run_id: str | None = None,
        on_parent_close: Literal["cancel", "abandon"] = "cancel",
        placement: Placement | None = None,
    ) -> Invocation[T]:
        """`invoke`, where only the target's id is known here. `returns` is the type of its result.

        Raises:
            InvokeTargetError: no workflow of that id is registered with the runtime.
        """
        target = self._body.workflow(workflow)
        data_codec, _ = self._body.check_invoke(id, checked_workflow(self._body, id, target))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = invoke_spec(target, data_codec, data, limit, headers, retries, retry_delay, flow_control, run_id,
                            on_parent_close, placement=placement)  # fmt: skip
        asked = self._body.ask(checked_step_id(id), Kind.INVOKE, target.id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return self._invocation(ended, self._body.codec_of(returns))

    def _invocation(self, ended: StepEnded, codec: Codec) -> Invocation[Any]:
        outcome = ended.outcome
        if outcome.status is OutcomeStatus.COMPLETED:
            return Invocation(codec.decode(outcome.payload or NIL), ended.run_id)
        error = self._with_child(invoke_error(ended))
        self._body.note_invoke_failure(error, ended.key)
        raise error


async def invoke_outcome(
    body: Body,
    id: str,
    *,
    workflow: Workflow[In, Out],
    data: In,
    timeout: Duration,
    headers: Mapping[str, str] | None,
    retries: int | RetryPolicy,
    retry_delay: Duration | None,
    flow_control: FlowControl | None,
    run_id: str | None,
) -> InvokeOutcome[Out]:
    """`ctx.invoke`: the child's end as a value."""
    codecs = body.check_invoke(id, checked_workflow(body, id, workflow))
    limit = body.seconds(timeout, "timeout", LONGEST_INVOKE)
    spec = invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, flow_control, run_id, "cancel")
    asked = body.ask(checked_step_id(id), Kind.INVOKE, workflow.id, spec)
    ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
    return as_outcome(ended, codecs[1])
