"""From what is recorded of a run to the state its next turn starts from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from rotor_actors.ids import is_map_child
from rotor_actors.messages import Known, Message, StepEnded, TimerFired
from rotor_actors.records import (
    ChildRow,
    History,
    Kind,
    Outcome,
    OutcomeStatus,
    RunFlag,
    RunRow,
    RunStatus,
    StepRow,
)

_OUTCOME_OF = {
    RunStatus.COMPLETED: OutcomeStatus.COMPLETED,
    RunStatus.FAILED: OutcomeStatus.FAILED,
    RunStatus.CANCELLED: OutcomeStatus.CANCELLED,
}


# The end of such a child was never posted to its parent: it is no message of the record either.
_NOT_THE_PARENTS = RunFlag.WITHDRAWN | RunFlag.RELEASED


class FailureNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ended a run that failed for good: the keys of its failed steps, and of the children that did not complete.

    Nothing but `resume` asks for it.
    """

    steps: list[bytes] = []
    invokes: list[bytes] = []


class AttemptNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a failed attempt leaves to the next one.

    `forget` are the step keys whose failure ended it: they run again. `sleeps` are the sleeps that were under way, with
    the time they end, `children` the step keys of what goes on without it: children, and steps that wait with a
    feature.
    """

    error: bytes
    forget: list[bytes] = []
    sleeps: dict[bytes, float] = {}
    children: list[bytes] = []


class StepRetry(msgspec.Struct, frozen=True):
    """A step whose body has failed and is tried again."""

    failures: int
    due: float


class Loaded(msgspec.Struct):
    """See `RunState` for memo, record and recorded.

    `generations` is the newest generation of each withdrawn child, by step key; `retries` and `sleeps` are the steps
    in flight whose state is not in the body's hands; `inherited` see `RunState`.
    """

    memo: dict[bytes, Known]
    record: list[Message]
    recorded: dict[bytes, Known]
    generations: dict[bytes, int]
    retries: dict[bytes, StepRetry]
    sleeps: dict[bytes, float]
    newest_seq: int = 0
    inherited: list[bytes] = []
    has_maps: bool = False
    """There may be ends of map children, which are read page by page."""


def load(history: History, *, attempt_seq: int, upto_seq: int, waiting: Mapping[bytes, Known] | None = None) -> Loaded:
    """Sort what is recorded up to entry `upto_seq` into memo (up to `attempt_seq`) and record (after it).

    Steps that were `waiting` with a feature at that entry are, as running children are, known without an outcome.
    """
    loaded = Loaded({}, [], {}, {}, {}, {})
    for seq, fact in _in_order(history, upto_seq):
        loaded.newest_seq = seq
        if isinstance(fact, ChildRow):
            _add_outcome(loaded, seq, attempt_seq, _child_ended(fact, seq), _known_child(fact))
        else:
            _add_step(loaded, seq, attempt_seq, fact)
    for child in history.children:
        _add_child(loaded, child, upto_seq)
    for key, known in (waiting or {}).items():
        if key not in loaded.memo:
            loaded.recorded.setdefault(key, known)
    return loaded


def _in_order(history: History, upto_seq: int) -> list[tuple[int, StepRow | ChildRow]]:
    facts: list[tuple[int, StepRow | ChildRow]] = [(step.seq, step) for step in history.steps if step.seq <= upto_seq]
    facts += [
        (child.end_seq, child)
        for child in history.children
        if child.end_seq is not None and child.end_seq <= upto_seq and not child.flags & _NOT_THE_PARENTS
    ]
    facts.sort(key=lambda fact: fact[0])
    return facts


def _add_step(loaded: Loaded, seq: int, attempt_seq: int, step: StepRow) -> None:
    match step.kind:
        case Kind.MAP:
            loaded.has_maps = True
            _of(loaded, seq, attempt_seq).setdefault(step.key, Known(Kind.MAP, step.target, step_id=step.step_id))
        case Kind.PATCH:
            _of(loaded, seq, attempt_seq)[step.key] = Known(Kind.PATCH, "", Outcome(step.status), step_id=step.step_id)
        case Kind.UNDO:
            pass  # for whoever undoes the run; its outcome is a row of its own
        case Kind.TIMER:
            if seq > attempt_seq:
                loaded.record.append(TimerFired(int(step.target), seq, step.at))
        case Kind.STEP_RETRY:
            if seq > attempt_seq:
                loaded.retries[step.key] = StepRetry(step.attempts, step.due or 0.0)
        case Kind.ATTEMPT:
            note = msgspec.msgpack.decode(step.payload or b"", type=AttemptNote)
            for key in note.forget:
                loaded.memo.pop(key, None)
            loaded.sleeps, loaded.inherited = dict(note.sleeps), note.children
        case Kind.FAILURE:
            pass
        case _:
            known = Known(step.kind, step.target, Outcome(step.status, step.payload), step_id=step.step_id)
            if step.kind is Kind.INVOKE:
                known = msgspec.structs.replace(known, **_released_child(step))
            assert known.outcome is not None
            ended = StepEnded(step.key, known.outcome, seq, step.at, known.run_id, known.workflow_id)
            _add_outcome(loaded, seq, attempt_seq, ended, known)


def _add_outcome(loaded: Loaded, seq: int, attempt_seq: int, ended: StepEnded, known: Known) -> None:
    """The first outcome under a key stands: a child's end after the parent's timeout is no longer the parent's."""
    if seq <= attempt_seq:
        loaded.memo.setdefault(ended.key, known)
    elif ended.key not in loaded.memo:
        loaded.record.append(ended)
        loaded.recorded.setdefault(ended.key, known)


