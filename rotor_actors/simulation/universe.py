"""A universe: the production runtime over a simulated disk, in virtual time, with crashes, all from one seed."""

from __future__ import annotations

import asyncio
import contextvars
import random
from asyncio import events
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.ids import Ids, RandomIds
from rotor_actors.messages import Pending
from rotor_actors.records import Entry
from rotor_actors.run import Run
from rotor_actors.runners.in_process import InProcessRunner
from rotor_actors.runtime import Runtime
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.burial import close_actors, close_tasks
from rotor_actors.simulation.crashes import CrashPlan, CrashPoint, Place
from rotor_actors.simulation.disk import SimDisk
from rotor_actors.simulation.disks import Disk, MemoryDisk
from rotor_actors.simulation.errors import InvariantError, SimulationError
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.loop import LIFE, Life, SimulationLoop, SimulationTask
from rotor_actors.simulation.policies import policy_of
from rotor_actors.simulation.ports import UniverseClock, UniverseExecutor
from rotor_actors.simulation.process import Process
from rotor_actors.simulation.stubs import Stubs
from rotor_actors.simulation.tape import Tape, Tapes
from rotor_actors.simulation.waiting import who_waits
from rotor_actors.simulation.watched_store import is_refusal, watched
from rotor_actors.workflows import Workflow

