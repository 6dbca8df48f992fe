"""What a workflow's body can have done: steps, children, sleeps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar, TypeVarTuple, overload

import msgspec

from rotor_actors.body import NIL, Body, checked_step_id
from rotor_actors.budget import Budget, check_charge
from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import (
    ErrorInfo,
    InvokeTargetError,
    PayloadError,
    QuorumError,
    RunSkippedError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.fan_out import FanOut
from rotor_actors.flow.options import FlowControl
from rotor_actors.flow.rules import Rules, check_flow_control
from rotor_actors.flow.ticket import Ticket, make_ticket
from rotor_actors.ids import checked_run_id, is_storable, map_index_of
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import Kind, Outcome, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.replicas.room import Placement
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_specs import (
    SKIPPED,
    CancelSpec,
    ChargeSpec,
    EndNote,
    InvokeSpec,
    JoinSpec,
    RunSpec,
    SleepSpec,
    StartSpec,
)
from rotor_actors.step_transaction import TransactionSteps
from rotor_actors.undo import UndoNote, UndoSpec, parameter_codecs, takes, undo_name
from rotor_actors.workflows import DEFAULT_RETRIES, Workflow

In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEP_TIMEOUT: Duration = "5m"
_STEP_SECONDS = 300.0
LONGEST_INVOKE = 24 * 3600.0

ANY: Any = Any
"""Whatever type the workflow itself says."""


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


async def charge(body: Body, unit: str, amount: float, id: str) -> float | None:
    """`ctx.charge`."""
    check_charge(f"{body.where}: charge {id!r}", unit, amount)
    asked = body.ask(checked_step_id(id), Kind.CHARGE, unit, ChargeSpec(unit, float(amount)))
    ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
    payload = ended.outcome.payload or NIL
    if ended.outcome.status is OutcomeStatus.COMPLETED:
        return msgspec.msgpack.decode(payload, type=float | None)
    raise rebuild(msgspec.msgpack.decode(payload, type=RecordedError))


class LateChild:
    """The run that a `WorkflowTimeoutError` tells of: the body may join it, or cancel it, by steps of its own.

    Attributes:
        run_id: the run.
    """

    __slots__ = ("_step", "run_id")

    def __init__(self, step: Step, run_id: str) -> None:
        self._step = step
        self.run_id = run_id

    async def join(self, id: str, *, timeout: Duration, returns: Any = ANY) -> Any:
        """See `Step.join`."""
        return await self._step.join(id, run_id=self.run_id, timeout=timeout, returns=returns)

    async def cancel(self, id: str, reason: str = "") -> bool:
        """See `Step.cancel`."""
        return await self._step.cancel(id, run_id=self.run_id, reason=reason)


class Step(TransactionSteps):
    """The steps of one run. Each is memoized under a hash of `stepId:counter`, the counter counting uses of that id."""

    __slots__ = ()

    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        timeout: Duration = ...,
        retries: int | RetryPolicy | None = ...,
        undo: Callable[[*Ts, T], object] | None = ...,
        undo_retries: int | RetryPolicy = ...,
        runner: str | None = ...,
    ) -> T: ...

    @overload
    async def run(
        self,
        id: str,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        timeout: Duration = ...,
        retries: int | RetryPolicy | None = ...,
        undo: Callable[[*Ts, T], object] | None = ...,
        undo_retries: int | RetryPolicy = ...,
        runner: str | None = ...,
    ) -> T: ...

    async def run(  # type: ignore[misc]  # mypy cannot see that Any takes what a TypeVarTuple does
        self,
        id: str,
        fn: Callable[..., Any],
        *args: Any,
        timeout: Duration = STEP_TIMEOUT,
        retries: int | RetryPolicy | None = None,
        undo: Callable[..., object] | None = None,
        undo_retries: int | RetryPolicy = DEFAULT_RETRIES,
        runner: str | None = None,
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
            undo: what takes the step back, called with the step's arguments and its result, if this step has
                completed and the run then fails for good or is cancelled. The undos of a run are steps of a run of
                their own, newest first. It must be found again by its name: a function at the top of a module, or one
                named in `@workflow(undos=[…])`. The arguments are stored by the annotations of its parameters.
            undo_retries: how often the undo is tried again; `timeout` caps it, too.
            runner: who executes the body, by the name it has in `Runtime(step_runners=…)`: other processes, say, for
                what would keep this one busy. None: this process. The function must be importable by its name, the
                arguments and the result go through pickle on the way. The undo is executed here in any case.

        Raises:
            Exception: what the body raised, rebuilt from the journal; `StepFailedError` where it cannot be rebuilt.
            StepTimeoutError: the body took too long.
            PayloadError: the result cannot be stored and given back unaltered.
            NonDeterminismError: the journal holds another kind of step under this key.
            StepRunnerError: the runner cannot execute it: unknown, or the function or an argument cannot go there.
            WorkerLostError: the process that executed it has died.

        When the scope that waits here is cancelled, the body of the step is interrupted and nothing is recorded.
        """
        spec = RunSpec(
            fn=_checked_callable(self._body, id, fn),
            args=args,
            timeout=_STEP_SECONDS if timeout is STEP_TIMEOUT else self._body.seconds(timeout, "timeout"),
            policy=None if retries is None else RetryPolicy.of(retries),
            codec=self._body.step_codec(fn),
            undo=None if undo is None else self._undo_spec(id, undo, args, timeout, undo_retries),
            runner=None if runner is None else _checked_runner(self._body, id, runner),
        )
        asked = self._body.ask(checked_step_id(id), Kind.RUN, "", spec)
        ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
        if ended.outcome.status is OutcomeStatus.COMPLETED:
            if isinstance(asked, Pending) and asked.value is not msgspec.UNSET:
                return asked.value
            return spec.codec.decode(ended.outcome.payload or NIL)
        error = rebuild(msgspec.msgpack.decode(ended.outcome.payload or b"", type=RecordedError))
        self._body.note_failure(error, ended.key)
        raise error

    def _undo_spec(
        self, id: str, undo: Callable[..., object], args: tuple[Any, ...], timeout: Duration,
        retries: int | RetryPolicy,
    ) -> UndoSpec:  # fmt: skip
        body = self._body
        name = undo_name(body.own_workflow, undo)
        if name is None:
            raise TypeError(
                f"{body.where}: step {id!r}: undo={undo!r} could not be found again by its name after a restart; define "
                f"it at the top of a module, or name it in @workflow(undos=[…])"
            )
        if not takes(undo, len(args) + 1):
            raise TypeError(
                f"{body.where}: step {id!r}: undo={undo!r} must take the step's {len(args)} arguments and then its result"
            )
        codecs = parameter_codecs(undo, len(args), body.codec_of)
        try:
            encoded = [codec.round_trip(arg)[0] for codec, arg in zip(codecs, args, strict=True)]
        except PayloadError as error:
            raise PayloadError(f"{body.where}: step {id!r}: what its undo is to be given: {error}") from error
        note = UndoNote(encoded, RetryPolicy.of(retries).to_record(), body.seconds(timeout, "timeout"))
        return UndoSpec(name, msgspec.msgpack.encode(note))

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
        codecs = self._body.check_invoke(id, _checked_workflow(self._body, id, workflow))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = _invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, flow_control, run_id,
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
        data_codec, _ = self._body.check_invoke(id, _checked_workflow(self._body, id, target))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)
        spec = _invoke_spec(target, data_codec, data, limit, headers, retries, retry_delay, flow_control, run_id,
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

    def map(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In] | AsyncIterable[In],
        timeout: Duration,
        concurrency: int = 100,
        on_error: Literal["raise", "collect"] = "raise",
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
        flow_control: FlowControl | None = None,
        placement: Placement | None = None,
    ) -> AsyncGenerator[InvokeOutcome[Out], None]:
        """Run a child for each item, a bounded number at a time, and give their ends in the order of completion.

            async for outcome in ctx.step.map("pages", workflow=fetch, items=urls, timeout="5m"):
                print(outcome.index, outcome.body)

        Items are pulled only while there is room, so there may be any number of them, and memory does not grow with
        it; neither live nor after a crash. They are made anew in each attempt: like the rest of a body they must be
        the same again. On replay and in later attempts the ends come in the order in which they came first.

        Args:
            id: the step's name within this run; the child of item 7 is called `id[7]`.
            workflow: the target. items: the input of each child, from an iterable or an async one, which may use steps.
            timeout: of each child, counted from its start, at most 24 h. When it passes that child runs on.
            concurrency: how many children at a time, ends that you have not taken yet included.
            on_error: `"raise"`: the first child that does not complete is raised, and the others are withdrawn;
                `"collect"`: each end is given as an outcome, and nothing is raised for it.
            headers, retries, retry_delay, flow_control, placement: for each child, as with `invoke`.

        Raises (while iterating):
            WorkflowFailedError, WorkflowCancelledError, WorkflowTimeoutError: with `on_error="raise"`.
            PayloadError: an item does not fit the target's data. Exception: what making the items raised.
            InvokeTargetError, InvokeDepthError: nothing was spawned.

        Leaving the iteration early, by `break`, an exception or a cancellation, withdraws the children that still run:
        they are cancelled, with all below them. Who keeps the iterator beyond a `break` keeps them running; close it
        with `contextlib.aclosing`.
        """
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"step {id!r}: concurrency must be a number of at least 1, e.g. 100; got {concurrency!r}")
        if on_error not in ("raise", "collect"):
            raise ValueError(f"step {id!r}: on_error must be 'raise' or 'collect', got {on_error!r}")
        _checked_placement(placement)
        if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"step {id!r}: items must be an iterable or async iterable of inputs; got {items!r}")
        codecs = self._body.check_invoke(id, _checked_workflow(self._body, id, workflow))
        limit = self._body.seconds(timeout, "timeout", LONGEST_INVOKE)

        def spec_of(item: Any) -> InvokeSpec:
            return _invoke_spec(workflow, codecs[0], item, limit, headers, retries, retry_delay, flow_control, None,
                                "cancel", placement=placement)  # fmt: skip

        raising = self._with_child if on_error == "raise" else None
        return _ends(self._body, checked_step_id(id), workflow, items, concurrency, raising, spec_of, codecs[1])

    async def quorum(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In],
        needed: int,
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
    ) -> list[InvokeOutcome[Out]]:
        """Run a child for each item, all at once, and give the first `needed` that complete; the others are withdrawn.

        Raises:
            QuorumError: so many have not completed that `needed` cannot be reached; it holds their outcomes.
            ValueError: `needed` is not between 1 and the number of items.

        For the rest see `map`.
        """
        inputs = list(items)
        if isinstance(needed, bool) or not 1 <= needed <= len(inputs):
            raise ValueError(f"step {id!r}: needed must be between 1 and the {len(inputs)} items; got {needed!r}")
        won: list[InvokeOutcome[Out]] = []
        lost: list[InvokeOutcome[Out]] = []
        ends = self.map(
            id, workflow=workflow, items=inputs, timeout=timeout, concurrency=len(inputs), on_error="collect",
            headers=headers, retries=retries, retry_delay=retry_delay,
        )  # fmt: skip
        async with aclosing(ends):
            async for outcome in ends:
                (won if outcome.is_completed else lost).append(outcome)
                if len(won) == needed or len(lost) > len(inputs) - needed:
                    break
        if len(won) < needed:
            raise QuorumError(_no_quorum(self._body, id, needed, len(inputs), lost), outcomes=tuple(lost))
        return won

    async def first(
        self,
        id: str,
        *,
        workflow: Workflow[In, Out],
        items: Iterable[In],
        timeout: Duration,
        headers: Mapping[str, str] | None = None,
        retries: int | RetryPolicy | None = None,
        retry_delay: Duration | None = None,
    ) -> InvokeOutcome[Out]:
        """Run a child for each item, all at once, and give the first that completes; the others are withdrawn.

        Raises:
            QuorumError: none has completed; it holds their outcomes.

        For the rest see `map`.
        """
        won = await self.quorum(
            id, workflow=workflow, items=items, needed=1, timeout=timeout, headers=headers, retries=retries,
            retry_delay=retry_delay,
        )  # fmt: skip
        return won[0]

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

    async def sleep(self, id: str, duration: Duration) -> None:
        """Sleep durably: after a restart only what is left is slept.

        Raises:
            DurationError: not a duration.
        """
        due = self._body.now() + seconds(duration, name="duration")
        asked = self._body.ask(checked_step_id(id), Kind.SLEEP, "", SleepSpec(due))
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
        asked = self._body.ask(checked_step_id(id), Kind.SLEEP, "", SleepSpec(when.timestamp()))
        if isinstance(asked, Pending):
            await asked.future


