"""What a workflow is: an id, an async function, how it is started and retried, and who cleans up after it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from rotor_actors.annotations import annotations_of
from rotor_actors.budget import Budget
from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import DurationError, ErrorInfo, WorkflowDefinitionError
from rotor_actors.events.parsing import condition
from rotor_actors.flow.options import LONGEST_KEY, Batch, Debounce, FlowControl, Idempotency, Singleton
from rotor_actors.flow.rules import Rules, checked_rules
from rotor_actors.ids import is_storable
from rotor_actors.retry import RetryPolicy

In = TypeVar("In")
Out = TypeVar("Out", covariant=True)

DEFAULT_RETRIES = 3

Missed = Literal["latest", "all", "skip"]

_SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class Cron(msgspec.Struct, frozen=True):
    """A trigger by the clock: five fields (minute, hour, day of month, month, day of week) in a time zone.

    Attributes:
        missed: what becomes of times that passed while nothing ran; see `cron`.
    """

    expression: str
    timezone: str = "UTC"
    missed: Missed = "latest"


class Event(msgspec.Struct, frozen=True):
    """Something that happened.

    Attributes:
        name: what happened, e.g. `"contact.created"`.
        data: what is known of it.
        id: a repeated id is delivered once.
        timestamp: when it happened.
    """

    name: str
    data: Any = None
    id: str | None = None
    timestamp: datetime | None = None


class CancelOn(msgspec.Struct, frozen=True):
    """An event that cancels runs: `@workflow(cancel_on=[CancelOn(…)])`.

    Attributes:
        event: its name.
        match: a path such as `"data.order_id"`: the event and the one that started the run have the same value there.
        where: an expression such as `"event.data.user_id == own.data.user_id"`; see `step.wait_for_event`.
        within: for how long after the run was started; None: until it ends.

    Raises:
        ExpressionError, DurationError, ValueError: what cannot work.
    """

    event: str
    match: str | None = None
    where: str | None = None
    within: Duration | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, str) or not self.event.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"CancelOn needs an event's name, e.g. CancelOn('order.cancelled'); got {self.event!r}")
        condition(self.match, self.where)
        self.within_seconds()

    def within_seconds(self) -> float | None:
        """`within` as a number."""
        return None if self.within is None else seconds(self.within, name="within", exclusive=True)


class EndedRun(msgspec.Struct, Generic[In]):
    """What an `on_failure` or `on_cancel` handler is told of the run that ended.

    Attributes:
        run_id, workflow_id: the run.
        data: its original input.
        error: what made it fail; None when it was cancelled.
        reason: why it was cancelled, or "".
    """

    run_id: str
    workflow_id: str
    data: In
    error: ErrorInfo | None = None
    reason: str = ""


class Workflow(Generic[In, Out]):
    """A workflow's definition; made by the decorator `workflow`.

    Attributes:
        id: its name in the journal: keep it when you rename the function.
        fn: the function itself, `async def fn(ctx, data)` or `async def fn(ctx)`.
        on: the event name or `Cron` that starts it, or None: started directly or invoked.
        retries: what happens when an attempt fails.
        version: of its code, recorded with each run; None where it names none.
        takes_over: the versions whose runs it goes on with, beside its own.
        timeout: how long a run may take, in seconds, over all its attempts; None for any time.
        cancel_on: the events that cancel its runs.
        on_failure, on_cancel: workflows that the runtime starts, as runs of their own, after such an end.
        rules: what flow control has to do with it; None for nothing.
        undos: functions for `step.run(…, undo=…)` that cannot be found by module and name alone, by their name.
        budget: what each of its runs, with all below it, may spend.
    """

    def __init__(
        self,
        *,
        id: str,
        fn: Callable[..., Coroutine[Any, Any, Out]],
        on: str | Cron | None = None,
        retries: int | RetryPolicy = DEFAULT_RETRIES,
        timeout: Duration | None = None,
        on_failure: Callable[..., Awaitable[object]] | None = None,
        on_cancel: Callable[..., Awaitable[object]] | None = None,
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
    ) -> None:
        self.id = _checked_id(id)
        self.fn = _checked_function(id, fn)
        self.on = _checked_trigger(id, on)
        self.retries = RetryPolicy.of(retries)
        self.version = _checked_version(id, version)
        self.takes_over = _checked_takes_over(id, self.version, takes_over)
        self.timeout = _checked_timeout(id, timeout)
        self.undos = _checked_undos(id, undos)
        self.budget = _checked_budget(id, budget)
        self.takes_data = len(_positional(fn)) > 1
        if self.takes_data and isinstance(on, Cron):
            raise WorkflowDefinitionError(
                f"workflow {id!r}: the clock that starts it has no data to give; leave the data parameter out, "
                f"ctx.event.timestamp is the scheduled time"
            )
        self.cancel_on = _checked_cancel_on(self, cancel_on)
        self.on_failure = _handler(self, "on_failure", on_failure)
        self.on_cancel = _handler(self, "on_cancel", on_cancel)
        rules = Rules(flow_control, priority, debounce, singleton, idempotency, batch)
        self.rules = (
            None if rules == Rules() else checked_rules(id, rules, data=self._data(), is_cron=not self.is_invocable)
        )
        self.handles: Workflow[Any, Any] | None = None
        for handler in (self.on_failure, self.on_cancel):
            if handler is not None:
                handler.handles = self

    def _data(self) -> Any:
        return annotations_of(self.fn).data if self.takes_data else None

    @property
    def versions(self) -> tuple[str, ...] | None:
        """Those whose runs it can go on with; None for any. A run of no version is anybody's."""
        return None if self.version is None else (self.version, *self.takes_over)

    @property
    def is_invocable(self) -> bool:
        """Started by an event or directly, not by the clock."""
        return not isinstance(self.on, Cron)

    def __repr__(self) -> str:
        return f"<Workflow {self.id!r}>"


