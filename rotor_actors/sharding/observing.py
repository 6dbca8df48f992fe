"""The observers of all shards: to them it is one runtime, opened once, with numbers that hold over all shards."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable, Sequence

from rotor_actors.observing import Gauges, Observer, Observers, ReplicasSeen
from rotor_actors.records import Fact, RunRow
from rotor_actors.sharding.numbers import of_facts, of_run


class Gathered:
    """What is observed of so many shards. Each may begin anew while the others go on, as its store may be lost."""

    def __init__(self, observers: Iterable[Observer], count: int) -> None:
        self.observers = Observers(observers)
        self._gauges: dict[int, Gauges] = {}
        self._rows: list[RunRow] = []
        self._count = count
        self._is_open = False
        self._seen: dict[int, ReplicasSeen] = {}

    def opened(self, shard: int, runs: Iterable[RunRow], gauges: Gauges) -> None:
        """Once all are open, they are."""
        self._gauges[shard] = gauges
        self._rows += [of_run(shard, row.copy()) for row in runs]
        if len(self._gauges) == self._count and not self._is_open:
            self._is_open = True
            rows, self._rows = self._rows, []
            self.observers.opened(rows, _Sum(self._gauges))

    def seen(self, shard: int, seen: ReplicasSeen) -> None:
        """A process is a replica in each shard, and has them all."""
        self._seen[shard] = seen
        each = self._seen.values()
        total = ReplicasSeen(
            replicas=max(one.replicas for one in each),
            is_coordinator=any(one.is_coordinator for one in each),
            unowned=sum(one.unowned for one in each),
            stuck=sum(one.stuck for one in each),
        )
        self.observers.replicas_seen(total)

    def closed(self, shard: int) -> None:
        """Once all are closed, they are."""
        self._gauges.pop(shard, None)
        if not self._gauges and self._is_open:
            self._is_open = False
            self.observers.closed()


class _Sum:
    """The gauges of all shards together."""

    def __init__(self, gauges: dict[int, Gauges]) -> None:
        self._gauges = gauges

    @property
    def live_runs(self) -> int:
        return sum(each.live_runs for each in self._gauges.values())

    @property
    def steps_in_flight(self) -> int:
        return sum(each.steps_in_flight for each in self._gauges.values())

    @property
    def effects_waiting(self) -> int:
        return sum(each.effects_waiting for each in self._gauges.values())

    @property
    def entries_waiting(self) -> int:
        return sum(each.entries_waiting for each in self._gauges.values())

    @property
    def is_full(self) -> bool:
        return any(each.is_full for each in self._gauges.values())


class ShardObserver(Observer):
    """Stands in each shard for all observers."""

    def __init__(self, gathered: Gathered, shard: int) -> None:
        self._gathered = gathered
        self._shard = shard

    def opened(self, runs: Iterable[RunRow], gauges: Gauges) -> None:
        self._gathered.opened(self._shard, runs, gauges)

    def taken_in(self, runs: Iterable[RunRow]) -> None:
        self._gathered.observers.taken_in([of_run(self._shard, row.copy()) for row in runs])

    def replicas_seen(self, seen: ReplicasSeen) -> None:
        self._gathered.seen(self._shard, seen)

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        self._gathered.observers.committed(of_facts(self._shard, facts), seconds)

    def step_begins(self, run: RunRow, key: bytes, step_id: str, execution: int, context: contextvars.Context) -> None:
        self._gathered.observers.step_begins(of_run(self._shard, run.copy()), key, step_id, execution, context)

    def closed(self) -> None:
        self._gathered.closed(self._shard)
