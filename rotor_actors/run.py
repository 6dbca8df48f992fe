"""A run in memory: a node of the run tree, with its row, its mailbox and, while it is loaded, its actor."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import partial
from typing import Any, Protocol

from rotor_actors.budget_node import BudgetNode
from rotor_actors.mailbox import Mailbox
from rotor_actors.messages import AttemptDue, Interrupt, Known, Message
from rotor_actors.records import History, RunFlag, RunRow
from rotor_actors.workflows import Workflow
from supervisors import ChildTable

_NOT_OWNED = RunFlag.RELEASED | RunFlag.WITHDRAWN


class Phase(Enum):
    """What must happen before a run can take its next message."""

    HELD = "held"
    """Queued for admission, or its workflow is not registered: nothing, for now."""
    FRESH = "fresh"
    """Nothing is recorded of it: its body can begin."""
    STORED = "stored"
    """Its history must be loaded."""
    LOADING = "loading"
    LOADED = "loaded"
    ACTIVE = "active"
    REMOTE = "remote"
    """Another replica owns it, or nobody does: it stands here, without a life of its own, as a child of a run that is
    ours. What becomes of it comes by mail."""
    ENDED = "ended"


class Actor(Protocol):
    """The live attempt of a run."""

    def go_on(self, is_over: Callable[[], bool]) -> bool: ...

    def alarm(self, now: float) -> None: ...


class UnderWay(Protocol):
    """What is waited for, and must end with the runtime."""

    def cut_off(self) -> None: ...


class Canceller(UnderWay, Protocol):
    """What cancels a run, and waits for it to clean up."""

    done: asyncio.Future[Any]
    seq: int
    report: Any
    elsewhere: Any
    """What was asked of other replicas, if anything was."""

    def step_gone(self, step: Any, error: BaseException | None) -> None: ...

    def cleaned_up(self, run: Run, task: asyncio.Future[Any]) -> None: ...


class RunHost(Protocol):
    """Whom a run asks to be driven."""

    def queue(self, run: Run) -> None: ...

    def drive(self, run: Run, is_over: Callable[[], bool]) -> bool: ...

    def alarm(self, run: Run, now: float) -> None: ...


class Run:
    """One run that has not ended. Its children stand in its `ChildTable`: the run tree is the supervision tree."""

    __slots__ = (
        "actor", "budget", "caller_context", "cancellation", "children", "cleaning", "context", "context_of_turn", "history",
        "history_seq", "host", "is_doomed", "is_queued", "mailbox", "owns_items", "parent", "phase", "row", "seen_seq",
        "waiters", "waiting", "workflow",
    )  # fmt: skip

    def __init__(self, host: RunHost, row: RunRow, parent: Run | None, phase: Phase) -> None:
        self.host = host
        self.row = row
        self.budget: BudgetNode | None = None
        """The budget that it lives by, its own or one from above."""
        self.parent = parent
        self.phase = phase
        self.workflow: Workflow[Any, Any] | None = None
        self.children: ChildTable[Run] | None = None
        self.mailbox: Mailbox | None = None
        self.actor: Actor | None = None
        # What each attempt begins with, as it was where the run was started or invoked; unknown after a recovery.
        self.caller_context: contextvars.Context | None = None
        self.context: contextvars.Context | None = None
        self.context_of_turn: contextvars.Context | None = None
        self.history: History | None = None
        self.history_seq = 0
        # The steps that had begun with a feature when its history was read.
        self.waiting: dict[bytes, Known] | None = None
        # There are, or were, items in the store that go with its end.
        self.owns_items = False
        self.waiters: list[asyncio.Future[RunRow]] | None = None
        self.cancellation: Canceller | None = None
        # Cancellers of its children (withdrawn, or left by a child that ended) that are still under way.
        self.cleaning: dict[Canceller, None] | None = None
        # Cancelled, though it may still be cleaning up: nothing it does is recorded any more, no child is admitted.
        self.is_doomed = False
        self.is_queued = False
        # Newest entry in its causal past: what must be durable before any effect of this run.
        self.seen_seq = 0

    @property
    def where(self) -> str:
        return f"run {self.row.run_id} of workflow {self.row.workflow_id!r}"

    def __str__(self) -> str:
        return self.where

    @property
    def is_owned(self) -> bool:
        """Its parent awaits it: its end is the parent's to know. Not that of whoever adopted it."""
        parent = self.parent
        return parent is not None and parent.row.n == self.row.parent_n and not self.row.flags & _NOT_OWNED

    def snapshot(self) -> RunRow:
        row: RunRow = self.row.copy()
        return row

    def add_cleaning(self, cancellations: Iterable[Canceller]) -> None:
        """These are under way below; cancelling this run waits for them."""
        if self.cleaning is None:
            self.cleaning = {}
        for cancellation in cancellations:
            if not cancellation.done.done():
                self.cleaning[cancellation] = None
                cancellation.done.add_done_callback(partial(self._is_clean, cancellation))

    def _is_clean(self, gone: Canceller, _: object) -> None:
        if self.cleaning is not None:
            self.cleaning.pop(gone, None)

    def context_for_children(self) -> contextvars.Context | None:
        """A copy of what its body sees, one for all that it spawns before it goes on: what it sets later is its own."""
        if self.context_of_turn is None and self.context is not None:
            self.context_of_turn = self.context.copy()
        return self.context_of_turn

    # The mailbox

    def open_mailbox(self) -> Mailbox:
        """Made when first needed: of a great fan-out most runs have not begun and have no messages."""
        if self.mailbox is None:
            self.mailbox = Mailbox()
        return self.mailbox

    def post(self, message: Message | AttemptDue) -> None:
        if self.phase is Phase.ENDED or self.is_doomed:
            return  # a dead letter: the sender's entry says all there is to say
        mailbox = self.mailbox
        if mailbox is None:
            mailbox = self.mailbox = Mailbox()
        mailbox.post(message)
        if not self.is_queued:
            self.host.queue(self)

    def post_control(self, message: Interrupt) -> None:
        self.open_mailbox().post_control(message)
        self.host.queue(self)

    def go_on(self, is_over: Callable[[], bool]) -> bool:
        return self.host.drive(self, is_over)

    def alarm(self, now: float) -> None:
        self.host.alarm(self, now)

    # The tree

    def add_child(self, key: bytes, child: Run) -> None:
        if self.children is None:
            self.children = ChildTable()
        self.children.add(key, child)

    def child(self, key: bytes) -> Run | None:
        return None if self.children is None else self.children.get(key)

    def drop_child(self, key: bytes, child: Run) -> None:
        if self.children is not None and self.children.get(key) is child:
            self.children.remove(key)

    def each_child(self) -> Iterator[Run]:
        """Running children, newest first."""
        return iter(()) if self.children is None else self.children.shutdown_order()


def subtree(tops: list[Run]) -> list[Run]:
    """The runs and all that run below them, parents before children; iterative, for a tree may be deep."""
    found = list(tops)
    for run in found:
        found.extend(child for child in run.each_child() if not child.is_doomed)
    return found
