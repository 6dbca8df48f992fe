"""What a fork takes along: the memo of another run, up to a step of it, as rows of its own. Pure."""

from __future__ import annotations

import msgspec

from rotor_actors.ids import step_key
from rotor_actors.loading import AttemptNote, ReleaseNote, child_outcome, end_of
from rotor_actors.records import ChildRow, History, Kind, RunFlag, StepRow

_NOT_THE_PARENTS = RunFlag.WITHDRAWN | RunFlag.RELEASED


class NoSuchStepError(LookupError):
    """The step is not in the record; `known` are the ids of those that are, in their order."""

    def __init__(self, known: list[str]) -> None:
        super().__init__()
        self.known = known


def memo_before(
    history: History, map_ends: list[StepRow | ChildRow], step_names: dict[bytes, str], from_step: str, use: int
) -> list[StepRow]:
    """The outcomes recorded before that of a step, in their order; those that a retry has forgotten are left out.

    Args:
        map_ends: the ends of map children, which are not in the history.
        step_names: step ids of the children, by key.
        from_step, use: the step's id, and which use of it, from 1.

    Raises:
        NoSuchStepError: it has no outcome.
    """
    kept: dict[bytes, StepRow] = {}
    known: list[str] = []
    wanted = step_key(from_step, use - 1)
    for _, fact in _in_order(history, map_ends):
        row = _row_of(fact, step_names)
        if row is None:
            continue
        if row.kind is Kind.ATTEMPT:
            for key in msgspec.msgpack.decode(row.payload or b"", type=AttemptNote).forget:
                kept.pop(key, None)
            continue
        if row.key == wanted:
            return list(kept.values())
        known.append(row.step_id)
        kept.setdefault(row.key, row)
    raise NoSuchStepError([name for name in dict.fromkeys(known) if name])


def _in_order(history: History, map_ends: list[StepRow | ChildRow]) -> list[tuple[int, StepRow | ChildRow]]:
    facts: list[tuple[int, StepRow | ChildRow]] = [(step.seq, step) for step in history.steps]
    facts += [(child.end_seq, child) for child in history.children if child.end_seq is not None]
    facts += [(end.seq if isinstance(end, StepRow) else end.end_seq or 0, end) for end in map_ends]
    facts.sort(key=lambda fact: fact[0])
    return facts


def _row_of(fact: StepRow | ChildRow, step_names: dict[bytes, str]) -> StepRow | None:
    """A fact as a journal row; a child's end becomes a row of its own, for the child is and stays another's."""
    if isinstance(fact, StepRow):
        is_memo = fact.kind.is_outcome or fact.kind in (Kind.ATTEMPT, Kind.MAP)
        return msgspec.structs.replace(fact) if is_memo else None
    if fact.flags & _NOT_THE_PARENTS or end_of(fact) is None:
        return None
    outcome = child_outcome(fact)
    note = ReleaseNote(fact.run_id, fact.workflow_id, outcome.payload or b"\xc0")
    return StepRow(
        fact.parent_n, fact.ended_at or 0.0, Kind.INVOKE, fact.key, step_names.get(fact.key, ""), fact.workflow_id,
        outcome.status, msgspec.msgpack.encode(note),
    )  # fmt: skip