def cron(expression: str, *, timezone: str = "UTC", missed: Missed = "latest") -> Cron:
    """A trigger by the clock. Each scheduled time starts one run, whatever crashes.

    Args:
        expression: five fields, e.g. `"*/5 * * * *"`.
        timezone: an IANA name, e.g. `"Europe/Berlin"`. When its clocks change, what is due at a time that is skipped
            runs right after the gap, and what is due at a time that comes twice runs once.
        missed: what becomes of times that passed, by more than a minute, while the runtime was not open: `"latest"`
            starts one run for the latest of them, `"all"` one for each (but the latest 1 000), `"skip"` none. Times
            count from when the workflow was first registered with this expression.

    Raises:
        WorkflowDefinitionError: no such expression, one that is never due, or an unknown zone.

    Example:
        >>> cron("0 9 * * mon-fri", timezone="Europe/Berlin").expression
        '0 9 * * mon-fri'
    """
    fields = expression.split() if isinstance(expression, str) else []  # pyright: ignore[reportUnnecessaryIsInstance]
    if len(fields) != 5 or not all(_is_cron_field(field) for field in fields):
        raise WorkflowDefinitionError(f"cron({expression!r}): expected five fields, e.g. cron('*/5 * * * *')")
    if missed not in ("latest", "all", "skip"):
        raise WorkflowDefinitionError(
            f"cron({expression!r}): missed={missed!r} is unknown; expected 'latest', 'all' or 'skip'"
        )
    try:
        from zoneinfo import ZoneInfo  # not every program has a schedule

        ZoneInfo(timezone)
    except Exception as error:
        raise WorkflowDefinitionError(
            f"cron({expression!r}): unknown time zone {timezone!r}; give an IANA name such as 'Europe/Berlin'"
        ) from error
    _check_is_due(expression)
    return Cron(" ".join(fields), timezone, missed)


def _check_is_due(expression: str) -> None:
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(expression, _SOME_TIME))
    except CronSimError as error:
        raise WorkflowDefinitionError(f"cron({expression!r}): {error}; e.g. cron('*/5 * * * *')") from error
    except StopIteration:
        raise WorkflowDefinitionError(f"cron({expression!r}) is never due: there is no such day") from None


