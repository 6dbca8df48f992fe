"""Who may begin: the lines of all keys, and what is written when a run gets its place."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from rotor_actors.admission import Admission
from rotor_actors.flow.line import Limits, Line
from rotor_actors.flow.passes import RATE_SPACE, Begun, Pass, Turnstile, lender_of
from rotor_actors.flow.queue import Place
from rotor_actors.flow.ticket import Ticket, limits_of
from rotor_actors.journal import Journal
from rotor_actors.records import Entry, ItemDropped, ItemPut, ItemRow, ItemsExpired, RunChanged, RunStatus, Together
from rotor_actors.run import Phase, Run
from rotor_actors.run_queue import RunQueue
from rotor_actors.timers import Timers

PAUSE_SPACE = "flow.pause"

# A key that opens may have any number waiting: so many begin in one go, the rest when the run queue comes round.
BEGINS_PER_ACT = 64
_BEGINS_PER_PURGE = 500


class GateHost(Protocol):
    """What the gate needs of the kernel."""

    journal: Journal
    timers: Timers
    admission: Admission
    queue_of_runs: RunQueue

    def now(self) -> float: ...

    def append(self, run: Run, entry: Entry) -> int: ...

    def queue(self, run: Run) -> None: ...


class Gate:
    """All keys. Workflows without rules never come here."""

    def __init__(self, host: GateHost) -> None:
        self._host = host
        self.passes: dict[int, Pass] = {}
        self.singletons: dict[str, Run] = {}
        """By name: the newest run of it that has not ended."""
        self._turnstiles: dict[str | None, Turnstile] = {}
        self._capped: list[tuple[Place, str]] = []
        """Lines whose first waits for nothing but `max_active_runs`. May hold what is true no more."""
        self._followers: dict[int, list[int]] = {}
        self._paused: set[str] = set()
        self._begins = 0

    # Coming and going

    def enter(self, run: Run, ticket: Ticket) -> None:
        """A run has been created with this ticket: it begins, now or later."""
        self._hold(run, ticket, "")
        if not ticket.is_complete:
            return
        if ticket.follows and ticket.follows in self.passes:
            self._wait_for_other(run, ticket)
        else:
            self._join(self.passes[run.row.n])

    def hold(self, run: Run, why: str, on_end: Callable[[], None]) -> None:
        """A run is not complete yet: `release` lets it enter. `on_end` is called when it ends before."""
        self._hold(run, Ticket(), why)
        self.passes[run.row.n].on_end = on_end

    def rival(self, ticket: Ticket) -> Run | None:
        """The run that a singleton's new run meets."""
        return None if ticket.singleton is None else self.singletons.get(ticket.singleton)

    def last_of(self, rival: Run) -> int:
        """The number of the run that must have ended before one that replaces `rival` may begin."""
        each = self.passes[rival.row.n]
        return each.ticket.follows if not each.has_begun and each.ticket.follows in self.passes else rival.row.n

    def release(self, run: Run, ticket: Ticket) -> None:
        """What it waited for has come; the ticket is its own from now on."""
        each = self.passes.get(run.row.n)
        if each is not None:
            each.ticket, each.why, each.on_end = ticket, "", None
            self._join(each)

    def leave(self, run: Run) -> bool:
        """A run has ended; says whether it had begun."""
        n = run.row.n
        each = self.passes.pop(n)
        if each.on_end is not None:
            each.on_end()
        if each.ticket.singleton is not None and self.singletons.get(each.ticket.singleton) is run:
            del self.singletons[each.ticket.singleton]
        for follower in self._followers.pop(n, ()):
            if follower in self.passes:
                self.release(self.passes[follower].run, self.passes[follower].ticket)
        if each.turnstile is not None:
            each.turnstile.line.leave(n)
            self.pump(each.turnstile)
        return each.has_begun

    def let_go(self, run: Run) -> None:
        """Nobody awaits this run any more."""
        each = self.passes.get(run.row.n)
        if each is not None and each.turnstile is not None:
            each.turnstile.line.let_go(run.row.n)
            self.pump(each.turnstile)

    def _hold(self, run: Run, ticket: Ticket, why: str) -> None:
        run.phase = Phase.HELD
        self.passes[run.row.n] = Pass(run, ticket, has_begun=False, why=why)
        if ticket.singleton is not None:
            self.singletons[ticket.singleton] = run

    def _wait_for_other(self, run: Run, ticket: Ticket) -> None:
        other = self.passes[ticket.follows].run
        self.passes[run.row.n].why = f"singleton: run {other.row.run_id} cleans up"
        self._followers.setdefault(ticket.follows, []).append(run.row.n)

    def _join(self, each: Pass) -> None:
        turnstile = self._stand(each)
        if turnstile is not None:
            self.pump(turnstile)

    def _stand(self, each: Pass) -> Turnstile | None:
        run = each.run
        if run.workflow is None or run.is_doomed:
            return None  # `appeared` comes back to it, or its end
        turnstile = each.turnstile = self._turnstile(each)
        is_root = run.row.parent_n is None
        turnstile.line.arrive(each.place, is_root=is_root, lender=lender_of(run, turnstile.line))
        return turnstile

    def _turnstile(self, each: Pass) -> Turnstile:
        """The line of the run's key, which allows what the newest of those that came to it says."""
        name, limits = self._limits(each)
        turnstile = self._turnstiles.get(name)
        if turnstile is None:
            turnstile = self._turnstiles[name] = Turnstile(self, Line(name or ""))
            turnstile.line.is_paused = name in self._paused
        turnstile.line.limits = limits
        return turnstile

    def _limits(self, each: Pass) -> tuple[str | None, Limits]:
        """Limits that are the workflow's own follow its definition; one that has none any more has no key either."""
        ticket, workflow = each.ticket, each.run.workflow
        if ticket.name is None or not ticket.is_own or workflow is None:
            return ticket.name, ticket.limits
        flow_control = None if workflow.rules is None else workflow.rules.flow_control
        return (None if flow_control is None else ticket.name), limits_of(flow_control)

    # Letting in

    def pump(self, turnstile: Turnstile, most: int = BEGINS_PER_ACT) -> None:
        """Let those begin that may."""
        line, now, admission = turnstile.line, self._host.now(), self._host.admission
        for _ in range(most):
            n = line.take_next(now, roots_wait=admission.is_full_up)
            if n is None:
                break
            if self.passes[n].run.is_doomed:
                line.give_back(n)  # cancelled: its end is on its way
            else:
                self._begin(self.passes[n], line, now)
        else:
            if most == BEGINS_PER_ACT and not turnstile.is_queued:
                turnstile.is_queued = True
                self._host.queue_of_runs.push(turnstile)
        self._look_ahead(turnstile, now)

    def _look_ahead(self, turnstile: Turnstile, now: float) -> None:
        line, timers = turnstile.line, self._host.timers
        if self._host.admission.is_full_up:
            place = line.waiting_root(now)
            if place is not None and place != turnstile.capped_at:
                turnstile.capped_at = place
                heapq.heappush(self._capped, (place, line.name))
        if line.is_idle:
            self._forget(turnstile, now)
        elif (due := line.look_again_at(now)) is None:
            timers.discard(turnstile)
        elif timers.due_of(turnstile) != due:
            timers.add(turnstile, due)

    def _forget(self, turnstile: Turnstile, now: float) -> None:
        """A key of which nobody is here is kept only for as long as its rate remembers."""
        line = turnstile.line
        if (until := line.remembers_until(now)) > now:
            self._host.timers.add(turnstile, until)
        else:
            self._host.timers.discard(turnstile)
            self._turnstiles.pop(line.name or None, None)

    def _begin(self, each: Pass, line: Line, now: float) -> None:
        """The run has its place: that, and what it takes of the rate, is one entry."""
        host, run = self._host, each.run
        each.has_begun = True
        run.row.status, run.row.attempt_at = RunStatus.RUNNING, now
        change = RunChanged(run.snapshot())
        if line.limits.rate is not None:
            host.append(run, Together([change, Begun(line.name, now, line.limits).item(run.row.n)]))
            self._purge(now)
        else:
            host.append(run, change)
        if run.row.parent_n is None:
            host.admission.take(run)
        run.phase = Phase.FRESH
        host.queue(run)

    def _purge(self, now: float) -> None:
        """What rates remember goes when it is over, many at once."""
        self._begins += 1
        if self._begins >= _BEGINS_PER_PURGE:
            self._begins = 0
            self._host.journal.append(ItemsExpired(RATE_SPACE, now))

    # Within `max_active_runs`

    def first_capped(self) -> Place | None:
        """The first of those that wait for nothing but a place in the runtime."""
        capped, now = self._capped, self._host.now()
        while capped:
            place, name = capped[0]
            turnstile = self._turnstiles.get(name or None)
            first = None if turnstile is None else turnstile.line.waiting_root(now)
            if first == place:
                return place
            if turnstile is not None:
                turnstile.capped_at = first
            if first is None:
                heapq.heappop(capped)
            else:
                heapq.heapreplace(capped, (first, name))
        return None

    def admit_capped(self) -> None:
        """Let the one begin that `first_capped` gave."""
        turnstile = self._turnstiles.get(self._capped[0][1] or None)
        if turnstile is not None:
            self.pump(turnstile, most=1)

    # Going on where the last process stopped

    def remember(self, begun: Iterable[Begun], paused: Iterable[str]) -> None:
        """What rates and pauses say of the time before."""
        self._paused.update(paused)
        now = self._host.now()
        for each in sorted(begun, key=lambda each: each.at):
            turnstile = self._turnstiles.get(each.name)
            if turnstile is None:
                turnstile = self._turnstiles[each.name] = Turnstile(self, Line(each.name))
                turnstile.line.is_paused = each.name in self._paused
            turnstile.line.limits = each.limits
            turnstile.line.window.count(min(each.at, now))  # the clock may have been set back

    def restore(self, run: Run, ticket: Ticket) -> None:
        """A run that has not ended; parents come before their children."""
        has_begun = run.row.status is not RunStatus.QUEUED
        if not has_begun:
            self._hold(run, ticket, "")
            return
        each = self.passes[run.row.n] = Pass(run, ticket, has_begun=True)
        if ticket.singleton is not None:
            self.singletons[ticket.singleton] = run
        each.turnstile = self._turnstile(each)
        each.turnstile.line.runs(run.row.n, lender_of(run, each.turnstile.line))

    def go_on(self) -> None:
        """All that has not ended is in its place: those who wait stand in line again."""
        for each in list(self.passes.values()):
            if each.has_begun or each.turnstile is not None or each.why:
                continue
            if each.ticket.follows in self.passes and each.ticket.follows:
                self._wait_for_other(each.run, each.ticket)
            else:
                self._stand(each)
        for turnstile in list(self._turnstiles.values()):
            self.pump(turnstile)

    def appeared(self, run: Run) -> bool:
        """The run's workflow was not registered, and is now. Says whether the run waits here."""
        each = self.passes.get(run.row.n)
        if each is None or each.has_begun:
            return False
        if each.turnstile is None and not each.why:
            self._join(each)
        return True

    # Pausing, looking

    def pause(self, name: str) -> int:
        """Let none of this key begin; gives the entry's number."""
        self._paused.add(name)
        if name in self._turnstiles:
            self._turnstiles[name].line.is_paused = True
            self._look_ahead(self._turnstiles[name], self._host.now())
        return self._host.journal.append(ItemPut(ItemRow(PAUSE_SPACE, name)))

    def resume(self, name: str) -> int:
        """Let them begin again."""
        self._paused.discard(name)
        seq = self._host.journal.append(ItemDropped(PAUSE_SPACE, name))
        if name in self._turnstiles:
            self._turnstiles[name].line.is_paused = False
            self.pump(self._turnstiles[name])
        self._host.queue_of_runs.poke()
        return seq

    @property
    def paused(self) -> frozenset[str]:
        return frozenset(self._paused)

    def lines(self) -> Iterator[Line]:
        """Those of keys."""
        return (line for line in self.all_lines() if line.name)

    def all_lines(self) -> Iterator[Line]:
        """Those of keys, and of runs that have a priority and no key."""
        return (turnstile.line for turnstile in self._turnstiles.values())

    def why(self, n: int) -> str:
        """What the run waits for; "" when it waits for nothing here."""
        each = self.passes.get(n)
        if each is None or each.has_begun:
            return ""
        if each.turnstile is not None:
            return each.turnstile.line.why(self._host.now())
        return each.why or "its workflow is not registered"
