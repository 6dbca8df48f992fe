"""The children of one supervisor, in start order. Pure, and cheap enough for a million temporary children."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from supervisors.decision import Decision, affected, decide
from supervisors.errors import ChildExistsError, ChildNotFoundError
from supervisors.exits import Exit
from supervisors.spec import ChildId, Restart, Strategy

__all__ = ["ChildState", "ChildTable", "RestartPlan"]

H = TypeVar("H")


class ChildState(Enum):
    """Where a child stands (OTP's `which_children`: a pid, `restarting` or `undefined`)."""

    RUNNING = "running"
    RESTARTING = "restarting"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class RestartPlan(Generic[H]):
    """Whom to stop, then whom to start, to restart one child under a strategy.

    Attributes:
        stop: running siblings, newest first.
        start: the child and those of its siblings that come back, oldest first. Temporary siblings do not come back.
            Siblings that had ended before do, as OTP's `restart_multiple_children` has it.
    """

    stop: tuple[H, ...]
    start: tuple[H, ...]


class _Kept:
    """What is known of a child that is not temporary."""

    __slots__ = ("restart", "state")

    def __init__(self, restart: Restart) -> None:
        self.restart = restart
        self.state = ChildState.RUNNING


class ChildTable(Generic[H]):
    """An ordered table of children over opaque handles.

    It decides and remembers; starting and stopping is its owner's work. A handle is whatever the owner stands a child
    for; the table never looks into it. `add`, `get`, `remove` and `ended` take constant time.

    A temporary child is its handle and nothing else: it runs as long as it is in the table, and an end forgets it.
    Both dicts are allocated with their first child, the first is dropped with its last, so that a table without
    children is one small object.
    """

    __slots__ = ("_handles", "_kept")

    def __init__(self) -> None:
        self._handles: dict[ChildId, H] | None = None  # in start order; a restart keeps the place
        self._kept: dict[ChildId, _Kept] | None = None  # the children that are not temporary

    def __len__(self) -> int:
        return len(self._handles) if self._handles is not None else 0

    def __contains__(self, child_id: ChildId) -> bool:
        return self._handles is not None and child_id in self._handles

    def add(self, child_id: ChildId, handle: H, restart: Restart = Restart.TEMPORARY) -> None:
        """Add a running child as the newest. Raises `ChildExistsError` if the id is taken, even by an ended child."""
        handles = self._handles
        if handles is None:
            handles = self._handles = {}
        elif child_id in handles:
            raise ChildExistsError(child_id, is_running=self.state(child_id) is ChildState.RUNNING)
        handles[child_id] = handle
        if restart is not Restart.TEMPORARY:
            self._keep(child_id, restart)

    def get(self, child_id: ChildId) -> H | None:
        """The handle of a child, running or not; None if there is none."""
        return self._handles.get(child_id) if self._handles is not None else None

    def state(self, child_id: ChildId) -> ChildState:
        """Where a child stands. Raises `ChildNotFoundError`."""
        if child_id not in self:
            raise ChildNotFoundError(child_id)
        kept = self._kept.get(child_id) if self._kept is not None else None
        return ChildState.RUNNING if kept is None else kept.state

    def remove(self, child_id: ChildId) -> H:
        """Drop a child in whatever state, with its specification. Raises `ChildNotFoundError`."""
        handles = self._handles
        if handles is None or child_id not in handles:
            raise ChildNotFoundError(child_id)
        handle = handles.pop(child_id)
        if not handles:
            self._handles = None
        if self._kept is not None:
            self._kept.pop(child_id, None)
        return handle

    def ended(self, child_id: ChildId, exit: Exit) -> Decision:
        """Note that a child has ended and say what becomes of it. Raises `ChildNotFoundError`.

        A child to forget is gone from the table, one to restart is `RESTARTING` until `started` is called for it.
        """
        kept = self._kept.get(child_id) if self._kept is not None else None
        if kept is None:
            self.remove(child_id)
            return Decision.FORGET
        decision = decide(kept.restart, exit)
        kept.state = ChildState.RESTARTING if decision is Decision.RESTART else ChildState.TERMINATED
        return decision

    def started(self, child_id: ChildId) -> None:
        """Note that a child that had ended runs again, in its old place."""
        self._set_state(child_id, ChildState.RUNNING)

    def restarting(self, child_id: ChildId) -> None:
        """Note that a child could not be started and will be tried again."""
        self._set_state(child_id, ChildState.RESTARTING)

    def plan(self, strategy: Strategy, child_id: ChildId) -> RestartPlan[H]:
        """Say whom to stop and start for the restart of a child that has ended. Raises `ChildNotFoundError`."""
        handles = self._handles
        if handles is None or child_id not in handles:
            raise ChildNotFoundError(child_id)
        ids = affected(strategy, tuple(handles), child_id)
        running = (other for other in reversed(ids) if other != child_id and self.state(other) is ChildState.RUNNING)
        kept = self._kept or {}
        return RestartPlan(
            stop=tuple(handles[other] for other in running),
            start=tuple(handles[other] for other in ids if other in kept),
        )

    def start_order(self) -> Iterator[H]:
        """All children, oldest first. Children added or removed meanwhile do no harm: see `shutdown_order`."""
        return self._walk(tuple(self._handles or ()))

    def shutdown_order(self) -> Iterator[H]:
        """All children, newest first, as OTP stops them.

        Those there at the time of the call: children that are removed before their turn are left out, children that
        are added meanwhile do not come in.
        """
        return self._walk(tuple(reversed(self._handles or {})))

    def _walk(self, ids: tuple[ChildId, ...]) -> Iterator[H]:
        for child_id in ids:
            if self._handles is not None and child_id in self._handles:
                yield self._handles[child_id]

    def _keep(self, child_id: ChildId, restart: Restart) -> None:
        if self._kept is None:
            self._kept = {}
        self._kept[child_id] = _Kept(restart)

    def _set_state(self, child_id: ChildId, state: ChildState) -> None:
        kept = self._kept.get(child_id) if self._kept is not None else None
        if kept is None:
            raise ChildNotFoundError(child_id)
        kept.state = state
