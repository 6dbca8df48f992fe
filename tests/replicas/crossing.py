"""A fleet in which a test says whose runs go to others, and after which entry of a commit a replica is gone."""

from __future__ import annotations

import contextvars
from typing import Any

import msgspec
from fleet import Fleet

from rotor_actors import Runtime, Workflow
from rotor_actors.child_ends import decode_error, decode_reason
from rotor_actors.engine import Engine
from rotor_actors.flow.ticket import Ticket
from rotor_actors.records import RunRow, RunsReleased, RunStatus
from rotor_actors.run import Run
from rotor_actors.stores.base import RunQuery
from rotor_actors.stores.shared import Declared
from rotor_actors.stores.shared_memory import SharedMemoryStore

_ALL = 10**9


class Crossing(Fleet):
    """See the module. `spill` first, then start."""

    def __init__(self, *workflows: Workflow[Any, Any], **options: Any) -> None:
        super().__init__(*workflows, cancel_grace="1s", **options)

    def engine_of(self, runtime: Runtime) -> Engine:
        return self.service_of(runtime).engine

    def spill(self, runtime: Runtime, *workflow_ids: str) -> None:
        """Children of these workflows that are spawned here belong to nobody; and nothing is claimed here."""
        engine = self.engine_of(runtime)
        create = engine.create

        def released(
            row: RunRow, workflow: Workflow[Any, Any], parent: Run | None, context: contextvars.Context | None,
            ticket: Ticket | None = None,
        ) -> Run:  # fmt: skip
            if parent is None or workflow.id not in workflow_ids:
                return create(row, workflow, parent, context, ticket)
            assert engine.finishing.remote is not None
            engine.journal.append(RunsReleased([row.n]))
            return engine.finishing.remote.stub(row.copy(), parent)

        engine.create = released  # type: ignore[method-assign]
        self.claims(runtime)

    def claims(self, runtime: Runtime, *workflow_ids: str) -> None:
        """Let it claim runs of these workflows only."""
        store = self.store_of(runtime)
        SharedMemoryStore.declare(store, "a replica of a test", [Declared(each) for each in workflow_ids])
        store.declare = lambda label, declared: None  # type: ignore[method-assign]
        self.engine_of(runtime).sharing.wake(is_due=True)  # type: ignore[union-attr]

    def hold_mail(self, runtime: Runtime, yes: bool = True) -> None:
        """Let no mail reach it for a while."""
        store = self.store_of(runtime)
        number = store.replica
        store.mail = lambda after, limit: [] if yes else self.database.mail_for(number, after, limit)  # type: ignore[method-assign]

    def crash_after(self, runtime: Runtime, entries: int) -> None:
        """It commits so many more entries, and then loses its store."""
        self.store_of(runtime).entries_left = entries

    # What is durable

    def rows(self, **query: Any) -> list[RunRow]:
        return self.database.list_runs(RunQuery(limit=_ALL, **query))

    def row(self, run_id: str) -> RunRow:
        row = self.database.find(run_id)
        assert row is not None, f"no run {run_id}"
        return row

    def child(self, run_id: str, step_id: str, generation: int = 1) -> RunRow:
        below = self.rows(parent_n=self.row(run_id).n)
        return next(row for row in below if row.parent_step_id == step_id and row.generation == generation)

    def statuses(self) -> dict[str, str]:
        """By workflow and input, in order of depth: `{"child x": "completed"}`."""
        rows = sorted(self.rows(), key=lambda row: (row.depth, row.n))
        return {_name(row): row.status.value for row in rows}

    def outcome(self, run_id: str) -> Any:
        row = self.row(run_id)
        match row.status:
            case RunStatus.COMPLETED:
                return msgspec.msgpack.decode(row.result or b"\xc0")
            case RunStatus.FAILED:
                return f"failed: {decode_error(row.error).message}"
            case RunStatus.CANCELLED:
                return f"cancelled: {decode_reason(row.error)}"
            case _:
                return row.status.value

    @property
    def living(self) -> set[str]:
        return {_name(live.row) for live in self.database.live_runs()}


def _name(row: RunRow) -> str:
    given = msgspec.msgpack.decode(row.input) if row.input else None
    return f"{row.workflow_id} {given}" if isinstance(given, str) else row.workflow_id
