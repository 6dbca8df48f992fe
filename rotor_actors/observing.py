"""Watching a runtime from beside: what becomes durable, and which steps begin. For telemetry.

What is observed has happened for good: entries are shown after their commit, so a crash takes back nothing that was
shown, and a replay, which commits nothing, shows nothing twice.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from rotor_actors.records import Fact, RunRow

_logger = logging.getLogger("rotor_actors")


class Gauges(Protocol):
    """What a runtime's state is right now."""

    @property
    def live_runs(self) -> int: ...
    @property
    def steps_in_flight(self) -> int: ...
    @property
    def effects_waiting(self) -> int: ...
    @property
    def entries_waiting(self) -> int: ...
    @property
    def is_full(self) -> bool: ...


class ReplicasSeen(msgspec.Struct, frozen=True):
    """What a replica has seen of all of them.

    Attributes:
        replicas: how many have the store open. is_coordinator: this one coordinates.
        unowned: how many unended runs nobody owns. stuck: how many of them no replica can run.
    """

    replicas: int
    is_coordinator: bool
    unowned: int
    stuck: int


class Observer:
    """Each hook may be left out. They are called on the event loop: be quick. An error in one is logged."""

    def opened(self, runs: Iterable[RunRow], gauges: Gauges) -> None:
        """The runtime is open; these runs have not ended and go on."""

    def taken_in(self, runs: Iterable[RunRow]) -> None:
        """Many replicas: these runs go on here from now on. Those that a `RunsReleased` names do so no more."""

    def replicas_seen(self, seen: ReplicasSeen) -> None:
        """Many replicas: how it stands, every few seconds."""

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        """These facts have become durable, by a commit that took so long; in the order in which they came."""

    def step_begins(self, run: RunRow, key: bytes, step_id: str, execution: int, context: contextvars.Context) -> None:
        """A step's body is about to begin in this context; `execution` counts from 1."""

    def closed(self) -> None:
        """The runtime is closed."""


class Observers:
    """All observers of one runtime."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = tuple(observers)
        self.see_replicas = any(type(each).replicas_seen is not Observer.replicas_seen for each in self._all)
        self.see_steps = any(type(each).step_begins is not Observer.step_begins for each in self._all)

    def __bool__(self) -> bool:
        return bool(self._all)

    def opened(self, runs: Sequence[RunRow], gauges: Gauges) -> None:
        self._each(lambda observer: observer.opened(runs, gauges))

    def taken_in(self, runs: Sequence[RunRow]) -> None:
        self._each(lambda observer: observer.taken_in(runs))

    def replicas_seen(self, seen: ReplicasSeen) -> None:
        self._each(lambda observer: observer.replicas_seen(seen))

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        self._each(lambda observer: observer.committed(facts, seconds))

    def step_begins(self, run: RunRow, key: bytes, step_id: str, execution: int, context: contextvars.Context) -> None:
        self._each(lambda observer: observer.step_begins(run, key, step_id, execution, context))

    def closed(self) -> None:
        self._each(lambda observer: observer.closed())

    def _each(self, show: Callable[[Observer], None]) -> None:
        for observer in self._all:
            try:
                show(observer)
            except Exception:
                _logger.exception("observer %r failed; the runtime goes on", observer)
