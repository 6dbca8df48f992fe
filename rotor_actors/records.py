"""What is written down: run rows, journal rows, and the entries that carry them to the store.

Records outlive programs: new fields get defaults, old ones never change their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, TypeAlias

import msgspec


class RunStatus(StrEnum):
    """Where a run stands. Queued, then running, then one of the three ends."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class Kind(StrEnum):
    """What a journal row tells of: the outcome of a step (run, invoke, sleep), or an event in the run's life."""

    RUN = "run"
    INVOKE = "invoke"
    SLEEP = "sleep"
    CHARGE = "charge"
    """Spending units of a budget."""
    START = "start"
    """Starting a run that is not a child."""
    JOIN = "join"
    """Waiting for the end of a run that is not a child, or not any more."""
    CANCEL = "cancel"
    """Cancelling another run."""
    UNDO = "undo"
    """How the step of this key is undone, once it has completed: `target` names the function."""
    MAP = "map"
    """A map was begun: its children are invokes whose keys begin with this one. It has no outcome of its own."""
    WAIT_FOR_EVENT = "wait-for-event"
    WAIT_FOR_SIGNAL = "wait-for-signal"
    SEND_EVENT = "send-event"
    TIMER = "timer"
    """A timer of the body fired; `target` is its number."""
    STEP_RETRY = "step-retry"
    """A step's body failed and is tried again at `due`."""
    ATTEMPT = "attempt"
    """An attempt of the run failed; `payload` names the step outcomes to be forgotten."""
    TRANSACTION = "transaction"
    """A step whose body ran within the store's own transaction."""
    PATCH = "patch"
    """The code was changed at `ctx.patched(step_id)`, and this run goes the new way."""
    FAILURE = "failure"
    """The run failed for good; `payload` names the step outcomes that ended it, should it be resumed."""

    @property
    def is_outcome(self) -> bool:
        """It tells how a step ended; the others tell of events in the run's life."""
        return self not in (Kind.TIMER, Kind.STEP_RETRY, Kind.ATTEMPT, Kind.MAP, Kind.UNDO, Kind.FAILURE, Kind.PATCH)

    @property
    def outlives_process(self) -> bool:
        """What such a step began is still there after a crash: a child, or an item. It has to be taken back."""
        return self not in (Kind.RUN, Kind.TRANSACTION, Kind.SLEEP)


class OutcomeStatus(StrEnum):
    """How a step ended. For an invoke, timed out says that the parent let go and the child ran on."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class RunFlag(IntEnum):
    """Marks on a run row, which holds their sum. Plain integers: what `enum.Flag` does for each `&` is felt."""

    NONE = 0
    RELEASED = 1
    """Its parent timed out on it: its end goes to nobody, and it runs on when the parent ends."""
    ABANDON = 2
    """Invoked with `on_parent_close="abandon"`."""
    WITHDRAWN = 4
    """Cancelled by the scope that awaited it: no outcome; the same key may be invoked again."""
    DIVERGED = 8
    """A replay asked for other steps than the record holds: the workflow's code has changed under it."""
    HANDLER = 16
    """An `on_failure` or `on_cancel` handler of another run, or what undoes its steps."""
    STARTED = 64
    """Started by `step.start` of another run, which `parent_run_id` names: linked to it, and nothing else."""
    UNDOABLE = 128
    """Some step of it says how it is undone: if it fails or is cancelled, a run of its own does that."""
    REPORTS = 256
    """It has reported something of itself, which its replay must not report again."""
    UNSEEN = 512
    """Many replicas: it has ended, and its parent, which another replica owns, has not been told: to the parent it runs."""
    WHOLE = 1024
    """Many replicas: its tree is owned by one replica, because something in memory belongs to all of it (a budget)."""
    DAMAGED = 32
    """The store found that a payload does not match its checksum, and left the payloads out."""


STICKY_FLAGS = RunFlag.RELEASED | RunFlag.WITHDRAWN
"""What a parent says of a child that another replica owns: a snapshot of that replica's, which may be older, keeps it."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a step ended, as stored.

    `payload` is the encoded result when completed, the encoded `RecordedError` when failed (of a child: its
    `ErrorInfo`), the encoded reason when cancelled, and the encoded timeout in seconds when timed out.
    """

    status: OutcomeStatus
    payload: bytes | None = None


