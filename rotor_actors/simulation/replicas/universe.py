"""A universe of several processes, each with the production runtime, that share one database."""

from __future__ import annotations

import asyncio
import contextvars
import random
from asyncio import events
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.messages import Pending
from rotor_actors.records import Entry
from rotor_actors.run import Run
from rotor_actors.runtime import Runtime
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.burial import close_actors, close_tasks
from rotor_actors.simulation.crashes import CrashPoint, Place
from rotor_actors.simulation.errors import InvariantError, SimulationError
from rotor_actors.simulation.loop import LIFE, Life, SimulationTask
from rotor_actors.simulation.ports import EPOCH
from rotor_actors.simulation.process import Process
from rotor_actors.simulation.replicas.database import SimDatabase
from rotor_actors.simulation.replicas.events import Forgotten, Outage, Registered
from rotor_actors.simulation.replicas.link import linked
from rotor_actors.simulation.replicas.outages import Outages
from rotor_actors.simulation.replicas.process import ReplicaClock, ReplicaExecutor, ReplicaProcess
from rotor_actors.simulation.universe import Settings, Universe, inside
from rotor_actors.stores.shared import LEASE_SECONDS
from rotor_actors.workflows import Workflow

_DOWN_FROM, _DOWN_TO = 0.001, 15.0
_MOST_PROCESSES = 300
_SOON = 2.0
_SPILL_ABOVE = (None, 1, 1, 3)


