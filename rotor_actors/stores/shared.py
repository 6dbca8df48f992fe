"""What a store must do that many replicas share: every rule that keeps them apart is the database's to enforce.

A **replica** is one opening of the store by one process: an incarnation. Its number is never used again and is its
fence token. It holds a lease; each commit is refused as a whole once the replica's row is gone. A run has one owner, or
none; only its owner records anything of it. What concerns a run that another replica owns is a message (`MailSent`).

`tests/stores/shared_conformance.py` says the same in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

import msgspec

from rotor_actors.records import Entry, ItemRow, MailKind, RunRow
from rotor_actors.stores.base import LiveRun, Store, StoreReader, StoreView

LEASE_SECONDS = 10.0
RUNS_PER_CLAIM = 500
SHELL_LABEL = "shell "
"""What the label of a replica begins with that is there for a run of its own (`rotor run`)."""


class Declared(msgspec.Struct, frozen=True):
    """A workflow that a replica can run, and of which versions; None for any."""

    workflow_id: str
    versions: tuple[str, ...] | None = None

    def fits(self, row: RunRow) -> bool:
        """A run that names no version is anybody's who has the workflow."""
        if row.workflow_id != self.workflow_id:
            return False
        return self.versions is None or row.version is None or row.version in self.versions

    def covers(self, other: Declared) -> bool:
        """Whoever declares this can run all that whoever declares the other can."""
        if other.workflow_id != self.workflow_id:
            return False
        return self.versions is None or (other.versions is not None and set(other.versions) <= set(self.versions))


class ReplicaRow(msgspec.Struct):
    """A replica as it stands in the database; times are the database's.

    `owned` is how many live runs it owns. `is_coordinator`: what belongs to all replicas (lines, events, schedules) is
    in its hands.
    """

    number: int
    label: str
    began_at: float
    lease_until: float
    declared: list[Declared] = []
    is_coordinator: bool = False
    is_draining: bool = False
    owned: int = 0


class ClaimQuery(msgspec.Struct, frozen=True):
    """How many runs to claim at most, and whether to become the coordinator where there is none."""

    limit: int = RUNS_PER_CLAIM
    coordinates: bool = True


class Claimed(msgspec.Struct):
    """A run that is this replica's now. `cancel` is the encoded `CancelNote` of a cancellation that has yet to be done.

    `begins`: it is a child that was left to others when it was created. From now on its row says that it runs, since
    this moment by the database's clock; nothing else is recorded of it, and nothing stands below it. `is_below`: its
    parent had not ended.
    """

    live: LiveRun
    cancel: bytes | None = None
    begins: bool = False
    is_below: bool = False


class Claim(msgspec.Struct):
    """What a claim led to: the runs by depth and number, parents before children."""

    runs: list[Claimed] = []
    is_coordinator: bool = False


class Mail(msgspec.Struct):
    """A message that is there for this replica: for a run that it owns, for itself, or for the coordinator if it is."""

    id: int
    to: int
    kind: MailKind
    body: bytes | None = None


class RemoteChild(msgspec.Struct):
    """A child that has not ended, or whose end its parent has not seen; `owner` is the replica that owns it."""

    row: RunRow
    owner: int | None


class OwnershipCount(msgspec.Struct):
    """How many live runs of a workflow and version nobody owns, and how many of them no live replica can run."""

    workflow_id: str
    version: str | None
    unowned: int
    parked: int
    is_declared: bool


class SharedReader(StoreReader, Protocol):
    """What can be asked beside the runs, by any replica and by whoever only looks."""

    def replicas(self) -> list[ReplicaRow]:
        """Those that have a row, by number: their lease may have run out."""
        ...

    def owners(self, ns: list[int]) -> dict[int, int | None]:
        """The owner of each of the runs that are there; None for one that has none."""
        ...

    def unowned(self) -> list[OwnershipCount]:
        """Live runs without an owner, by workflow and version."""
        ...


class SharedView(StoreView, SharedReader, Protocol):
    """A shared store as seen by somebody who is no replica."""

    def replica_store(self) -> Any:
        """What `Runtime` takes to open the same: whoever only looks is a replica while it tells runs something."""
        ...


class SharedStore(Store, SharedReader, Protocol):
    """See the module. Blocking calls, as all of a store's; `beat` may be made by a thread of its own at any time.

    `open` registers a new replica: `replica` is its number. `last_numbers` gives `(replica << 32, 0)`: the numbers of
    the runs that it creates are its own. Its entries are numbered by itself; the newest entry of what it claims it must
    have seen first (`Journal.witness`), so that they grow within each run.

    `commit`, `try_commit`, `claim`, `take`, `declare`, `drain` and `transact` raise ReplicaFencedError and change
    nothing once the replica's row is gone. `close` releases all that it owns and takes its row away, at once.

    Of a child whose end its parent has not seen (`RunFlag.UNSEEN`), `histories` and `child_ends` say that it runs.
    """

    lease: float
    """Seconds."""

    @property
    def replica(self) -> int: ...

    def again(self) -> SharedStore:
        """Another way to the same database, closed, for the next life of a replica that was lost.

        A call of the lost one may still be under way, or wait for its turn, in a thread that hangs: it must come to the
        old number, which is fenced, never to the new one.
        """
        ...

    def declare(self, label: str, declared: list[Declared]) -> None:
        """Say what this replica is called, and what it can run: it claims nothing else."""
        ...

    def beat(self) -> float | None:
        """Renew the lease; gives the database's time, None if the replica's row is gone: it must stop at once."""
        ...

    def reap(self) -> int:
        """Take away the rows of replicas whose lease has run out, then the ownership of runs, and the coordination,
        of whoever has no row; two statements. Gives how many runs were freed. Messages to nobody are dropped."""
        ...

    def claim(self, query: ClaimQuery) -> Claim:
        """Own runs that nobody owns, that this replica can run, and that are due: not parked, or their `wake_at` has
        passed, or a message or a cancellation waits for them. One whose cancellation waits is also given to a replica
        that cannot run it, if none can. Of a tree that is marked WHOLE, all at once, whatever the limit.
        """
        ...

    def take(self, ns: list[int]) -> list[LiveRun]:
        """Own these runs, which nobody owns, whether they have ended or not: to bring them back. All, or none."""
        ...

    def mail(self, after: int, limit: int) -> list[Mail]:
        """What is there for this replica, by number, from behind `after`. It stays until `MailTaken`."""
        ...

    def remote_children(self, ns: list[int]) -> list[RemoteChild]:
        """The children of these runs that run, to them: whoever owns them."""
        ...

    def items_of(self, ns: list[int]) -> list[ItemRow]:
        """The items that these runs own, in order of space, `ord` and `key`."""
        ...

    def try_commit(self, entries: list[Entry]) -> bool:
        """Commit, unless a run id is taken already, or the `once` of a message: then change nothing and say False."""
        ...

    def drain(self) -> None:
        """Shown to others: this replica is about to close, and claims nothing more."""
        ...

    def listen(self, hint: Callable[[], None]) -> None:
        """Call `hint`, from any thread, when there may be mail, or runs to claim. It may be lost, late, or for nothing.
        To be called before `open`; it holds for this opening."""
        ...


def is_shared(store: Store) -> bool:
    """May several replicas open it at a time?"""
    return hasattr(store, "claim")


def is_shared_view(store: StoreView) -> TypeGuard[SharedView]:
    """Is it the view of a store that several replicas may open?"""
    return hasattr(store, "replica_store")
