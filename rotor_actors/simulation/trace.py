"""What happened in a universe, event by event: for oracles, for the timeline, and to compare universes by."""

from __future__ import annotations

import hashlib

import msgspec

from rotor_actors.records import Entry


class Event(msgspec.Struct, tag=True):
    """Something that happened, at a virtual time, in a life of the simulated process (counted from 1)."""

    at: float
    incarnation: int

    def line(self) -> str:
        """What a timeline says of it, where it does not say it by itself; "" for nothing."""
        return ""


class Opened(Event):
    """The runtime has opened, and recovers."""


class Closed(Event):
    """The runtime was closed in good order."""


class Crashed(Event):
    """The process has died. `place` says where."""

    place: str


class Appended(Event):
    """An entry was appended to the journal."""

    entry: Entry


class CommitBegun(Event):
    """The store was asked to commit."""

    entries: list[Entry]


class Committed(Event):
    """The store said that it has committed. Where a crash follows at once, nobody was told."""

    entries: list[Entry]


class CommitFailed(Event):
    """The store said that it has not committed, or does not know."""

    entries: list[Entry]
    error: str
    is_refused: bool
    """Refused as a whole (no room): nothing was written. Else the outcome is unknown."""


class EffectBegun(Event):
    """A step's body is about to be executed, for the `execution`-th time in this attempt."""

    run_id: str
    step_id: str
    key: bytes
    execution: int
    seen_seq: int
    """The newest entry in its causal past: durable by now."""


class Asked(Event):
    """A caller is about to ask for something."""

    verb: str
    run_id: str


class Acknowledged(Event):
    """A call from outside was answered."""

    verb: str
    run_id: str
    outcome: str


class Noted(Event):
    """What the test noted by itself."""

    text: str


# Who plays in a universe may have events of his own.
TraceEvent = Event


def hash_of(trace: list[TraceEvent]) -> str:
    """The same for universes in which the same happened."""
    return hashlib.sha256(msgspec.msgpack.encode(trace)).hexdigest()
