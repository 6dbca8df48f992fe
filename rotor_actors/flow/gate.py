"""Who may begin: the lines of all keys, and what is written when a run gets its place.

Of many replicas only the coordinator decides (`is_deciding`). The others hold their runs, tell it of them, and let them
begin when it says so; to it, a run that somebody else owns is a number in a line. A place is an item of its own
(`PLACE_SPACE`): the next coordinator finds it, whoever owns the run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import msgspec

from rotor_actors.admission import Admission
from rotor_actors.flow.line import Limits, Line
from rotor_actors.flow.notes import Enter, Left, LetGo, LineNote
from rotor_actors.flow.passes import (
    PLACE_SPACE,
    RATE_SPACE,
    Begun,
    Pass,
    Turnstile,
    is_known_to_the_top,
    lender_of,
    place_item,
)
from rotor_actors.flow.queue import Place
from rotor_actors.flow.ticket import Ticket, limits_of
from rotor_actors.journal import Journal
from rotor_actors.records import (
    COORDINATOR,
    Entry,
    ItemDropped,
    ItemPut,
    ItemRow,
    ItemsExpired,
    MailKind,
    MailSent,
    RunChanged,
    RunRow,
    RunStatus,
    Together,
)
from rotor_actors.run import Phase, Run
from rotor_actors.run_queue import RunQueue
from rotor_actors.sharing import Sharing
from rotor_actors.timers import Timers

PAUSE_SPACE = "flow.pause"

# A key that opens may have any number waiting: so many begin in one go, the rest when the run queue comes round.
BEGINS_PER_ACT = 64
_BEGINS_PER_PURGE = 500


class GateOptions(Protocol):
    """Of the runtime's options, what concerns the gate."""

    @property
    def cancel_grace(self) -> float: ...


class GateHost(Protocol):
    """What the gate needs of the kernel."""

    journal: Journal
    timers: Timers
    admission: Admission
    queue_of_runs: RunQueue
    sharing: Sharing | None

    @property
    def options(self) -> GateOptions: ...

    def now(self) -> float: ...

    def append(self, run: Run, entry: Entry) -> int: ...

    def queue(self, run: Run) -> None: ...


def enter_note(row: RunRow, ticket: Ticket, *, is_under_way: bool = False) -> Enter:
    """What the coordinator has to know of a run."""
    return Enter(row.n, row.run_id, row.workflow_id, row.root_n, row.depth, row.created_at, ticket, row.parent_n,
                 is_under_way)  # fmt: skip


def _left(n: int, until: float = 0.0) -> MailSent:
    return MailSent(COORDINATOR, MailKind.LEFT, msgspec.msgpack.encode(Left(n, until)))


