"""What a workflow's body can have done: steps, children, sleeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, NoReturn, Protocol, TypeVar, TypeVarTuple, overload

import msgspec

from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import (
    ErrorInfo,
    InvokeTargetError,
    PayloadError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.ids import checked_run_id, is_storable
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_specs import InvokeSpec, RunSpec, SleepSpec
from rotor_actors.workflow import Workflow

In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEP_TIMEOUT: Duration = "5m"
LONGEST_INVOKE = 24 * 3600.0

NIL = b"\xc0"
"""None, encoded."""


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
    """

    body: Out | None
    run_id: str
    is_failed: bool = False
    is_canceled: bool = False
    is_timed_out: bool = False
    error: ErrorInfo | None = None


class Body(Protocol):
    """What a running attempt offers to `Step` and `Context`."""

    where: str

    def ask(self, step_id: str, kind: Kind, target: str, spec: object) -> StepEnded | Pending:
        """Ask for a step: its outcome where it is known, else one to come, with the future to wait for it."""
        ...

    def note_failure(self, error: BaseException, key: bytes) -> None:
        """The body is about to see this failure of a step: if it ends the attempt, the step runs again."""
        ...

    def now(self) -> float: ...

    def seconds(self, value: Duration, name: str, maximum: float | None = None) -> float:
        """`durations.seconds` above zero, with a memory: a timeout is mostly one of a few texts."""
        ...

    def codec_of(self, annotation: object) -> Codec: ...

    def step_codec(self, fn: Callable[..., Any]) -> Codec: ...

    def workflow(self, workflow_id: str) -> Workflow[Any, Any]: ...

    def check_invoke(self, step_id: str, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        """Register the target, check the depth, and give the codecs of its data and its result."""
        ...

    async def cancel(self, reason: str) -> NoReturn: ...


class Step:
    """The steps of one run. Each is memoized under a hash of `stepId:counter`, the counter counting uses of that id."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout: Duration = ...,
        retries: int | RetryPolicy | None = ...,
    ) -> T: ...

    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        timeout: Duration = ...,
        retries: int | RetryPolicy | None = ...,
    ) -> T: ...

    async def run(  # type: ignore[misc]  # mypy cannot see that Any takes what a TypeVarTuple does
        self,
        id: str,
        fn: Callable[..., Any],
        *args: Any,
        timeout: Duration = STEP_TIMEOUT,
        retries: int | RetryPolicy | None = None,
    ) -> Any:
        """Do something to the world, at least once, and record its outcome, exactly once.

        The body runs on the host's loop; a sync function in a worker thread. It starts only when everything that led
        to it is durable. The value is what comes back from the codec, on the first execution as on each replay.

        Args:
            id: the step's name within this run.
            fn: an async or sync function; its return annotation says how the result is stored.
            args: passed to `fn`.
            timeout: cap on one execution of the body.
            retries: how often this step is tried again before it raises here; None: not at all, the run's own
                retries then run it again.

        Raises:
            Exception: what the body raised, rebuilt from the journal; `StepFailedError` where it cannot be rebuilt.
            StepTimeoutError: the body took too long.
            PayloadError: the result cannot be stored and given back unaltered.
            NonDeterminismError: the journal holds another kind of step under this key.

        When the scope that waits here is cancelled, the body of the step is interrupted and nothing is recorded.
        """
        spec = RunSpec(
            fn=_checked_callable(self._body, id, fn),
            args=args,
            timeout=self._body.seconds(timeout, "timeout"),
            policy=None if retries is None else RetryPolicy.of(retries),
            codec=self._body.step_codec(fn),
        )
        asked = self._body.ask(_checked_id(id), Kind.RUN, "", spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        if ended.outcome.status is OutcomeStatus.COMPLETED:
            if isinstance(asked, Pending) and asked.value is not msgspec.UNSET:
                return asked.value
            return spec.codec.decode(ended.outcome.payload or NIL)
        error = rebuild(msgspec.msgpack.decode(ended.outcome.payload or b"", type=RecordedError))
        self._body.note_failure(error, ended.key)
        raise error

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
        run_id: str | None = None,
        on_parent_close: Literal["cancel", "abandon"] = "cancel",
    ) -> Invocation[Out]:
        """Run a child workflow and wait for its end.

        Args:
            id: the step's name within this run.
            workflow: the target; started by an event or directly, not by the clock.
            data: its input.
            timeout: how long to wait, at most 24 h. When it passes the child runs on.
            headers: for the child's `ctx.headers`.
            retries: in place of the target's own; with `retry_delay` a constant delay before each.
            run_id: in place of a derived one.
            on_parent_close: what happens to the child when this run ends before it does.

        Raises:
            WorkflowFailedError, WorkflowCancelledError, WorkflowTimeoutError: how the child ended, or that it has not.
            InvokeTargetError, InvokeDepthError: nothing was spawned.
            RunExistsError: `run_id` belongs to another run.
            TypeError, DurationError: `timeout` is missing or not a duration within 24 h.

        When the scope that waits here is cancelled (a task group, `asyncio.timeout`), the child is withdrawn:
        cancelled, for awaiting is owning. A later attempt that comes here again spawns it anew.
        """
        codecs = self._body.check_invoke(id, _checked_workflow(self._body, id, workflow))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = _invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, run_id,
                            on_parent_close)  # fmt: skip
        asked = self._body.ask(_checked_id(id), Kind.INVOKE, workflow.id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return _invocation(ended, codecs[1])

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
        run_id: str | None = None,
        on_parent_close: Literal["cancel", "abandon"] = "cancel",
    ) -> Invocation[T]:
        """`invoke`, where only the target's id is known here. `returns` is the type of its result.

        Raises:
            InvokeTargetError: no workflow of that id is registered with the runtime.
        """
        target = self._body.workflow(workflow)
        data_codec, _ = self._body.check_invoke(id, _checked_workflow(self._body, id, target))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = _invoke_spec(target, data_codec, data, limit, headers, retries, retry_delay, run_id,
                            on_parent_close)  # fmt: skip
        asked = self._body.ask(_checked_id(id), Kind.INVOKE, target.id, spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        return _invocation(ended, self._body.codec_of(returns))

    async def sleep(self, id: str, duration: Duration) -> None:
        """Sleep durably: after a restart only what is left is slept.

        Raises:
            DurationError: not a duration.
        """
        due = self._body.now() + seconds(duration, name="duration")
        asked = self._body.ask(_checked_id(id), Kind.SLEEP, "", SleepSpec(due))
        if isinstance(asked, Pending):
            await asked.future

    async def sleep_until(self, id: str, when: datetime) -> None:
        """Sleep durably until `when`; a moment that has passed is no sleep at all.

        Raises:
            ValueError: `when` has no time zone.
        """
        if when.tzinfo is None:
            raise ValueError(
                f"step {id!r}: sleep_until needs a datetime with a time zone, e.g. datetime.now(timezone.utc); got {when}"
            )
        asked = self._body.ask(_checked_id(id), Kind.SLEEP, "", SleepSpec(when.timestamp()))
        if isinstance(asked, Pending):
            await asked.future


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
    run_id: str | None,
) -> InvokeOutcome[Out]:
    """`ctx.invoke`: the child's end as a value."""
    codecs = body.check_invoke(id, _checked_workflow(body, id, workflow))
    limit = body.seconds(timeout, "timeout", LONGEST_INVOKE)
    spec = _invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, run_id, "cancel")
    asked = body.ask(_checked_id(id), Kind.INVOKE, workflow.id, spec)
    ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
    return _as_outcome(ended, codecs[1])