async def _ends(
    body: Body,
    id: str,
    workflow: Workflow[Any, Any],
    items: Iterable[Any] | AsyncIterable[Any],
    window: int,
    raising: Callable[[BaseException], BaseException] | None,
    spec_of: Callable[[Any], InvokeSpec],
    codec: Codec,
) -> AsyncGenerator[InvokeOutcome[Any], None]:
    fan_out = FanOut(body, body.open_map(id, workflow.id), items, window, spec_of)
    try:
        while (ended := await fan_out.next_end()) is not None:
            index = map_index_of(ended.key)
            if raising is not None and ended.outcome.status is not OutcomeStatus.COMPLETED:
                error = raising(invoke_error(ended))
                error.add_note(f"item {index} of step {id!r}")
                body.note_invoke_failure(error, ended.key)
                raise error
            yield _as_outcome(ended, codec, index)
    finally:
        fan_out.close()


def _no_quorum(body: Body, id: str, needed: int, of: int, lost: list[InvokeOutcome[Any]]) -> str:
    first = lost[0]
    how = "timed out" if first.is_timed_out else "was cancelled" if first.is_canceled else f"failed: {first.error}"
    return (
        f"{body.where}: step {id!r} needed {needed} of {of} runs to complete, and {len(lost)} did not; "
        f"the first of them, {first.run_id}, {how}"
    )


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
    codecs = body.check_invoke(id, _checked_workflow(body, id, workflow))
    limit = body.seconds(timeout, "timeout", LONGEST_INVOKE)
    spec = _invoke_spec(workflow, codecs[0], data, limit, headers, retries, retry_delay, flow_control, run_id, "cancel")
    asked = body.ask(checked_step_id(id), Kind.INVOKE, workflow.id, spec)
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
    flow_control: FlowControl | None,
    run_id: str | None,
    on_parent_close: str,
    budget: Budget | None = None,
    *,
    placement: Placement | None = None,
) -> InvokeSpec:
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
        placement=_checked_placement(placement),
    )


