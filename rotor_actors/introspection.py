"""Looking at runs: lists, one run, its steps, its tree, and why it waits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from rotor_actors.budget_node import find_budget
from rotor_actors.ownership import Ownership, read_owners, read_ownership, whose
from rotor_actors.progress import reports_of
from rotor_actors.reading import Reading
from rotor_actors.records import RunRow, RunStatus
from rotor_actors.registry import Registry
from rotor_actors.stores.base import RunQuery, StoreReader
from rotor_actors.views import (
    ReplicaInfo,
    RunInfo,
    RunTree,
    StepInfo,
    UnownedRuns,
    Update,
    budget_info,
    replica_infos,
    run_info,
    run_tree,
    step_infos,
    unowned_runs,
    update_of,
)
from rotor_actors.waits import Wait, sentence
from rotor_actors.workflows import Workflow

_ALL = 2**62


class Introspection(Reading):
    """What one can ask about runs. It changes nothing."""

    @property
    @abstractmethod
    def _registry(self) -> Registry:
        """The workflows that are known here: their annotations type what is shown."""

    @abstractmethod
    def _now(self) -> float: ...

    @abstractmethod
    def _known_waits(self, row: RunRow) -> list[Wait]:
        """What a run that has not ended waits for, as far as it is known without asking the store again."""

    async def _waits(self, row: RunRow) -> list[Wait]:
        return self._known_waits(row)

    async def runs(
        self,
        *,
        status: RunStatus | str | Sequence[RunStatus | str] | None = None,
        workflow: str | Workflow[Any, Any] | None = None,
        parent: str | None = None,
        root: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        id_prefix: str | None = None,
        error: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunInfo]:
        """Runs, newest first.

        Args:
            status: one, or several. workflow: its id, or itself.
            parent, root: run ids: only their children, only their tree.
            since, until: created from then on, and before then; each with a time zone.
            id_prefix: how their run ids begin.
            error: a text in their error (or in the reason of their cancellation), upper and lower case told apart.
            limit: how many at most. after: continue after this run id, the last of the page before.

        Raises:
            RunNotFoundError: `after`, `parent` or `root` is no run.
            ValueError: an unknown status, a limit below 1, a time without a zone.

        Each filter has an index, and pages follow keys: a page costs what it shows, not what is stored. Where two
        filters meet, the store follows one of them and looks at its runs for the other.
        """
        last = None if after is None else await self._row(after)
        query = msgspec.structs.replace(
            self._query(status, workflow, since, until, error, limit),
            parent_n=None if parent is None else (await self._row(parent)).n,
            root_n=None if root is None else (await self._row(root)).n,
            id_prefix=id_prefix,
            before_n=None if last is None else last.n,
            before_at=None if last is None else last.created_at,
        )
        rows, owners = await self._read(partial(_with_owners, query))
        return [run_info(row, self._registry, self._known_waits(row), owners.get(row.n)) for row in rows]

    def _query(
        self,
        status: RunStatus | str | Sequence[RunStatus | str] | None,
        workflow: str | Workflow[Any, Any] | None,
        since: datetime | None,
        until: datetime | None,
        error: str | None,
        limit: int,
    ) -> RunQuery:
        return RunQuery(
            statuses=_statuses(status),
            workflow_id=workflow.id if isinstance(workflow, Workflow) else workflow,
            since=_epoch("since", since),
            until=_epoch("until", until),
            error=error,
            limit=_checked_limit(limit),
        )

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
        row = await self._row(run_id)
        owners = await self._read(lambda store: read_owners(store, [row]))
        info = run_info(row, self._registry, await self._waits(row), owners.get(row.n))
        spent = await self._read(partial(find_budget, run_id))
        return info if spent is None else msgspec.structs.replace(info, budget=budget_info(spent))

    async def why(self, run_id: str) -> str:
        """Why a run does not go on, in one sentence: what it waits for, since when, and what happens next.

        Raises:
            RunNotFoundError: no run has this id.
        """
        row = await self._row(run_id)
        said = sentence(row, await self._waits(row), self._now())
        owned = await self._read(partial(_whose, row, self._now()))
        return f"{said}; {owned}" if owned else said

    async def replicas(self) -> list[ReplicaInfo]:
        """The replicas that have the store open, by number: those whose lease has run out, too, until others have
        taken over. None where the store has one owner."""
        return replica_infos(await self._ownership())

    async def unowned(self) -> list[UnownedRuns]:
        """Unended runs that no replica owns, by workflow and version: those that nobody can run come first."""
        return unowned_runs(await self._ownership())

    async def _ownership(self) -> Ownership:
        now = self._now()
        return await self._read(lambda store: read_ownership(store, now))

    async def progress(self, run_id: str) -> dict[str, Update]:
        """The newest value that a run has reported under each key, whether it has ended or not. Raises RunNotFoundError.

        See `Context.report`; `RunHandle.updates` follows it.
        """
        n = (await self._row(run_id)).n
        reports = await self._read(lambda store: reports_of(store, n))
        return {key: update_of(key, each.value, each.attempt, each.at) for key, each in reports.items()}

    async def steps(self, run_id: str) -> list[StepInfo]:
        """The recorded step outcomes of a run, in their order. An invoke is its child's row. Raises RunNotFoundError."""
        n = (await self._row(run_id)).n
        return step_infos(await self._read(lambda store: store.steps(n)))

    async def tree(self, run_id: str) -> RunTree:
        """A run and all below it. Raises RunNotFoundError."""
        top = await self._row(run_id)
        query = RunQuery(root_n=top.root_n, limit=_ALL)
        rows, owners = await self._read(partial(_with_owners, query))
        rows = [row for row in rows if row.depth > top.depth or row.n == top.n]
        infos = [run_info(row, self._registry, self._known_waits(row), owners.get(row.n)) for row in rows]
        return run_tree(list(zip(rows, infos, strict=True)), top.n)


def _with_owners(query: RunQuery, store: StoreReader) -> tuple[list[RunRow], Mapping[int, int]]:
    rows = store.list_runs(query)
    return rows, read_owners(store, rows)


def _whose(row: RunRow, now: float, store: StoreReader) -> str:
    return whose(row, read_owners(store, [row]).get(row.n), read_ownership(store, now))


def _statuses(status: RunStatus | str | Sequence[RunStatus | str] | None) -> tuple[RunStatus, ...]:
    if status is None:
        return ()
    try:
        return (RunStatus(status),) if isinstance(status, str) else tuple(RunStatus(each) for each in status)
    except ValueError:
        known = ", ".join(repr(each.value) for each in RunStatus)
        raise ValueError(f"status must be one or several of {known}; got {status!r}") from None


def _epoch(name: str, moment: datetime | None) -> float | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{name} needs a datetime with a time zone, e.g. datetime.now(timezone.utc); got {moment}")
    return moment.timestamp()


def _checked_limit(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"limit must be a number of at least 1, got {limit!r}")
    return limit
