"""What a workflow's body can have done: `ctx.step`, with the steps of all themes."""

from __future__ import annotations

from datetime import datetime

import msgspec

from rotor_actors.body import NIL, Body, checked_step_id
from rotor_actors.budget import check_charge
from rotor_actors.durations import Duration, seconds
from rotor_actors.messages import Pending, StepEnded
from rotor_actors.records import Kind, OutcomeStatus
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.step_map import MapSteps
from rotor_actors.step_specs import ChargeSpec, SleepSpec


class Step(MapSteps):
    """The steps of one run. Each is memoized under a hash of `stepId:counter`, the counter counting uses of that id."""

    __slots__ = ()

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


async def charge(body: Body, unit: str, amount: float, id: str) -> float | None:
    """`ctx.charge`."""
    check_charge(f"{body.where}: charge {id!r}", unit, amount)
    asked = body.ask(checked_step_id(id), Kind.CHARGE, unit, ChargeSpec(unit, float(amount)))
    ended: StepEnded = asked if isinstance(asked, StepEnded) else await asked.future
    payload = ended.outcome.payload or NIL
    if ended.outcome.status is OutcomeStatus.COMPLETED:
        return msgspec.msgpack.decode(payload, type=float | None)
    raise rebuild(msgspec.msgpack.decode(payload, type=RecordedError))