def _checked_placement(placement: Placement | None) -> Placement | None:
    if placement not in (None, "local", "any"):
        raise ValueError(
            f"placement must be 'local', 'any', or None (here, unless there is too much); got {placement!r}"
        )
    return placement


def _ticket(workflow: Workflow[Any, Any], codec: Codec, flow_control: FlowControl | None, data: bytes) -> Ticket:
    if flow_control is not None:
        check_flow_control(workflow.id, flow_control, codec.annotation if workflow.takes_data else None)
    return make_ticket(workflow.id, workflow.rules or Rules(), flow_control, data)


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
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"headers are a mapping of strings to strings, e.g. {{'tenant': 'acme'}}; got {headers!r}")
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


def _value_or_raise(ended: StepEnded, type_: type[T]) -> T:
    payload = ended.outcome.payload or b""
    if ended.outcome.status is OutcomeStatus.COMPLETED:
        return msgspec.msgpack.decode(payload, type=type_)
    raise rebuild(msgspec.msgpack.decode(payload, type=RecordedError))


def _as_outcome(ended: StepEnded, codec: Codec, index: int | None = None) -> InvokeOutcome[Any]:
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


def _checked_callable(body: Body, id: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(fn):
        raise TypeError(
            f"{body.where}: step.run({id!r}, …) takes a function and its arguments, step.run({id!r}, fetch, url); "
            f"got {type(fn).__name__}, which is what calling it gave"
        )
    return fn


def _checked_runner(body: Body, id: str, runner: str) -> str:
    if not isinstance(runner, str) or not runner:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"{body.where}: step {id!r}: runner must be a name from Runtime(step_runners={{…}}), e.g. 'cpu'; got {runner!r}"
        )
    return runner


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
    if workflow.rules is not None and workflow.rules.merges:
        how = "batch" if workflow.rules.batch is not None else "debounce"
        raise InvokeTargetError(
            f"{body.where}: step {id!r} cannot invoke workflow {workflow.id!r}: by its {how} several starts become one "
            f"run, which has no one parent. Start it, or invoke a workflow without {how} that calls the same function."
        )
    return workflow
