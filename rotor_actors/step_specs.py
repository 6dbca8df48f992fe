"""What the shell needs to know to perform a step; the state machine passes it through unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.budget import Budget
from rotor_actors.events.expression import Node
from rotor_actors.flow.ticket import Ticket
from rotor_actors.payload import Codec
from rotor_actors.replicas.room import Placement
from rotor_actors.retry import RetryPolicy
from rotor_actors.undo import UndoSpec

SKIPPED = "RunSkipped"
"""The `ErrorInfo.type` of a run that was created with many replicas about, and that its singleton did not let begin."""


class RunSpec(msgspec.Struct, frozen=True):
    """`step.run`."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    timeout: float
    policy: RetryPolicy | None
    codec: Codec
    undo: UndoSpec | None = None
    runner: str | None = None


class InvokeSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.invoke` and its relatives."""

    workflow_id: str
    data: bytes | None
    timeout: float
    headers: bytes | None = None
    retries: bytes | None = None
    abandon: bool = False
    run_id: str | None = None
    ticket: Ticket | None = None
    budget: Budget | None = None
    placement: Placement | None = None


class SleepSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.sleep` and `step.sleep_until`: when it ends."""

    due: float


class WaitForEventSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.wait_for_event`: until when, and what the event must be like; `node` is that, parsed."""

    due: float
    match: str | None
    where: str | None
    node: Node | None


class WaitForSignalSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.wait_for_signal`: until when, and how long that is."""

    due: float
    timeout: float


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """An event as it is sent and stored: its data encoded; without an id it is not known whether it was sent before."""

    name: str
    data: bytes
    id: str = ""
    at: float | None = None


class SendEventSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.send_event`."""

    events: tuple[EventRecord, ...]


class StartSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.start`."""

    workflow_id: str
    data: bytes
    headers: bytes | None = None
    run_id: str | None = None


class JoinSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.join`."""

    run_id: str
    timeout: float


class CancelSpec(msgspec.Struct, frozen=True, gc=False):
    """`step.cancel`."""

    run_id: str
    reason: str


class EndNote(msgspec.Struct, frozen=True, gc=False):
    """The payload of a join's outcome: whose end it is, and the payload of that. Without a run id: there is none, and
    `payload` is the encoded error."""

    run_id: str
    workflow_id: str
    payload: bytes | None


class ChargeSpec(msgspec.Struct, frozen=True, gc=False):
    """`ctx.charge`."""

    unit: str
    amount: float
