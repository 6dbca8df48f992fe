"""Runs that have ended are nobody's: whoever brings them back, or deletes them, takes them first, so that nobody else does."""

from __future__ import annotations

from functools import partial

from rotor_actors.engine import Engine
from rotor_actors.errors import RunStatusError
from rotor_actors.records import RunRow, RunsReleased, RunStatus
from rotor_actors.run import Phase
from rotor_actors.sharing import Sharing

_LIVE = (RunStatus.QUEUED, RunStatus.RUNNING)


class TakingBack:
    """For one replica. Nothing of this is needed where the store has one owner."""

    def __init__(self, engine: Engine, sharing: Sharing) -> None:
        self._engine = engine
        self._sharing = sharing

    async def check_here(self, doing: str, row: RunRow, ns: list[int]) -> None:
        """The runs of these numbers have not ended: they must be ours.

        Raises:
            RunStatusError: another replica owns one of them, or nobody does. It says which.
        """
        tree = self._engine.tree
        others = [n for n in ns if (run := tree.get(n)) is None or run.phase is Phase.REMOTE]
        if others:
            store, ports = self._sharing.store, self._engine.ports
            owner = (await ports.reader.call(lambda: store.owners([others[0]]))).get(others[0])
            other = (await ports.reader.call(lambda: store.rows([others[0]])))[0]
            who = "nobody owns it just now: try again" if owner is None else f"replica {owner} owns it: do it there"
            raise RunStatusError(
                f"run {row.run_id} cannot be {doing} here: run {other.run_id}, which has to do with it, has not ended, and "
                f"{who}", run_id=row.run_id, status=row.status.value,
            )  # fmt: skip

    async def take(self, doing: str, top: RunRow, rows: list[RunRow]) -> None:
        """Own these runs, which had ended when they were read as they stand here.

        Raises:
            RunStatusError: somebody else was quicker; nothing is ours.
        """
        ports, ns = self._engine.ports, [row.n for row in rows]
        live = await ports.writer.call(partial(self._sharing.store.take, ns))
        found = {each.row.n: each.row for each in live}
        if all(row.n in found and found[row.n].ended_at == row.ended_at for row in rows):
            newest = (max(each.newest_seq, each.row.end_seq or 0) for each in live)
            self._engine.journal.witness(max(newest, default=0))
            return
        self.give_back(list(found))
        raise RunStatusError(
            f"run {top.run_id} cannot be {doing}: another replica brings it back, or deletes it, just now; look at it again",
            run_id=top.run_id, status=top.status.value,
        )  # fmt: skip

    async def take_ended(self, ns: list[int]) -> bool:
        """Own these runs, all of which have ended; or none of them, and say False."""
        ports = self._engine.ports
        live = await ports.writer.call(partial(self._sharing.store.take, ns))
        if live and all(each.row.ended_at is not None for each in live):
            return True
        self.give_back([each.row.n for each in live])
        return False

    def give_back(self, ns: list[int]) -> None:
        """They are nobody's again."""
        if ns:
            self._engine.journal.append(RunsReleased(ns))
            self._engine.journal.kick()

    async def is_live(self, root_n: int) -> bool:
        """Does something of this tree run, whoever owns it?"""
        ports = self._engine.ports
        counts = await ports.reader.call(lambda: ports.store.count_by_status(root_n))
        return any(counts.get(status) for status in _LIVE)
