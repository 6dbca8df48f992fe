"""Bringing ended runs back: a failed or cancelled run goes on under its id, from what failed, with its memo kept.

What comes back with it: the children whose end ended it, and those that were cancelled along with it. All of it is one
entry. The parent of the topmost has had its end, and keeps it: that is written into the parent's own journal, for the
child's row, which was the memo of it until then, is about to change.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import ErrorInfo, RunStatusError
from rotor_actors.ids import handler_run_id, is_map_child
from rotor_actors.loading import AttemptNote, FailureNote, ReleaseNote, child_outcome
from rotor_actors.messages import AttemptDue
from rotor_actors.records import (
    ChildRow,
    EndSeen,
    Entry,
    History,
    Kind,
    OutcomeStatus,
    RunChanged,
    RunFlag,
    RunRow,
    RunStatus,
    StepRecorded,
    StepRow,
)
from rotor_actors.run import Phase, Run
from rotor_actors.stores.base import EndsQuery

_LATEST = 2**62
_CANCELLED = msgspec.msgpack.encode(ErrorInfo("RunCancelled", "the run was cancelled, and resumed"))


class Revival(msgspec.Struct):
    """A run to be brought back.

    Attributes:
        forget: keys of the steps and children whose end ended it. awaited: of these, the children that go on with it.
        late: children whose end it had not waited for, and that have completed since: their results are taken.
        is_awaited: its parent comes back too, and awaits it.
    """

    row: RunRow
    is_awaited: bool
    forget: list[bytes] = []
    awaited: list[bytes] = []
    late: list[ChildRow] = []
    running: list[int] = []
    unseen: list[int] = []
    """Many replicas: children that have ended, of which it was not told any more; it is now."""


class Reviving:
    """Plans what is to come back, from the store, and brings it back, in one act."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # What is to come back

    async def plan(self, top: RunRow) -> list[Revival]:
        """The run, and all below it that comes back with it; parents before their children."""
        found = [Revival(top, is_awaited=False)]
        level = found
        while level:
            histories = await self._histories([revival.row.n for revival in level])
            below: dict[int, bool] = {}
            for revival in level:
                ends = await self._map_ends(revival.row, histories[revival.row.n])
                below.update(_sort_children(revival, histories[revival.row.n], ends))
                if self._engine.sharing is not None and revival.running:
                    _sort_unseen(revival, below, await self._rows(revival.running))
            rows = await self._rows(sorted(below))
            level = [Revival(row, is_awaited=below[row.n]) for row in rows]
            found = [*found, *level]
        for revival in found:
            _check_not_undone(revival.row)
        return found

    async def _histories(self, ns: list[int]) -> dict[int, History]:
        ports = self._engine.ports
        return await ports.reader.call(lambda: ports.store.histories(ns))

    async def _rows(self, ns: list[int]) -> list[RunRow]:
        ports = self._engine.ports
        return await ports.reader.call(lambda: ports.store.rows(ns)) if ns else []

    async def _map_ends(self, row: RunRow, history: History) -> list[ChildRow]:
        """Children of maps that ended it, or were cancelled along with it: their ends are not in its history."""
        end_seq = row.end_seq or 0
        wanted = [EndsQuery(row.n, (end_seq - 1, _LATEST), end_seq, limit=_LATEST)]
        keys = [key for key in _note_of(row, history).invokes if is_map_child(key)]
        wanted += [EndsQuery(row.n, (0, 0), _LATEST, prefix=key, limit=_LATEST) for key in keys]
        ports = self._engine.ports
        ends = await ports.reader.call(lambda: [each for query in wanted for each in ports.store.child_ends(query)])
        return [each for each in ends if isinstance(each, ChildRow)]

    def still_holds(self, plan: list[Revival]) -> bool:
        """Nothing has moved since it was planned: those to come back have ended, those to be joined run."""
        tree = self._engine.tree
        return all(
            tree.get(revival.row.n) is None and all(tree.get(n) is not None for n in revival.running)
            for revival in plan
        )

    # Bringing it back

    def revive(
        self, plan: list[Revival], parent: RunRow | None, adopter: Run | None, also: Sequence[Entry] = ()
    ) -> int:
        """Bring them back, as one entry; gives its number.

        Args:
            parent: of the topmost. adopter: the nearest run above that has not ended, if any.
            also: goes into the same entry.
        """
        engine = self._engine
        journal, now = engine.journal, engine.now()
        with journal.one_act():
            for kept in self._kept_by_parent(plan[0].row, parent):
                journal.append(kept)
            for revival in plan:
                self._append(revival, now)
            for n in [n for revival in plan for n in revival.unseen]:
                journal.append(EndSeen(n, journal.next_seq))
            self._take_back(plan, now)
            for entry in also:
                journal.append(entry)
        for revival in plan:
            self._place(revival, adopter if revival is plan[0] else None)
        journal.kick()
        return journal.last_seq

    def _kept_by_parent(self, row: RunRow, parent: RunRow | None) -> list[StepRecorded]:
        """What its end was to its parent, as a row of the parent's own, in the place of the child's."""
        if parent is None or row.end_seq == parent.end_seq:
            return []  # it was cancelled along with its parent, which never learnt of it
        if row.parent_n is None or row.flags & (RunFlag.RELEASED | RunFlag.WITHDRAWN) or row.parent_key is None:
            return []
        status = OutcomeStatus.FAILED if row.status is RunStatus.FAILED else OutcomeStatus.CANCELLED
        note = ReleaseNote(row.run_id, row.workflow_id, row.error or msgspec.msgpack.encode(""))
        step = StepRow(
            row.parent_n, row.ended_at or 0.0, Kind.INVOKE, row.parent_key, row.parent_step_id or "", row.workflow_id,
            status, msgspec.msgpack.encode(note), seq=row.end_seq or 0,
        )  # fmt: skip
        return [StepRecorded(step)]

    def _append(self, revival: Revival, now: float) -> None:
        row, journal = revival.row, self._engine.journal
        if row.status is not RunStatus.FAILED:
            row.error = None  # the reason of its cancellation
        note = AttemptNote(row.error or _CANCELLED, revival.forget, {}, revival.awaited)
        attempt = StepRow(
            row.n, now, Kind.ATTEMPT, status=OutcomeStatus.FAILED, payload=msgspec.msgpack.encode(note),
            began_at=row.attempt_at, attempts=row.attempt, due=now, seq=journal.next_seq,
        )  # fmt: skip
        journal.append(StepRecorded(attempt))
        for child in revival.late:
            journal.append(StepRecorded(_late_row(row.n, child, now, journal.next_seq)))
        _bring_back(row, revival.is_awaited, now, journal.next_seq)
        journal.append(RunChanged(msgspec.structs.replace(row)))

    def _take_back(self, plan: list[Revival], now: float) -> None:
        """Children that still run: their end is awaited again, for the whole of their timeout."""
        for n in [n for revival in plan for n in revival.running]:
            child = self._engine.tree.get(n)
            assert child is not None
            child.row.flags &= ~RunFlag.RELEASED
            child.row.deadline = now + (child.row.timeout or 0.0)
            self._engine.append_change(child)

    def _place(self, revival: Revival, adopter: Run | None) -> None:
        engine, row = self._engine, revival.row
        parent = engine.tree.get(row.parent_n) if revival.is_awaited and row.parent_n is not None else None
        run = Run(engine, row, parent, Phase.STORED)
        run.workflow = engine.registry.get(row.workflow_id)
        run.seen_seq = engine.journal.last_seq
        engine.tree.add(run)
        engine.features.run_known(run)
        if parent is None and row.parent_n is not None:
            engine.tree.adopt(run, adopter or engine.tree.get(row.parent_n))
        engine.budgets.rejoin(run)
        if row.parent_n is None:
            engine.admission.take(run)
        for n in revival.running:
            child = engine.tree.get(n)
            assert child is not None
            engine.tree.give_back(child, run)
        if run.workflow is None:
            run.phase = Phase.HELD
            engine.tree.add_orphan(run)
        else:
            run.post(AttemptDue(engine.now()))


