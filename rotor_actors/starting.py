"""Starting runs: durable when it returns, and once only under an id of the caller's choice."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from rotor_actors.budget import Budget
from rotor_actors.engine import Engine
from rotor_actors.errors import RunExistsError, StoreError, StoreUnavailableError
from rotor_actors.flow.face import FlowFace
from rotor_actors.handle import RunHandle
from rotor_actors.ids import checked_run_id
from rotor_actors.kernel import Started
from rotor_actors.records import RunFlag, RunRow
from rotor_actors.replicas.asking import Asker
from rotor_actors.replicas.forwarding import StartNote, stored_budget
from rotor_actors.replicas.room import Placement
from rotor_actors.roots import root_row, start_root, start_root_as
from rotor_actors.run_input import encode_data, encode_headers
from rotor_actors.service import Service
from rotor_actors.stores.base import StoreReader
from rotor_actors.stores.shared import ReplicaRow, SharedReader
from rotor_actors.waiting import Waiting
from rotor_actors.workflows import Workflow

In = TypeVar("In")
Out = TypeVar("Out")

_LOOK_AGAIN_SECONDS = 0.25


class Starting(FlowFace, Waiting):
    """The methods of `Runtime` that start runs."""

    async def start(
        self,
        workflow: Workflow[In, Out],
        data: In = None,  # type: ignore[assignment]
        *,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> RunHandle[Out]:
        """Start a run. It is durable when this returns. By the workflow's `singleton`, `idempotency`, `debounce` or
        `batch` the handle may be that of a run that is there already.

        Args:
            workflow: what to run; registered by this.
            data: its input.
            run_id: an id of your choice: starting the same again gives the same run. Not with `batch`, `debounce` or
                `idempotency`.
            headers: for `ctx.headers`.
            budget: what it may spend, with all that run below it; beside the budget of the workflow, if that has one.

        Raises:
            PayloadError: `data` does not fit the workflow's annotation, or cannot be stored.
            RunExistsError: another run, of other content, has this `run_id`.
            StoreFullError, StoreError, RuntimeStateError: nothing is accepted now.

        Cancelling the caller does not undo the start.
        """
        engine = self._accepting()
        engine.register(checked_workflow(workflow))
        blob = encode_data(workflow, engine.registry.data_codec(workflow), data)
        header_blob = encode_headers(headers)
        if run_id is None:
            new_id = engine.ports.ids.new_run_id(engine.now())
            started = await self._decided(engine, workflow, blob, header_blob, new_id, budget)
            service = self._service
            try:
                await engine.journal.durable(started.seq)
            except StoreError as error:
                await self._find_out(service, workflow, started.run_id, error)
            return RunHandle(self, started.run_id)
        _check_run_id(workflow, run_id)
        service = self._service
        try:
            return await self._start_as(engine, workflow, blob, header_blob, checked_run_id(run_id), budget)
        except StoreError as error:
            await self._find_out(service, workflow, run_id, error)
        return await self.start(
            workflow, data, run_id=run_id, headers=headers, budget=budget
        )  # says whether it is the same

    async def execute(
        self,
        workflow: Workflow[In, Out],
        data: In = None,  # type: ignore[assignment]
        *,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> Out:
        """`start`, then wait for the `result`."""
        handle = await self.start(workflow, data, run_id=run_id, headers=headers, budget=budget)
        return await handle.result()

    async def _decided(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str,
        budget: Budget | None, *, is_chosen: bool = False,
    ) -> Started:  # fmt: skip
        """Here; or, of many replicas, where the coordinator is, if it may lead to another run."""
        forwarding = engine.forwarding
        if forwarding is None or not forwarding.is_needed(workflow, is_chosen=is_chosen):
            return self._create(engine, workflow, data, headers, run_id, budget)
        note = StartNote(
            Asker(), run_id, workflow.id, data, headers, version=workflow.version, is_chosen=is_chosen,
            budget=None if budget is None else stored_budget(budget),
        )  # fmt: skip
        return await forwarding.start(workflow, note)

    async def _find_out(
        self, lost: Service | None, workflow: Workflow[Any, Any], run_id: str, error: StoreError
    ) -> None:
        """The store was lost with the start under way. Where this runtime begins anew, it finds out whether the run is
        there; returns if so. It is asked only when nothing can come from the lost life any more. What was sent to the
        coordinator may lead to a run later, and to another one: that cannot be found out."""
        if lost is None or lost.failure is None or workflow.rules is not None:
            raise error
        await self._life_after(lost, error)
        while lost.replica in [each.number for each in await self._read(_replicas)]:  # noqa: ASYNC110 - it is the store's
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        if await self._read(lambda store: store.find(run_id)) is None:
            raise StoreUnavailableError(f"run {run_id!r} was not started: {error}; start it again") from error

    def _leaves_open(self, engine: Engine, workflow: Workflow[Any, Any]) -> bool:
        """Can other replicas choose the same id in this moment? Starts of workflows with rules all go one way."""
        return engine.sharing is not None and workflow.rules is None

    def _create(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str,
        budget: Budget | None,
    ) -> Started:  # fmt: skip
        context = contextvars.copy_context()
        with engine.journal.one_act():
            placement: Placement | None = None if budget is None else "local"
            started = start_root(engine, workflow, data, run_id, headers=headers, context=context, placement=placement)
            run = engine.tree.find(started.run_id)
            if budget is not None and started.is_new and run is not None:
                engine.budgets.give(run, budget)
        return started

    async def _start_as(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str,
        budget: Budget | None,
    ) -> RunHandle[Any]:  # fmt: skip
        """Start under an id of the caller's choice: of two callers at once, one waits for the other."""
        async with engine.claims.hold(run_id):
            while True:
                existing = await self._find(engine, run_id)
                if existing is not None:
                    self._check_same(engine, existing, workflow, data)
                    return RunHandle(self, run_id)
                self._accepting()
                if not self._leaves_open(engine, workflow):
                    break
                if await self._create_as(engine, workflow, data, headers, run_id, budget):
                    return RunHandle(self, run_id)
            started = await self._decided(engine, workflow, data, headers, run_id, budget, is_chosen=True)
            await engine.journal.durable(started.seq)
        return RunHandle(self, started.run_id)

    async def _create_as(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str,
        budget: Budget | None,
    ) -> bool:  # fmt: skip
        """The database says whether the id is free: of two replicas at once, one is refused."""
        row = root_row(engine, workflow, data, run_id, headers=headers)
        context = contextvars.copy_context()
        if budget is None:
            return await start_root_as(engine, row, workflow, context)
        row.flags |= RunFlag.WHOLE
        given = engine.budgets.item_for(row, workflow, budget)
        return await start_root_as(
            engine, row, workflow, context, given, then=lambda run: engine.budgets.give(run, budget)
        )

    def _check_same(self, engine: Engine, row: RunRow, workflow: Workflow[Any, Any], data: bytes) -> None:
        codec = engine.registry.data_codec(workflow)
        if row.workflow_id != workflow.id or not codec.gives_same(row.input, data):
            raise RunExistsError(
                f"run id {row.run_id!r} belongs to a run of workflow {row.workflow_id!r} with other input; the same "
                f"id is for starting the same again: choose another, or use runtime.run({row.run_id!r})"
            )


def _replicas(store: StoreReader) -> list[ReplicaRow]:
    return cast(SharedReader, store).replicas()


def checked_workflow(workflow: Workflow[In, Out]) -> Workflow[In, Out]:
    """Raises TypeError where it is none."""
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"expected a function decorated with @workflow, got {workflow!r}")
    return workflow


def _check_run_id(workflow: Workflow[Any, Any], run_id: str) -> None:
    rules = workflow.rules
    if rules is not None and (rules.merges or rules.idempotency is not None):
        raise ValueError(
            f"workflow {workflow.id!r}: run_id={run_id!r} cannot be given: by its batch, debounce or idempotency a start "
            f"may lead to another run; leave run_id out, the handle knows it"
        )
