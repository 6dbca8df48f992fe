"""What one sees of runs from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from rotor_actors.budget_node import BudgetRecord
from rotor_actors.errors import ErrorInfo, PayloadError
from rotor_actors.ownership import Ownership
from rotor_actors.payload import Codec
from rotor_actors.payload_json import to_json
from rotor_actors.records import OutcomeStatus, RunFlag, RunRow, RunStatus, StepRow
from rotor_actors.registry import Registry
from rotor_actors.waits import Wait, brief


class BudgetInfo(msgspec.Struct, frozen=True):
    """The budget of a run, and what it and all below it have spent.

    Attributes:
        deadline: when its time is up. runs, depth, concurrent, units: what it allows; None, or missing, for any number.
        spent_runs: how many runs were invoked or started. spent_units: what was charged.
        part_of: the run above whose budget this one is a part of.
    """

    deadline: datetime | None
    runs: int | None
    depth: int | None
    concurrent: int | None
    units: Mapping[str, float]
    spent_runs: int
    spent_units: Mapping[str, float]
    part_of: str | None


class RunInfo(msgspec.Struct, frozen=True):
    """One run, as it stood in the store.

    Attributes:
        input, result: decoded by the workflow's annotations where the workflow is registered here.
        error: what made it fail, or what its last attempt failed of. reason: why it was cancelled.
        waiting_for: what it waits for, in a word or two (`"step 'fetch'"`, `"retry"`, `"admission"`), or "": see
            `Runtime.why` for the whole sentence.
        started_by: the run whose `step.start` started it, as the step `parent_step_id`; it is not its child.
        budget: what it may spend with all below it, and what is spent, if it has a budget of its own. In `info` only.
        handler: `"on_failure"`, `"on_cancel"` or `"undo"` of a run that does so for the run `handler_of`; else "".
        is_released: its parent timed out on it, and it ran on.
        is_diverged: its code had changed when it was recovered.
        version: of its workflow, when it was created. origin_run_id: what it was restarted or forked from.
        owner: the number of the replica that owns it, on a shared store; None: nobody, or it has ended. See `replicas`.
    """

    run_id: str
    workflow_id: str
    status: RunStatus
    attempt: int
    depth: int
    parent_run_id: str | None
    parent_step_id: str | None
    root_run_id: str
    input: Any
    result: Any
    error: ErrorInfo | None
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    headers: Mapping[str, str]
    waiting_for: str
    is_released: bool
    is_diverged: bool
    started_by: str | None = None
    handler: str = ""
    handler_of: str | None = None
    version: str | None = None
    origin_run_id: str | None = None
    budget: BudgetInfo | None = None
    owner: int | None = None

    def _repr_html_(self) -> str:
        """For notebooks."""
        from rotor_actors.exports import run_html  # who shows nothing need not load it

        return run_html(self)


class ReplicaInfo(msgspec.Struct, frozen=True):
    """A process that has a shared store open, as it stood in the database.

    Attributes:
        number: of this incarnation; it is never used again. label: what it is called.
        began_at: when it opened the store.
        lease_left: for how many seconds nobody else may take over; below zero: others are about to.
        workflows: what it can run: by workflow id the versions, None for any.
        owned: how many unended runs it owns.
        is_coordinator: what belongs to all replicas (lines of flow control, event ids, schedules) is in its hands.
        is_draining: it is about to close, and claims nothing more.
    """

    number: int
    label: str
    began_at: datetime
    lease_left: float
    workflows: Mapping[str, list[str] | None]
    owned: int
    is_coordinator: bool
    is_draining: bool


class UnownedRuns(msgspec.Struct, frozen=True):
    """Unended runs of a workflow and version that no replica owns.

    Attributes:
        runs: how many. parked: how many of them are not due before a time, or a message.
        can_run: some replica that is alive can run them; else they stay until one comes.
    """

    workflow_id: str
    version: str | None
    runs: int
    parked: int
    can_run: bool


def replica_infos(known: Ownership) -> list[ReplicaInfo]:
    """The replicas, as they are shown."""
    return [
        ReplicaInfo(
            row.number, row.label, _at(row.began_at), row.lease_until - known.now,
            {each.workflow_id: None if each.versions is None else list(each.versions) for each in row.declared},
            row.owned, row.is_coordinator, row.is_draining,
        )
        for row in sorted(known.replicas, key=lambda each: each.number)
    ]  # fmt: skip


def unowned_runs(known: Ownership) -> list[UnownedRuns]:
    """Runs that nobody owns, as they are shown: first those that nobody can run."""
    counts = sorted(known.unowned, key=lambda each: (each.is_declared, each.workflow_id, each.version or ""))
    return [UnownedRuns(each.workflow_id, each.version, each.unowned, each.parked, each.is_declared) for each in counts]


class Update(msgspec.Struct, frozen=True):
    """What a run has reported of itself.

    Attributes:
        value: as plain data. key: `""`, or the name under which it was reported.
        attempt: of the run. at: when.
        missed: how many reports of this key came and went since the update before, because you were slow.
    """

    value: Any
    key: str
    attempt: int
    at: datetime
    missed: int = 0


def update_of(key: str, value: bytes, attempt: int, at: float, missed: int = 0) -> Update:
    """An update, as it is shown."""
    return Update(to_json(value), key, attempt, _at(at), missed)


class StepInfo(msgspec.Struct, frozen=True):
    """One recorded step outcome of a run."""

    step_id: str
    kind: str
    status: OutcomeStatus
    attempts: int
    began_at: datetime | None
    ended_at: datetime


class RunTree(msgspec.Struct, frozen=True):
    """A run and all below it."""

    run: RunInfo
    children: list[RunTree]

    def __str__(self) -> str:
        lines: list[str] = []
        todo: list[tuple[int, RunTree]] = [(0, self)]
        while todo:  # no recursion: a tree may be deep
            depth, tree = todo.pop()
            lines.append(f"{'  ' * depth}{tree.run.workflow_id} {tree.run.run_id} {tree.run.status.value}")
            todo.extend((depth + 1, child) for child in reversed(tree.children))
        return "\n".join(lines)

    def export(self, format: str) -> str:
        """The tree as one text, `"html"`, `"svg"`, `"mermaid"` or `"json"`, that opens without a server.

        Raises:
            ValueError: another format.
        """
        from rotor_actors.exports import export_tree  # who exports nothing need not load it

        return export_tree(self, format)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self.export("svg")


def run_info(row: RunRow, registry: Registry, waits: list[Wait], owner: int | None = None) -> RunInfo:
    """What is to be seen of a row, of what it waits for, and of who owns it."""
    workflow = registry.get(row.workflow_id)
    data_codec, result_codec = (None, None) if workflow is None else registry.codecs_of(workflow)
    cancelled = row.status is RunStatus.CANCELLED
    return RunInfo(
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        status=row.status,
        attempt=row.attempt,
        depth=row.depth,
        parent_run_id=None if row.flags & RunFlag.STARTED else row.parent_run_id,
        parent_step_id=row.parent_step_id,
        root_run_id=row.root_run_id,
        input=_decoded(row.input, data_codec),
        result=_decoded(row.result, result_codec),
        error=None if row.error is None or cancelled else msgspec.msgpack.decode(row.error, type=ErrorInfo),
        reason=msgspec.msgpack.decode(row.error, type=str) if cancelled and row.error else "",
        created_at=_at(row.created_at),
        started_at=None if row.attempt_at is None else _at(row.attempt_at),
        ended_at=None if row.ended_at is None else _at(row.ended_at),
        headers={} if row.headers is None else msgspec.msgpack.decode(row.headers, type=dict[str, str]),
        waiting_for=brief(waits),
        is_released=bool(row.flags & RunFlag.RELEASED),
        is_diverged=bool(row.flags & RunFlag.DIVERGED),
        started_by=row.parent_run_id if row.flags & RunFlag.STARTED else None,
        handler=(row.parent_step_id or "") if row.flags & RunFlag.HANDLER else "",
        handler_of=row.parent_run_id if row.flags & RunFlag.HANDLER else None,
        version=row.version,
        origin_run_id=row.origin_run_id,
        owner=owner,
    )


def step_infos(rows: list[StepRow]) -> list[StepInfo]:
    """The steps among the journal rows."""
    steps = (row for row in rows if row.kind.is_outcome)
    return [
        StepInfo(row.step_id, row.kind.value, row.status, row.attempts,
                 None if row.began_at is None else _at(row.began_at), _at(row.at))
        for row in steps
    ]  # fmt: skip


def run_tree(runs: Sequence[tuple[RunRow, RunInfo]], top: int) -> RunTree:
    """The tree below the run numbered `top`, of runs that hold it; iterative, for it may be deep."""
    built: dict[int, RunTree] = {}
    # Where several replicas number their runs, a parent may have a larger number than its child.
    for row, info in sorted(runs, key=lambda each: (each[0].depth, each[0].n)):
        built[row.n] = node = RunTree(info, [])
        parent = None if row.parent_n is None else built.get(row.parent_n)
        if parent is not None:
            parent.children.append(node)
    return built[top]


def _decoded(blob: bytes | None, codec: Codec | None) -> Any:
    if blob is None:
        return None
    try:
        return to_json(blob) if codec is None else codec.decode(blob)
    except PayloadError:
        return to_json(blob)  # the type has changed since: show what is stored


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def budget_info(record: BudgetRecord) -> BudgetInfo:
    """What is to be seen of a budget."""
    limits = record.limits
    deadline = None if limits.deadline is None else _at(limits.deadline)
    return BudgetInfo(
        deadline, limits.runs, limits.depth, limits.concurrent, limits.units, record.runs, record.units, record.above
    )
