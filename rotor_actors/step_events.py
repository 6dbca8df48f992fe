"""The steps of a run that have to do with events and signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec

from rotor_actors.body import NIL, Body, checked_step_id
from rotor_actors.durations import Duration, humanize
from rotor_actors.errors import PayloadError, SignalTimeoutError
from rotor_actors.ids import is_storable
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.payload import Codec
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.step_specs import EventRecord, SendEventSpec, WaitForEventSpec, WaitForSignalSpec
from rotor_actors.workflows import Event

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # its stubs come with every type checker

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

LONGEST_NAME = 200
_ANYTHING: Any = Any
_PLAIN = (dict, list, tuple, set, frozenset)


class EventSteps:
    """`step.send_event`, `step.wait_for_event`, `step.wait_for_signal`: part of `Step`."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    async def send_event(self, id: str, event: Event | Sequence[Event]) -> list[str]:
        """Send one event, or several in their order, exactly once, whatever crashes; see `Runtime.send`.

        Args:
            id: the step's name within this run.

        Returns:
            The ids of the runs that were started. (For an event whose id was sent before: of those started then.)

        Raises:
            PayloadError: the data of an event cannot be stored.

        Runs that wait for the event are told, those it starts are started, and this step's outcome is recorded as one
        entry of the journal. The runs that it starts are nobody's children: they are not cancelled with this one.
        """
        events = event_records(event, self._body.codec_of)
        target = ", ".join(sorted({each.name for each in events}))
        ended = await self._ask(id, Kind.SEND_EVENT, target, SendEventSpec(events))
        if ended.outcome.status is OutcomeStatus.FAILED:
            raise self._failure(ended)
        return msgspec.msgpack.decode(ended.outcome.payload or NIL, type=list[str])

    async def wait_for_event(
        self, id: str, *, event: str, timeout: Duration, match: str | None = None, where: str | None = None
    ) -> Event | None:
        """Wait for the next event of a name; None when none has come within the timeout.

        Args:
            id: the step's name within this run.
            event: the event's name.
            timeout: how long to wait, over restarts.
            match: a path such as `"data.order_id"`: the incoming event and the one that started this run (`ctx.event`)
                have the same value there.
            where: an expression such as `"event.data.status == 'paid' and event.data.amount >= own.data.amount"`.

        Raises:
            ExpressionError: `match` or `where` cannot work; the message shows the place.
            TypeError, DurationError: `timeout` is missing or not a duration.

        Only events sent from now on count: one that nobody waits for is not kept for later. It may come while this
        run waits for its next attempt, or is at rest in the store, or while the body does something else: ask first,
        then do what will make the event come (`asyncio.gather`), and none is missed. One event is given to each step
        that waits for it. When the scope that waits here is cancelled, the step waits no longer.
        """
        limit = self._body.seconds(timeout, "timeout")
        node = self._body.condition(match, where)
        spec = WaitForEventSpec(self._body.now() + limit, match, where, node)
        ended = await self._ask(id, Kind.WAIT_FOR_EVENT, checked_name(event, "an event"), spec)
        match ended.outcome.status:
            case OutcomeStatus.COMPLETED:
                return event_of(
                    msgspec.msgpack.decode(ended.outcome.payload or b"", type=EventRecord), self._body.codec_of(Any)
                )
            case OutcomeStatus.TIMED_OUT:
                return None
            case _:
                raise self._failure(ended)

    async def wait_for_signal(self, id: str, *, signal: str, timeout: Duration, returns: type[T] = _ANYTHING) -> T:
        """Wait for `runtime.signal(signal, data)`, and give its data.

        Args:
            id: the step's name within this run.
            signal: a name that only this step waits for, such as `f"approve-{order.id}"`.
            timeout: how long to wait, over restarts.
            returns: the type of the data.

        Raises:
            SignalTimeoutError: none came in time; the same again on each replay and in each attempt.
            SignalInUseError: another step waits for this signal already.
            PayloadError: the data that came does not fit `returns`.

        When the scope that waits here is cancelled, the step waits no longer and the name is free.
        """
        limit = self._body.seconds(timeout, "timeout")
        codec = self._body.codec_of(returns)
        spec = WaitForSignalSpec(self._body.now() + limit, limit)
        ended = await self._ask(id, Kind.WAIT_FOR_SIGNAL, checked_name(signal, "a signal"), spec)
        match ended.outcome.status:
            case OutcomeStatus.COMPLETED:
                return cast(T, self._signal_data(id, signal, codec, ended))
            case OutcomeStatus.TIMED_OUT:
                seconds = msgspec.msgpack.decode(ended.outcome.payload or NIL, type=float)
                error = SignalTimeoutError(
                    f"{self._body.where}: step {id!r}: no signal {signal!r} came within {humanize(seconds)}; send it with "
                    f"runtime.signal({signal!r}, data), or wait longer",
                    signal=signal,
                    timeout=seconds,
                )
                self._body.note_invoke_failure(error, ended.key)  # kept by a retry, forgotten by resume
                raise error
            case _:
                raise self._failure(ended)

    def _signal_data(self, id: str, signal: str, codec: Codec, ended: StepEnded) -> Any:
        try:
            return codec.decode(ended.outcome.payload or NIL)
        except PayloadError as error:
            raise PayloadError(
                f"{self._body.where}: step {id!r}: the data of signal {signal!r} is not what `returns` says: {error}"
            ) from error

    async def _ask(self, id: str, kind: Kind, target: str, spec: object) -> StepEnded:
        asked = self._body.ask(checked_step_id(id), kind, target, spec)
        ended: StepEnded = await asked.future if isinstance(asked, Pending) else asked
        return ended

    def _failure(self, ended: StepEnded) -> Exception:
        error = rebuild(msgspec.msgpack.decode(ended.outcome.payload or b"", type=RecordedError))
        self._body.note_failure(error, ended.key)
        return error


