"""The face of the library: open a store, start runs, wait for them, cancel them, look at them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from rotor_actors.cancellation import Cancellation, CancelReport
from rotor_actors.clock import Clock, SystemClock
from rotor_actors.durations import Duration, seconds
from rotor_actors.engine import Engine
from rotor_actors.errors import (
    PayloadError,
    RunExistsError,
    RunNotFoundError,
    RuntimeStateError,
    StoreError,
    StoreFullError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.executor import Executor, InlineExecutor, ThreadExecutor
from rotor_actors.handle import RunHandle
from rotor_actors.ids import Ids, RandomIds, checked_run_id
from rotor_actors.kernel import Options, Ports
from rotor_actors.records import RunCreated, RunRow, RunStatus
from rotor_actors.run import Run
from rotor_actors.service import Service
from rotor_actors.step import NIL, decode_error, decode_reason, encode_data, encode_headers
from rotor_actors.stores.base import RunQuery, Store
from rotor_actors.stores.memory import MemoryStore
from rotor_actors.stores.sqlite import SQLiteStore
from rotor_actors.views import RunInfo, RunTree, StepInfo, run_info, run_tree, step_infos
from rotor_actors.workflow import Workflow

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")

_ALL = 2**62


class Runtime:
    """Runs workflows, durably. Use it with `async with`, which may be entered and left in different tasks.

    Args:
        store: a file (`"rotor.db"`, `"sqlite:///rotor.db"`, a path), `":memory:"`, or a `Store`.
        workflows: those that must be known for recovery and for `invoke_by_id`. One that is started or invoked is
            registered by that.
        max_depth: how deep runs may invoke runs; a run that was started has depth 0. None for no limit.
        cancel_grace: how long the cleanup of cancelled runs may take, in all.
        drain_timeout: how long leaving waits for runs to end; what has not ended goes on when the store is opened
            again.
        max_active_runs: how many started runs may be under way at a time; further ones are queued. Their children
            are not counted and never wait.
        strict_replay: fail a run whose code has changed, instead of going on by step key.
        payload_limit: the largest input, result or step result, in bytes.
        max_recoveries: how often in a row a run may be recovered without recording anything, before it is set aside
            as failed: it seems to end the process each time.
        clock, ids, rng: time, new run ids and chance, for tests.

    Raises (on entering):
        StoreLockedError, StoreVersionError, StoreCorruptedError, StoreError: the store cannot be used, and why.

    It installs no signal handlers and no loop policy, and knows nothing of other runtimes in the process.

    Example:
        >>> from rotor_actors import Context, Runtime, workflow
        >>> @workflow(id="greet")
        ... async def greet(ctx: Context, name: str) -> str:
        ...     return f"hello {name}"
        >>> async def main() -> str:
        ...     async with Runtime(":memory:") as runtime:
        ...         return await runtime.execute(greet, "you")
        >>> asyncio.run(main())
        'hello you'
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store = "rotor.db",
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        max_depth: int | None = 100,
        cancel_grace: Duration = "5s",
        drain_timeout: Duration = "10s",
        max_active_runs: int | None = None,
        strict_replay: bool = False,
        payload_limit: int = 4 * 2**20,
        max_recoveries: int = 10,
        clock: Clock | None = None,
        ids: Ids | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._options = Options(
            max_depth=_checked_count("max_depth", max_depth),
            cancel_grace=seconds(cancel_grace, name="cancel_grace"),
            drain_timeout=seconds(drain_timeout, name="drain_timeout"),
            max_active_runs=_checked_count("max_active_runs", max_active_runs),
            strict_replay=strict_replay,
            payload_limit=payload_limit,
            max_recoveries=max_recoveries,
        )
        chance = rng or random.Random()
        chosen = _chosen_store(store)
        self._ports = Ports(
            clock=clock or SystemClock(),
            ids=ids or RandomIds(chance),
            rng=chance,
            store=chosen,
            writer=_executor(chosen, "rotor-writer"),
            reader=_executor(chosen, "rotor-reader"),
        )
        self._workflows = tuple(workflows)
        self._service: Service | None = None

    # Opening and closing

    async def __aenter__(self) -> Runtime:
        if self._service is not None:
            raise RuntimeStateError("this runtime is open already, or was; make a new one")
        self._service = service = Service(self._ports, self._options)
        await service.open(self._workflows)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._service is not None:
            await self._service.close()

    @property
    def _engine(self) -> Engine:
        service = self._service
        if service is None:
            raise RuntimeStateError("the runtime is not open; use it inside 'async with runtime:'")
        return service.engine

    def _open(self) -> Engine:
        engine = self._engine
        assert self._service is not None
        self._service.check_open()
        return engine

    def _accepting(self) -> Engine:
        engine = self._engine
        assert self._service is not None
        self._service.check_accepting()
        if engine.journal.is_full:
            raise StoreFullError("the disk is full: nothing new is accepted until there is room; nothing was recorded")
        return engine

    # Starting

    async def start(
        self,
        workflow: Workflow[In, Out],
        data: In = None,  # type: ignore[assignment]
        *,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RunHandle[Out]:
        """Start a run. It is durable when this returns.

        Args:
            workflow: what to run; registered by this.
            data: its input.
            run_id: an id of your choice: starting the same again gives the same run.
            headers: for `ctx.headers`.

        Raises:
            PayloadError: `data` does not fit the workflow's annotation, or cannot be stored.
            RunExistsError: another run, of other content, has this `run_id`.
            StoreFullError, StoreError, RuntimeStateError: nothing is accepted now.

        Cancelling the caller does not undo the start.
        """
        engine = self._accepting()
        engine.register(_checked_workflow(workflow))
        blob = encode_data(workflow, engine.registry.data_codec(workflow), data)
        header_blob = encode_headers(headers)
        if run_id is None:
            run = self._create(engine, workflow, blob, header_blob, engine.ports.ids.new_run_id(engine.now()))
            await engine.journal.durable(run.seen_seq)
            return RunHandle(self, run.row.run_id)
        return await self._start_as(engine, workflow, blob, header_blob, checked_run_id(run_id))

    async def execute(
        self,
        workflow: Workflow[In, Out],
        data: In = None,  # type: ignore[assignment]
        *,
        run_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Out:
        """`start`, then wait for the `result`."""
        handle = await self.start(workflow, data, run_id=run_id, headers=headers)
        return await handle.result()

    def run(self, run_id: str) -> RunHandle[Any]:
        """A handle for a run by its id; whether there is one is found out when it is used."""
        return RunHandle(self, run_id)

    def _create(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str
    ) -> Run:
        now, n = engine.now(), engine.tree.next_n()
        is_queued = engine.admission.is_full_up
        row = RunRow(
            n=n,
            run_id=run_id,
            workflow_id=workflow.id,
            root_n=n,
            root_run_id=run_id,
            created_at=now,
            input=data,
            headers=headers,
            status=RunStatus.QUEUED if is_queued else RunStatus.RUNNING,
            attempt_at=None if is_queued else now,
        )
        seq = engine.journal.append(RunCreated(row))
        run = engine.create(row, workflow, None, contextvars.copy_context())
        run.seen_seq = seq
        return run

    async def _start_as(
        self, engine: Engine, workflow: Workflow[Any, Any], data: bytes, headers: bytes | None, run_id: str
    ) -> RunHandle[Any]:
        """Start under an id of the caller's choice: of two callers at once, one waits for the other."""
        async with engine.claims.hold(run_id):
            existing = await self._find(engine, run_id)
            if existing is None:
                self._accepting()
                run = self._create(engine, workflow, data, headers, run_id)
                await engine.journal.durable(run.seen_seq)
            else:
                self._check_same(engine, existing, workflow, data)
        return RunHandle(self, run_id)

    async def _find(self, engine: Engine, run_id: str) -> RunRow | None:
        live = engine.tree.find(run_id)
        if live is not None:
            await engine.journal.durable(live.seen_seq)
            return live.row
        return await self._read(lambda store: store.find(run_id))

    def _check_same(self, engine: Engine, row: RunRow, workflow: Workflow[Any, Any], data: bytes) -> None:
        codec = engine.registry.data_codec(workflow)
        if row.workflow_id != workflow.id or not _same_data(codec, row.input, data):
            raise RunExistsError(
                f"run id {row.run_id!r} belongs to a run of workflow {row.workflow_id!r} with other input; the same "
                f"id is for starting the same again: choose another, or use runtime.run({row.run_id!r})"
            )

    # Waiting

    async def result_of(self, run_id: str, timeout: Duration | None = None) -> Any:
        """What `RunHandle.result` gives, by run id."""
        engine = self._engine
        limit = None if timeout is None else seconds(timeout, name="timeout")
        run = engine.tree.find(run_id)
        if run is None or run.row.status.is_terminal:
            row = await self._row(run_id)
        else:
            row = await self._wait(engine, run, limit)
        return self._outcome(engine, row)

    async def _wait(self, engine: Engine, run: Run, limit: float | None) -> RunRow:
        assert self._service is not None
        waiter = self._service.wait_for(run)
        alarm = None
        if limit is not None:
            error = WorkflowTimeoutError(run_id=run.row.run_id, workflow_id=run.row.workflow_id, timeout=limit)
            alarm = engine.ports.clock.call_at(engine.ports.clock.now() + limit, partial(_refuse, waiter, error))
        try:
            return await waiter
        finally:
            if alarm is not None:
                alarm.cancel()

    def _outcome(self, engine: Engine, row: RunRow) -> Any:
        match row.status:
            case RunStatus.COMPLETED:
                workflow = engine.registry.get(row.workflow_id)
                codec = engine.codec_of(Any) if workflow is None else engine.registry.result_codec(workflow)
                return codec.decode(row.result or NIL)
            case RunStatus.FAILED:
                raise WorkflowFailedError(run_id=row.run_id, workflow_id=row.workflow_id, error=decode_error(row.error))
            case _:
                raise WorkflowCancelledError(
                    run_id=row.run_id, workflow_id=row.workflow_id, reason=decode_reason(row.error)
                )

    # Cancelling

    async def cancel(self, run_id: str, reason: str = "") -> CancelReport:
        """Cancel a run and all that runs below it.

        In one durable act they become cancelled; then their bodies and steps are interrupted, leaves first. Cleanup
        (`finally`, `except CancelledError`) has the grace period, then what still runs is abandoned, fenced and
        reported. A run that had ended stays as it is. Cancelling twice is harmless.

        Raises:
            RunNotFoundError: no run has this id.

        Cancelling the caller does not stop the cancellation.
        """
        engine = self._open()
        run = engine.tree.find(run_id)
        if run is None:
            await self._row(run_id)
            return CancelReport(already_ended=[run_id])
        if run.cancellation is None:
            Cancellation(engine, engine.finishing, [run], reason).begin()
        cancellation = run.cancellation
        assert cancellation is not None
        await engine.journal.durable(cancellation.seq)
        return await asyncio.shield(cancellation.done)

    # Looking

    async def runs(
        self,
        *,
        status: RunStatus | str | Sequence[RunStatus | str] | None = None,
        workflow: str | Workflow[Any, Any] | None = None,
        parent: str | None = None,
        root: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunInfo]:
        """Runs, newest first.

        Args:
            status: one, or several. workflow: its id, or itself.
            parent, root: run ids: only their children, only their tree.
            limit: how many at most. after: continue after this run id, the last of the page before.

        Raises:
            RunNotFoundError: `after`, `parent` or `root` is no run.
        """
        query = RunQuery(
            statuses=_statuses(status),
            workflow_id=workflow.id if isinstance(workflow, Workflow) else workflow,
            parent_n=None if parent is None else (await self._row(parent)).n,
            root_n=None if root is None else (await self._row(root)).n,
            limit=limit,
            before_n=None if after is None else (await self._row(after)).n,
        )
        rows = await self._read(lambda store: store.list_runs(query))
        return [run_info(row, self._engine.registry) for row in rows]

    async def count(self, *, root: str | None = None) -> dict[RunStatus, int]:
        """How many runs have each status, in one tree or in all; an unknown root counts none."""
        root_n: int | None = None
        if root is not None:
            row = await self._read(lambda store: store.find(root))
            if row is None:
                return {}
            root_n = row.n
        return await self._read(lambda store: store.count_by_status(root_n))

    async def info(self, run_id: str) -> RunInfo:
        """All that is known of a run. Raises RunNotFoundError."""
        return run_info(await self._row(run_id), self._engine.registry)

    async def steps(self, run_id: str) -> list[StepInfo]:
        """The recorded step outcomes of a run, in their order. An invoke is its child's row. Raises RunNotFoundError."""
        n = (await self._row(run_id)).n
        return step_infos(await self._read(lambda store: store.steps(n)))

    async def tree(self, run_id: str) -> RunTree:
        """A run and all below it. Raises RunNotFoundError."""
        top = await self._row(run_id)
        rows = await self._read(lambda store: store.list_runs(RunQuery(root_n=top.root_n, limit=_ALL)))
        return run_tree([row for row in rows if row.n >= top.n], top.n, self._engine.registry)

    def orphans(self) -> list[str]:
        """Ids of unfinished runs that are left untouched, because no workflow of their id is registered."""
        return [run.row.run_id for run in self._engine.tree.orphans]

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a consistent copy of the store to `path`, while runs go on.

        Raises:
            StoreError: the file exists, or cannot be written.
        """
        engine = self._engine
        assert self._service is not None
        self._service.check_open()
        await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        async with engine.journal.commit_lock.writer_lock:
            await engine.ports.writer.call(lambda: engine.ports.store.backup(path))

    async def _row(self, run_id: str) -> RunRow:
        row = await self._read(lambda store: store.find(run_id))
        if row is None:
            raise RunNotFoundError(f"no run has the id {run_id!r} in this store")
        return row

    async def _read(self, read: Callable[[Store], T]) -> T:
        """Read what was appended before this call, too; while the disk is full, what is durable."""
        engine = self._engine
        assert self._service is not None
        self._service.check_open()
        await engine.journal.durable(engine.journal.last_seq, unless_full=True)
        self._service.check_open()
        try:
            return await engine.ports.reader.call(lambda: read(engine.ports.store))
        except StoreError:
            self._service.check_open()  # closed meanwhile: that is not the store's failure
            raise


def _refuse(waiter: asyncio.Future[Any], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)


def _chosen_store(store: str | os.PathLike[str] | Store) -> Store:
    if isinstance(store, str):
        if store == ":memory:":
            return MemoryStore()
        if "://" in store and not store.startswith("sqlite:///"):
            raise StoreError(f"store {store!r}: expected a file, 'sqlite:///file', ':memory:' or a Store")
        return SQLiteStore(store.removeprefix("sqlite:///"))
    return SQLiteStore(store) if isinstance(store, os.PathLike) else store


def _executor(store: Store, name: str) -> Executor:
    return InlineExecutor() if store.is_inline else ThreadExecutor(name)


def _checked_count(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"{name} must be a number of at least 1, or None for no limit; got {value!r}")
    return value


def _checked_workflow(workflow: Workflow[In, Out]) -> Workflow[In, Out]:
    if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"expected a function decorated with @workflow, got {workflow!r}")
    return workflow


def _same_data(codec: Any, stored: bytes | None, given: bytes) -> bool:
    if stored == given:
        return True
    try:  # sets are stored in no particular order
        return bool(stored is not None and codec.decode(stored) == codec.decode(given))
    except PayloadError:
        return False


def _statuses(status: RunStatus | str | Sequence[RunStatus | str] | None) -> tuple[RunStatus, ...]:
    if status is None:
        return ()
    if isinstance(status, str):
        return (RunStatus(status),)
    return tuple(RunStatus(each) for each in status)
