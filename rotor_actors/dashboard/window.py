"""What the dashboard needs of the program whose runs it shows: a runtime, or a store file that another process owns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rotor_actors.dashboard.actions import Action, AuditEntry
from rotor_actors.dashboard.reading import Reader
from rotor_actors.exports import ShownTree
from rotor_actors.workflows import Workflow


class ServiceJson(msgspec.Struct):
    """A supervised service."""

    id: str
    status: str
    restart: str
    restarts: int


@dataclass(frozen=True)
class Window:
    """A way to look in.

    Attributes:
        read: reads the store. newest: a number that grows with whatever changes in it.
        now: its time. why: one sentence about a run. tree: a run and all below it.
        workflows: those that are registered. services, facts: the state of the program, to be shown.
        not_ready: why nothing new should be sent here, or "".
        actions: what can be done, by name. audit, record: who has done what, newest first, and one more.
    """

    read: Reader
    newest: Callable[[], Awaitable[int]]
    now: Callable[[], float]
    why: Callable[[str], Awaitable[str]]
    tree: Callable[[str], Awaitable[ShownTree]]
    workflows: Callable[[], Iterable[Workflow[Any, Any]]]
    services: Callable[[], list[ServiceJson]]
    facts: Callable[[], Awaitable[list[tuple[str, str]]]]
    not_ready: Callable[[], str]
    actions: Mapping[str, Action]
    audit: Callable[[], Awaitable[list[AuditEntry]]]
    record: Callable[[AuditEntry], Awaitable[None]]