def event_records(events: Event | Sequence[Event], codec_of: Callable[[object], Codec]) -> tuple[EventRecord, ...]:
    """Events as they are sent.

    Raises:
        TypeError: not an event, or no sequence of events. ValueError: a name or an id that cannot be.
        PayloadError: the data cannot be stored.
    """
    if isinstance(events, Event):
        return (_event_record(events, codec_of),)
    if not isinstance(events, Sequence):
        raise TypeError(f"expected an Event, or a sequence of them; got {events!r}")
    return tuple(_event_record(event, codec_of) for event in events)


def _event_record(event: Event, codec_of: Callable[[object], Codec]) -> EventRecord:
    if not isinstance(event, Event):
        raise TypeError(f"expected an Event, e.g. Event('contact.created', data); got {event!r}")
    name = checked_name(event.name, "an event")
    if event.id is not None:
        checked_name(event.id, "the id of an event")
    if event.timestamp is not None and event.timestamp.tzinfo is None:
        raise ValueError(
            f"event {name!r}: its timestamp {event.timestamp} needs a time zone, e.g. datetime.now(timezone.utc)"
        )
    try:
        data, _ = codec_of(payload_annotation(event.data)).round_trip(event.data)
    except PayloadError as error:
        raise PayloadError(f"data of event {name!r}: {error}") from error
    return EventRecord(name, data, event.id or "", None if event.timestamp is None else event.timestamp.timestamp())


def payload_annotation(data: object) -> object:
    """Objects are stored by their class, plain data as it is."""
    kind = type(data)
    return Any if kind in _PLAIN or kind.__module__ == "builtins" else kind


def event_of(record: EventRecord, codec: Codec) -> Event:
    """The event that was recorded; its data is plain."""
    at = None if record.at is None else datetime.fromtimestamp(record.at, UTC)
    return Event(record.name, codec.decode(record.data), record.id, at)


def checked_name(name: str, what: str) -> str:
    """Raise ValueError where it cannot be a name."""
    if not isinstance(name, str) or not name.strip() or not is_storable(name) or len(name) > LONGEST_NAME:
        raise ValueError(f"{what} is named by a text of 1 to {LONGEST_NAME} characters; got {name!r}")
    return name
