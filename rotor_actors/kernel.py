"""What all parts of the engine stand on: its services, its ports, and the acts of appending and recording.

Everything in here is synchronous. What is done comes in acts: an entry is appended to the journal, and the messages
that follow from it are posted, at once. Nothing waits for the disk but effects, and those the journal begins when
their past is durable.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from rotor_actors.admission import Admission
from rotor_actors.claims import Claims
from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import StoreError
from rotor_actors.features import Features
from rotor_actors.flow.gate import Gate
from rotor_actors.flow.ticket import Ticket
from rotor_actors.in_flight import StepsInFlight
from rotor_actors.journal import Journal
from rotor_actors.live_tree import LiveTree
from rotor_actors.messages import AttemptDue, Pending, StepEnded
from rotor_actors.payload import Codecs
from rotor_actors.ports import Options, Ports
from rotor_actors.records import (
    Entry,
    ItemPut,
    ItemRow,
    Outcome,
    RunChanged,
    RunRow,
    StepRecorded,
    StepRow,
    Together,
    flatten,
)
from rotor_actors.registry import Registry
from rotor_actors.remote_errors import record
from rotor_actors.replicas.lease import Lease
from rotor_actors.replicas.room import Room
from rotor_actors.run import Phase, Run, UnderWay
from rotor_actors.run_queue import Fresh, Runnable, RunQueue
from rotor_actors.sharing import Sharing
from rotor_actors.step_runner import StepRunner
from rotor_actors.stores.shared import SharedStore, is_shared
from rotor_actors.stuck import Stuck
from rotor_actors.threads import Threads
from rotor_actors.timers import Timers
from rotor_actors.workflows import Workflow

_logger = logging.getLogger("rotor_actors")

# Fresh runs whose past is not durable yet begin only while fewer effects than this wait for the disk: their first step
# would have to wait, too, and half-done runs are what the cyclic collector has to visit again and again.
MOST_EFFECTS_WAITING = 128
# Nor while the disk is so far behind: runs without any effect wait for nothing, and would outrun it without end.
MOST_ENTRIES_WAITING = 20_000
# For how many slices a busy runtime gathers entries before it commits what is less than enough.
SLICES_PER_COMMIT = 2
_MOST_DURATIONS = 1_000


class Started(NamedTuple):
    """What a start led to: the run, when it is durable, and whether it is a new one."""

    run_id: str
    seq: int
    is_new: bool


class Kernel(ABC):
    """The services of one engine. Who drives runs (`drive`, `alarm`) is above: see `Engine`."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        *,
        last_numbers: tuple[int, int],
        on_store_failure: Callable[[StoreError], None],
    ) -> None:
        self.ports = ports
        # What runs begin with whose caller is unknown: that of whoever opened the runtime, not of who happened to wake them.
        self.home_context = contextvars.copy_context()
        self.options = options
        self.registry = Registry(Codecs(options.payload_limit), self._workflow_appeared)
        self.queue_of_runs = RunQueue(ports.clock.monotonic, self._may_begin, self._slice_ended, self.actor_broke)
        self.features = Features()
        self.journal = Journal(
            ports.store,
            ports.writer,
            last_numbers[1],
            self.queue_of_runs.start,
            self.queue_of_runs.released,
            on_store_failure,
        )
        self.observers = ports.observers
        if self.observers:
            self.journal.watch(self._committed, ports.clock.monotonic)
        self.sharing: Sharing | None = None
        if is_shared(ports.store):
            room = Room(lambda: self.queue_of_runs.length + self.steps.count, options.spill_above)
            self.sharing = Sharing(cast(SharedStore, ports.store), self.journal, room)
        self.lease: Lease | None = None
        self.timers = Timers(ports.clock)
        self.threads = Threads()
        self.step_runners: Mapping[str, StepRunner] = ports.step_runners
        self.tree = LiveTree(last_numbers[0])
        self.admission = Admission(options.max_active_runs)
        self.gate = Gate(self)
        self.steps = StepsInFlight()
        self.claims = Claims()
        # Those under way: whoever waits for one gets its report also when the runtime closes before it is done.
        self.cancellations: dict[UnderWay, None] = {}  # in the order in which they began
        self.stuck = Stuck()
        self.on_progress: Callable[[Run], None] = lambda run: None
        # Told of each execution of a step's body, just before it begins: the world may see it from here on.
        self.on_effect: Callable[[Run, Pending, int], None] = lambda run, pending, execution: None
        self._slices_gathered = 0
        self._wall_time = ports.clock.now
        self._last_now = 0.0
        self._durations: dict[str, float] = {}
        self._background: set[asyncio.Task[None]] = set()

    # Being watched

    def _committed(self, entries: list[Entry], seconds: float) -> None:
        self.observers.committed(list(flatten(entries)), seconds)

    @property
    def live_runs(self) -> int:
        if self.sharing is None:
            return len(self.tree)
        return sum(run.phase is not Phase.REMOTE for run in self.tree)  # not what others own

    @property
    def steps_in_flight(self) -> int:
        return self.steps.count

    @property
    def effects_waiting(self) -> int:
        return self.journal.effects_waiting

    @property
    def entries_waiting(self) -> int:
        return self.journal.last_seq - self.journal.durable_seq

    @property
    def is_full(self) -> bool:
        return self.journal.is_full

    # Who drives runs

    @abstractmethod
    def drive(self, run: Run, is_over: Callable[[], bool]) -> bool:
        """Let a run go on."""

    @abstractmethod
    def alarm(self, run: Run, now: float) -> None:
        """Something of a run's is due."""

    @abstractmethod
    def actor_broke(self, runnable: Runnable, error: BaseException) -> None:
        """An error of ours escaped from an actor."""

    @abstractmethod
    def look_up_broke(self, run: Run, error: BaseException) -> None:
        """An error of ours escaped from a look-up that this run waits for."""

    @abstractmethod
    def start_by_rules(
        self, row: RunRow, workflow: Workflow[Any, Any], context: contextvars.Context | None, *, merges: bool = True
    ) -> Started:
        """Start a run of a workflow that has rules, as the row says; or, if `merges`, make the start part of another."""

    # Time, chance, appending

    def now(self) -> float:
        """Wall time that never goes back: the record's times are in the record's order."""
        now = self._wall_time()
        if now < self._last_now:
            return self._last_now
        self._last_now = now
        return now

    def witness_time(self, at: float | None) -> None:
        """Something is recorded as of this time, by the database: what is recorded from now on is not earlier."""
        if at is not None and at > self._last_now:
            self._last_now = at

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

    def record_outcome(self, run: Run, row: StepRow, outcome: Outcome, *also: Entry) -> None:
        """Record a step's outcome and post it, in one act; a crash keeps what is recorded also with it, or loses both."""
        row.seq = seq = self.journal.last_seq + 1
        recorded = StepRecorded(row)
        self.journal.append(Together([recorded, *also]) if also else recorded)
        self.progressed(run)
        run.post(StepEnded(row.key, outcome, seq, row.at))

    def put_item(self, item: ItemRow, owner: Run | None = None) -> ItemPut:
        """The entry of an item, to be appended; with an owner it goes with that run's end."""
        if owner is not None:
            item.n = owner.row.n
            owner.owns_items = True
        return ItemPut(item)

    def progressed(self, run: Run) -> None:
        """Something of the run's was recorded: it is not what kills the process."""
        if run.row.recoveries:
            run.row.recoveries = 0
            self.append_change(run)
            self.on_progress(run)

    # Runs

    def queue(self, run: Run) -> None:
        if not run.is_queued:
            run.is_queued = True
            if run.phase is Phase.FRESH:
                self.queue_of_runs.push_fresh(run)
            else:
                self.queue_of_runs.push(run)

    def _may_begin(self, run: Fresh) -> bool:
        journal = self.journal
        if run.seen_seq <= journal.durable_seq:
            return True
        entries_waiting = journal.last_seq - journal.durable_seq
        return journal.effects_waiting < MOST_EFFECTS_WAITING and entries_waiting < MOST_ENTRIES_WAITING

    def _slice_ended(self, is_busy: bool) -> None:
        """Have the journal commit. While there is more to do it gathers a little first: a commit has its price."""
        self._slices_gathered += 1
        if self.sharing is not None:
            self.sharing.look_for_more()
        if not is_busy or self._slices_gathered >= SLICES_PER_COMMIT or self.journal.has_enough:
            self._slices_gathered = 0
            self.journal.kick()

    def create(
        self,
        row: RunRow,
        workflow: Workflow[Any, Any],
        parent: Run | None,
        context: contextvars.Context | None,
        ticket: Ticket | None = None,
    ) -> Run:
        """A run that has just been appended; it goes on at once, or when it is admitted, or when its ticket lets it.

        Its row is its own: the entry keeps what was appended, whatever happens before it is committed. So is its
        caller's context: what the parent sets later is not for the child to see.
        """
        own_row: RunRow = row.copy()
        run = Run(self, own_row, parent, Phase.FRESH)
        run.workflow = workflow
        if parent is not None:
            run.budget = parent.budget
            run.caller_context = parent.context_for_children()
        elif context is not None:
            run.caller_context = context.copy()
        self.tree.add(run)
        if run.budget is not None or workflow.budget is not None:
            self.features.run_spends(run)
        self.features.run_known(run)
        if ticket is not None:
            run.owns_items, run.seen_seq = True, self.journal.last_seq
            self.gate.enter(run, ticket)
        elif parent is not None or self.admission.admit(run):
            self.queue(run)
        return run

    def admit_held(self) -> None:
        """Let as many of the held top-level runs begin as the limit allows, oldest first."""
        while not self.admission.is_full_up and self._admit_next():
            pass

    def _admit_next(self) -> bool:
        run, place = self.admission.first_held(), self.gate.first_capped()
        if place is not None and (run is None or place < (0, self._arrival(run), run.row.n)):
            self.gate.admit_capped()
        elif run is not None:
            self.admission.let_in(run)
            run.phase = Phase.FRESH
            self.queue(run)
        return run is not None or place is not None

    def _arrival(self, run: Run) -> int:
        """As in `Pass.place`."""
        return run.row.n if self.sharing is None else int(run.row.created_at * 1e6)

    def _workflow_appeared(self, workflow: Workflow[Any, Any]) -> None:
        if self.sharing is not None:
            self.sharing.is_undeclared = True
            self.sharing.wake()
        self.features.workflow_known(workflow)
        for run in self.tree.orphans_of(workflow.id):
            run.workflow = workflow
            self.features.run_known(run)
            if not self.admission.is_held(run) and not self.gate.appeared(run):
                run.phase = Phase.STORED
                run.post(AttemptDue(0.0))
        self.admit_held()

    # Looking things up, beside the run queue

    def in_background(self, work: Coroutine[Any, Any, None], *waiting: Run) -> None:
        """Look something up beside the run queue.

        Args:
            work: what is to be done; it says itself what becomes of errors of the store.
            waiting: the runs that wait for it. After an error of ours they fail, by name: nobody else would ever tell them.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(partial(self._looked_up, waiting))

    def _looked_up(self, waiting: tuple[Run, ...], task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, StoreError) and waiting:
            self.journal.fail(error)  # what cannot be read cannot go on; reopening tries again
            return
        _logger.critical("looking something up in the store failed: %r", error, exc_info=error)
        for run in waiting:
            self.look_up_broke(run, error)

    async def stop_background(self) -> None:
        """Look up nothing any more."""
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(tuple(self._background))

    @property
    def is_looking_up(self) -> bool:
        return bool(self._background)