def _is_cron_field(field: str) -> bool:
    return all(character.isalnum() or character in "*,-/#?L" for character in field)


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not id.strip() or not is_storable(id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(f"a workflow's id must be a non-empty string, e.g. 'send-invoice'; got {id!r}")
    if id.splitlines() != [id]:
        raise WorkflowDefinitionError(f"a workflow's id must be one line, e.g. 'send-invoice'; got {id!r}")
    if len(id.removesuffix(".undo")) > LONGEST_KEY:  # PostgreSQL has it in indexes, and these hold no long texts
        raise WorkflowDefinitionError(
            f"a workflow's id has at most {LONGEST_KEY} characters, e.g. 'send-invoice'; got {len(id)}: {id[:60]!r}…"
        )
    return id


def _checked_function(id: str, fn: Callable[..., Coroutine[Any, Any, Out]]) -> Callable[..., Coroutine[Any, Any, Out]]:
    if not inspect.iscoroutinefunction(fn):
        raise WorkflowDefinitionError(f"workflow {id!r}: {fn!r} must be an async function: 'async def fn(ctx, data)'")
    if not 1 <= len(_positional(fn)) <= 2:
        raise WorkflowDefinitionError(
            f"workflow {id!r}: the function takes the context and at most one data parameter, 'async def fn(ctx, "
            f"data)'; found {inspect.signature(fn)}. Put several values into one dataclass."
        )
    return fn


def _checked_timeout(id: str, timeout: Duration | None) -> float | None:
    if timeout is None:
        return None
    try:
        return seconds(timeout, name="timeout", exclusive=True)
    except (DurationError, TypeError) as error:
        raise WorkflowDefinitionError(f"workflow {id!r}: {error}") from error


def _checked_budget(id: str, budget: Budget | None) -> Budget | None:
    if budget is not None and not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(f"workflow {id!r}: budget= takes a Budget, e.g. Budget(runs=50); got {budget!r}")
    return budget


def _checked_undos(id: str, undos: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    named: dict[str, Callable[..., Any]] = {}
    for fn in undos:
        name = getattr(fn, "__name__", "")
        if not callable(fn) or not name or name == "<lambda>":
            raise WorkflowDefinitionError(f"workflow {id!r}: undos= takes functions that have a name; got {fn!r}")
        if name in named:
            raise WorkflowDefinitionError(f"workflow {id!r}: undos= has two functions named {name!r}; rename one")
        named[name] = fn
    return named


def _positional(fn: Callable[..., object]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in inspect.signature(fn).parameters.values() if parameter.kind in kinds]


def _checked_version(id: str, version: str | None) -> str | None:
    if version is None or (isinstance(version, str) and version and is_storable(version)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return version
    raise WorkflowDefinitionError(f"workflow {id!r}: version must be a non-empty text, e.g. '2'; got {version!r}")


def _checked_takes_over(id: str, version: str | None, takes_over: Sequence[str]) -> tuple[str, ...]:
    if isinstance(takes_over, str) or not all(isinstance(each, str) and each for each in takes_over):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(
            f"workflow {id!r}: takes_over= takes the names of older versions, e.g. takes_over=('1',); got {takes_over!r}"
        )
    if takes_over and version is None:
        raise WorkflowDefinitionError(
            f"workflow {id!r}: takes_over={tuple(takes_over)!r} needs a version= of its own; without one it goes on with "
            f"runs of any version"
        )
    return tuple(dict.fromkeys(takes_over))


def _checked_trigger(id: str, on: str | Cron | None) -> str | Cron | None:
    if on is None or isinstance(on, Cron) or (isinstance(on, str) and on.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
        return on
    raise WorkflowDefinitionError(
        f"workflow {id!r}: on={on!r} is no trigger; give an event name, cron('…'), or leave it out"
    )


def _checked_cancel_on(workflow: Workflow[Any, Any], cancel_on: Sequence[CancelOn]) -> tuple[CancelOn, ...]:
    if isinstance(cancel_on, CancelOn) or not all(isinstance(each, CancelOn) for each in cancel_on):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(
            f"workflow {workflow.id!r}: cancel_on takes a list: cancel_on=[CancelOn(event='order.cancelled', …)]; got {cancel_on!r}"
        )
    for each in cancel_on:
        if each.match is not None and not isinstance(workflow.on, str) and (not workflow.takes_data or workflow.on):
            raise WorkflowDefinitionError(
                f"workflow {workflow.id!r}: cancel_on=[CancelOn({each.event!r}, match={each.match!r})]: what starts it has no "
                f"data that the event could match; write where=… instead, or give the function a data parameter"
            )
    return tuple(cancel_on)


def _handler(
    owner: Workflow[Any, Any], event: str, fn: Callable[..., Awaitable[object]] | None
) -> Workflow[Any, Any] | None:
    if fn is None:
        return None
    id = f"{owner.id}.{event}"
    if not inspect.iscoroutinefunction(fn) or len(_positional(fn)) != 2:
        raise WorkflowDefinitionError(
            f"workflow {owner.id!r}: {event} must be an async function '(ctx: Context, ended: EndedRun)'; got {fn!r}"
        )
    return Workflow(id=id, fn=fn)
