"""What a run actor is told, and what its state machine wants done: the protocol, as two unions."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from rotor_actors.records import Kind, Outcome


class StepEnded(msgspec.Struct, tag=True, gc=False):
    """A step of this run has an outcome. Its entry was appended in the act that posted this."""

    key: bytes
    outcome: Outcome
    seq: int
    at: float
    run_id: str = ""
    """Of an invoke: the child."""
    workflow_id: str = ""


class TimerFired(msgspec.Struct, tag=True, gc=False):
    """A timer of the body is due."""

    number: int
    seq: int
    at: float


class AttemptDue(msgspec.Struct, tag=True, gc=False):
    """The run shall begin its next attempt, or a run at rest in the store shall be loaded."""

    at: float
    seq: int = 0


class Interrupt(msgspec.Struct, tag=True, gc=False):
    """Control: the run was cancelled; its body and steps are interrupted and may clean up."""

    reason: str


Message: TypeAlias = StepEnded | TimerFired
"""What is recorded, and so comes again on replay."""


class Pending(msgspec.Struct, eq=False):
    """A step that the body waits for."""

    key: bytes
    step_id: str
    kind: Kind
    target: str
    spec: Any
    future: Any = None
    """Of the body's own loop; set by the shell."""
    value: Any = msgspec.UNSET
    """The result after its round trip, which saves decoding it once more; set by the shell."""
    asked_at: float = 0.0
    """When the body asked, by its own clock; set by the shell."""
    is_spawned: bool = False
    """It had begun, and had no outcome, when the history was loaded: a child ran, a step waited with a feature. If it
    does so no more, its end is in the mailbox."""


class Known(msgspec.Struct, frozen=True):
    """What is recorded under a step key. Without an outcome: a child that still runs, or a step that waits."""

    kind: Kind
    target: str
    outcome: Outcome | None = None
    run_id: str = ""
    workflow_id: str = ""
    step_id: str = ""
    due: float | None = None


class Begin(msgspec.Struct, tag=True, gc=False):
    """Start the step's effect: nothing of the record is left that could answer it."""

    pending: Pending


class Resolve(msgspec.Struct, tag=True, gc=False):
    """Hand the outcome to the body."""

    pending: Pending
    message: StepEnded


class Fire(msgspec.Struct, tag=True, gc=False):
    """Make the body's timer ready."""

    number: int


class Withdraw(msgspec.Struct, tag=True, gc=False):
    """The body no longer waits for it: its scope was cancelled."""

    pending: Pending


class Diverged(msgspec.Struct, tag=True, gc=False):
    """The record holds a step that the code did not ask for: mark the run."""

    what: str


class MarkMap(msgspec.Struct, tag=True, gc=False):
    """A map was begun that the journal does not hold yet: note it, before its first child is spawned."""

    key: bytes
    step_id: str
    target: str


Effect: TypeAlias = Begin | Resolve | Fire | Withdraw | Diverged | MarkMap
