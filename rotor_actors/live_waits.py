"""What a run in memory waits for, gathered from its place in the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.events.signals import SPACE as SIGNAL_WAITERS
from rotor_actors.events.signals import SignalNote, signal_of
from rotor_actors.events.waiting import SPACE as EVENT_WAITERS
from rotor_actors.events.waiting import WaiterNote
from rotor_actors.flow.gate import PAUSE_SPACE
from rotor_actors.flow.ticket import SPACE as TICKETS
from rotor_actors.flow.ticket import Ticket
from rotor_actors.messages import Pending
from rotor_actors.records import ItemRow, Kind, RunRow, RunStatus
from rotor_actors.run import Phase, Run
from rotor_actors.run_actor import RunActor
from rotor_actors.stores.base import ItemQuery, RunQuery, StoreReader
from rotor_actors.waits import Reason, Wait

T = TypeVar("T")

_LIVE = (RunStatus.QUEUED, RunStatus.RUNNING)
_MOST_CHILDREN = 4


def waits_of(engine: Engine, run: Run, suspects_before: Callable[[Run], int | None]) -> list[Wait]:
    """What the run waits for; empty when it goes on by itself.

    Args:
        suspects_before: how many are recovered before a run on probation; None of a run that is not.
    """
    row = run.row
    if run.is_doomed:
        return [Wait(Reason.CLEANUP, since=row.ended_at)]
    if run.workflow is None:
        return [Wait(Reason.WORKFLOW, since=row.created_at)]
    if why := engine.gate.why(row.n):
        return [Wait(Reason.FLOW, why, since=row.created_at)]
    if engine.admission.is_held(run):
        return [_admission(engine, run)]
    if ahead := suspects_before(run):
        return [Wait(Reason.PROBATION, count=ahead)]
    match run.phase:
        case Phase.FRESH:
            return [Wait(Reason.TURN, since=row.created_at)]
        case Phase.LOADING | Phase.LOADED:
            return [Wait(Reason.HISTORY)]
        case Phase.STORED:
            return _parked(engine, run)
        case _:
            return _active(run)


def _admission(engine: Engine, run: Run) -> Wait:
    ahead = engine.admission.held_before(run)
    return Wait(Reason.ADMISSION, since=run.row.created_at, count=ahead, limit=engine.options.max_active_runs or 0)


def _parked(engine: Engine, run: Run) -> list[Wait]:
    """At rest in the store: its body is not in memory, its children and the time it is due are."""
    row = run.row
    if row.attempt_at is None:
        return [Wait(Reason.RETRY, due=row.wake_at)]
    waits = [_child(child) for child in run.each_child() if child.is_owned and not child.is_doomed]
    waits += [
        _with_feature(known.kind, known.step_id, known.target, None, known.due)
        for known in (engine.features.waiting(run) or {}).values()
    ]
    deadlines = {wait.due for wait in waits}
    if row.wake_at is not None and row.wake_at not in deadlines:
        waits.append(Wait(Reason.TIMER, due=row.wake_at))
    return waits


def _active(run: Run) -> list[Wait]:
    actor = run.actor
    if not isinstance(actor, RunActor) or actor.is_moving:
        return []
    waits = [_pending(run, actor, pending) for pending in actor.pending]
    if not waits and (due := actor.steps.next_due()) is not None:
        waits.append(Wait(Reason.TIMER, due=due))
    return waits


def _pending(run: Run, actor: RunActor, pending: Pending) -> Wait:
    name, since, due = pending.step_id, pending.asked_at, actor.steps.due_of(pending.key)
    match pending.kind:
        case Kind.RUN | Kind.TRANSACTION:
            return _step(actor, pending)
        case Kind.INVOKE:
            child = run.child(pending.key)
            return Wait(Reason.CHILD, name, since, due) if child is None else _child(child)
        case Kind.SLEEP:
            return Wait(Reason.SLEEP, name, since, due)
        case _:
            return _with_feature(pending.kind, name, pending.target, since, due)


def _with_feature(kind: Kind, name: str, target: str, since: float | None, due: float | None) -> Wait:
    reason = {Kind.WAIT_FOR_EVENT: Reason.EVENT, Kind.WAIT_FOR_SIGNAL: Reason.SIGNAL}.get(kind)
    if reason is None:
        return Wait(f"{kind.value} {target}".strip(), name, since, due)
    return Wait(reason, name, since, due, target=target)


def _step(actor: RunActor, pending: Pending) -> Wait:
    step = actor.steps.task(pending.key)
    if step is None or (step.task is None and step.retry_at is None):
        return Wait(Reason.DISK, pending.step_id, pending.asked_at)
    if step.task is None:
        return Wait(Reason.STEP_RETRY, pending.step_id, step.began_at, step.retry_at, count=step.attempts)
    if step.waits_for_worker:
        return Wait(Reason.WORKER, pending.step_id, step.began_at, count=step.attempts, target=step.runner)
    due = None if step.began_at is None or step.attempts > 1 else step.began_at + step.spec.timeout
    return Wait(Reason.STEP, pending.step_id, step.began_at, due, count=step.attempts, target=step.runner)


def _child(child: Run) -> Wait:
    row = child.row
    return Wait(Reason.CHILD, row.parent_step_id or "", row.created_at, row.deadline, row.run_id, row.workflow_id)


def stored_waits(row: RunRow, children: list[RunRow]) -> list[Wait]:
    """What is known of a run from its store alone; `children` are those of it that have not ended."""
    if row.status.is_terminal:
        return []
    if row.status.value == "queued":
        return [Wait(Reason.ADMISSION, since=row.created_at)]
    if row.attempt_at is None:
        return [Wait(Reason.RETRY, due=row.wake_at)]
    waits = [
        Wait(
            Reason.CHILD, child.parent_step_id or "", child.created_at, child.deadline, child.run_id, child.workflow_id
        )
        for child in children
    ]
    return waits or [Wait(Reason.OWNER, since=row.attempt_at, due=row.wake_at)]


def read_stored_waits(row: RunRow, store: StoreReader) -> list[Wait]:
    """The same, with what else the store knows: its children, what it is queued for, the events and signals that it
    waits for."""
    if row.status.is_terminal:
        return []
    if row.status is RunStatus.QUEUED:
        why = _of_its_shard(store, row.n, _queued_for)
        return [Wait(Reason.FLOW, why, since=row.created_at)] if why else stored_waits(row, [])
    query = RunQuery(statuses=_LIVE, parent_n=row.n, limit=_MOST_CHILDREN)
    waits = stored_waits(row, store.list_runs(query))
    recorded = _of_its_shard(store, row.n, _recorded)
    if not recorded or row.attempt_at is None:
        return waits
    return [wait for wait in waits if wait.reason is not Reason.OWNER] + recorded


def _queued_for(store: StoreReader, n: int) -> str:
    """By its ticket; "" if it has none, or its key says nothing of it."""
    item = store.item(TICKETS, str(n))
    ticket = None if item is None or item.body is None else Ticket.decoded(item.body)
    if ticket is None or ticket.name is None:
        return ""
    if store.item(PAUSE_SPACE, ticket.name) is not None:
        return f"key {ticket.name!r} is paused"
    return f"the line of key {ticket.name!r}"


def _recorded(store: StoreReader, n: int) -> list[Wait]:
    """Of a store that replicas share the events and signals, of another the events: signals are found by name there."""
    if isinstance(store, _ItemsOfRuns):
        items = store.items_of([n])
    else:
        items = store.items(ItemQuery(EVENT_WAITERS, limit=_MOST_CHILDREN, prefix=f"{n}:"))
    waits: list[Wait] = []
    for item in items:
        if item.body is None:
            continue
        if item.space == EVENT_WAITERS:
            event = msgspec.msgpack.decode(item.body, type=WaiterNote)
            waits.append(Wait(Reason.EVENT, event.step_id, due=item.due, target=event.event))
        elif item.space == SIGNAL_WAITERS:
            signal = msgspec.msgpack.decode(item.body, type=SignalNote)
            waits.append(Wait(Reason.SIGNAL, signal.step_id, due=item.due, target=signal_of(item)))
    return waits


def _of_its_shard(store: StoreReader, n: int, read: Callable[[StoreReader, int], T]) -> T:
    return store.ask_shard_of(n, read) if isinstance(store, _Merged) else read(store, n)


@runtime_checkable
class _Merged(Protocol):
    """Of several shards: the numbers of runs that it shows are not those within a shard."""

    def ask_shard_of(self, n: int, read: Callable[[StoreReader, int], T], /) -> T: ...


@runtime_checkable
class _ItemsOfRuns(Protocol):
    def items_of(self, ns: list[int]) -> list[ItemRow]: ...
