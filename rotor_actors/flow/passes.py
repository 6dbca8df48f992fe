"""What the gate keeps of each run that has a ticket and of each key, and what of it is kept in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from rotor_actors.flow.line import Limits, Line
from rotor_actors.flow.queue import Place
from rotor_actors.flow.ticket import SPACE, Ticket
from rotor_actors.records import ItemPut, ItemRow, RunFlag
from rotor_actors.run import Run

RATE_SPACE = "flow.rate"
PLACE_SPACE = "flow.place"
"""Many replicas: which runs have a place, whoever owns them. It is the coordinator's."""
NOT_AWAITED = RunFlag.RELEASED | RunFlag.WITHDRAWN


class Begun(msgspec.Struct, frozen=True):
    """Durable for the rate's period: a run of this key began then."""

    name: str
    at: float
    limits: Limits

    def item(self, n: int) -> ItemPut:
        return ItemPut(ItemRow(RATE_SPACE, str(n), msgspec.msgpack.encode(self), due=self.at + self.limits.period))


class Pass:
    """A run that has a ticket, for as long as it lives."""

    __slots__ = ("above", "has_begun", "on_end", "run", "ticket", "turnstile", "why")

    def __init__(self, run: Run, ticket: Ticket, *, has_begun: bool, why: str = "") -> None:
        self.run = run
        self.ticket = ticket
        self.has_begun = has_begun
        self.turnstile: Turnstile | None = None
        """The line it stands in, or has its place from; None while something else must happen first: `why`."""
        self.why = why
        self.on_end: Callable[[], None] | None = None
        self.above: list[int] | None = None
        """Many replicas: the numbers of the runs that await it, the nearest first, where they are not all here."""

    @property
    def place(self) -> Place:
        n = self.run.row.n
        return (-self.ticket.priority, self.ticket.arrival or n, n)


class Pump(Protocol):
    """Who lets those of a line begin that may."""

    def pump(self, turnstile: Turnstile) -> None: ...


class Turnstile:
    """One key's line, as something that can be woken and queued."""

    __slots__ = ("_gate", "capped_at", "is_queued", "line")

    def __init__(self, gate: Pump, line: Line) -> None:
        self._gate = gate
        self.line = line
        self.is_queued = False
        self.capped_at: Place | None = None
        """Its place among those that wait for `max_active_runs`."""

    def alarm(self, now: float) -> None:
        self._gate.pump(self)

    def go_on(self, is_over: Callable[[], bool]) -> bool:
        self.is_queued = False
        self._gate.pump(self)
        return False


def ticket_item(n: int, ticket: Ticket) -> ItemPut:
    """The entry that keeps a ticket, for as long as its run lives."""
    return ItemPut(ItemRow(SPACE, str(n), ticket.encoded(), n=n))


def place_item(n: int) -> ItemPut:
    """The entry that says that a run has its place."""
    return ItemPut(ItemRow(PLACE_SPACE, str(n)))


def lender_of(each: Pass, line: Line) -> int | None:
    """The nearest run of the key above this one that awaits it, itself or by way of others."""
    if each.above is not None:
        return next((n for n in each.above if line.holds(n)), None)
    run = each.run
    while run.parent is not None and run.is_owned:
        run = run.parent
        if line.holds(run.row.n):
            return run.row.n
    return None


def is_known_to_the_top(run: Run) -> bool:
    """Are all the runs that await this one here, up to one that nobody awaits?"""
    while run.parent is not None and run.is_owned:
        run = run.parent
    return run.parent is not None or run.row.parent_n is None or bool(run.row.flags & NOT_AWAITED)
