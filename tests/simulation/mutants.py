"""Planted bugs: engines with one thing wrong each, made by patching a seam of the real one, in tests only.

Each is a mistake that somebody could make. The simulator has to find every one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from rotor_actors import journal
from rotor_actors.attempt_steps import AttemptSteps
from rotor_actors.cancellation import Cancellation
from rotor_actors.ending import Ending
from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError, StoreFullError
from rotor_actors.ids import child_run_id, step_key
from rotor_actors.invoking import Invoking
from rotor_actors.journal import Journal
from rotor_actors.live_tree import LiveTree
from rotor_actors.messages import AttemptDue, Known, StepEnded
from rotor_actors.records import Kind, RunFlag, Together
from rotor_actors.recovery import Recovery
from rotor_actors.run import Phase, Run
from rotor_actors.run_state import RunState
from rotor_actors.simulation.faults import Faults
from rotor_actors.step_failures import StepFailures
from rotor_actors.stores import sqlite_files, sqlite_reading
from rotor_actors.stores.sqlite import SQLiteStore
from rotor_actors.waiting import Waiting

USUAL = Faults(crash=0.03, failed_fsync=0.01, disk_full=0.01)
FLIPS = Faults(crash=0.05, bit_flip=0.6)

Plant = Callable[[pytest.MonkeyPatch], None]


class Mutant(NamedTuple):
    """A planted bug, and the weather in which it shows."""

    name: str
    plant: Plant
    faults: Faults
    scenes: tuple[str, ...] = ()
    """Of replicas: the scenes of a crowd in which it shows."""


MUTANTS: list[Mutant] = []


def mutant(name: str, faults: Faults = USUAL) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        MUTANTS.append(Mutant(name, plant, faults))
        return plant

    return add


# The causal barrier


@mutant("a child's effect before its spawn is committed")
def _(patch: pytest.MonkeyPatch) -> None:
    waits = Engine.start_when_durable

    def start(self: Engine, run: Run, step: Any) -> None:
        if run.parent is None:
            waits(self, run, step)
        else:
            self.steps.count += 1
            self.journal.when_durable(0, step.start)

    patch.setattr(Engine, "start_when_durable", start)


@mutant("a completion acted on before it is committed")
def _(patch: pytest.MonkeyPatch) -> None:
    post = Run.post

    def deliver(self: Run, message: Any) -> None:
        post(self, msgspec.structs.replace(message, seq=0) if isinstance(message, StepEnded) else message)

    patch.setattr(Run, "post", deliver)


@mutant("start acknowledged before it is durable")
def _(patch: pytest.MonkeyPatch) -> None:
    async def durable(self: Journal, seq: int, *, unless_full: bool = False) -> None:
        self.kick()

    patch.setattr(Journal, "durable", durable)


@mutant("effect after a failed commit", Faults(crash=0.01, failed_fsync=0.05, failed_write=0.05))
def _(patch: pytest.MonkeyPatch) -> None:
    write = Journal._write  # pyright: ignore[reportPrivateUsage]

    async def go_on(self: Journal, entries: Any) -> None:
        try:
            await write(self, entries)
        except StoreError:
            pass

    patch.setattr(Journal, "_write", go_on)


@mutant("a batch that a full disk refuses is dropped", Faults(crash=0.01, disk_full=0.2))
def _(patch: pytest.MonkeyPatch) -> None:
    async def drop(self: Journal, entries: Any) -> None:
        try:
            await self._executor.call(lambda: self._store.commit(entries))  # pyright: ignore[reportPrivateUsage]
        except StoreFullError:
            pass

    patch.setattr(Journal, "_write", drop)


@mutant("synchronous=NORMAL", Faults(crash=0.05, power_cut=1.0))
def _(patch: pytest.MonkeyPatch) -> None:
    set_durability = SQLiteStore._set_durability  # pyright: ignore[reportPrivateUsage]

    def relax(self: SQLiteStore, connection: Any) -> None:
        set_durability(self, connection)
        connection.execute("PRAGMA synchronous = NORMAL")

    patch.setattr(SQLiteStore, "_set_durability", relax)


@mutant("what a failed sync left is believed", Faults(crash=0.05, failed_fsync=0.05))
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_files, "make_durable", lambda path, files: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("checksum ignored", FLIPS)
def _(patch: pytest.MonkeyPatch) -> None:
    class Whatever:
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    def crc(*payloads: bytes | None) -> Any:
        return Whatever()

    patch.setattr(sqlite_reading, "crc", crc)


@mutant("the parts of an act are committed one by one")
def _(patch: pytest.MonkeyPatch) -> None:
    append = Journal.append

    def one_by_one(self: Journal, entry: Any) -> int:
        if not isinstance(entry, Together):
            return append(self, entry)
        for each in entry.entries:
            entry.seq = append(self, each)
            self._batches.append(journal._Batch(entry.seq))  # pyright: ignore[reportPrivateUsage]
        return entry.seq

    patch.setattr(Journal, "append", one_by_one)


# Waiting and waking


@mutant("waiter registered late")
def _(patch: pytest.MonkeyPatch) -> None:
    wait = Waiting._wait  # pyright: ignore[reportPrivateUsage]

    async def late(self: Waiting, run: Run, limit: Any) -> Any:
        await asyncio.sleep(0.01)
        return await wait(self, run, limit)

    patch.setattr(Waiting, "_wait", late)


@mutant("completion lost when the parent is at rest in the store")
def _(patch: pytest.MonkeyPatch) -> None:
    post = Run.post

    def lose(self: Run, message: Any) -> None:
        if not (self.phase is Phase.STORED and isinstance(message, StepEnded)):
            post(self, message)

    patch.setattr(Run, "post", lose)


@mutant("timer lost over a restart")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "arm", lambda self, run: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("sleep begins anew after a restart")
def _(patch: pytest.MonkeyPatch) -> None:
    due_of = AttemptSteps._due_of_sleep  # pyright: ignore[reportPrivateUsage]

    def anew(self: AttemptSteps, pending: Any) -> float:
        due, now = due_of(self, pending), self._host.now()  # pyright: ignore[reportPrivateUsage]
        began = self._run.row.attempt_at or now  # pyright: ignore[reportPrivateUsage]
        return due if self._loaded is None else now + 3 * (due - began) + 4  # pyright: ignore[reportPrivateUsage]

    patch.setattr(AttemptSteps, "_due_of_sleep", anew)


@mutant("a stale note of rest undoes what a retry waits for")
def _(patch: pytest.MonkeyPatch) -> None:
    arm = Ending._try_again  # pyright: ignore[reportPrivateUsage]

    def undone(self: Ending, run: Run, delay: float, note: Any) -> None:
        arm(self, run, delay, note)
        self._kernel.journal.note_rest(run.row.n, self._kernel.journal.last_seq, None)  # pyright: ignore[reportPrivateUsage]

    patch.setattr(Ending, "_try_again", undone)


# Cancelling


@mutant("cancel racing a spawn")
def _(patch: pytest.MonkeyPatch) -> None:
    add = LiveTree.add

    def once_durable(self: LiveTree, run: Run) -> None:
        parent, run.parent = run.parent, None
        add(self, run)
        run.parent = parent
        if parent is not None and run.row.parent_key is not None:
            journal, key = run.host.journal, run.row.parent_key  # type: ignore[attr-defined] # pyright: ignore
            journal.when_durable(journal.last_seq, lambda: parent.add_child(key, run))  # pyright: ignore

    patch.setattr(LiveTree, "add", once_durable)


@mutant("done written after cancel")
def _(patch: pytest.MonkeyPatch) -> None:
    begin = Cancellation.begin

    def unfenced(self: Cancellation, *arguments: Any) -> None:
        begin(self, *arguments)
        for run in self._runs:  # pyright: ignore[reportPrivateUsage]
            run.is_doomed = False

    patch.setattr(Cancellation, "begin", unfenced)


@mutant("finally block writes after cancel")
def _(patch: pytest.MonkeyPatch) -> None:
    begin_step = AttemptSteps._begin_step  # pyright: ignore[reportPrivateUsage]

    def begin(self: AttemptSteps, pending: Any) -> None:
        run = self._run  # pyright: ignore[reportPrivateUsage]
        run.is_doomed, was_doomed = False, run.is_doomed
        begin_step(self, pending)
        run.is_doomed = was_doomed and pending.step_id != "late"

    patch.setattr(RunState, "refuse", lambda self, why: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    patch.setattr(AttemptSteps, "_begin_step", begin)


@mutant("timeout that kills the child")
def _(patch: pytest.MonkeyPatch) -> None:
    timed_out = Invoking.timed_out

    def kill(self: Invoking, run: Run, pending: Any) -> None:
        timed_out(self, run, pending)
        child, kernel = run.child(pending.key), self._kernel  # pyright: ignore[reportPrivateUsage]
        if child is not None and not child.is_doomed:
            Cancellation(kernel, kernel.finishing, [child], "timed out").begin()  # type: ignore[attr-defined] # pyright: ignore

    patch.setattr(Invoking, "timed_out", kill)


@mutant("a withdrawn child runs on")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "withdraw", lambda self, run, key: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("a run that ends leaves its children running")
def _(patch: pytest.MonkeyPatch) -> None:
    end = Ending.end

    def leave(self: Ending, run: Run, *arguments: Any, **named: Any) -> None:
        for child in run.each_child():
            child.row.flags |= RunFlag.ABANDON
        end(self, run, *arguments, **named)

    patch.setattr(Ending, "end", leave)


@mutant("cancelling a child cancels its siblings")
def _(patch: pytest.MonkeyPatch) -> None:
    begin = Cancellation.begin

    def wide(self: Cancellation, *arguments: Any) -> None:
        tops = self._tops  # pyright: ignore[reportPrivateUsage]
        parent = tops[0].parent
        if parent is not None:
            tops.extend(child for child in parent.each_child() if child not in tops and not child.is_doomed)
        begin(self, *arguments)

    patch.setattr(Cancellation, "begin", wide)


# Memo and replay


@mutant("memo returned for another use of its id")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rotor_actors.run_state.step_key", lambda step_id, count: step_key(step_id, 0))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("unordered replay of a race")
def _(patch: pytest.MonkeyPatch) -> None:
    next_recorded = RunState.next_recorded

    def swapped(self: RunState, timers_set: int) -> Any:
        record = self._record  # pyright: ignore[reportPrivateUsage]
        was_asked = self._was_asked  # pyright: ignore[reportPrivateUsage]
        if (
            record is not None
            and len(record) > 1
            and was_asked(record[0], timers_set)
            and was_asked(record[1], timers_set)
        ):
            record[0], record[1] = record[1], record[0]
        return next_recorded(self, timers_set)

    patch.setattr(RunState, "next_recorded", swapped)


@mutant("two incarnations of a recovered run")
def _(patch: pytest.MonkeyPatch) -> None:
    replay = Recovery.replay

    def twice(self: Recovery, runs: Sequence[Run]) -> None:
        replay(self, list(runs))
        for run in runs:
            twin = Run(run.host, run.snapshot(), run.parent, Phase.STORED)
            twin.workflow, twin.seen_seq = run.workflow, run.seen_seq
            twin.post(AttemptDue(0.0))

    patch.setattr(Recovery, "replay", twice)


@mutant("retry that spawns twice")
def _(patch: pytest.MonkeyPatch) -> None:
    invoke = Invoking.invoke

    def again(self: Invoking, run: Run, pending: Any, generation: int) -> None:
        if run.row.attempt > 1 and run.child(pending.key) is not None:
            run_id = child_run_id(run.row.run_id, pending.key, generation + 1)
            run.drop_child(pending.key, run.child(pending.key))  # type: ignore[arg-type] # pyright: ignore
            self._spawn(run, pending, generation + 1, run_id)  # pyright: ignore[reportPrivateUsage]
        else:
            invoke(self, run, pending, generation)

    patch.setattr(Invoking, "invoke", again)


@mutant("caught failures are forgotten, too")
def _(patch: pytest.MonkeyPatch) -> None:
    def all_of_them(self: StepFailures, task: Any) -> list[bytes]:
        return [key for _, key in self._steps]  # pyright: ignore[reportPrivateUsage]

    patch.setattr(StepFailures, "steps_that_ended", all_of_them)


@mutant("a new attempt does its steps again")
def _(patch: pytest.MonkeyPatch) -> None:
    init = RunState.__init__

    def forgetful(self: RunState, where: str, *, memo: dict[bytes, Known] | None = None, **named: Any) -> None:
        kept = {key: known for key, known in (memo or {}).items() if known.kind is not Kind.RUN}
        init(self, where, memo=kept, **named)

    patch.setattr(RunState, "__init__", forgetful)
