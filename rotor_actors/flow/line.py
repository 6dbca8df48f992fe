"""One key: who of it runs, who waits, and who is next. Pure: run numbers and `now` go in, run numbers come out.

A run that awaits a child of its own key lends the child its place, one at a time: else a parent that holds the last
place would wait for a child that waits for the parent's place.
"""

from __future__ import annotations

import msgspec

from rotor_actors.durations import humanize
from rotor_actors.flow.queue import Place, WaitingLine
from rotor_actors.flow.window import Window


class Limits(msgspec.Struct, frozen=True):
    """What a key allows; None for any number."""

    parallelism: int | None = None
    rate: int | None = None
    period: float = 1.0


class Line:
    """The state of one key.

    Args:
        name: of the key.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.limits = Limits()
        self.is_paused = False
        self.window = Window()
        # Run number of each that runs, with the number of the run in whose place it does, or None for one of its own.
        self._running: dict[int, int | None] = {}
        self._lends: dict[int, int] = {}
        self.used = 0
        self._roots, self._children = WaitingLine(), WaitingLine()
        # Those of the children whose nearest running ancestor of this key awaits them, by that ancestor.
        self._of_lender: dict[int, WaitingLine] = {}
        self._lender_of: dict[int, int] = {}
        self._can_lend: dict[int, None] = {}

    # What happens

    def arrive(self, place: Place, *, is_root: bool, lender: int | None = None) -> None:
        """A run waits from now on. `lender`: the nearest running run of this key above it, if that awaits it."""
        n = place[2]
        (self._roots if is_root else self._children).join(place)
        if lender is not None and lender in self._running:
            self._lender_of[n] = lender
            self._of_lender.setdefault(lender, WaitingLine()).join(place)
            self._look_at_lender(lender)

    def runs(self, n: int, lender: int | None = None) -> None:
        """A run runs: it began in a life before this one."""
        if lender is not None and lender in self._running and lender not in self._lends:
            self._running[n] = lender
            self._lends[lender] = n
        else:
            self._running[n] = None
            self.used += 1

    def leave(self, n: int) -> None:
        """A run has ended, whether it ran or waited."""
        if n in self._running:
            self._end(n)
        else:
            self._stop_waiting(n)

    def let_go(self, n: int) -> None:
        """Nobody awaits this run any more: it has a place of its own, even if there is none, or waits like others."""
        lender = self._running.get(n)
        if lender is not None:
            self._running[n] = None
            self.used += 1
            del self._lends[lender]
            self._look_at_lender(lender)
        elif n in self._lender_of:
            self._forget_lender(n)

    def _end(self, n: int) -> None:
        lender = self._running.pop(n)
        if lender is None:
            self.used -= 1
        else:
            del self._lends[lender]
            self._look_at_lender(lender)
        borrower = self._lends.pop(n, None)
        if borrower is not None:  # it outlives whom it had the place from
            self._running[borrower] = None
            self.used += 1
        self._can_lend.pop(n, None)
        for waiting in self._of_lender.pop(n, WaitingLine()).in_order():
            del self._lender_of[waiting]

    def _stop_waiting(self, n: int) -> None:
        self._roots.leave(n)
        self._children.leave(n)
        if n in self._lender_of:
            self._forget_lender(n)

    def _forget_lender(self, n: int) -> None:
        lender = self._lender_of.pop(n)
        self._of_lender[lender].leave(n)
        self._look_at_lender(lender)

    def _look_at_lender(self, lender: int) -> None:
        line = self._of_lender.get(lender)
        if line is not None and not len(line):
            del self._of_lender[lender]
            line = None
        if line is not None and lender in self._running and lender not in self._lends:
            self._can_lend[lender] = None
        else:
            self._can_lend.pop(lender, None)

    # Who is next

    def take_next(self, now: float, *, roots_wait: bool) -> int | None:
        """Let the next run begin, if one may: it runs from now on. `roots_wait`: no root may, whatever its place."""
        if self.is_paused or self.opens_at(now) > now:
            return None
        lender: int | None = None
        place = self._first(roots_wait) if self._has_room else None
        if place is None and self._can_lend:
            lender = next(iter(self._can_lend))
            place = self._of_lender[lender].first()
        if place is None:
            return None
        n = place[2]
        self._stop_waiting(n)
        self.runs(n, lender)
        if lender is not None:
            self._look_at_lender(lender)
        if self.limits.rate is not None:
            self.window.count(now)
        return n

    def give_back(self, n: int) -> None:
        """The run that was just taken does not begin after all: nor does the rate count it."""
        self.leave(n)
        if self.limits.rate is not None:
            self.window.forget_newest()

    def _first(self, roots_wait: bool) -> Place | None:
        root, child = None if roots_wait else self._roots.first(), self._children.first()
        if root is None or child is None:
            return child if root is None else root
        return min(root, child)

    @property
    def _has_room(self) -> bool:
        return self.limits.parallelism is None or self.used < self.limits.parallelism

    def opens_at(self, now: float) -> float:
        """When the rate lets the next one begin."""
        if self.limits.rate is None:
            return now
        return self.window.opens_at(now, self.limits.rate, self.limits.period)

    def look_again_at(self, now: float) -> float | None:
        """When time alone lets the next one begin; None when there is none, or something else must happen."""
        if self.is_paused or not self.waiting or not (self._has_room or self._can_lend):
            return None
        due = self.opens_at(now)
        return due if due > now else None

    def remembers_until(self, now: float) -> float:
        """Until when its rate has to remember who has begun."""
        limits = self.limits
        return now if limits.rate is None else self.window.forgets_at(now, limits.period)

    def waiting_root(self, now: float) -> Place | None:
        """The first root, if it could begin at once as far as this key is concerned."""
        if self.is_paused or not self._has_room or self.opens_at(now) > now:
            return None
        return self._roots.first()

    # What can be seen

    @property
    def waiting(self) -> int:
        return len(self._roots) + len(self._children)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Nobody of this key is here."""
        return not self._running and not self.waiting

    def holds(self, n: int) -> bool:
        return n in self._running

    def waits(self, n: int) -> bool:
        return n in self._roots or n in self._children

    def in_order(self) -> list[int]:
        """Those who wait, in the order in which they get places."""
        places = [line.place(n) for line in (self._roots, self._children) for n in line.in_order()]
        return [place[2] for place in sorted(places)]

    def why(self, now: float) -> str:
        """What keeps the first of those who wait from beginning."""
        limits = self.limits
        if self.is_paused:
            return f"key {self.name!r} is paused"
        if not self._has_room:
            return f"key {self.name!r}: {self.used} of {limits.parallelism} running"
        if limits.rate is not None and (left := self.opens_at(now) - now) > 0:
            return f"key {self.name!r}: {limits.rate} began within {humanize(limits.period)}, the next may in {humanize(left)}"
        return "max_active_runs"
