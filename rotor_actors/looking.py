"""Looking at runs from outside: what is durable of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rotor_actors.access import Access
from rotor_actors.records import RunStatus
from rotor_actors.stores.base import RunQuery
from rotor_actors.views import RunInfo, RunTree, StepInfo, run_info, run_tree, step_infos
from rotor_actors.workflow import Workflow

_ALL = 2**62


class Looking(Access):
    """The methods of `Runtime` that look and change nothing."""

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


def _statuses(status: RunStatus | str | Sequence[RunStatus | str] | None) -> tuple[RunStatus, ...]:
    if status is None:
        return ()
    if isinstance(status, str):
        return (RunStatus(status),)
    return tuple(RunStatus(each) for each in status)
