"""The decorator that makes a workflow of a function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, overload

from rotor_actors.budget import Budget
from rotor_actors.context import Context
from rotor_actors.durations import Duration
from rotor_actors.flow.options import Batch, Debounce, FlowControl, Idempotency, Singleton
from rotor_actors.retry import RetryPolicy
from rotor_actors.workflows import DEFAULT_RETRIES, CancelOn, Cron, EndedRun, Workflow

In = TypeVar("In")
Out = TypeVar("Out")

Handler = Callable[[Context, EndedRun[Any]], Awaitable[None]]


class Decorator(Protocol):
    """Takes `async def fn(ctx, data)` or `async def fn(ctx)`."""

    @overload
    def __call__(self, fn: Callable[[Context], Coroutine[Any, Any, Out]], /) -> Workflow[None, Out]: ...

    @overload
    def __call__(self, fn: Callable[[Context, In], Coroutine[Any, Any, Out]], /) -> Workflow[In, Out]: ...


def workflow(
    *,
    id: str,
    on: str | Cron | None = None,
    retries: int | RetryPolicy = DEFAULT_RETRIES,
    timeout: Duration | None = None,
    on_failure: Handler | None = None,
    on_cancel: Handler | None = None,
    cancel_on: Sequence[CancelOn] = (),
    flow_control: FlowControl | None = None,
    priority: int | str = 0,
    debounce: Debounce | None = None,
    singleton: Singleton | None = None,
    idempotency: Idempotency | None = None,
    batch: Batch | None = None,
    undos: Sequence[Callable[..., Any]] = (),
    version: str | None = None,
    budget: Budget | None = None,
    takes_over: Sequence[str] = (),
) -> Decorator:
    """Make a workflow of an async function.

    Args:
        id: its name in the journal, and for `invoke_by_id`; keep it when the function is renamed.
        on: an event's name or `cron(…)`: what starts it. Left out: started directly, or invoked.
        retries: of the whole run; 3 means up to 4 attempts.
        timeout: how long a run may take, from the beginning of its first attempt, over all attempts, their delays and
            restarts of the process; time in a queue does not count. When it passes the run has failed, with
            `RunTimeoutError`, its children are cancelled, and it is not tried again.
        on_failure, on_cancel: `async def handler(ctx, ended: EndedRun)`, started as a run of its own when a run of
            this workflow failed for good or was cancelled: the place for durable compensation.
        cancel_on: events that cancel its runs, e.g. `[CancelOn(event="order.cancelled", match="data.order_id")]`.
        flow_control: how many runs of a key run at once, and how many begin in a period; what is over it waits.
        priority: among those that wait, the higher goes first: a number from -100 to 100, or a path to it in the
            input. The lower may wait for as long as higher ones come.
        debounce: starts that follow each other make one run, with the data of the last.
        singleton: at most one run that has not ended.
        idempotency: the same key within a period gives the same run.
        batch: starts are gathered; the data is the list of theirs.
        undos: functions for `step.run(…, undo=…)` that do not stand at the top of a module. Another process finds
            them here, by their name.
        version: of the code, e.g. `"2"`: it is recorded with each run, and shown. With many replicas a run stays with
            those that can run its version; without others its owner goes on with it in any case.
        takes_over: versions whose runs this one goes on with, e.g. `("1",)`. Runs of no version are everybody's.
        budget: what each run of it may spend, with all that run below it.

    Raises:
        WorkflowDefinitionError: what cannot work is refused here, by name.

    Example:
        >>> @workflow(id="greet")
        ... async def greet(ctx: Context, name: str) -> str:
        ...     return f"hello {name}"
        >>> greet.id
        'greet'
    """

    def decorate(fn: Callable[..., Coroutine[Any, Any, Any]], /) -> Workflow[Any, Any]:
        return Workflow(
            id=id, fn=fn, on=on, retries=retries, timeout=timeout, on_failure=on_failure, on_cancel=on_cancel,
            cancel_on=cancel_on,
            flow_control=flow_control, priority=priority, debounce=debounce, singleton=singleton,
            idempotency=idempotency, batch=batch, undos=undos, version=version, budget=budget, takes_over=takes_over,
        )  # fmt: skip

    return decorate
