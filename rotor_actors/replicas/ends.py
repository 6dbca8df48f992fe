"""The end of a run that another replica owned: its parent here is told, and so is whoever watches it."""

from __future__ import annotations

import logging

import msgspec

from rotor_actors.errors import StoreCorruptedError
from rotor_actors.kernel import Kernel
from rotor_actors.loading import child_outcome
from rotor_actors.messages import StepEnded
from rotor_actors.records import EndSeen, RunFlag, RunRow
from rotor_actors.replicas.remote import RemoteRuns, tell_waiters
from rotor_actors.run import Phase, Run
from rotor_actors.stores.shared import Mail

_logger = logging.getLogger("rotor_actors")

_NOT_THE_PARENTS = RunFlag.RELEASED | RunFlag.WITHDRAWN


class Ends:
    """Handles mail of kind ENDED. It names a run, no more: what became of that one its row says."""

    def __init__(self, kernel: Kernel, remote: RemoteRuns) -> None:
        self._kernel = kernel
        self._remote = remote
        self._rows: dict[int, RunRow] = {}
        self._damaged: set[int] = set()

    async def prepare(self, mails: list[Mail]) -> None:
        """Read the rows of the runs that have ended."""
        ns = sorted({_n_of(mail) for mail in mails})
        try:
            rows, damaged = await self._read(ns), set[int]()
        except StoreCorruptedError:
            rows, damaged = await self._read_one_by_one(ns)
        self._damaged = damaged
        self._rows = {row.n: row for row in rows}

    async def _read(self, ns: list[int]) -> list[RunRow]:
        ports = self._kernel.ports
        return await ports.reader.call(lambda: ports.store.rows(ns))

    async def _read_one_by_one(self, ns: list[int]) -> tuple[list[RunRow], set[int]]:
        """One damaged row must not keep the others waiting: its parent waits, until a backup is restored."""
        found, damaged = list[RunRow](), set[int]()
        for n in ns:
            try:
                found += await self._read([n])
            except StoreCorruptedError as error:
                damaged.add(n)
                if n not in self._damaged:  # the mail is looked at again each second
                    _logger.error("run %d has ended, and nobody can be told: %s", n, error)
        return found, damaged

    def handle(self, mail: Mail, run: Run | None) -> bool | None:
        """Tell the parent, in its own order: on replay the end comes at the place that it gets here."""
        n = _n_of(mail)
        row = self._rows.get(n)
        if n in self._damaged:
            return False
        if row is None or not row.status.is_terminal:
            return None  # it was deleted, or brought back meanwhile: there will be another end
        if run is None:
            self._remote.ended(row)
        elif not run.is_doomed:
            self._end_stub(run, row)
            self._kernel.features.ended_elsewhere(run, row)
        return None

    def _end_stub(self, parent: Run, row: RunRow) -> None:
        """Duplicates, and the ends of children that were let go of, find no stub, or one that nobody awaits."""
        stub = self._kernel.tree.get(row.n)
        if stub is None or stub.phase is not Phase.REMOTE or stub.parent is not parent:
            return
        key, is_awaited = stub.row.parent_key, stub.is_owned and not row.flags & _NOT_THE_PARENTS
        stub.row = row
        if is_awaited and key is not None:
            journal = self._kernel.journal
            row.end_seq = journal.next_seq
            journal.append(EndSeen(row.n, row.end_seq))
            self._kernel.progressed(parent)
            ended_at = row.ended_at or 0.0
            parent.post(StepEnded(key, child_outcome(row), row.end_seq, ended_at, row.run_id, row.workflow_id))
        self._kernel.tree.remove(stub)
        tell_waiters(stub)


def _n_of(mail: Mail) -> int:
    return msgspec.msgpack.decode(mail.body or b"\x00", type=int)
