"""`step.run`: at least once, its outcome exactly once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple, overload

import msgspec

from rotor_actors.body import NIL, Body, checked_step_id
from rotor_actors.durations import Duration
from rotor_actors.errors import PayloadError
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.retry import RetryPolicy
from rotor_actors.step_specs import RunSpec
from rotor_actors.step_transaction import TransactionSteps
from rotor_actors.undo import UndoNote, UndoSpec, parameter_codecs, takes, undo_name
from rotor_actors.workflows import DEFAULT_RETRIES

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEP_TIMEOUT: Duration = "5m"
_STEP_SECONDS = 300.0


class RunSteps(TransactionSteps):
    """The steps that do something to the world."""

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