class RunRow(msgspec.Struct, gc=False):
    """One run. `n` numbers runs in the order of their creation and is what rows are clustered by."""

    n: int
    run_id: str
    workflow_id: str
    root_n: int
    root_run_id: str
    created_at: float
    parent_n: int | None = None
    parent_run_id: str | None = None
    parent_key: bytes | None = None
    parent_step_id: str | None = None
    generation: int = 1
    depth: int = 0
    input: bytes | None = None
    headers: bytes | None = None
    retries: bytes | None = None
    """The retry policy given with the invoke, encoded; None for the workflow's own."""
    timeout: float | None = None
    """After how many seconds the parent's invoke times out; None where nobody awaits."""
    version: str | None = None
    """Of the workflow when the run was created; None where it names none."""
    origin_run_id: str | None = None
    """The run that this one was restarted or forked from."""
    event: bytes | None = None
    """The encoded `EventNote` of a run that an event or a schedule started; its input is the event's data, as sent."""

    status: RunStatus = RunStatus.RUNNING
    attempt: int = 1
    attempt_seq: int = 0
    """Newest entry before the current attempt: rows up to it are memo, later ones are this attempt's record."""
    attempt_at: float | None = None
    """When the current attempt began; None while queued or waiting to be retried."""
    wake_at: float | None = None
    """When a run at rest is due next."""
    rest_seq: int = 0
    """Newest entry that a run at rest, without a step in flight, has seen; 0 while it is not."""
    recoveries: int = 0
    """How often in a row it was recovered without getting any further."""
    ended_at: float | None = None
    end_seq: int | None = None
    result: bytes | None = None
    error: bytes | None = None
    flags: int = 0
    deadline: float | None = None
    """When the parent's invoke times out; None where nobody awaits."""
    attempts_before: int = 0
    """How many attempts it had when it was resumed last: its retries count from there."""

    # `copy.copy`, which is felt on the path of each run, without its search for how to copy.
    copy: ClassVar[Any] = msgspec.Struct.__copy__  # type: ignore[attr-defined]


class StepRow(msgspec.Struct, gc=False):
    """One row of a run's journal."""

    n: int
    at: float
    kind: Kind
    key: bytes = b""
    step_id: str = ""
    target: str = ""
    status: OutcomeStatus = OutcomeStatus.COMPLETED
    payload: bytes | None = None
    began_at: float | None = None
    attempts: int = 1
    due: float | None = None
    seq: int = 0


class ChildRow(msgspec.Struct, gc=False):
    """What a parent's replay needs to know of a child: the child's row is the memo of its invoke."""

    n: int
    parent_n: int
    run_id: str
    workflow_id: str
    key: bytes
    generation: int
    status: RunStatus
    flags: int
    ended_at: float | None
    end_seq: int | None
    result: bytes | None
    error: bytes | None


