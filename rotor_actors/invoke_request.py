"""What is asked for by an invoke: its target and its options, checked, as the request that the engine performs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from rotor_actors.body import Body
from rotor_actors.budget import Budget
from rotor_actors.durations import Duration
from rotor_actors.errors import InvokeTargetError
from rotor_actors.flow.options import FlowControl
from rotor_actors.flow.rules import Rules, check_flow_control
from rotor_actors.flow.ticket import Ticket, make_ticket
from rotor_actors.ids import checked_run_id
from rotor_actors.payload import Codec
from rotor_actors.replicas.room import Placement
from rotor_actors.retry import RetryPolicy
from rotor_actors.run_input import encode_data, encode_headers, encode_retries
from rotor_actors.step_specs import InvokeSpec
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")

LONGEST_INVOKE = 24 * 3600.0


def invoke_spec(
    workflow: Workflow[Any, Any],
    codec: Codec,
    data: object,
    timeout: float,
    headers: Mapping[str, str] | None,
    retries: int | RetryPolicy | None,
    retry_delay: Duration | None,
    flow_control: FlowControl | None,
    run_id: str | None,
    on_parent_close: str,
    budget: Budget | None = None,
    *,
    placement: Placement | None = None,
) -> InvokeSpec:
    """The request for a child; what cannot be is raised here, with the caller's own traceback."""
    if on_parent_close not in ("cancel", "abandon"):
        raise ValueError(f"on_parent_close must be 'cancel' or 'abandon', got {on_parent_close!r}")
    blob = encode_data(workflow, codec, data)
    return InvokeSpec(
        workflow_id=workflow.id,
        timeout=timeout,
        data=blob,
        headers=encode_headers(headers) if headers else None,
        retries=None if retries is None and retry_delay is None else encode_retries(retries, retry_delay),
        abandon=on_parent_close == "abandon",
        run_id=None if run_id is None else checked_run_id(run_id),
        ticket=None
        if flow_control is None and workflow.rules is None
        else _ticket(workflow, codec, flow_control, blob),
        budget=budget,
        placement=checked_placement(placement),
    )


def checked_placement(placement: Placement | None) -> Placement | None:
    """Raise ValueError where it is none."""
    if placement not in (None, "local", "any"):
        raise ValueError(
            f"placement must be 'local', 'any', or None (here, unless there is too much); got {placement!r}"
        )
    return placement


def _ticket(workflow: Workflow[Any, Any], codec: Codec, flow_control: FlowControl | None, data: bytes) -> Ticket:
    if flow_control is not None:
        check_flow_control(workflow.id, flow_control, codec.annotation if workflow.takes_data else None)
    return make_ticket(workflow.id, workflow.rules or Rules(), flow_control, data)


def checked_workflow(body: Body, id: str, workflow: Workflow[In, Out]) -> Workflow[In, Out]:
    """Raise InvokeTargetError where it cannot be invoked."""
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke {workflow!r}; expected a function decorated with @workflow"
        )
    if not workflow.is_invocable:
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke workflow {workflow.id!r}: it is started by the clock "
            f"({workflow.on}). Invoke one with on=None or on='event.name'; both may call the same function."
        )
    if workflow.rules is not None and workflow.rules.merges:
        how = "batch" if workflow.rules.batch is not None else "debounce"
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke workflow {workflow.id!r}: by its {how} several starts become one "
            f"run, which has no one parent. Start it, or invoke a workflow without {how} that calls the same function."
        )
    return workflow
