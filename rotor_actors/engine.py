"""The engine: it owns the run tree and performs what its actors ask for. Everything in here is synchronous.

What it does comes in acts: an entry is appended to the journal, and the messages that follow from it are posted, at
once. Nothing waits for the disk but effects, and those the journal begins when their past is durable.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.clock import Clock
from rotor_actors.context import Context
from rotor_actors.durations import Duration, seconds
from rotor_actors.ending import Ending
from rotor_actors.errors import ErrorInfo, PayloadError, RotorError, StoreError
from rotor_actors.executor import Executor
from rotor_actors.ids import Ids
from rotor_actors.invoking import Invoking
from rotor_actors.journal import Journal
from rotor_actors.live_tree import LiveTree
from rotor_actors.loading import Loaded, load
from rotor_actors.messages import AttemptDue, Pending, StepEnded, TimerFired
from rotor_actors.payload import Codec, Codecs
from rotor_actors.records import (
    Entry,
    Kind,
    Outcome,
    OutcomeStatus,
    RunChanged,
    RunFlag,
    RunRow,
    RunStatus,
    StepRecorded,
    StepRow,
)
from rotor_actors.registry import Registry
from rotor_actors.remote_errors import record
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.run_queue import Runnable, RunQueue
from rotor_actors.step_task import StepTask
from rotor_actors.stores.base import Store
from rotor_actors.threads import Threads
from rotor_actors.timers import Timers
from rotor_actors.workflow import Workflow

_logger = logging.getLogger("rotor_actors")

MOST_EFFECTS_WAITING = 1_000
_MOST_DURATIONS = 1_000


class Options(msgspec.Struct, frozen=True):
    """What `Runtime` was told; durations in seconds."""

    max_depth: int | None = 100
    cancel_grace: float = 5.0
    drain_timeout: float = 10.0
    max_active_runs: int | None = None
    strict_replay: bool = False
    payload_limit: int = 4 * 2**20
    max_recoveries: int = 10


class Ports(msgspec.Struct):
    """What the engine gets from outside: time, chance, names, a disk, and where blocking calls are made."""

    clock: Clock
    ids: Ids
    rng: random.Random
    store: Store
    writer: Executor
    reader: Executor


class Engine:
    """See the module. It is a `RunHost`, an `ActorHost` and a `StepHost`."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        *,
        last_numbers: tuple[int, int],
        on_store_failure: Callable[[StoreError], None],
    ) -> None:
        self.ports = ports
        self.options = options
        self.registry = Registry(Codecs(options.payload_limit), self._workflow_appeared)
        self.queue_of_runs = RunQueue(ports.clock.monotonic, self._may_begin, self._slice_ended, self._actor_broke)
        self.journal = Journal(ports.store, ports.writer, last_numbers[1], self.queue_of_runs.start_soon,
                               on_store_failure)  # fmt: skip
        self.timers = Timers(ports.clock)
        self.threads = Threads()
        self.tree = LiveTree(last_numbers[0])
        self.ending = Ending(self)
        self.invoking = Invoking(self)
        self.loading = 0
        self.to_load: list[Run] = []
        self.load_wanted = asyncio.Event()
        self.active_roots = 0
        self.held_roots: list[Run] = []
        self.steps_in_flight = 0
        self._executing: set[StepTask] = set()
        self._leaving: dict[int, set[StepTask]] = {}
        self.stuck: list[object] = []
        # Those under way: whoever waits for one gets its report also when the runtime closes before it is done.
        self.cancellations: set[Cancellation] = set()
        self.on_progress: Callable[[Run], None] = lambda run: None
        self._last_now = 0.0
        self._durations: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()

    # Time, chance, appending

    def now(self) -> float:
        """Wall time that never goes back: the record's times are in the record's order."""
        now = self.ports.clock.now()
        if now < self._last_now:
            return self._last_now
        self._last_now = now
        return now

    def seconds(self, value: Duration, name: str, maximum: float | None) -> float:
        """A duration above zero. Texts are parsed once."""
        known = self._durations.get(value) if type(value) is str else None
        if known is None or (maximum is not None and known > maximum):
            known = seconds(value, name=name, exclusive=True, maximum=maximum)
            if type(value) is str and len(self._durations) < _MOST_DURATIONS:
                self._durations[value] = known
        return known

    def chance(self) -> float:
        return self.ports.rng.random()

    def append(self, run: Run, entry: Entry) -> int:
        """Append a fact of `run`'s: it is in its causal past from now on."""
        run.seen_seq = seq = self.journal.append(entry)
        return seq

    def append_change(self, run: Run) -> int:
        return self.append(run, RunChanged(run.snapshot()))

    def encode_error(self, error: BaseException) -> bytes:
        return msgspec.msgpack.encode(record(error, self.registry.codecs))

    # Driving runs (`RunHost`)

    def queue(self, run: Run) -> None:
        if not run.is_queued:
            run.is_queued = True
            if run.phase is Phase.FRESH:
                self.queue_of_runs.push_fresh(run)
            else:
                self.queue_of_runs.push(run)

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
        loaded: Loaded | None = None
        if run.history is not None:
            loaded = load(run.history, attempt_seq=row.attempt_seq, upto_seq=run.history_seq)
            run.history = None
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
                return _raise(PayloadError(f"{run.where}: its stored input does not fit {workflow.fn!r}: {error}"))
            return workflow.fn(context, data)

        return make

    def _handler_data(self, workflow: Workflow[Any, Any], blob: bytes | None) -> Any:
        assert workflow.handles is not None
        return self.ending.decode_ended(workflow.handles, blob or b"")

    def _may_begin(self) -> bool:
        return self.journal.effects_waiting < MOST_EFFECTS_WAITING

    def _slice_ended(self) -> None:
        self.journal.kick()

    def _actor_broke(self, runnable: Runnable, error: BaseException) -> None:
        """An error of ours in one actor must not stop the others: that run fails, with the error for all to see."""
        _logger.critical("%r broke: %s", runnable, error, exc_info=error)
        if isinstance(runnable, Run) and runnable.phase is not Phase.ENDED and not runnable.is_doomed:
            info = ErrorInfo(type(error).__name__, f"internal error: {error}")
            self.ending.end(runnable, RunStatus.FAILED, error=msgspec.msgpack.encode(info))

    # Workflows

    def register(self, workflow: Workflow[Any, Any]) -> None:
        self.registry.register(workflow)

    def find_workflow(self, workflow_id: str) -> Workflow[Any, Any] | None:
        return self.registry.get(workflow_id)

    def known_workflow_ids(self) -> list[str]:
        return self.registry.known_ids()

    def codecs_of(self, workflow: Workflow[Any, Any]) -> tuple[Codec, Codec]:
        return self.registry.codecs_of(workflow)

    def codec_of(self, annotation: object) -> Codec:
        return self.registry.codecs.of(annotation)

    def step_codec(self, fn: Callable[..., Any]) -> Codec:
        return self.registry.step_codec(fn)

    def max_depth(self) -> int | None:
        return self.options.max_depth

    def chain(self, run: Run) -> list[str]:
        """Workflow ids from the top of the tree down to this run."""
        ids: list[str] = []
        above: Run | None = run
        while above is not None:
            ids.append(above.row.workflow_id)
            above = above.parent
        return ids[::-1]

    def _workflow_appeared(self, workflow: Workflow[Any, Any]) -> None:
        for run in self.tree.orphans_of(workflow.id):
            run.workflow = workflow
            if run not in self.held_roots:
                run.phase = Phase.STORED
                run.post(AttemptDue(0.0))
        self.admit_held()

    # Starting and admission

    def create(self, row: RunRow, workflow: Workflow[Any, Any], parent: Run | None,
               context: contextvars.Context | None) -> Run:  # fmt: skip
        """A run that has just been appended; it goes on at once, or when it is admitted.

        Its row is its own: the entry keeps what was appended, whatever happens before it is committed. So is its
        context: what its body sets there is not for its parent to see.
        """
        run = Run(self, row.copy(), parent, Phase.FRESH)
        run.workflow, run.context = workflow, None if context is None else context.copy()
        self.tree.add(run)
        if parent is None and not self._admit(run):
            run.phase = Phase.HELD
            self.held_roots.append(run)
        else:
            self.queue(run)
        return run

    def is_full_up(self) -> bool:
        limit = self.options.max_active_runs
        return limit is not None and self.active_roots >= limit

    def _admit(self, run: Run) -> bool:
        """Top-level runs are admitted up to the limit; their children belong to them and never wait."""
        if run.row.status is RunStatus.QUEUED and self.is_full_up():
            return False
        self.active_roots += 1
        return True

    def root_left(self, run: Run) -> None:
        """A top-level run has ended: the next one in the queue may begin."""
        if run in self.held_roots:
            self.held_roots.remove(run)
        else:
            self.active_roots -= 1
            self.admit_held()

    def admit_held(self) -> None:
        """Let as many of the queued top-level runs begin as the limit allows, oldest first."""
        for run in tuple(self.held_roots):
            if self.is_full_up():
                return
            if run.workflow is not None:
                self.held_roots.remove(run)
                self.active_roots += 1
                run.phase = Phase.FRESH
                self.queue(run)

    # Steps (`StepHost`)

    def start_when_durable(self, run: Run, step: StepTask) -> None:
        self.steps_in_flight += 1

        def start() -> None:
            if not run.is_doomed:
                step.start()
            if step.task is None:
                self.steps_in_flight -= 1
            else:
                self._executing.add(step)

        self.journal.when_durable(run.seen_seq, start)

    def step_finished(self, step: StepTask, outcome: Outcome) -> None:
        """The outcome is recorded and posted in one act."""
        self._left(step)
        run, pending = step.run, step.pending
        actor = run.actor
        if self._came_too_late(step) or not isinstance(actor, RunActor) or not actor.step_left(step):
            return
        row = StepRow(run.row.n, self.now(), Kind.RUN, pending.key, pending.step_id, pending.target, outcome.status,
                      outcome.payload, step.began_at, step.attempts)  # fmt: skip
        self.record_outcome(run, row, outcome)

    def _came_too_late(self, step: StepTask) -> bool:
        """Its run was cancelled, though the step itself has not been interrupted yet: nothing is recorded."""
        if step.run.is_doomed and step.run.cancellation is not None:
            step.run.cancellation.step_gone(step, None)
        return step.run.is_doomed

    def record_outcome(self, run: Run, row: StepRow, outcome: Outcome) -> None:
        row.seq = seq = self.journal.next_seq
        self.journal.append(StepRecorded(row))
        self.progressed(run)
        run.post(StepEnded(row.key, outcome, seq, row.at))

    def step_retries(self, step: StepTask, due: float, error: bytes) -> None:
        self._left(step)
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

    def step_leaves(self, step: StepTask) -> None:
        """Its body has been interrupted, and may clean up: cancelling its run waits for that."""
        self._leaving.setdefault(step.run.row.n, set()).add(step)

    def leaving(self, run: Run) -> set[StepTask]:
        return self._leaving.get(run.row.n, set())

    def step_given_up(self, step: StepTask) -> None:
        """It did not end within its grace period: nobody waits for it any more."""
        self.stuck.append(step)
        self._left(step)

    def step_gone(self, step: StepTask, error: BaseException | None) -> None:
        self._left(step)
        if step.run.cancellation is not None:
            step.run.cancellation.step_gone(step, error)

    @property
    def is_idle(self) -> bool:
        """Nothing is queued, being loaded, looked up or committed. Steps may be in flight, runs may be waiting."""
        return (
            self.queue_of_runs.is_idle and self.journal.is_idle and not self.loading and not self._background
        )

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Look something up beside the run queue."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def stop_background(self) -> None:
        """Look up nothing any more."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(tuple(self._background))

    def _left(self, step: StepTask) -> None:
        if step not in self._executing:
            return  # it was given up
        self.steps_in_flight -= 1
        self._executing.discard(step)
        if (leaving := self._leaving.get(step.run.row.n)) is not None:
            leaving.discard(step)
            if not leaving:
                del self._leaving[step.run.row.n]

    @property
    def has_step_tasks(self) -> bool:
        """The body of some step is being executed."""
        return bool(self._executing)

    def progressed(self, run: Run) -> None:
        """Something of the run's was recorded: it is not what kills the process."""
        if run.row.recoveries:
            run.row.recoveries = 0
            self.append_change(run)
            self.on_progress(run)

    # What actors ask for (`ActorHost`)

    def invoke(self, run: Run, pending: Pending, generation: int) -> None:
        self.invoking.invoke(run, pending, generation)

    def withdraw(self, run: Run, key: bytes) -> None:
        child = run.child(key)
        if child is not None and not child.is_doomed:
            run.drop_child(key, child)
            Cancellation(self, [child], "the scope that awaited it was cancelled", withdrawn=child).begin()

    def cancel_from_inside(self, run: Run, reason: str) -> None:
        if not run.is_doomed:
            Cancellation(self, [run], reason).begin()

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

    def at_rest(self, run: Run, due: float | None, *, is_parked: bool) -> None:
        if due is None:
            self.timers.discard(run)
        elif self.timers.due_of(run) != due:
            self.timers.add(run, due)
        row = run.row
        if is_parked and not run.is_doomed and (row.rest_seq != run.seen_seq or row.wake_at != due):
            row.rest_seq, row.wake_at = run.seen_seq, due
            self.journal.note_rest(row.n, row.rest_seq, due)

    def attempt_ended(self, run: Run, task: asyncio.Task[Any], failed_keys: list[bytes],
                      sleeps: dict[bytes, float]) -> None:  # fmt: skip
        self.ending.attempt_ended(run, task, failed_keys, sleeps)

    def cleaned_up(self, run: Run, task: asyncio.Task[Any]) -> None:
        if run.cancellation is not None:
            run.cancellation.cleaned_up(run, task)


async def _raise(error: RotorError) -> Any:
    raise error
