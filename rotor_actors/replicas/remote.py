"""Runs that other replicas own, as they stand here: stubs of our runs' children."""

from __future__ import annotations

from rotor_actors.kernel import Kernel
from rotor_actors.records import RunRow
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing


class RemoteRuns:
    """A **stub** stands in the tree as a child of a run of ours; it has no life of its own."""

    def __init__(self, kernel: Kernel, sharing: Sharing) -> None:
        self._kernel = kernel
        self._sharing = sharing

    def stub(self, row: RunRow, parent: Run) -> Run:
        """A child of a run of ours that somebody else owns, or nobody."""
        stub = Run(self._kernel, row, parent, Phase.REMOTE)
        self._kernel.tree.add(stub)
        return stub
