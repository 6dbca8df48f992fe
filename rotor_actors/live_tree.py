"""The runs that have not ended, by number and by id, and who stands under whom."""

from __future__ import annotations

from collections.abc import Iterator

from rotor_actors.run import Run
from supervisors import STOPPED


class LiveTree:
    """All live runs. The run tree is the supervision tree: each run's children stand in its own `ChildTable`.

    Args:
        last_n: the largest run number in use.
    """

    def __init__(self, last_n: int) -> None:
        self._last_n = last_n
        self._by_n: dict[int, Run] = {}
        self._by_id: dict[str, Run] = {}
        self._orphans: dict[str, list[Run]] = {}

    def next_n(self) -> int:
        self._last_n += 1
        return self._last_n

    def add(self, run: Run) -> None:
        self._by_n[run.row.n] = run
        self._by_id[run.row.run_id] = run
        if run.parent is not None and run.row.parent_key is not None:
            run.parent.add_child(run.row.parent_key, run)

    def adopt(self, run: Run, parent: Run | None) -> None:
        """`run` outlives its parent: it stands under the next one above, so that cancelling that one still finds it."""
        run.parent = parent
        if parent is not None:
            parent.add_child(f"adopted:{run.row.n}".encode(), run)

    def give_back(self, run: Run, parent: Run) -> None:
        """Its own parent goes on, and awaits it again: it stands under that one's key, no longer under its adopter."""
        adopter = run.parent
        if adopter is not None:
            adopter.drop_child(f"adopted:{run.row.n}".encode(), run)
        run.parent = parent
        assert run.row.parent_key is not None
        parent.add_child(run.row.parent_key, run)

    def remove(self, run: Run) -> None:
        """The run has ended; those of its children that run on are adopted by its parent."""
        row, parent = run.row, run.parent
        self._by_n.pop(row.n, None)
        self._by_id.pop(row.run_id, None)
        if parent is not None and parent.children is not None:
            key = row.parent_key if row.parent_n == parent.row.n else f"adopted:{row.n}".encode()
            if key is not None and parent.children.get(key) is run:
                parent.children.ended(key, STOPPED)
        if run.children:
            for child in tuple(run.each_child()):
                if not child.is_doomed:
                    self.adopt(child, parent)
        if run.cleaning and parent is not None:
            parent.add_cleaning(tuple(run.cleaning))

    def get(self, n: int) -> Run | None:
        return self._by_n.get(n)

    def find(self, run_id: str) -> Run | None:
        return self._by_id.get(run_id)

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._by_n.values()))

    def __len__(self) -> int:
        return len(self._by_n)

    def add_orphan(self, run: Run) -> None:
        """Its workflow is not registered: it is left as it is."""
        self._orphans.setdefault(run.row.workflow_id, []).append(run)

    def orphans_of(self, workflow_id: str) -> list[Run]:
        """Those of one workflow, which are orphans no longer."""
        return [run for run in self._orphans.pop(workflow_id, []) if not run.is_doomed]

    @property
    def orphans(self) -> list[Run]:
        return [run for runs in self._orphans.values() for run in runs if not run.is_doomed]