def _sort_children(revival: Revival, history: History, map_ends: list[ChildRow]) -> dict[int, bool]:
    """Say what becomes of the children, in the revival; those that come back, and whether they are awaited, are given."""
    row = revival.row
    note = _note_of(row, history)
    revival.forget = [*note.steps, *note.invokes]
    back: dict[int, bool] = {}
    children = [*history.children, *map_ends]
    for key in note.invokes:
        child = max((each for each in children if each.key == key and not each.flags & RunFlag.WITHDRAWN),
                    key=lambda each: each.generation, default=None)  # fmt: skip
        match None if child is None else child.status:
            case None:
                pass  # it could not be spawned
            case RunStatus.COMPLETED:
                assert child is not None
                revival.late.append(child)
            case RunStatus.FAILED | RunStatus.CANCELLED:
                assert child is not None
                back[child.n] = True
                revival.awaited.append(key)
            case _:
                assert child is not None
                revival.running.append(child.n)
                revival.awaited.append(key)
    for child in children:
        if not child.status.is_terminal and not child.flags & (RunFlag.RELEASED | RunFlag.WITHDRAWN):
            revival.running.append(child.n)  # it was left running when its parent ended
            revival.awaited.append(child.key)
        was_cancelled_along = child.status is RunStatus.CANCELLED and child.end_seq == row.end_seq
        if was_cancelled_along and child.n not in back and not child.flags & RunFlag.WITHDRAWN:
            back[child.n] = is_awaited = not child.flags & RunFlag.RELEASED
            revival.awaited += [child.key] if is_awaited else []
    return back