def _invoke_spec(
    workflow: Workflow[Any, Any],
    codec: Codec,
    data: object,
    timeout: float,
    headers: Mapping[str, str] | None,
    retries: int | RetryPolicy | None,
    retry_delay: Duration | None,
    run_id: str | None,
    on_parent_close: str,
) -> InvokeSpec:
    if on_parent_close not in ("cancel", "abandon"):
        raise ValueError(f"on_parent_close must be 'cancel' or 'abandon', got {on_parent_close!r}")
    return InvokeSpec(
        workflow_id=workflow.id,
        timeout=timeout,
        data=encode_data(workflow, codec, data),
        headers=encode_headers(headers),
        retries=encode_retries(retries, retry_delay),
        abandon=on_parent_close == "abandon",
        run_id=None if run_id is None else checked_run_id(run_id),
    )


def encode_data(workflow: Workflow[Any, Any], codec: Codec, data: object) -> bytes:
    """A run's input as stored; what the workflow's annotation would alter or refuse is a `PayloadError`."""
    if not workflow.takes_data and data is not None:
        raise PayloadError(f"workflow {workflow.id!r} takes no data; its function has no data parameter")
    try:
        return codec.round_trip(data)[0]
    except PayloadError as error:
        raise PayloadError(f"input of workflow {workflow.id!r}: {error}") from error


def encode_headers(headers: Mapping[str, str] | None) -> bytes | None:
    """Headers as stored; None for none."""
    if not headers:
        return None
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"headers are strings; got {name!r}: {value!r}")
        if not is_storable(name + value):
            raise PayloadError(f"headers are text that UTF-8 can hold; got {name!r}: {value!r}")
    return msgspec.msgpack.encode(dict(headers))


def encode_retries(retries: int | RetryPolicy | None, retry_delay: Duration | None) -> bytes | None:
    """A retry policy given with an invoke, as stored; None for the workflow's own."""
    if retries is None and retry_delay is None:
        return None
    return msgspec.msgpack.encode(RetryPolicy.of(retries, delay=retry_delay).to_record())


def _invocation(ended: StepEnded, codec: Codec) -> Invocation[Any]:
    outcome = ended.outcome
    if outcome.status is OutcomeStatus.COMPLETED:
        return Invocation(codec.decode(outcome.payload or NIL), ended.run_id)
    raise invoke_error(ended)


def _as_outcome(ended: StepEnded, codec: Codec) -> InvokeOutcome[Any]:
    outcome = ended.outcome
    if outcome.status is OutcomeStatus.COMPLETED:
        return InvokeOutcome(codec.decode(outcome.payload or NIL), ended.run_id)
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
            return WorkflowFailedError(error=decode_error(blob), **child)


def decode_error(blob: bytes | None) -> ErrorInfo:
    """What made a run fail."""
    return msgspec.msgpack.decode(blob or b"", type=ErrorInfo)


def decode_reason(blob: bytes | None) -> str:
    """Why a run was cancelled, or ""."""
    return "" if blob is None else msgspec.msgpack.decode(blob, type=str)


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not id or not is_storable(id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a step's id must be a non-empty string, e.g. 'fetch-page'; got {id!r}")
    return id


def _checked_callable(body: Body, id: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(fn):
        raise TypeError(
            f"{body.where}: step.run({id!r}, …) takes a function and its arguments, step.run({id!r}, fetch, url); "
            f"got {type(fn).__name__}, which is what calling it gave"
        )
    return fn


def _checked_workflow(body: Body, id: str, workflow: Workflow[In, Out]) -> Workflow[In, Out]:
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke {workflow!r}; expected a function decorated with @workflow"
        )
    if not workflow.is_invocable:
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke workflow {workflow.id!r}: it is started by the clock "
            f"({workflow.on}). Invoke one with on=None or on='event.name'; both may call the same function."
        )
    return workflow
