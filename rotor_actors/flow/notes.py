"""Many replicas: what replicas and the coordinator, in whose hands the lines are, tell each other of runs in them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from rotor_actors.flow.ticket import Ticket


class Enter(msgspec.Struct, tag=True, omit_defaults=True):
    """A run has been created with this ticket; whoever owns it holds it until its turn comes.

    `parent_n`: the run that awaits it. `is_under_way`: it was brought back after its end, and counts all the same.
    """

    n: int
    run_id: str
    workflow_id: str
    root_n: int
    depth: int
    created_at: float
    ticket: Ticket
    parent_n: int | None = None
    is_under_way: bool = False


class LetGo(msgspec.Struct, tag=True):
    """Nobody awaits this run any more."""

    n: int


class Left(msgspec.Struct, tag=True, omit_defaults=True):
    """A run has ended, and left its line. `until`: it cleans up, and keeps its place for as long, unless it says again
    that it has left before."""

    n: int
    until: float = 0.0


class KeyPaused(msgspec.Struct, tag=True):
    """No run of this key may begin, or they may again. `ask` and `to`: who waits for that being known."""

    name: str
    is_paused: bool
    ask: int
    to: int


class RunsGone(msgspec.Struct, tag=True):
    """These runs have been deleted: idempotency keys that named them are free again."""

    run_ids: list[str]


LineNote: TypeAlias = Enter | LetGo | KeyPaused | RunsGone
"""To the coordinator."""


class Turn(msgspec.Struct, omit_defaults=True):
    """To a run that waits: it may begin; or it may not at all, for another run of its singleton is there."""

    skipped_for: str = ""
    name: str = ""
    """Of the singleton."""