def _sort_unseen(revival: Revival, back: dict[int, bool], rows: list[RunRow]) -> None:
    """Children that are running to it, and have ended with another replica: those that were cancelled with it come back."""
    for row in rows:
        if row.ended_at is not None:
            revival.running = [n for n in revival.running if n != row.n]
            if row.status is RunStatus.CANCELLED:
                back[row.n] = True
            else:
                revival.unseen.append(row.n)


def _note_of(row: RunRow, history: History) -> FailureNote:
    """What ended it, where it failed for good."""
    rows = [step for step in history.steps if step.kind is Kind.FAILURE and step.seq == row.end_seq]
    return msgspec.msgpack.decode(rows[-1].payload or b"", type=FailureNote) if rows else FailureNote()


def _late_row(n: int, child: ChildRow, now: float, seq: int) -> StepRow:
    outcome = child_outcome(child)
    note = ReleaseNote(child.run_id, child.workflow_id, outcome.payload or b"\xc0")
    return StepRow(n, now, Kind.INVOKE, child.key, "", child.workflow_id, outcome.status,
                   msgspec.msgpack.encode(note), seq=seq)  # fmt: skip


def _bring_back(row: RunRow, is_awaited: bool, now: float, seq: int) -> None:
    """Its next attempt begins with its retries to come, and for whoever awaits it with the whole timeout."""
    row.status, row.result, row.ended_at, row.end_seq = RunStatus.RUNNING, None, None, None
    row.flags &= ~RunFlag.UNSEEN
    row.attempts_before = row.attempt
    row.attempt += 1
    row.attempt_at, row.wake_at, row.rest_seq, row.recoveries = None, now, seq, 0
    if is_awaited:
        row.flags &= ~RunFlag.RELEASED
        row.deadline = None if row.timeout is None else now + row.timeout
    elif row.parent_n is not None:
        row.flags = (row.flags | RunFlag.RELEASED) & ~RunFlag.WITHDRAWN


def check_resumable(row: RunRow) -> None:
    """Raise RunStatusError where there is nothing to be resumed."""
    if row.status is RunStatus.COMPLETED:
        raise RunStatusError(
            f"run {row.run_id} of workflow {row.workflow_id!r} has completed, there is nothing to resume; "
            f"runtime.restart begins it anew, runtime.fork goes on from one of its steps",
            run_id=row.run_id, status=row.status.value,
        )  # fmt: skip
    if not row.status.is_terminal:
        raise RunStatusError(
            f"run {row.run_id} of workflow {row.workflow_id!r} has not ended: it is {row.status.value}, and goes on by "
            f"itself (runtime.why says what it waits for)", run_id=row.run_id, status=row.status.value,
        )  # fmt: skip
    if row.flags & RunFlag.DAMAGED:
        raise RunStatusError(
            f"run {row.run_id} of workflow {row.workflow_id!r} was set aside because its row is damaged; restore a "
            f"backup, it cannot be resumed", run_id=row.run_id, status=row.status.value,
        )  # fmt: skip
    if row.parent_key is not None and is_map_child(row.parent_key) and not row.flags & RunFlag.RELEASED:
        raise RunStatusError(
            f"run {row.run_id} of workflow {row.workflow_id!r} is one of those that a step.map of run "
            f"{row.parent_run_id} started: resume that run, which takes up what failed of the map",
            run_id=row.run_id, status=row.status.value,
        )  # fmt: skip


def _check_not_undone(row: RunRow) -> None:
    if row.flags & RunFlag.UNDOABLE:
        undoing = handler_run_id(row.run_id, "undo")
        raise RunStatusError(
            f"run {row.run_id} of workflow {row.workflow_id!r} cannot go on: run {undoing} has undone its steps, or is "
            f"doing so, and they would count as done; runtime.restart begins it anew",
            run_id=row.run_id, status=row.status.value,
        )  # fmt: skip


def unknown_workflow(row: RunRow, doing: str, known: list[str]) -> RunStatusError:
    """The error for a run whose workflow is not registered."""
    return RunStatusError(
        f"cannot {doing} run {row.run_id}: no workflow {row.workflow_id!r} is registered (known: "
        f"{', '.join(map(repr, known)) or 'none'}); name it in Runtime(workflows=[…])",
        run_id=row.run_id, status=row.status.value,
    )  # fmt: skip
