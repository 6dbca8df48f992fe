"""Parking: a run that sleeps for long and that nobody here waits for goes back to the store until it is due.

It has no owner then: whoever comes by when its time has come, or when there is a message for it, claims it and replays
it. So a replica holds what moves, and not what is to move in a week.
"""

from __future__ import annotations

from rotor_actors.alarms import Alarms
from rotor_actors.engine import Engine
from rotor_actors.records import Kind, RunRested, RunsReleased, Together
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.sharing import Sharing

PARK_AFTER_SECONDS = 60.0
# Whoever claims what is due looks each second or so: what sleeps for no longer than some of these stays.
_POLLS_PER_PARKING = 10
_RUNS_PER_ROUND = 500


class Parking:
    """Parks what `Sharing.at_rest` names."""

    def __init__(self, engine: Engine, sharing: Sharing, poll: float) -> None:
        self._engine = engine
        self._sharing = sharing
        self._due: Alarms[int] = Alarms()
        sharing.park_after = max(PARK_AFTER_SECONDS, poll * _POLLS_PER_PARKING)

    def round(self) -> None:
        """Park what may be parked; what may not is asked again when it comes to rest again."""
        resting, self._sharing.at_rest = self._sharing.at_rest, {}
        parked = 0
        for n, run in resting.items():
            if parked >= _RUNS_PER_ROUND or run.seen_seq > self._engine.journal.durable_seq:
                self._sharing.at_rest.setdefault(n, run)  # its turn comes
            elif self._may_be_parked(run):
                self._park(run)
                parked += 1

    def alarm(self, now: float) -> None:
        """Something that was parked here is due: whoever can run it may claim it, and we are there."""
        while self._due.pop_due(now) is not None:
            pass
        self._set_alarm()
        self._sharing.wake()

    def _set_alarm(self) -> None:
        due = self._due.next_due()
        if due is not None and self._engine.timers.due_of(self) != due:
            self._engine.timers.add(self, due)

    def _may_be_parked(self, run: Run) -> bool:
        """It sleeps, and nothing in memory depends on it: no child, no parent, no waiter, no feature."""
        row, actor = run.row, run.actor
        if self._engine.tree.get(row.n) is not run or run.is_doomed or run.phase is not Phase.ACTIVE:
            return False
        if run.waiters or run.parent is not None or run.children or run.cleaning or run.owns_items or run.budget:
            return False
        if row.n in self._engine.gate.passes or row.rest_seq != run.seen_seq or run.mailbox:
            return False
        if row.wake_at is None or row.wake_at - self._engine.now() <= self._sharing.park_after:
            return False
        return (
            isinstance(actor, RunActor)
            and not actor.is_moving
            and not actor.step_tasks()
            and all(pending.kind is Kind.SLEEP for pending in actor.pending)
        )

    def _park(self, run: Run) -> None:
        engine, row = self._engine, run.row
        rested = RunRested(row.n, row.rest_seq, row.wake_at)
        engine.journal.forget_rest(row.n)
        engine.journal.append(Together([rested, RunsReleased([row.n], is_parked=True)]))
        engine.timers.discard(run)
        engine.features.released([run])
        if isinstance(run.actor, RunActor):
            run.actor.shut_down()
        run.phase, run.actor, run.mailbox, run.history = Phase.ENDED, None, None, None  # to us
        engine.tree.remove(run)
        self._due.add(row.n, row.wake_at or 0.0)
        self._set_alarm()
        if row.parent_n is None:
            engine.admission.leave(run)
            engine.admit_held()
