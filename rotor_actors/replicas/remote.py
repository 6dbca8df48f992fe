"""Runs that other replicas own, as they stand here: stubs of our runs' children, and stand-ins for who is waited for."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rotor_actors.kernel import Kernel
from rotor_actors.records import (
    CancelNote,
    CancelRequested,
    Entry,
    FlagsAdded,
    MailKind,
    MailSent,
    RunFlag,
    RunRow,
    RunWatched,
)
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing

_NOT_AWAITED = RunFlag.RELEASED | RunFlag.WITHDRAWN


class RemoteRuns:
    """A **stub** stands in the tree as a child of a run of ours; it is there for as long as that one awaits, or may
    cancel, it. A **stand-in** is a run that is no such child, and that somebody here waits for: it is in no tree.

    Neither has a life of its own: what becomes of them comes by mail, and nothing but their owner changes their rows.
    """

    def __init__(self, kernel: Kernel, sharing: Sharing) -> None:
        self._kernel = kernel
        self._sharing = sharing
        self._stand_ins: dict[int, Run] = {}
        self._on_end: dict[int, list[Callable[[RunRow], None]]] = {}
        self._crossed: set[int] = set()
        """Live runs of ours below which there is, or was, a stub."""

    @property
    def address(self) -> int:
        """Of this replica, for mail."""
        return -self._sharing.replica

    # Stubs

    def stub(self, row: RunRow, parent: Run) -> Run:
        """A child of a run of ours that somebody else owns, or nobody."""
        self._cross(parent)
        stub = Run(self._kernel, row, parent, Phase.REMOTE)
        self._kernel.tree.add(stub)
        return stub

    def give_up(self, run: Run) -> None:
        """A run of ours is released by the entry that was appended last: what is left of it here is a stub, if a
        parent of ours awaits it, or a stand-in, if somebody waits for it."""
        kernel = self._kernel
        kernel.timers.discard(run)
        run.phase, run.actor, run.mailbox, run.history, run.workflow = Phase.REMOTE, None, None, None, None
        self._cross(run.parent)
        if run.parent is None or run.parent.row.n != run.row.parent_n:
            self.drop(run)
        elif run.row.flags & _NOT_AWAITED:
            self._watch_for_parent(run)

    def parent_ended(self, run: Run) -> None:
        """A run of ours has ended. What it leaves behind elsewhere stands under nobody here: whoever cancels a run
        above it looks for such in the store."""
        self._crossed.discard(run.row.n)
        if run.children:
            for child in tuple(run.each_child()):
                if child.phase is Phase.REMOTE:
                    self.drop(child)

    def drop(self, stub: Run) -> None:
        """No run of ours is its parent any more. Who waits for it here goes on waiting."""
        self._kernel.tree.remove(stub)
        stub.parent = None
        if stub.waiters and stub.row.n not in self._stand_ins:
            self._stand_ins[stub.row.n] = stub
            self._kernel.journal.append(RunWatched(stub.row.n, self.address))
            self._kernel.journal.kick()

    def drop_all(self, stubs: list[Run]) -> None:
        for stub in stubs:
            stub.is_doomed = True
            self.drop(stub)

    def withdraw(self, parent: Run, stub: Run, reason: str) -> None:
        """The scope that awaited it was cancelled: that is no outcome, and the same key may be invoked again, at once."""
        self._kernel.append(parent, self.cancel_entries([stub.row.n], reason, stub.row.n)[0])
        self.drop_all([stub])

    def let_go(self, stub: Run) -> list[Entry]:
        """Its parent timed out on it: what tells its owner so, and has the parent told of its end all the same."""
        n = stub.row.n
        stub.row.flags |= RunFlag.RELEASED
        parent_n = stub.row.parent_n or 0
        return [FlagsAdded(n, RunFlag.RELEASED), MailSent(n, MailKind.RELEASE), RunWatched(n, parent_n)]

    def _watch_for_parent(self, stub: Run) -> None:
        """Its end is nothing to its parent, but the stub shall go with it."""
        if stub.row.parent_n is not None:
            self._kernel.journal.append(RunWatched(stub.row.n, stub.row.parent_n))

    # Waiting

    def stand_in(self, row: RunRow) -> Run:
        """What waiters of a run elsewhere can be added to. A mail to this replica says when it has ended."""
        found = self._stand_ins.get(row.n)
        if found is None:
            found = self._stand_ins[row.n] = Run(self._kernel, row, None, Phase.REMOTE)
            self._kernel.journal.append(RunWatched(row.n, self.address))
            self._kernel.journal.kick()
        return found

    def when_ended(self, n: int, tell: Callable[[RunRow], None]) -> None:
        """Have `tell` called with the row, once, when a mail to this replica says that the run has ended.

        Who asks for that appends `RunWatched(n, address)`.
        """
        self._on_end.setdefault(n, []).append(tell)

    def no_longer(self, n: int, tell: Callable[[RunRow], None]) -> None:
        """`tell` need not be called any more: a run may live for years, and be asked something each second."""
        tells = self._on_end.get(n, [])
        if tell in tells:
            tells.remove(tell)
        if not tells:
            self._on_end.pop(n, None)

    @property
    def awaited_ends(self) -> int:
        """How many want to be told of an end."""
        return sum(map(len, self._on_end.values()))

    def ended(self, row: RunRow) -> None:
        """A run that was watched for this replica has ended, durably."""
        stand_in = self._stand_ins.pop(row.n, None)
        if stand_in is not None:
            stand_in.row = row
            tell_waiters(stand_in)
        for tell in self._on_end.pop(row.n, ()):
            tell(row)

    # What is appended for runs elsewhere

    def end_entries(self, run: Run) -> list[Entry]:
        """A run of ours ends whose parent is not in our tree: what tells that one's owner, in the same entry. The row
        is marked, too."""
        row = run.row
        if run.parent is not None or row.parent_n is None or row.parent_key is None or row.flags & _NOT_AWAITED:
            return []
        row.flags |= RunFlag.UNSEEN
        return [MailSent(row.parent_n, MailKind.ENDED, msgspec.msgpack.encode(row.n))]

    def cancel_entries(self, ns: list[int], reason: str, withdrawn: int | None = None) -> list[Entry]:
        """What has runs elsewhere cancelled, whoever owns them."""
        note = msgspec.msgpack.encode(CancelNote(reason, withdrawn is not None))
        return [CancelRequested(ns, note, withdrawn)]

    # Which runs have borders below them

    def may_have_crossed(self, run: Run) -> bool:
        """Runs below this one may be, or may have been, with other replicas: there may be some that nobody knows here."""
        return run.row.n in self._crossed or run.row.n >> 32 != self._sharing.replica

    def _cross(self, run: Run | None) -> None:
        while run is not None and run.row.n not in self._crossed:
            self._crossed.add(run.row.n)
            run = run.parent


def tell_waiters(run: Run) -> None:
    """Give the row, which is durable, to whoever awaits the end."""
    waiters, run.waiters = run.waiters, None
    for waiter in waiters or ():
        if not waiter.done():
            waiter.set_result(run.snapshot())