class EventNote(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an event beside its data."""

    name: str
    id: str
    at: float


class ItemRow(msgspec.Struct, gc=False):
    """A durable register: what a feature keeps beside the runs' histories (who waits for what, what is scheduled).

    `n` is the run that owns it: it goes with that run's end. `ord` and then `key` are the order in which a space is
    read. `due` is for `ItemsExpired`, and for whoever reads it. The store keeps `body` with a checksum.
    """

    space: str
    key: str
    body: bytes | None = None
    n: int | None = None
    ord: int = 0
    due: float | None = None
    is_damaged: bool = False
    """Never stored. The body does not match its checksum, and was left out."""


class History(msgspec.Struct):
    """What is recorded of a run: journal rows in their order, and its children.

    Without the ends of the children of maps: of those there may be millions, and they are read page by page
    (`Store.child_ends`).
    """

    steps: list[StepRow]
    children: list[ChildRow]


class RunCreated(msgspec.Struct, tag=True, gc=False):
    run: RunRow
    seq: int = 0


class RunAmended(msgspec.Struct, tag=True, gc=False):
    """A snapshot of a run row that has not begun: its input, headers and event are others now."""

    run: RunRow
    seq: int = 0


class RunChanged(msgspec.Struct, tag=True, gc=False):
    """A snapshot of a run row; only the fields from `status` on can have changed."""

    run: RunRow
    seq: int = 0


class StepRecorded(msgspec.Struct, tag=True, gc=False):
    step: StepRow
    seq: int = 0


class RunsCancelled(msgspec.Struct, tag=True):
    """Runs that became cancelled together; `withdrawn` is among them when its awaiting scope was cancelled."""

    ns: list[int]
    at: float
    error: bytes | None
    withdrawn: int | None = None
    seq: int = 0


class RunRested(msgspec.Struct, tag=True, gc=False):
    """A hint: the run is at rest, so recovery need not replay it before `wake_at` or a message."""

    n: int
    rest_seq: int
    wake_at: float | None
    seq: int = 0


class ItemPut(msgspec.Struct, tag=True, gc=False):
    """The item is as it stands here; one of that space and key was replaced."""

    item: ItemRow
    seq: int = 0


class ItemDropped(msgspec.Struct, tag=True, gc=False):
    """The item is gone; there need not have been one."""

    space: str
    key: str
    seq: int = 0


class ItemsDropped(msgspec.Struct, tag=True):
    """All items that these runs own are gone: they have ended."""

    ns: list[int]
    seq: int = 0


class ItemsExpired(msgspec.Struct, tag=True, gc=False):
    """All items of the space that were due at `upto` or before are gone."""

    space: str
    upto: float
    seq: int = 0


class RunsDeleted(msgspec.Struct, tag=True):
    """Runs that have ended are gone, with all that is recorded of them."""

    ns: list[int]
    seq: int = 0


# What only stores for many replicas know (`stores.shared`).


class MailKind(StrEnum):
    """What a message says that crosses replicas."""

    ENDED = "ended"
    """To a parent, or to whoever watches: the run whose number is the body has ended."""
    CANCEL = "cancel"
    """To a run: it is to be cancelled; its row says so, too."""
    RELEASE = "release"
    """To a child: its parent timed out on it."""
    EVENT = "event"
    SIGNAL = "signal"
    START = "start"
    LEFT = "left"
    """To the coordinator: the run whose number is the body has left its line."""
    LINE = "line"
    """To the coordinator: something of a line of flow control; see `flow.notes`."""
    TURN = "turn"
    """To a run that waits in a line: it may begin, or never will."""
    REPLY = "reply"


COORDINATOR = 0
"""The address of whichever replica is the coordinator. A run's address is its number, a replica's its own, negative."""


class MailSent(msgspec.Struct, tag=True, gc=False):
    """A message for what another replica owns. One to a run that has ended, or a replica that is gone, is dropped.

    `once`: a name that no other message which is still there has; only in a conditional commit.
    """

    to: int
    kind: MailKind
    body: bytes | None = None
    once: str | None = None
    seq: int = 0


class MailTaken(msgspec.Struct, tag=True):
    """The messages of these numbers were acted on, by what is in the same entry."""

    ids: list[int]
    seq: int = 0


class RunsReleased(msgspec.Struct, tag=True):
    """These runs have no owner any more: any replica that can run them may claim them.

    `is_parked`: not before their `wake_at`, or a message to them. `to_coordinator`: only the coordinator may.
    """

    ns: list[int]
    is_parked: bool = False
    to_coordinator: bool = False
    seq: int = 0


class CancelRequested(msgspec.Struct, tag=True):
    """Whoever owns these runs, or claims them, is to cancel them; those that have ended stay as they are.

    `body` is the encoded `CancelNote`; each gets a message of kind CANCEL with it. `withdrawn` is marked so at once,
    also if it has ended and its parent has not been told (`RunFlag.UNSEEN`): to that one it still ran.
    """

    ns: list[int]
    body: bytes
    withdrawn: int | None = None
    seq: int = 0


class CancelNote(msgspec.Struct, frozen=True):
    reason: str = ""
    is_withdrawn: bool = False


class FlagsAdded(msgspec.Struct, tag=True, gc=False):
    """Marks on a run that this replica need not own."""

    n: int
    flags: int
    seq: int = 0


class EndSeen(msgspec.Struct, tag=True, gc=False):
    """The parent of run `n` has been told of its end: in its journal, the end stands at `end_seq`."""

    n: int
    end_seq: int
    seq: int = 0


class RunWatched(msgspec.Struct, tag=True, gc=False):
    """When run `n` ends, `to` gets a message of kind ENDED; at once, if it has ended."""

    n: int
    to: int
    seq: int = 0


SharedFact: TypeAlias = MailSent | MailTaken | RunsReleased | CancelRequested | FlagsAdded | EndSeen | RunWatched


class Together(msgspec.Struct, tag=True):
    """Entries of which a crash leaves all or none."""

    entries: list[Entry]
    seq: int = 0


ItemFact: TypeAlias = ItemPut | ItemDropped | ItemsDropped | ItemsExpired
Fact: TypeAlias = (
    RunCreated
    | RunAmended
    | RunChanged
    | StepRecorded
    | RunsCancelled
    | RunRested
    | RunsDeleted
    | ItemFact
    | SharedFact
)
Entry: TypeAlias = Fact | Together


def flatten(entries: list[Entry]) -> Iterator[Fact]:
    """The entries in order, groups opened."""
    for entry in entries:
        if isinstance(entry, Together):
            yield from flatten(entry.entries)
        else:
            yield entry
