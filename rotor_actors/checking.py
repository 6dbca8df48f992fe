"""Unfinished runs against the code of today: replayed without effects, to see which would break and where."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from rotor_actors.clock import SystemClock
from rotor_actors.engine import Engine
from rotor_actors.errors import (
    InvokeTargetError,
    NonDeterminismError,
    PayloadError,
    StoreError,
    WorkflowDefinitionError,
)
from rotor_actors.executor import Executor, InlineExecutor, ThreadExecutor
from rotor_actors.ids import RandomIds
from rotor_actors.messages import MarkMap, Pending
from rotor_actors.ports import Options, Ports
from rotor_actors.records import RunRow, RunStatus
from rotor_actors.run import Phase, Run
from rotor_actors.runtime_view import chosen_view
from rotor_actors.step_task import StepTask
from rotor_actors.stores.base import Store, StoreView
from rotor_actors.stores.shared import Declared, is_shared_view
from rotor_actors.workflows import Workflow

_LONGEST_PAYLOAD = 2**40
_MOST_SLICES = 10_000
_RUNS_PER_READ = 200
_BREAKING = (NonDeterminismError, PayloadError, InvokeTargetError, WorkflowDefinitionError)


class Broken(msgspec.Struct, frozen=True):
    """A run that the code of today would not go on with as the old code did.

    Attributes:
        version: what the run was created with; None where its workflow named none.
        what: what differs first, with the step and both sides.
    """

    run_id: str
    workflow_id: str
    version: str | None
    what: str


class CheckReport(msgspec.Struct):
    """What a check found.

    Attributes:
        checked: how many runs were replayed. broken: those that differ, oldest first.
        unknown: how many runs there are of workflows that the code does not hold, by workflow id.
        pinned: on a store that replicas share, how many there are of versions that the code neither has nor takes over,
            by workflow id and version: this code leaves them alone, so they are not replayed.
    """

    checked: int = 0
    broken: list[Broken] = []
    unknown: dict[str, int] = {}
    pinned: dict[str, dict[str, int]] = {}

    @property
    def is_clean(self) -> bool:
        """Every unfinished run would go on."""
        return not self.broken and not self.unknown and not self.pinned


async def check_runs(store: str | os.PathLike[str] | StoreView, workflows: Iterable[Workflow[Any, Any]]) -> CheckReport:
    """Replay each unfinished run of a store against these workflows, without effects, and report those that differ.

    It is only read, also while a live process owns it: no step is executed, no child spawned, nothing recorded.
    Bodies are executed up to where their record ends, as a recovery does with `strict_replay=True`: a run that it
    reports would fail there; without `strict_replay` one whose code merely asks for other steps would go on, by step
    key, and be marked as diverged.

    Args:
        store: as of `RuntimeView`. workflows: the code of today; those that they invoke need not be named.

    Raises:
        StoreError, StoreVersionError, StoreCorruptedError: it cannot be read, and why.
    """
    view = chosen_view(store)
    executor = InlineExecutor() if view.is_inline else ThreadExecutor("rotor-check")
    try:
        await executor.call(view.open)
        return await _Check(view, executor, workflows).run()
    finally:
        await executor.call(view.close)
        executor.close()


class _Check:
    def __init__(self, view: StoreView, executor: Executor, workflows: Iterable[Workflow[Any, Any]]) -> None:
        rng = random.Random(0)
        store = cast(Store, view)  # of which only the reading verbs are called
        ports = Ports(clock=SystemClock(), ids=RandomIds(rng), rng=rng, store=store, writer=executor, reader=executor)
        options = Options(strict_replay=True, payload_limit=_LONGEST_PAYLOAD, max_depth=None)
        self._engine = _Replayer(ports, options, last_numbers=(2**50, 2**50), on_store_failure=_raise)
        self._view, self._executor = view, executor
        for workflow in workflows:
            self._engine.register(workflow)
        self._report = CheckReport()

    async def run(self) -> CheckReport:
        live = await self._executor.call(self._view.live_runs)
        known: list[RunRow] = []
        for found in live:
            row = found.row
            workflow = self._engine.registry.get(row.workflow_id)
            if workflow is None:
                self._report.unknown[row.workflow_id] = self._report.unknown.get(row.workflow_id, 0) + 1
            elif is_shared_view(self._view) and not Declared(workflow.id, workflow.versions).fits(row):
                versions = self._report.pinned.setdefault(row.workflow_id, {})
                versions[row.version or ""] = versions.get(row.version or "", 0) + 1
            elif row.status is not RunStatus.QUEUED:
                known.append(row)
        try:
            for first in range(0, len(known), _RUNS_PER_READ):
                await self._check_page(known[first : first + _RUNS_PER_READ])
        finally:
            await self._engine.stop_background()
            self._engine.timers.stop()
        return self._report

    async def _check_page(self, rows: list[RunRow]) -> None:
        histories = await self._executor.call(lambda: self._view.histories([row.n for row in rows]))
        for row in rows:
            run = Run(self._engine, row, None, Phase.LOADED)
            run.workflow, run.history, run.history_seq = (
                self._engine.registry.get(row.workflow_id), histories[row.n], 2**60,
            )  # fmt: skip
            what = await self._engine.replay(run)
            self._report.checked += 1
            if what is not None:
                self._report.broken.append(Broken(row.run_id, row.workflow_id, row.version, what))
            await asyncio.sleep(0)


class _Replayer(Engine):
    """The engine, of which nothing reaches the world: it drives one body at a time to where its record ends."""

    def __init__(
        self,
        ports: Ports,
        options: Options,
        *,
        last_numbers: tuple[int, int],
        on_store_failure: Callable[[StoreError], None],
    ) -> None:
        super().__init__(ports, options, last_numbers=last_numbers, on_store_failure=on_store_failure)
        self._ends: list[asyncio.Future[Any]] = []

    async def replay(self, run: Run) -> str | None:
        """What differs first; None when nothing does."""
        self._ends.clear()
        actor = self._begin_attempt(run)
        for _ in range(_MOST_SLICES):
            is_moving = actor.go_on(_once())
            if self.is_looking_up:  # a page of a map's record
                await asyncio.wait(tuple(self._background))
            elif not is_moving or self._ends:
                break
        else:
            actor.shut_down()
            return "its body does not come to rest: it spins, or waits for something that is not a step"
        left = actor.next_of_record
        if not self._ends:
            actor.shut_down()
            return None if left is None else f"its body does not come to {left}, which is recorded next"
        return _difference(self._ends[0], left)

    def queue(self, run: Run) -> None: ...

    def start_when_durable(self, run: Run, step: StepTask) -> None: ...

    def invoke(self, run: Run, pending: Pending, generation: int) -> None: ...

    def withdraw(self, run: Run, key: bytes) -> None: ...

    def begin_step(self, run: Run, pending: Pending) -> float | None:
        return None

    def withdraw_step(self, run: Run, pending: Pending) -> None: ...

    def cancel_from_inside(self, run: Run, reason: str) -> None: ...

    def mark_map(self, run: Run, mark: MarkMap) -> None: ...

    def record_patch(self, run: Run, key: bytes, name: str) -> None: ...

    def mark_diverged(self, run: Run, what: str) -> None: ...

    def at_rest(self, run: Run, due: float | None, *, is_parked: bool) -> None: ...

    def attempt_ended(
        self, run: Run, task: asyncio.Future[Any], failed_keys: list[bytes], sleeps: dict[bytes, float]
    ) -> None:
        self._ends.append(task)


def _difference(ended: asyncio.Future[Any], left: str | None) -> str | None:
    """What is wrong with an attempt that has ended: the code is, or it ended too early."""
    error = None if ended.cancelled() else ended.exception()
    if isinstance(error, _BREAKING):
        return str(error)
    if left is None:
        return None  # it ends with what is recorded last: its end itself was not recorded any more
    how = "returns" if error is None and not ended.cancelled() else f"raises {type(error).__name__}: {error}"
    return f"its body {how} before it comes to {left}, which is recorded next"


def _once() -> Any:
    looks = iter(range(64))
    return lambda: next(looks, None) is None


def _raise(error: StoreError) -> None:
    raise error