class Gate:
    """All keys. Workflows without rules never come here."""

    def __init__(self, host: GateHost) -> None:
        self._host = host
        self.is_deciding = host.sharing is None
        """The lines are here."""
        self.passes: dict[int, Pass] = {}
        self.singletons: dict[str, Run] = {}
        """By name: the newest run of it that has not ended."""
        self._turnstiles: dict[str | None, Turnstile] = {}
        self._capped: list[tuple[Place, str]] = []
        """Lines whose first waits for nothing but `max_active_runs`. May hold what is true no more."""
        self._followers: dict[int, list[int]] = {}
        self._paused: set[str] = set()
        self._begins = 0
        self._announced: set[int] = set()
        """Many replicas: runs of ours that are about to be created, of which the coordinator is told in that commit."""
        self._cleaning: set[int] = set()
        """Many replicas: runs of ours that have ended and clean up, of which the coordinator will be told."""

    # Coming and going

    def enter(self, run: Run, ticket: Ticket) -> None:
        """A run has been created with this ticket: it begins, now or later."""
        self._hold(run, ticket, "")
        if not ticket.is_complete or run.row.n in self._announced:
            self._announced.discard(run.row.n)
            return
        if not self.is_deciding or not is_known_to_the_top(run):
            self._tell(enter_note(run.row, ticket))
        else:
            self.line_up(self.passes[run.row.n])

    def announcement(self, row: RunRow, ticket: Ticket) -> list[Entry]:
        """What goes into a commit that creates a run by itself, for whoever takes it up should this replica be lost then.
        A coordinator that is lost needs none: the next one reads all tickets. `no_more_announced` takes it back."""
        if self.is_deciding or not ticket.is_complete:
            return []
        self._announced.add(row.n)
        return [MailSent(COORDINATOR, MailKind.LINE, msgspec.msgpack.encode(enter_note(row, ticket)))]

    def no_more_announced(self, row: RunRow) -> None:
        """The commit was refused."""
        self._announced.discard(row.n)

    def line_up(self, each: Pass) -> None:
        """It waits for its turn, or first of all for the end of the run that it replaces."""
        if each.ticket.follows and each.ticket.follows in self.passes:
            self._wait_for_other(each)
        else:
            self._join(each)

    def hold(self, run: Run, why: str, on_end: Callable[[], None]) -> None:
        """A run is not complete yet: `release` lets it enter. `on_end` is called when it ends before."""
        self._hold(run, Ticket(), why)
        self.passes[run.row.n].on_end = on_end

    def rival(self, ticket: Ticket) -> Run | None:
        """The run that a singleton's new run meets, as far as that can be told here."""
        return None if ticket.singleton is None else self.singletons.get(ticket.singleton)

    def rival_of(self, each: Pass) -> Run | None:
        """The same, of one that was created elsewhere."""
        rival = self.rival(each.ticket)
        return None if rival is None or rival.row.n == each.run.row.n else rival

    def last_of(self, rival: Run) -> int:
        """The number of the run that must have ended before one that replaces `rival` may begin."""
        each = self.passes[rival.row.n]
        return each.ticket.follows if not each.has_begun and each.ticket.follows in self.passes else rival.row.n

    def release(self, run: Run, ticket: Ticket) -> None:
        """What it waited for has come; the ticket is its own from now on."""
        each = self.passes.get(run.row.n)
        if each is not None:
            each.ticket, each.why, each.on_end = ticket, "", None
            if self.is_deciding:
                self._join(each)
            else:
                self._tell(enter_note(run.row, ticket))

    def leave(self, run: Run) -> bool:
        """A run has ended; says whether it had begun here."""
        has_begun = self.gone(run.row.n)
        if run.row.n in self._cleaning:
            self._cleaning.discard(run.row.n)
            self._host.journal.append(_left(run.row.n))
        return has_begun and (run.row.attempt > 1 or run.row.attempt_at is not None)

    def gone(self, n: int) -> bool:
        """The run of this number has ended, whoever owned it."""
        each = self.passes.pop(n)
        if each.on_end is not None:
            each.on_end()
        if each.ticket.singleton is not None and self._is_newest(each):
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
        if self.is_deciding:
            self.let_go_of(run.row.n)
        elif run.row.n in self.passes:
            self._tell(LetGo(run.row.n))

    def let_go_of(self, n: int) -> None:
        """The same, by its number."""
        each = self.passes.get(n)
        if each is not None:
            each.above = []
            if each.turnstile is not None:
                each.turnstile.line.let_go(n)
                self.pump(each.turnstile)

    def _tell(self, note: LineNote) -> None:
        """It is the coordinator's to decide; that may be this replica, which has yet to read what it must know."""
        self._host.journal.append(MailSent(COORDINATOR, MailKind.LINE, msgspec.msgpack.encode(note)))

    def _hold(self, run: Run, ticket: Ticket, why: str) -> None:
        run.phase = Phase.HELD
        each = self.passes[run.row.n] = Pass(run, ticket, has_begun=False, why=why)
        self.is_there(each)

    def is_there(self, each: Pass) -> None:
        """Its singleton's newest run is this one. Of runs that are decided elsewhere nothing is known here."""
        if self.is_deciding and each.ticket.singleton is not None:
            self.singletons[each.ticket.singleton] = each.run

    def _is_newest(self, each: Pass) -> bool:
        newest = self.singletons.get(each.ticket.singleton or "")
        return newest is not None and newest.row.n == each.run.row.n

    def _wait_for_other(self, each: Pass) -> None:
        other = self.passes[each.ticket.follows].run
        each.why = f"singleton: run {other.row.run_id} cleans up"
        self._followers.setdefault(each.ticket.follows, []).append(each.run.row.n)

    def _join(self, each: Pass) -> None:
        turnstile = self._stand(each)
        if turnstile is not None:
            self.pump(turnstile)

    def _stand(self, each: Pass) -> Turnstile | None:
        run = each.run
        is_elsewhere = run.phase is Phase.REMOTE
        if (run.workflow is None and not is_elsewhere) or run.is_doomed:
            return None  # `appeared` comes back to it, or its end
        turnstile = each.turnstile = self._turnstile(each)
        is_root = run.row.parent_n is None and not is_elsewhere  # `max_active_runs` is for runs of this replica
        turnstile.line.arrive(each.place, is_root=is_root, lender=lender_of(each, turnstile.line))
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
        each.has_begun = True
        also: list[Entry] = []
        if self._host.sharing is not None:
            also.append(place_item(each.run.row.n))
        if line.limits.rate is not None:
            also.append(Begun(line.name, now, line.limits).item(each.run.row.n))
            self._purge(now)
        if each.run.phase is Phase.REMOTE:
            turn = MailSent(each.run.row.n, MailKind.TURN)
            self._host.journal.append(Together([turn, *also]))
        else:
            self.begin_here(each.run, now, also)

    def begin_here(self, run: Run, now: float, also: Iterable[Entry] = ()) -> None:
        """A run of this replica's has its place."""
        host = self._host
        run.row.status, run.row.attempt_at = RunStatus.RUNNING, now
        entries: list[Entry] = [RunChanged(run.snapshot()), *also]
        host.append(run, Together(entries) if len(entries) > 1 else entries[0])
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
        self.is_there(each)
        self.runs(each)

    def runs(self, each: Pass) -> None:
        """It has a place, and had it before it was known here."""
        each.has_begun = True
        each.turnstile = self._turnstile(each)
        each.turnstile.line.runs(each.run.row.n, lender_of(each, each.turnstile.line))

    def go_on(self, known: Iterable[Pass] | None = None) -> None:
        """All that has not ended is in its place: those who wait stand in line again; or those of them that are known."""
        for each in list(self.passes.values()) if known is None else known:
            if each.has_begun or each.turnstile is not None or each.why:
                continue
            if each.ticket.follows in self.passes and each.ticket.follows:
                self._wait_for_other(each)
            else:
                self._stand(each)
        for turnstile in list(self._turnstiles.values()):
            self.pump(turnstile)

    def appeared(self, run: Run) -> bool:
        """The run's workflow was not registered, and is now. Says whether the run waits here."""
        each = self.passes.get(run.row.n)
        if each is None or each.has_begun:
            return False
        if each.turnstile is None and not each.why and self.is_deciding:
            self._join(each)
        return True

    # Many replicas

    def is_under_way(self, run: Run, ticket: Ticket) -> None:
        """A run of ours goes on that has no place: whatever its line allows, it counts."""
        self.passes[run.row.n] = Pass(run, ticket, has_begun=True)
        self._tell(enter_note(run.row, ticket, is_under_way=True))

    def is_skipped(self, each: Pass, rival: Run) -> None:
        """It does not begin, for the other is there; it is told so, and ends."""
        if self._is_newest(each):
            self.singletons[each.ticket.singleton or ""] = rival
        each.ticket, each.why = msgspec.structs.replace(each.ticket, singleton=None, follows=0), "singleton: skipped"
        if each.run.phase is Phase.REMOTE:
            del self.passes[each.run.row.n]

    def take_in(self, run: Run, ticket: Ticket) -> None:
        """A run that has not ended is ours from now on; where its line is, it has its place in that already."""
        each = self.passes.get(run.row.n)
        if each is None:
            each = self.passes[run.row.n] = Pass(run, ticket, has_begun=run.row.status is not RunStatus.QUEUED)
        each.run = run
        if self._is_newest(each):
            self.is_there(each)
        if run.row.status is RunStatus.QUEUED:
            run.phase = Phase.HELD

    def released(self, run: Run) -> None:
        """A run is not ours any more; where its line is, it keeps its place in that."""
        if not self.is_deciding:
            self.passes.pop(run.row.n, None)

    def end_entries(self, run: Run) -> list[Entry]:
        """What goes into the entry of the end of a run with a ticket: it has left its line."""
        n = run.row.n
        if self._host.sharing is None or n not in self.passes:
            return []
        if self.is_deciding:
            return [ItemDropped(PLACE_SPACE, str(n))]
        if run.is_doomed and run.actor is not None:
            self._cleaning.add(n)
            return [_left(n, self._host.now() + self._host.options.cancel_grace)]
        return [_left(n)]

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
        if not each.why and self._host.sharing is not None:
            return f"the line of key {each.ticket.name!r}, which is in the coordinator's hands"
        return each.why or "its workflow is not registered"