def _add_child(loaded: Loaded, child: ChildRow, upto_seq: int) -> None:
    let_go = child.flags & RunFlag.RELEASED and child.key not in loaded.recorded and child.key not in loaded.memo
    if child.flags & RunFlag.WITHDRAWN or let_go:  # let go of without an outcome that stands: its parent was resumed
        loaded.generations[child.key] = max(child.generation, loaded.generations.get(child.key, 0))
    elif child.key not in loaded.memo:
        loaded.recorded.setdefault(child.key, Known(Kind.INVOKE, child.workflow_id, None, child.run_id))


def _of(loaded: Loaded, seq: int, attempt_seq: int) -> dict[bytes, Known]:
    return loaded.memo if seq <= attempt_seq else loaded.recorded


def end_of(row: StepRow | ChildRow) -> StepEnded | None:
    """The end of a map's child, from its own row or, when it was timed out on, from its parent's journal row; None
    where it is nothing to the parent: it was withdrawn, or let go of before."""
    if isinstance(row, StepRow):
        note = msgspec.msgpack.decode(row.payload or b"", type=ReleaseNote)
        return StepEnded(row.key, Outcome(row.status, note.payload), row.seq, row.at, note.run_id, note.workflow_id)
    if row.flags & _NOT_THE_PARENTS:
        return None
    return _child_ended(row, row.end_seq or 0)


def add_ended_since(loaded: Loaded, messages: Iterable[object]) -> None:
    """Children whose end is among the messages had ended when the history was read, which leaves out those of a map."""
    for message in messages:
        if isinstance(message, StepEnded) and is_map_child(message.key):
            known = Known(Kind.INVOKE, message.workflow_id, None, message.run_id)
            loaded.recorded.setdefault(message.key, known)


def _known_child(child: ChildRow) -> Known:
    return Known(Kind.INVOKE, child.workflow_id, child_outcome(child), child.run_id, child.workflow_id)


def _child_ended(child: ChildRow, seq: int) -> StepEnded:
    return StepEnded(child.key, child_outcome(child), seq, child.ended_at or 0.0, child.run_id, child.workflow_id)


def child_outcome(child: ChildRow | RunRow) -> Outcome:
    """What a child's end is to its parent."""
    payload = child.result if child.status is RunStatus.COMPLETED else child.error
    return Outcome(_OUTCOME_OF[child.status], payload)


class ReleaseNote(msgspec.Struct, frozen=True):
    """The payload of an invoke's own journal row: the parent timed out, or the child could not be spawned."""

    run_id: str
    workflow_id: str
    payload: bytes


def _released_child(step: StepRow) -> dict[str, object]:
    note = msgspec.msgpack.decode(step.payload or b"", type=ReleaseNote)
    return {
        "run_id": note.run_id,
        "workflow_id": note.workflow_id,
        "outcome": Outcome(step.status, note.payload),
    }
