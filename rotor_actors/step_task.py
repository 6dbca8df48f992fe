"""The execution of a step's body, as an ordinary task of the host's loop, beside its actor."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from rotor_actors.durations import humanize
from rotor_actors.errors import (
    ErrorInfo,
    PayloadError,
    StepFailedError,
    StepRunnerError,
    StepRunnerMissingError,
    StepTimeoutError,
)
from rotor_actors.execution import Execution, gives_coroutine, is_async
from rotor_actors.messages import Pending
from rotor_actors.observing import Observers
from rotor_actors.records import Outcome, OutcomeStatus
from rotor_actors.replicas.lease import Lease
from rotor_actors.retry import is_retriable, next_delay, retry_after
from rotor_actors.run import Run
from rotor_actors.step_runner import StepCall, StepRunner
from rotor_actors.step_specs import RunSpec
from rotor_actors.threads import ThreadCall, Threads
from rotor_actors.timers import Timers

_COMPLETED = OutcomeStatus.COMPLETED


class StepHost(Protocol):
    """What a step task needs around it, and whom it tells how it went."""

    timers: Timers
    threads: Threads
    step_runners: Mapping[str, StepRunner]
    grace: float
    lease: Lease | None
    """Where the store is shared: while it is not held, nothing may begin that the world can see."""
    observers: Observers

    def now(self) -> float: ...

    def chance(self) -> float: ...

    on_effect: Callable[[Run, Pending, int], None]

    def start_when_durable(self, run: Run, step: StepTask) -> None: ...

    def encode_error(self, error: BaseException) -> bytes: ...

    def hold_back(self, step: StepTask) -> bool:
        """An earlier execution of it has not ended: the step is started again when it has, or is given up."""
        ...

    def step_started(self, step: StepTask) -> None: ...

    def step_finished(self, step: StepTask, outcome: Outcome) -> None: ...

    def step_retries(self, step: StepTask, due: float, error: bytes) -> None: ...

    def step_leaves(self, step: StepTask) -> None: ...

    def execution_stuck(self, step: StepTask, task: asyncio.Task[Any]) -> None:
        """The step has timed out, and this execution of it did not end within its grace period: it is fenced."""
        ...

    def thread_left(self, step: StepTask, call: ThreadCall) -> None:
        """A worker thread still executes the step, and nobody waits for that."""
        ...

    def step_gone(self, step: StepTask, error: BaseException | None) -> None: ...


class StepTask:
    """One step in flight. Its body may be executed several times, by its own retry policy.

    Args:
        failures: how often its body has failed so far, in this attempt of the run.
    """

    __slots__ = ("_deadline", "_execution", "_host", "_is_armed", "_is_timed_out", "_task", "_thread", "attempts",
                 "began_at", "is_stopped", "pending", "retry_at", "run")  # fmt: skip

    def __init__(self, host: StepHost, run: Run, pending: Pending, failures: int = 0) -> None:
        self._host = host
        self.run = run
        self.pending = pending
        self.attempts = failures
        self.began_at: float | None = None
        self.retry_at: float | None = None
        """When its body is executed again; None while it is, or waits for its past to be durable."""
        self.is_stopped = False
        self._is_timed_out = self._is_armed = False
        self._deadline = 0.0
        """When its execution times out; 0 before that is known."""
        self._execution: Execution | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread: ThreadCall | None = None

    @property
    def spec(self) -> RunSpec:
        spec: RunSpec = self.pending.spec
        return spec

    @property
    def where(self) -> str:
        return f"{self.run.where}, step {self.pending.step_id!r}"

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task of an execution under way."""
        return self._task

    @property
    def runner(self) -> str:
        """The name of who executes it; "" in this process."""
        return self.spec.runner or ""

    @property
    def waits_for_worker(self) -> bool:
        """It was handed to a runner that has not begun it; its timeout does not run yet."""
        return self._task is not None and self.spec.runner is not None and not self._is_armed

    @property
    def is_in_thread(self) -> bool:
        """A worker thread is executing it: it can be abandoned, but not interrupted."""
        return self._thread is not None and self._thread.is_running

    def start(self) -> None:
        """Begin an execution, if it is still wanted and an earlier one has ended; its past is durable."""
        run = self.run
        if not self.is_stopped and not run.is_doomed:
            if self._host.hold_back(self):
                return
            self._begin_execution()
        self._host.step_started(self)

    def _begin_execution(self) -> None:
        run = self.run
        self.attempts += 1
        self.retry_at = None
        self._deadline = 0.0
        if self.began_at is None:
            self.began_at = self._host.now()
        self._host.on_effect(run, self.pending, self.attempts)
        self._execution = execution = Execution(self)
        context = None if run.context is None else run.context.copy()
        if self._host.observers.see_steps:
            context = self._observed(context)
        task = asyncio.get_running_loop().create_task(execution, context=context)
        self._task = None if task.done() else task  # a host with eager tasks has run its first part already

    def _observed(self, context: contextvars.Context | None) -> contextvars.Context:
        context = contextvars.copy_context() if context is None else context
        pending = self.pending
        self._host.observers.step_begins(self.run.row, pending.key, pending.step_id, self.attempts, context)
        return context

    def stop(self) -> bool:
        """Interrupt it; nothing of it will be recorded. Says whether an execution was under way."""
        self.is_stopped = True
        self._host.timers.discard(self)
        if self._task is None:
            return False
        self._task.cancel()
        self._host.step_leaves(self)
        return True

    def alarm(self, now: float) -> None:
        """Its timeout has passed, or its next execution is due."""
        if self._task is None:
            self._host.start_when_durable(self.run, self)
        elif not self._is_timed_out:
            self._is_timed_out = True
            self._task.cancel()
            self._host.timers.add(self, now + self._host.grace)
        else:
            task, self._task, self._execution = self._task, None, None
            task.cancel()
            self._host.execution_stuck(self, task)
            self._failed(self._timeout_error())

    def execute(self) -> Coroutine[Any, Any, Any]:
        """The coroutine that does it; called within its task."""
        self._check_lease()
        spec: RunSpec = self.pending.spec
        if spec.runner is not None:
            return self._by_runner(spec, spec.runner)
        if gives_coroutine(spec.fn):
            self._deadline = self._host.now() + spec.timeout
            coro: Coroutine[Any, Any, Any] = spec.fn(*spec.args)
            return coro
        if not is_async(spec.fn):
            return self._in_thread(spec)
        self._deadline = self._host.now() + spec.timeout
        return _awaited(spec)

    def suspended(self) -> None:
        """What ends in its first part needs no alarm for its timeout: nothing could have interrupted it before."""
        if self._deadline:
            self._arm(self._deadline)

    async def _in_thread(self, spec: RunSpec) -> Any:
        async with self._host.threads.slot():
            self._check_lease()
            self._arm_timeout()  # waiting for a free thread is not the step's fault
            self._thread = ThreadCall(spec.fn, spec.args)
            result = await self._thread.result()
        return await result if inspect.isawaitable(result) else result

    async def _by_runner(self, spec: RunSpec, name: str) -> Any:
        runner = self._host.step_runners.get(name)
        if runner is None:
            known = ", ".join(map(repr, self._host.step_runners)) or "none"
            missing = f"{self.where}: no runner is called {name!r}; there are: {known}; name it in Runtime(step_runners={{…}})"
            if self._host.lease is not None:
                raise StepRunnerMissingError(f"{missing} of every replica: this one lacks it, another may have it")
            raise StepRunnerError(missing)
        with self._host.threads.elsewhere():
            return await runner.execute(StepCall(spec.fn, spec.args, self.where), self._arm_timeout)

    def _check_lease(self) -> None:
        """In the very moment: the loop may have stood still since the step was released."""
        lease = self._host.lease
        if lease is not None and not lease.check():
            raise asyncio.CancelledError("the replica's lease is lost")

    def _arm_timeout(self) -> None:
        self._arm(self._host.now() + self.pending.spec.timeout)

    def _arm(self, deadline: float) -> None:
        self._is_armed = True
        self._host.timers.add(self, deadline)

    def returned(self, execution: Execution, result: Any) -> None:
        """An execution has ended."""
        if not self._is_wanted(execution, None):
            return
        try:
            blob, value = self.pending.spec.codec.round_trip(result)
        except PayloadError as error:
            self._failed(PayloadError(f"{self.where}: its result cannot be stored: {error}"))
            return
        self.pending.value = value
        self._host.step_finished(self, Outcome(_COMPLETED, blob))

    def raised(self, execution: Execution, error: BaseException) -> None:
        """An execution has ended, or never began."""
        if isinstance(error, SystemExit):
            # It would end the host's loop, and with it everybody else's runs.
            exit, error = error, StepFailedError(f"the step called sys.exit({error.code!r})", error=_info(error))
            error.__cause__ = exit
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if not self._is_wanted(execution, None if is_cancelled else error):
            return
        if is_cancelled:
            error = self._cancellation_error()
        elif self._is_timed_out and isinstance(error, TimeoutError):
            error = self._timeout_error()
        self._failed(error)

    def _is_wanted(self, execution: Execution, error: BaseException | None) -> bool:
        """It is the one under way; False when it was given up, or when nobody waits for the step any more."""
        if execution is not self._execution:
            return False
        self._task = self._execution = None
        if self._is_armed:
            self._is_armed = False
            self._host.timers.discard(self)
        if self._thread is not None:
            if self._thread.is_running:
                self._host.thread_left(self, self._thread)
            self._thread = None
        if self.is_stopped:
            self._host.step_gone(self, error)
        return not self.is_stopped

    def _failed(self, error: BaseException) -> None:
        self._is_timed_out = False
        delay = self._retry_delay(error)
        encoded = self._host.encode_error(error)
        if delay is None:
            self._host.step_finished(self, Outcome(OutcomeStatus.FAILED, encoded))
        else:
            self.retry_at = self._host.now() + delay
            self._host.timers.add(self, self.retry_at)
            self._host.step_retries(self, self.retry_at, encoded)

    def _retry_delay(self, error: BaseException) -> float | None:
        policy = self.spec.policy
        if policy is None or not is_retriable(error) or isinstance(error, PayloadError):
            return None
        return next_delay(policy, self.attempts, retry_after(error), self._host.chance())

    def _cancellation_error(self) -> BaseException:
        if self._is_timed_out:
            return self._timeout_error()
        return StepFailedError(
            f"{self.where}: its body raised CancelledError, though nobody had cancelled it",
            error=_info(asyncio.CancelledError()),
        )

    def _timeout_error(self) -> StepTimeoutError:
        timeout = self.spec.timeout
        return StepTimeoutError(
            f"{self.where}: its body took longer than {humanize(timeout)}; give step.run(…, timeout=…) more time",
            step_id=self.pending.step_id,
            timeout=timeout,
        )


def _info(error: BaseException) -> ErrorInfo:
    return ErrorInfo(type(error).__name__, str(error))


async def _awaited(spec: RunSpec) -> Any:
    return await spec.fn(*spec.args)
