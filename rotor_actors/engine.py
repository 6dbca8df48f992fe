"""The engine: it owns the run tree and performs what its actors ask for. Everything in here is synchronous.

What it does comes in acts: an entry is appended to the journal, and the messages that follow from it are posted, at
once. Nothing waits for the disk but effects, and those the journal begins when their past is durable.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from rotor_actors.budgets import Budgets
from rotor_actors.cancel_steps import CancelSteps
from rotor_actors.cancellation import Cancellation
from rotor_actors.compensations import Compensations
from rotor_actors.context import Context
from rotor_actors.detached import Detached
from rotor_actors.ending import Ending
from rotor_actors.errors import ErrorInfo, PayloadError, RotorError, StoreError
from rotor_actors.events.cancelling import CancelOns
from rotor_actors.events.expression import Node
from rotor_actors.events.sending import Sending
from rotor_actors.events.signals import Signals
from rotor_actors.events.waiting import EventWaits
from rotor_actors.finishing import Finishing
from rotor_actors.flow.arriving import Arriving
from rotor_actors.invoking import Invoking
from rotor_actors.joins import Joins
from rotor_actors.kernel import Kernel, Started
from rotor_actors.leftovers import Leftovers
from rotor_actors.loading import Loaded, add_ended_since, load
from rotor_actors.map_state import EndPages
from rotor_actors.messages import AttemptDue, MarkMap, Pending, TimerFired
from rotor_actors.paging import Paging
from rotor_actors.payload import Codec
from rotor_actors.places import Places
from rotor_actors.ports import Options, Ports
from rotor_actors.progress import Progress
from rotor_actors.records import (
    EventNote,
    Kind,
    Outcome,
    OutcomeStatus,
    RunFlag,
    RunRow,
    RunStatus,
    StepRecorded,
    StepRow,
)
from rotor_actors.replicas.asking import Asking
from rotor_actors.replicas.borders import Borders
from rotor_actors.replicas.coordinator import Coordinator
from rotor_actors.replicas.forwarding import Forwarding
from rotor_actors.replicas.lines import Lines
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.run_queue import Runnable
from rotor_actors.run_timeouts import RunTimeouts
from rotor_actors.schedules import Schedules
from rotor_actors.sharing import Sharing
from rotor_actors.step_task import StepTask
from rotor_actors.threads import ThreadCall
from rotor_actors.transactions import Transactions
from rotor_actors.workflows import Workflow
from supervisors import await_chain

_logger = logging.getLogger("rotor_actors")


class Engine(Kernel):
    """See the module. It is a `RunHost`, an `ActorHost` and a `StepHost`."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        *,
        last_numbers: tuple[int, int],
        on_store_failure: Callable[[StoreError], None],
    ) -> None:
        super().__init__(ports, options, last_numbers=last_numbers, on_store_failure=on_store_failure)
        self.finishing = Finishing(self)
        self.borders: Borders | None = None
        if self.sharing is not None:
            self.borders = Borders(self, self.sharing, self.finishing)
        self.ending = Ending(self, self.finishing)
        self.paging = Paging(self, self.ending)
        self.run_timeouts = RunTimeouts(self, self.finishing)
        self.features.add(self.run_timeouts)
        self.progress = Progress(self)
        self.transactions = Transactions(self)
        self.grace = options.cancel_grace
        self.leftovers = Leftovers(self.timers, self.now, self.grace, self._give_up)
        self.asking: Asking | None = None
        if self.sharing is not None and self.finishing.remote is not None:
            self.asking = Asking(self, self.sharing, self.finishing.remote)
            self.features.add(self.asking)
        self.waits = EventWaits(self)
        self.signals = Signals(self, self.asking)
        self.cancel_ons = CancelOns(self)
        self.sending = Sending(self, self.finishing, self.waits, self.cancel_ons, self.asking)
        self.schedules = Schedules(self)
        for feature in (self.waits, self.signals, self.cancel_ons, self.sending, self.schedules):
            self.features.add(feature)
        self.arriving = Arriving(self, self.finishing)
        self.features.add(self.arriving)
        self.budgets = Budgets(self, self.finishing)
        self.features.add(self.budgets)
        self.invoking = Invoking(self, self.finishing, self.budgets)
        self.compensations = Compensations(self, self.finishing)
        self.features.add(self.compensations)
        self._answer_directly()
        self.places = Places(self)
        self.features.add(self.places)
        self.noted_steps = self.places.noted
        self.forwarding: Forwarding | None = None
        if self.sharing is not None and self.asking is not None:
            self.forwarding = self._serve_replicas(self.sharing, self.asking)
        self.features.add(Detached(self, self.budgets, self.forwarding))
        self.features.add(Joins(self))
        self.features.add(CancelSteps(self, self.finishing))
        self.loading = 0
        self.to_load: list[Run] = []
        self.load_wanted = asyncio.Event()

    def _answer_directly(self) -> None:
        """What actors ask of its parts goes to them directly: each way through a method of ours is felt in a fan-out."""
        self.register = self.registry.register
        self.find_workflow = self.registry.get
        self.known_workflow_ids = self.registry.known_ids
        self.codecs_of = self.registry.codecs_of
        self.step_codec = self.registry.step_codec
        self.invoke = self.invoking.invoke
        self.step_started = self.steps.started

    def _serve_replicas(self, sharing: Sharing, asking: Asking) -> Forwarding:
        """What other replicas ask of this one, and it of them."""
        self.signals.serve(sharing)
        self.sending.serve(sharing)
        self.sending.can_start = lambda: self.arriving.is_ready
        lines = Lines(self, sharing, self.finishing, self.ending, asking, self.arriving)
        self.features.add(lines)
        forwarding = Forwarding(self, sharing, self.arriving, asking, self.budgets)
        Coordinator(self, sharing, self.arriving)
        return forwarding

    # Driving runs (`RunHost`)

    def drive(self, run: Run, is_over: Callable[[], bool]) -> bool:
        run.is_queued = False
        match run.phase:
            case Phase.ACTIVE:
                assert run.actor is not None
                run.is_queued = run.actor.go_on(is_over)
                return run.is_queued
            case Phase.FRESH | Phase.LOADED:
                if not run.is_doomed:
                    actor = self._begin_attempt(run)
                    run.is_queued = actor.go_on(is_over)
                    return run.is_queued
            case Phase.STORED:
                if not run.is_doomed and not self._is_waiting_to_retry(run):
                    run.phase = Phase.LOADING
                    self.loading += 1
                    self.to_load.append(run)
                    self.load_wanted.set()
            case _:
                pass
        return False

    def _is_waiting_to_retry(self, run: Run) -> bool:
        """What comes meanwhile (the end of a child) stays in the mailbox."""
        return run.row.attempt_at is None and run.row.wake_at is not None and run.row.wake_at > self.now()

    def alarm(self, run: Run, now: float) -> None:
        if run.actor is not None:
            run.actor.alarm(now)
        elif run.phase is Phase.STORED:
            run.post(AttemptDue(now))

    def loaded(self, run: Run, upto_seq: int) -> None:
        """The run's history is here; what its mailbox holds of it already is dropped."""
        if run.phase is Phase.LOADING:
            run.phase = Phase.LOADED
            run.history_seq = upto_seq
            run.open_mailbox().drop_upto(upto_seq)
            self.queue(run)

    def _begin_attempt(self, run: Run) -> RunActor:
        workflow = run.workflow
        assert workflow is not None
        row = run.row
        is_replaying = row.attempt_at is not None and run.history is not None
        if row.attempt_at is None:
            row.attempt_at, row.wake_at, row.rest_seq = self.now(), None, 0
            row.status = RunStatus.RUNNING
            row.attempt_seq = self.journal.next_seq
            self.append_change(run)
        if workflow.timeout is not None:
            self.run_timeouts.begins(run)
        loaded: Loaded | None = None
        if run.history is not None:
            loaded = load(run.history, attempt_seq=row.attempt_seq, upto_seq=run.history_seq, waiting=run.waiting)
            add_ended_since(loaded, run.open_mailbox())
            run.history = run.waiting = None
        actor = RunActor(self, run, loaded, is_replaying=is_replaying, is_strict=self.options.strict_replay)
        run.actor, run.phase = actor, Phase.ACTIVE
        actor.begin(self._body_maker(run, workflow))
        return actor

    def _body_maker(self, run: Run, workflow: Workflow[Any, Any]) -> Callable[[Context], Any]:
        blob = run.row.input
        codec = self.registry.data_codec(workflow)

        def make(context: Context) -> Any:
            if not workflow.takes_data:
                return workflow.fn(context)
            try:
                data = self._handler_data(workflow, blob) if workflow.handles else codec.decode(blob or b"\xc0")
            except (PayloadError, msgspec.MsgspecError) as error:
                return _raise(PayloadError(f"{run.where}: {_what_started(run)} does not fit {workflow.fn!r}: {error}"))
            return workflow.fn(context, data)

        return make

    def _handler_data(self, workflow: Workflow[Any, Any], blob: bytes | None) -> Any:
        assert workflow.handles is not None
        return self.finishing.decode_ended(workflow.handles, blob or b"")

    def actor_broke(self, runnable: Runnable, error: BaseException) -> None:
        """An error of ours in one actor must not stop the others: that run fails, with the error for all to see."""
        _logger.critical("%r broke: %s", runnable, error, exc_info=error)
        if isinstance(runnable, Run) and runnable.phase is not Phase.ENDED and not runnable.is_doomed:
            info = ErrorInfo(type(error).__name__, f"internal error: {error}")
            self.ending.end(runnable, RunStatus.FAILED, error=msgspec.msgpack.encode(info))

    def look_up_broke(self, run: Run, error: BaseException) -> None:
        if isinstance(run.actor, RunActor):
            run.actor.shut_down()  # it would wait for ever
        self.actor_broke(run, error)
        self.journal.kick()

    def start_by_rules(
        self, row: RunRow, workflow: Workflow[Any, Any], context: contextvars.Context | None, *, merges: bool = True
    ) -> Started:
        return self.arriving.start(row, workflow, context, merges=merges)

    # Workflows

    def codec_of(self, annotation: object) -> Codec:
        return self.registry.codecs.of(annotation)

    def condition(self, match: str | None, where: str | None) -> Node | None:
        return self.waits.parse(match, where)

    def max_depth(self) -> int | None:
        return self.options.max_depth

    def chain(self, run: Run) -> list[str]:
        """Workflow ids from the top of the tree down to this run; what other replicas own above it is left out."""
        ids: list[str] = []
        above: Run | None = run
        while above is not None:
            ids.append(above.row.workflow_id)
            if above.parent is None and above.row.parent_n is not None:
                ids.append(f"… (run {above.row.parent_run_id}, of another replica)")
            above = above.parent
        return ids[::-1]

    # Steps (`StepHost`)

    def start_when_durable(self, run: Run, step: StepTask) -> None:
        self.steps.count += 1
        self.journal.when_durable(run.seen_seq, step.start)

    def hold_back(self, step: StepTask) -> bool:
        return self.leftovers.hold((step.run.row.n, step.pending.key), step.start)

    def step_finished(self, step: StepTask, outcome: Outcome) -> None:
        """The outcome is recorded and posted in one act."""
        self.steps.gone(step)
        run, pending = step.run, step.pending
        actor = run.actor
        if self._came_too_late(step) or not isinstance(actor, RunActor) or not actor.steps.left(step):
            return
        row = StepRow(run.row.n, self.now(), pending.kind, pending.key, pending.step_id, pending.target, outcome.status,
                      outcome.payload, step.began_at, step.attempts)  # fmt: skip
        if pending.spec.undo is not None and outcome.status is OutcomeStatus.COMPLETED:
            self.compensations.note(run, pending)
        self.record_outcome(run, row, outcome)

    def _came_too_late(self, step: StepTask) -> bool:
        """Its run was cancelled, though the step itself has not been interrupted yet: nothing is recorded."""
        if step.run.is_doomed and step.run.cancellation is not None:
            step.run.cancellation.step_gone(step, None)
        return step.run.is_doomed

    def step_retries(self, step: StepTask, due: float, error: bytes) -> None:
        self.steps.gone(step)
        run, pending = step.run, step.pending
        if self._came_too_late(step):
            self.timers.discard(step)
            return
        row = StepRow(run.row.n, self.now(), Kind.STEP_RETRY, pending.key, pending.step_id, "", OutcomeStatus.FAILED,
                      error, step.began_at, step.attempts, due)  # fmt: skip
        row.seq = self.journal.next_seq
        self.append(run, StepRecorded(row))
        self.progressed(run)
        self.queue(run)

    def step_gone(self, step: StepTask, error: BaseException | None) -> None:
        self.steps.gone(step)
        self.leftovers.ended(step)
        if step.run.cancellation is not None:
            step.run.cancellation.step_gone(step, error)

    def note_place(self, run: Run, step_id: str, kind: Kind, target: str) -> None:
        assert run.workflow is not None
        self.places.note(run.workflow, step_id, kind, target)

    def recorded_place(self, run: Run, step_id: str, kind: Kind, target: str) -> str:
        return self.places.recorded(run.row.workflow_id, step_id, kind, target)

    def step_leaves(self, step: StepTask) -> None:
        self.steps.leaves(step)
        run = step.run
        if not run.is_doomed:  # else its cancellation has the grace period, and reports
            self.leftovers.add((run.row.n, step.pending.key), step, step.where, run.row.run_id, step.task)

    def thread_left(self, step: StepTask, call: ThreadCall) -> None:
        run = step.run
        if not run.is_doomed:
            self.leftovers.add((run.row.n, step.pending.key), call, step.where, run.row.run_id)
        self.threads.abandon(call, step.where, partial(self.leftovers.ended, call))

    def execution_stuck(self, step: StepTask, task: asyncio.Task[Any]) -> None:
        self.stuck.keep_task(task)
        _logger.warning(
            "%s: timed out, and did not end within its grace period of %g s; nothing it does is recorded; it stands at %s",
            step.where, self.grace, " > ".join(await_chain(task)), extra={"run_id": step.run.row.run_id},
        )  # fmt: skip

    def _give_up(self, what: object) -> None:
        if isinstance(what, StepTask):  # else a thread's call, which the thread itself keeps
            self.stuck.keep_task(what.task)
            self.steps.gone(what)

    @property
    def is_idle(self) -> bool:
        """Nothing is queued, being loaded, looked up or committed. Steps may be in flight, runs may be waiting."""
        is_quiet = self.queue_of_runs.is_idle and self.journal.is_idle and not self.loading and not self.is_looking_up
        return is_quiet and (self.sharing is None or self.sharing.is_idle)

    # What actors ask for (`ActorHost`)

    def withdraw(self, run: Run, key: bytes) -> None:
        child = run.child(key)
        # One that was timed out on in the same moment, which the body has yet to be told, is no longer its to withdraw.
        if child is not None and not child.is_doomed and not child.row.flags & RunFlag.RELEASED:
            reason = "the scope that awaited it was cancelled"
            run.drop_child(key, child)
            if child.phase is Phase.REMOTE and self.finishing.remote is not None:
                self.finishing.remote.withdraw(run, child, reason)
            else:
                Cancellation(self, self.finishing, [child], reason, withdrawn=child).begin()

    def begin_step(self, run: Run, pending: Pending) -> float | None:
        feature = self.features.of(pending.kind)
        if pending.is_spawned and pending.key not in feature.waiting(run):
            return None  # it has ended since the history was loaded: its outcome is in the mailbox
        return feature.begin(run, pending)

    def step_due(self, run: Run, pending: Pending, at: float) -> None:
        self.features.of(pending.kind).due(run, pending, at)

    def withdraw_step(self, run: Run, pending: Pending) -> None:
        self.features.of(pending.kind).withdraw(run, pending)

    def cancel_from_inside(self, run: Run, reason: str) -> None:
        if not run.is_doomed:
            Cancellation(self, self.finishing, [run], reason).begin()

    def sleep_ended(self, run: Run, pending: Pending, at: float) -> None:
        row = StepRow(run.row.n, self.now(), Kind.SLEEP, pending.key, pending.step_id)
        self.record_outcome(run, row, Outcome(OutcomeStatus.COMPLETED))

    def invoke_timed_out(self, run: Run, pending: Pending, at: float) -> None:
        self.invoking.timed_out(run, pending)

    def timer_fired(self, run: Run, number: int, at: float) -> None:
        row = StepRow(run.row.n, self.now(), Kind.TIMER, target=str(number))
        row.seq = seq = self.journal.next_seq
        self.journal.append(StepRecorded(row))
        self.progressed(run)
        run.post(TimerFired(number, seq, row.at))

    def mark_diverged(self, run: Run, what: str) -> None:
        _logger.warning(
            "%s: its code has changed: the journal holds the outcome of %s, which it did not ask for; recorded outcomes answer by "
            "key from here", run.where, what, extra={"run_id": run.row.run_id},
        )  # fmt: skip
        run.row.flags |= RunFlag.DIVERGED
        self.append_change(run)

    def mark_map(self, run: Run, mark: MarkMap) -> None:
        row = StepRow(run.row.n, self.now(), Kind.MAP, mark.key, mark.step_id, mark.target)
        row.seq = self.journal.next_seq
        self.append(run, StepRecorded(row))

    def record_patch(self, run: Run, key: bytes, name: str) -> None:
        row = StepRow(run.row.n, self.now(), Kind.PATCH, key, name)
        row.seq = self.journal.next_seq
        self.append(run, StepRecorded(row))

    async def transact(
        self, run: Run, key: bytes, step_id: str, fn: Callable[..., Any], args: tuple[Any, ...], timeout: float,
        codec: Codec,
    ) -> Any:  # fmt: skip
        return await self.transactions.execute(run, key, step_id, fn, args, timeout, codec)

    def report(self, run: Run, key: str, number: int, value: bytes) -> None:
        self.progress.report(run, key, number, value)

    def fetch(self, run: Run, pages: EndPages) -> None:
        self.paging.fetch(run, pages)

    def at_rest(self, run: Run, due: float | None, *, is_parked: bool) -> None:
        if due is None:
            self.timers.discard(run)
        elif self.timers.due_of(run) != due:
            self.timers.add(run, due)
        row = run.row
        if is_parked and not run.is_doomed and (row.rest_seq != run.seen_seq or row.wake_at != due):
            row.rest_seq, row.wake_at = run.seen_seq, due
            self.journal.note_rest(row.n, row.rest_seq, due)
            if self.sharing is not None and due is not None and due - self.now() > self.sharing.park_after:
                self.sharing.at_rest[row.n] = run

    def attempt_ended(self, run: Run, task: asyncio.Task[Any], failed_keys: list[bytes],
                      sleeps: dict[bytes, float]) -> None:  # fmt: skip
        self.ending.attempt_ended(run, task, failed_keys, sleeps)

    def cleaned_up(self, run: Run, task: asyncio.Task[Any]) -> None:
        if run.cancellation is not None:
            run.cancellation.cleaned_up(run, task)


def _what_started(run: Run) -> str:
    if run.row.event is None:
        return "its stored input"
    return f"the data of event {msgspec.msgpack.decode(run.row.event, type=EventNote).name!r}"


async def _raise(error: RotorError) -> Any:
    raise error
