"""What one can see of a supervisor's children from outside: snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from supervisors.child import Child
from supervisors.exits import Exit
from supervisors.spec import ChildId, ChildSpec, ChildType, Restart
from supervisors.table import ChildState, ChildTable

__all__ = ["ChildCounts", "ChildInfo", "Slot", "count", "describe"]


class Slot:
    """A child's place in its supervisor, whatever life it is in: what the shell's `ChildTable` holds.

    Attributes:
        spec: how to start it.
        child: its latest life, running or ended; None before the first.
        restarts: how often its supervisor has started it again.
    """

    __slots__ = ("child", "restarts", "spec")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.child: Child | None = None
        self.restarts = 0


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """One child as `which_children` shows it.

    Attributes:
        id: its id.
        state: running, restarting (its start failed or its siblings are still stopping) or terminated.
        child: its latest life.
        restart: its restart type.
        restarts: how often its supervisor has started it again, restarts by hand not counted.
        type: worker or supervisor.
        children: the children of a nested supervisor whose `run` is the child's `start`; else empty.
    """

    id: ChildId
    state: ChildState
    child: Child | None
    restart: Restart
    restarts: int
    type: ChildType
    children: tuple[ChildInfo, ...] = ()

    @property
    def task(self) -> asyncio.Task[object] | None:
        """The task of a running child; None otherwise (OTP: `undefined`)."""
        return self.child.task if self.child is not None and self.state is ChildState.RUNNING else None

    @property
    def last_exit(self) -> Exit | None:
        """How its latest life ended; None while it runs."""
        return self.child.exit if self.child is not None else None


@dataclass(frozen=True, slots=True)
class ChildCounts:
    """What `count_children` counts: specifications, running children, and children of each type, running or not."""

    specs: int
    active: int
    supervisors: int
    workers: int


@runtime_checkable
class _HasChildren(Protocol):
    def which_children(self) -> Sequence[ChildInfo]: ...


def describe(table: ChildTable[Slot]) -> list[ChildInfo]:
    """List the children in start order."""
    return [_describe(slot, table.state(slot.spec.id)) for slot in table.start_order()]


def count(children: Sequence[ChildInfo]) -> ChildCounts:
    """Count children in the manner of OTP's `count_children`."""
    active = sum(child.state is ChildState.RUNNING for child in children)
    supervisors = sum(child.type is ChildType.SUPERVISOR for child in children)
    return ChildCounts(len(children), active, supervisors, len(children) - supervisors)


def _describe(slot: Slot, state: ChildState) -> ChildInfo:
    spec = slot.spec
    nested: object = getattr(spec.start, "__self__", None)
    children = tuple(nested.which_children()) if isinstance(nested, _HasChildren) else ()
    return ChildInfo(spec.id, state, slot.child, spec.restart, slot.restarts, spec.type, children)