class ReplicaUniverse(Universe):
    """See `Universe`, whose disk is the database here.

    Attributes:
        processes: those that are alive or will be again, by their place.
        outages: what goes wrong between them and the database.
        healed_at: since when nothing goes wrong any more.
    """

    def __init__(
        self,
        seed: int,
        settings: Settings,
        *,
        point: CrashPoint | None = None,
        replay: dict[str, list[int]] | None = None,
    ) -> None:
        super().__init__(seed, settings, point=point, replay=replay)
        self.outages = Outages(self.tapes, settings.faults)
        self.database = SimDatabase(self._database_time, self.now, self.record)
        self.disk = self.database
        self.processes: list[ReplicaProcess | None] = [None] * settings.replicas
        self._skews = [self.outages.skew() for _ in self.processes]
        self._client_tape = self.tapes.tape("clients")
        # Mostly few, so that much is done by others than those who began it.
        self._spill_above = self.tapes.tape("options").pick(_SPILL_ABOVE)
        self._restarting_until = 0.0
        self.healed_at: float | None = None

    def _database_time(self) -> float:
        return EPOCH + self.now()

    # Processes

    @property
    def incarnation(self) -> int:
        """The number of the replica whose code this is."""
        process = LIFE.get()
        return process.replica if isinstance(process, ReplicaProcess) else 0

    @property
    def fired(self) -> Counter[str]:
        return self._crash_places + self.outages.fired

    def open_processes(self) -> list[ReplicaProcess]:
        return [each for each in self.processes if each is not None and not each.is_dead and each.is_open]

    @property
    def process(self) -> Process | None:
        found = self.open_processes()
        return found[0] if found else None

    @property
    def runtime(self) -> Runtime:
        for process in self.open_processes():
            if process.runtime is not None:
                return process.runtime
        raise SimulationError("all processes are down: await universe.ready()")

    def engines(self) -> list[Engine]:
        return [process.engine for process in self.open_processes() if process.engine is not None]

    async def ready(self) -> Process:
        """Some process that is open, another one each time: as a load balancer does."""
        while not (found := self.open_processes()):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._ready.append(waiter)
            await waiter
        return found[self._client_tape.choose(len(found))]

    def know(self, workflow: Workflow[Any, Any]) -> None:
        """The program of each process has it."""
        if workflow.id in self._known:
            return
        self._known[workflow.id] = workflow
        self._register_known()

    def _register_known(self) -> None:
        for engine in self.engines():
            for workflow in self._known.values():
                if engine.find_workflow(workflow.id) is None:
                    engine.register(workflow)

    def start_process(self, place: int = 0) -> None:
        if self.lives >= _MOST_PROCESSES:
            self.fail(SimulationError(f"processes were started {self.lives} times, and never lived for long"))
            return
        self.lives += 1
        process = ReplicaProcess(self.lives, place)
        self.processes[place] = process
        task = self.loop.create_task(self._enter(process), name=f"open {process.number}", context=process.context())
        task.add_done_callback(partial(self._entered, process), context=contextvars.Context())

    async def _enter(self, process: Process) -> None:
        assert isinstance(process, ReplicaProcess)
        settings, tape = self.settings, self._latency
        options: dict[str, Any] = {"spill_above": self._spill_above, **inside(settings.options)}
        lease = options.pop("lease", LEASE_SECONDS)
        process.runtime = Runtime(
            linked(self.database, process, self, lease),
            workflows=self._workflows(),
            clock=ReplicaClock(self.loop, tape, self._skews[process.place]),
            ids=self._ids,
            rng=random.Random(f"{self.seed}:runtime:{process.number}"),
            executor=lambda name: ReplicaExecutor(self.loop, tape, process, self),
            **options,
        )
        await process.runtime.__aenter__()
        self._attach(process)
        process.is_open = True
        self._register_known()  # what was made known while it was being opened

    def _entered(self, process: Process, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
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
        """A replica whose incarnation has ended opens the next one by itself."""

    # Standing still

    def freeze(self, process: ReplicaProcess, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        if self._may_stop(process):
            process.is_frozen = True
            self._stop("pause", process, seconds)

    def block(self, process: ReplicaProcess, seconds: float) -> None:
        """Its event loop is kept by something; its threads go on."""
        if self._may_stop(process):
            self._stop("blocked loop", process, seconds)

    def _may_stop(self, process: ReplicaProcess) -> bool:
        """What was drawn before all is well may come after."""
        return not process.is_stopped and not process.is_dead and not self.outages.is_healed

    def _stop(self, kind: str, process: ReplicaProcess, seconds: float) -> None:
        process.is_stopped = True
        self.record(Outage(self.now(), process.replica, kind, process.number, seconds))
        self.loop.stop_life(process)
        self.later(seconds, partial(self._go_on, process))

    def _go_on(self, process: ReplicaProcess) -> None:
        if not process.is_stopped or process.is_dead:
            return
        process.is_stopped = process.is_frozen = False
        self.record(Outage(self.now(), process.replica, "goes on", process.number))
        self.loop.resume_life(process)
        arrivals, process.arrivals = process.arrivals, []
        for arrive in arrivals:
            self.loop.call_soon(arrive, context=contextvars.Context())

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Do it then, as part of no process. What the database refuses is nobody's concern."""
        self.loop.call_later(seconds, _do_anyway, act, context=contextvars.Context())

    # What links and executors ask

    def about_to_call(self, process: ReplicaProcess) -> None:
        outages = self.outages
        if process.is_dead:
            return
        for kind, act in (("pause", self.freeze), ("blocked_loop", self.block)):
            if outages.happens(kind):
                self.later(self._soon(kind), partial(act, process, outages.seconds(kind)))
        if outages.happens("partition"):
            seconds = outages.seconds("partition")
            self.record(Outage(self.now(), process.replica, "partition", process.number, seconds))
            process.unreachable_until = self.now() + seconds
        if outages.happens("database_restart"):
            seconds = outages.seconds("database_restart")
            self.record(Outage(self.now(), 0, "database restart", 0, seconds))
            self._restarting_until = self.now() + seconds

    def _soon(self, kind: str) -> float:
        """Mostly at once, in the middle of the call; else at any moment."""
        tape = self.tapes.tape(f"fault:{kind}")
        return tape.between(0.0, _SOON) if tape.chance(0.4) else 0.0

    def reply_takes(self, process: ReplicaProcess) -> float:
        return self.outages.seconds("slow_reply") if self.outages.happens("slow_reply") else 0.0

    def is_reachable(self, process: ReplicaProcess) -> bool:
        return self.outages.is_healed or self.now() >= max(process.unreachable_until, self._restarting_until)

    def registered(self, process: ReplicaProcess, number: int) -> None:
        process.replica = number
        self.record(Registered(self.now(), number, process.number))

    def forgotten(self, process: ReplicaProcess, number: int) -> None:
        self.record(Forgotten(self.now(), number))

    def commit_begins(self, entries: list[Entry]) -> Place | None:
        self.commits += 1
        self.record(t.CommitBegun(self.now(), self.incarnation, entries))
        return self.crash_plan.at_commit(self.commits)

    def commit_lost(self, process: ReplicaProcess, entries: list[Entry], error: StoreError) -> None:
        self.record(t.CommitFailed(self.now(), process.replica, entries, str(error), False))

    def hinted(self, process: ReplicaProcess, hint: Callable[[], None]) -> None:
        if process.is_dead:
            return
        fate = self.outages.hint()
        if fate == "lost_hint":
            return
        delays = [self.outages.seconds("late_hint") if fate == "late_hint" else 0.0005]
        if fate == "double_hint":
            delays.append(0.0007)
        if fate == "spurious_hint":
            delays.append(3.0)
        for delay in delays:
            self.loop.call_later(delay, hint, context=process.context())

    # Listening to engines

    def _attach(self, process: Process) -> None:
        """A process has one engine for each replica that it was."""
        engine = process.engine
        if engine is None or not isinstance(process, ReplicaProcess) or any(each is engine for each in process.engines):
            return
        process.engines.append(engine)
        number = process.replica
        engine.on_effect = partial(self._effect_of, process, number)
        self.stubs.attach(engine)
        append = engine.journal.append
        engine.journal.append = partial(self._append_of, process, number, append)  # type: ignore[method-assign]

    def _append_of(self, process: ReplicaProcess, number: int, append: Callable[[Entry], int], entry: Entry) -> int:
        seq = append(entry)
        if not process.is_dead:
            self.record(t.Appended(self.now(), number, entry))
        return seq

    def _effect_of(self, process: ReplicaProcess, number: int, run: Run, pending: Pending, execution: int) -> None:
        if process.is_dead:
            self.fail(
                InvariantError("fenced", f"{run.where}: step {pending.step_id!r} began after its process had died")
            )
        event = t.EffectBegun(self.now(), number, run.row.run_id, pending.step_id, pending.key, execution, run.seen_seq)
        self.record(event)
        self.stubs.begins(run, pending)
        if not process.is_dead and self.outages.happens("blocked_loop"):
            self.block(process, self.outages.seconds("blocked_loop"))  # as a step does that begins just before it

    # Death

    def crash(self, place: str = "now") -> None:
        """Some process dies, if one is alive."""
        found = self.open_processes()
        if found:
            self.die(found[self._client_tape.choose(len(found))], place)

    def die(self, life: Life, place: str) -> None:
        assert isinstance(life, ReplicaProcess)
        if life.is_dead:
            return
        life.is_dead = True
        self.crashes += 1
        self._crash_places["crash"] += 1
        self.record(t.Crashed(self.now(), life.number, place))
        self.record(Forgotten(self.now(), life.replica))
        self.loop.call_first(self._bury, life)

    def _bury(self, process: Process) -> None:
        assert isinstance(process, ReplicaProcess)
        self.loop.forget(process)
        process.context().run(self._close_all, process)
        self.loop.forget(process)
        process.tell_waiters()
        down = self._latency.between(_DOWN_FROM, _DOWN_TO)
        self.loop.call_later(down, self.start_process, process.place, context=contextvars.Context())

    # The end

    def heal(self) -> None:
        self.crash_plan.is_healed = True
        self.outages.is_healed = True
        if self.healed_at is None:
            self.healed_at = self.now()
        for process in self.processes:
            if process is not None:
                self._go_on(process)

    async def live(self, main: Callable[[Universe], Awaitable[None]]) -> None:
        for place in range(len(self.processes)):
            self.start_process(place)
        await self.ready()
        await main(self)
        self.heal()
        for place in range(len(self.processes)):
            await self._close_place(place)
        self._check_end()

    async def _close_place(self, place: int) -> None:
        """End a process in good order; one that was just being started is waited for."""
        while (process := self.processes[place]) is None or process.is_dead or not process.is_open:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert process.runtime is not None
        task = self.loop.create_task(process.runtime.__aexit__(), name="close", context=process.context())
        if not await process.outcome_of(task):
            raise SimulationError("the process died while it was closed, though nothing was to fail any more")
        task.result()
        self.record(t.Closed(self.now(), process.number))

    def _check_end(self) -> None:
        left = [repr(task) for process in self._each() for task in self.tasks_of(process)]
        if left:
            raise InvariantError("no live task", f"{len(left)} tasks are left after closing: {', '.join(left[:5])}")
        closed = {process.replica for process in self._each()}
        rows = [row for row in self.database.replicas() if row.number in closed]
        if rows:
            raise InvariantError(
                "28 nothing is stranded", f"these were closed in good order, and are still there: {rows}"
            )
        for check in self._checks:
            check()

    def _each(self) -> Iterator[ReplicaProcess]:
        return (process for process in self.processes if process is not None)

    def _close_all(self, process: Process) -> None:
        """Those of replicas that it was before, too."""
        assert isinstance(process, ReplicaProcess)
        for engine in process.engines:
            if engine is not process.engine:
                close_actors(engine)
        super()._close_all(process)

    def tasks_of(self, process: Process) -> list[SimulationTask]:
        return [task for task in self.loop.pending_tasks() if task.life is process]

    def close(self) -> None:
        running = events._get_running_loop()
        events._set_running_loop(self.loop)
        try:
            for process in self._each():
                if not process.is_dead:
                    process.is_dead = True
                    process.context().run(self._close_all, process)
            close_tasks(self.loop.pending_tasks())
        finally:
            events._set_running_loop(running)
        self.disk.close()
        self.loop.close()


def _do_anyway(act: Callable[[], object]) -> None:
    try:
        act()
    except StoreError:
        pass