# How long it takes until somebody starts the process again.
_DOWN_FROM, _DOWN_TO = 0.001, 2.0
_NOTICED_AFTER = 0.05
_MOST_LIVES = 200


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How universes are made; the same for all universes of a test."""

    workflows: tuple[Any, ...] = ()
    faults: Faults = Faults()
    policy: str = "sound"
    store: str = "sqlite"
    allow: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    """For `Runtime`."""
    replicas: int = 0
    """So many processes share one database; 0 for one process with a store of its own."""


class Universe:
    """One universe. It is run by `running.run_universe`, and lives as long as that.

    Args:
        seed: of all chance in it.
        settings: how it is made.
        point: a place where the process surely dies.
        replay: recorded choices, instead of those of the seed.

    Attributes:
        trace: what happened.
        fired: how often each fault happened.
        commits, lives, crashes: counts; refusals: calls of the store by processes that were dead.
        failure: the first invariant that broke.
    """

    def __init__(
        self,
        seed: int,
        settings: Settings,
        *,
        point: CrashPoint | None = None,
        replay: dict[str, list[int]] | None = None,
    ) -> None:
        self.seed = seed
        self.settings = settings
        self.tapes = Tapes(seed, replay)
        self.loop = SimulationLoop(self.tapes, policy=policy_of(settings.policy, self.tapes.tape("policy")))
        self.loop.who_waits = partial(who_waits, self)
        self.disk: Disk = _disk_of(settings, self.tapes.tape("disk"))
        self.crash_plan = CrashPlan(self.tapes.tape("crash"), settings.faults, point)
        self.trace: list[t.TraceEvent] = []
        self.commits = 0
        self.crashes = 0
        self.lives = 0
        self.refusals = 0
        self.stubs = Stubs()
        self._known: dict[str, Workflow[Any, Any]] = {}
        self._crash_places: Counter[str] = Counter()
        self._checks: list[Callable[[], None]] = []
        self._observers: list[Callable[[t.TraceEvent], None]] = []
        self._latency = self.tapes.tape("latency")
        self._process: Process | None = None
        self._ready: list[asyncio.Future[None]] = []
        self.call_ids: contextvars.ContextVar[CallRecord | None] = contextvars.ContextVar("call", default=None)
        self._ids = _RecordingIds(RandomIds(random.Random(f"{seed}:ids")), self.call_ids)

    # Being observed

    def observe(self, observer: Callable[[t.TraceEvent], None]) -> None:
        """Have `observer` called with each event, in order. What it raises is the failure of this universe."""
        self._observers.append(observer)

    def at_end(self, check: Callable[[], None]) -> None:
        """Have `check` called once the runtime is closed. What it raises is the failure of this universe."""
        self._checks.append(check)

    def record(self, event: t.TraceEvent) -> None:
        self.trace.append(event)
        try:
            for observer in self._observers:
                observer(event)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """This universe has failed; it ends with the callback at hand. The first failure counts."""
        if self.loop.abort is None:
            self.loop.abort = error

    def note(self, text: str) -> None:
        self.record(t.Noted(self.now(), self.lives, text))

    def now(self) -> float:
        """Virtual seconds since the universe began."""
        return self.loop.time() - 1_000.0

    @property
    def incarnation(self) -> int:
        return self.lives

    @property
    def fired(self) -> Counter[str]:
        return self._crash_places + self.disk.fired

    def trace_hash(self) -> str:
        return t.hash_of(self.trace)

    # Lives

    @property
    def process(self) -> Process | None:
        """The life that is open."""
        return self._process

    def engines(self) -> list[Engine]:
        """Those that are at work."""
        engine = None if self._process is None else self._process.engine
        return [] if engine is None else [engine]

    def know(self, workflow: Workflow[Any, Any]) -> None:
        """A process that is started again has it, too."""

    @property
    def runtime(self) -> Runtime:
        """The runtime that is open. Raises SimulationError while the process is down."""
        if self._process is None or self._process.runtime is None:
            raise SimulationError("the process is down: await universe.ready()")
        return self._process.runtime

    async def ready(self) -> Process:
        """Wait until a runtime is open."""
        while self._process is None or self._process.is_dead:
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._ready.append(waiter)
            await waiter
        return self._process

    def start_process(self) -> None:
        """A new life: a runtime on what the disk holds."""
        if self.lives >= _MOST_LIVES:
            self.fail(SimulationError(f"the process was started {self.lives} times, and never lived for long"))
            return
        self.lives += 1
        process = Process(self.lives)
        task = self.loop.create_task(self._enter(process), name=f"open {process.number}", context=process.context())
        task.add_done_callback(partial(self._entered, process), context=contextvars.Context())

    async def _enter(self, process: Process) -> None:
        store = watched(self.disk.new_store(), process, self)
        settings, tape = self.settings, self._latency
        runtime = Runtime(
            store,
            workflows=self._workflows(),
            clock=UniverseClock(self.loop, tape),
            ids=self._ids,
            rng=random.Random(f"{self.seed}:runtime:{process.number}"),
            executor=lambda name: UniverseExecutor(self.loop, tape, process),
            **inside(settings.options),
        )
        process.runtime = runtime
        await runtime.__aenter__()
        self._attach(process)

    def _attach(self, process: Process) -> None:
        """Listen to its engine, as soon as there is one: recovery appends before the runtime is open."""
        engine = process.engine
        if engine is None or process.is_attached:
            return
        process.is_attached = True
        engine.on_effect = partial(self._effect, process)
        self.stubs.attach(engine)
        append = engine.journal.append
        engine.journal.append = partial(self._append, process, append)  # type: ignore[method-assign]

    def _workflows(self) -> list[Workflow[Any, Any]]:
        """Those of the test, and those that earlier lives came to know: a program that starts again has the same."""
        listed = {workflow.id: workflow for workflow in self.settings.workflows}
        return list({**self.stubs.unknown, **self._known, **listed}.values())

    def _entered(self, process: Process, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._process = process
            self.record(t.Opened(self.now(), process.number))
            waiters, self._ready = self._ready, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        elif isinstance(error, StoreError):
            self.die(process, f"opening: {type(error).__name__}: {error}")
        else:
            self.fail(error if isinstance(error, Exception) else SimulationError(repr(error)))

    def condemn(self, process: Process) -> None:
        """Its runtime has stopped, for its store failed: somebody notices, and the process is ended."""
        if not process.is_dead and not process.is_condemned:
            process.is_condemned = True
            self.loop.call_later(_NOTICED_AFTER, self._end, process, context=contextvars.Context())

    def _end(self, process: Process) -> None:
        self.die(process, "its store had failed")

    async def close_process(self) -> None:
        """End the current life in good order. Closing may commit, and die there once, as told: then the next life does."""
        for _ in range(2):
            process = await self.ready()
            assert process.runtime is not None
            task = self.loop.create_task(process.runtime.__aexit__(), name="close", context=process.context())
            if await process.outcome_of(task):
                task.result()
                self.record(t.Closed(self.now(), process.number))
                return
        raise SimulationError("the process died while it was closed, though nothing was to fail any more")

    # Death

    def crash(self, place: str = "now") -> None:
        """The process dies. Unless it is down already: then nothing happens."""
        if self._process is not None and not self._process.is_dead:
            self.die(self._process, place)

    def die(self, life: Life, place: str) -> None:
        """A process dies: it is fenced at once, and buried when the callback at hand is over."""
        assert isinstance(life, Process)
        if life.is_dead:
            return
        life.is_dead = True
        self.crashes += 1
        self._crash_places["crash"] += 1
        if "commit" in place or self.crash_plan.is_power_cut():
            self.disk.power_cut()
        else:
            self.disk.die()
        self.record(t.Crashed(self.now(), life.number, place))
        self.loop.call_first(self._bury, life)

    def _bury(self, process: Process) -> None:
        if self._process is process:
            self._process = None
        self.loop.forget(process)
        process.context().run(self._close_all, process)
        self.loop.forget(process)
        process.tell_waiters()
        down = self._latency.between(_DOWN_FROM, _DOWN_TO)
        self.loop.call_later(down, self.start_process, context=contextvars.Context())

    def _close_all(self, process: Process) -> None:
        if process.engine is not None:
            for workflow_id in process.engine.known_workflow_ids():
                workflow = process.engine.find_workflow(workflow_id)
                if workflow is not None and workflow.handles is None:
                    self._known[workflow_id] = workflow
            close_actors(process.engine)
        close_tasks(self.tasks_of(process))

    def tasks_of(self, process: Process) -> list[SimulationTask]:
        return [task for task in self.loop.pending_tasks() if task.life is process]

    # What the store tells (`Watcher`)

    def commit_begins(self, entries: list[Entry]) -> Place | None:
        self.commits += 1
        self.record(t.CommitBegun(self.now(), self.lives, entries))
        return self.crash_plan.at_commit(self.commits)

    def cut_power_soon(self) -> None:
        self.disk.arm_cut()

    def committed(self, entries: list[Entry]) -> None:
        self.record(t.Committed(self.now(), self.lives, entries))

    def commit_failed(self, entries: list[Entry], error: StoreError) -> None:
        self.record(t.CommitFailed(self.now(), self.lives, entries, str(error), is_refusal(error)))
        process = LIFE.get()
        if not is_refusal(error) and isinstance(process, Process):
            self.condemn(process)

    def store_called(self, verb: str) -> None:
        process = LIFE.get()
        if isinstance(process, Process):
            self._attach(process)
            if self.crash_plan.at_call():
                self.die(process, f"before the store's {verb}")

    def refused(self, life: Life, verb: str) -> None:
        """A dead process tried to use the store, and could not."""
        self.refusals += 1

    # What the engine tells

    def _append(self, process: Process, append: Callable[[Entry], int], entry: Entry) -> int:
        seq = append(entry)
        if not process.is_dead:
            self.record(t.Appended(self.now(), process.number, entry))
        return seq

    def _effect(self, process: Process, run: Run, pending: Pending, execution: int) -> None:
        if process.is_dead:
            self.fail(
                InvariantError("fenced", f"{run.where}: step {pending.step_id!r} began after its process had died")
            )
        event = t.EffectBegun(
            self.now(), process.number, run.row.run_id, pending.step_id, pending.key, execution, run.seen_seq
        )
        self.record(event)
        self.stubs.begins(run, pending)

    # The end

    def heal(self) -> None:
        """From now on nothing fails any more."""
        self.crash_plan.is_healed = True
        self.disk.heal()

    async def live(self, main: Callable[[Universe], Awaitable[None]]) -> None:
        """Run `main`, then heal, close the runtime, and look whether anything is left over."""
        self.start_process()
        await self.ready()
        await main(self)
        self.heal()
        await self.close_process()
        self._check_end()

    def _check_end(self) -> None:
        process = self._process
        assert process is not None
        left = [repr(task) for task in self.tasks_of(process)]
        if left:
            raise InvariantError("no live task", f"{len(left)} tasks are left after closing: {', '.join(left[:5])}")
        for check in self._checks:
            check()

    def close(self) -> None:
        """Give everything back."""
        running = events._get_running_loop()
        events._set_running_loop(self.loop)
        try:
            process = self._process
            if process is not None:
                process.is_dead = True
                process.context().run(self._close_all, process)
            close_tasks(self.loop.pending_tasks())
        finally:
            events._set_running_loop(running)
        self.disk.close()
        self.loop.close()


class CallRecord:
    """The ids that were given out during one call from outside: asked again after a crash, it asks for the same."""

    def __init__(self) -> None:
        self.run_ids: list[str] = []


class _RecordingIds:
    def __init__(self, ids: Ids, record: contextvars.ContextVar[CallRecord | None]) -> None:
        self._ids = ids
        self._record = record

    def new_run_id(self, now: float) -> str:
        run_id = self._ids.new_run_id(now)
        record = self._record.get()
        if record is not None:
            record.run_ids.append(run_id)
        return run_id


def _disk_of(settings: Settings, tape: Tape) -> Disk:
    if settings.store == "memory" or settings.replicas:
        return MemoryDisk(tape)
    if settings.store == "sqlite":
        return SimDisk(tape, settings.faults)
    raise ValueError(f"store must be 'sqlite' or 'memory', got {settings.store!r}")


def inside(options: dict[str, Any]) -> dict[str, Any]:
    """The same options; whoever would execute steps in other processes does so in this one, in the universe's order."""
    runners: dict[str, Any] | None = options.get("step_runners")
    return options if runners is None else {**options, "step_runners": {name: InProcessRunner() for name in runners}}
