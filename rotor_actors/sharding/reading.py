"""All shards as one store to read from: lists are merged, and what belongs to one run is asked of its shard."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec

from rotor_actors.records import ChildRow, History, ItemRow, RunRow, RunStatus, StepRow
from rotor_actors.sharding.numbers import (
    first_from,
    joined,
    last_before,
    of_child,
    of_run,
    of_step,
    optional,
    parted,
)
from rotor_actors.sharding.placement import Placement
from rotor_actors.stores.base import EndedRootsQuery, EndsQuery, ItemQuery, LiveRun, RunQuery, StoreReader
from rotor_actors.stores.schema import PROGRESS_SPACE
from rotor_actors.stores.shared import OwnershipCount, ReplicaRow

T = TypeVar("T")

_EVER = 1e300


class Ask(Protocol):
    """Calls a function with one shard's reader, and gives what it gives."""

    def __call__(self, read: Callable[[Any], T], /) -> T: ...


class MergedReader:
    """A `StoreReader` over several. Its numbers of runs are `numbers.joined`.

    Args:
        asks: a way to each shard's reader. names: the shards' names. placement: where ids belong.
    """

    def __init__(self, asks: Sequence[Ask], names: Sequence[str], placement: Placement) -> None:
        self._asks = asks
        self._names = names
        self._placement = placement

    def _each(self, read: Callable[[StoreReader], T]) -> list[tuple[int, T]]:
        return [(shard, ask(read)) for shard, ask in enumerate(self._asks)]

    def _by_shard(self, ns: Iterable[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for number in ns:
            place = parted(number)
            found.setdefault(place.shard, []).append(place.n)
        return found

    def last_numbers(self) -> tuple[int, int]:
        """No number of a run; of the entries all together, which grows with each."""
        return 0, sum(seq for _, (_, seq) in self._each(lambda store: store.last_numbers()))

    # Runs

    def find(self, run_id: str) -> RunRow | None:
        for shard in self._placement.order_of(run_id):
            row = self._asks[shard](lambda store: store.find(run_id))
            if row is not None:
                return of_run(shard, row)
        return None

    def ask_shard_of(self, n: int, read: Callable[[StoreReader, int], T], /) -> T:
        """Call with the reader of this run's shard and the run's number there."""
        ((shard, (number,)),) = self._by_shard([n]).items()
        return self._asks[shard](lambda store: read(store, number))

    def rows(self, ns: list[int]) -> list[RunRow]:
        found = [
            of_run(shard, row)
            for shard, mine in self._by_shard(ns).items()
            for row in self._asks[shard](lambda store, mine=mine: store.rows(mine))  # type: ignore[misc]
        ]
        return sorted(found, key=lambda row: row.n)

    def live_runs(self) -> list[LiveRun]:
        return [
            LiveRun(of_run(shard, live.row), live.newest_seq)
            for shard, found in self._each(lambda store: store.live_runs())
            for live in found
        ]

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        """By time, newest first: numbers of different shards say nothing of each other."""
        within = query.root_n if query.root_n is not None else query.parent_n
        if within is not None:
            shard = parted(within).shard
            mine = self._within(query, shard)
            return [of_run(shard, row) for row in self._asks[shard](lambda store: store.list_runs(mine))]
        if not query.is_by_time:
            query = msgspec.structs.replace(query, until=_EVER)
        pages: list[list[RunRow]] = []
        for shard, ask in enumerate(self._asks):
            mine = self._within(query, shard)
            pages.append([of_run(shard, row) for row in ask(lambda store, mine=mine: store.list_runs(mine))])  # type: ignore[misc]
        merged = heapq.merge(*pages, key=lambda row: (row.created_at, row.n), reverse=True)
        return list(islice(merged, query.limit))

    def _within(self, query: RunQuery, shard: int) -> RunQuery:
        """The query as the shard understands it."""
        before = None if query.before_n is None else first_from(query.before_n, shard)
        parent, root = query.parent_n, query.root_n
        return msgspec.structs.replace(
            query,
            before_n=before,
            parent_n=None if parent is None else parted(parent).n,
            root_n=None if root is None else parted(root).n,
        )

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        pages: list[list[RunRow]] = []
        at, number = query.after
        for shard, ask in enumerate(self._asks):
            mine = msgspec.structs.replace(query, after=(at, last_before(number, shard)))
            pages.append([of_run(shard, row) for row in ask(lambda store, mine=mine: store.ended_roots(mine))])  # type: ignore[misc]
        return list(islice(heapq.merge(*pages, key=lambda row: (row.ended_at or 0.0, row.n)), query.limit))

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        if root_n is not None:
            place = parted(root_n)
            return self._asks[place.shard](lambda store: store.count_by_status(place.n))
        counts: Counter[RunStatus] = Counter()
        for _, found in self._each(lambda store: store.count_by_status(None)):
            counts.update(found)
        return dict(counts)

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        place = parted(root_n)
        return [
            joined(place.shard, n) for n in self._asks[place.shard](lambda store: store.tree_numbers(place.n, limit))
        ]

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        return {
            joined(shard, n): optional(shard, parent)
            for shard, mine in self._by_shard(ns).items()
            for n, parent in self._asks[shard](lambda store, mine=mine: store.parents_of(mine)).items()  # type: ignore[misc]
        }

    # Histories

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        place = parted(n)
        rows: list[StepRow] = self._asks[place.shard](lambda store: store.steps(place.n, limit))
        return [of_step(place.shard, row) for row in rows]

    def histories(self, ns: list[int]) -> dict[int, History]:
        return {
            joined(shard, n): History(
                [of_step(shard, row) for row in history.steps], [of_child(shard, row) for row in history.children]
            )
            for shard, mine in self._by_shard(ns).items()
            for n, history in self._asks[shard](lambda store, mine=mine: store.histories(mine)).items()  # type: ignore[misc]
        }

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        place, (seq, number) = parted(query.n), query.after
        mine = msgspec.structs.replace(query, n=place.n, after=(seq, last_before(number, place.shard)))
        rows: list[StepRow | ChildRow] = self._asks[place.shard](lambda store: store.child_ends(mine))
        return [of_step(place.shard, row) if isinstance(row, StepRow) else of_child(place.shard, row) for row in rows]

    # Items

    def item(self, space: str, key: str) -> ItemRow | None:
        found = (ask(lambda store: store.item(space, key)) for ask in self._asks)
        return next((item for item in found if item is not None), None)

    def items(self, query: ItemQuery) -> list[ItemRow]:
        if query.space == PROGRESS_SPACE and query.after is not None:
            return self._reports(query, query.after)
        pages = [found for _, found in self._each(lambda store: store.items(query))]
        return list(islice(heapq.merge(*pages, key=lambda item: (item.ord, item.key)), query.limit))

    def _reports(self, query: ItemQuery, after: tuple[int, str]) -> list[ItemRow]:
        """What a run reports of itself stands behind the number before its own."""
        place = parted(after[0] + 1)
        mine = msgspec.structs.replace(query, after=(place.n - 1, after[1]))
        items: list[ItemRow] = self._asks[place.shard](lambda store: store.items(mine))
        return [msgspec.structs.replace(item, ord=joined(place.shard, item.ord)) for item in items]


class MergedSharedReader(MergedReader):
    """A `SharedReader` over several databases. A process is a replica in each of them; their numbers are joined, too."""

    def database_time(self) -> float:
        """Of the first; leases of the others are told by it."""
        return self._time_of(0)

    def _time_of(self, shard: int) -> float:
        time: float = self._asks[shard](lambda store: store.database_time())
        return time

    def replicas(self) -> list[ReplicaRow]:
        now = self._time_of(0)
        found: list[ReplicaRow] = []
        for shard, ask in enumerate(self._asks):
            rows, ahead = ask(lambda store: store.replicas()), self._time_of(shard) - now
            for row in rows:
                found.append(
                    msgspec.structs.replace(
                        row, number=joined(shard, row.number), label=f"{row.label} @ {self._names[shard]}",
                        lease_until=row.lease_until - ahead, began_at=row.began_at - ahead,
                    )
                )  # fmt: skip
        return found

    def owners(self, ns: list[int]) -> dict[int, int | None]:
        return {
            joined(shard, n): optional(shard, owner)
            for shard, mine in self._by_shard(ns).items()
            for n, owner in self._asks[shard](lambda store, mine=mine: store.owners(mine)).items()  # type: ignore[misc]
        }

    def unowned(self) -> list[OwnershipCount]:
        """Where a workflow can be run on one shard only, the runs on the other cannot."""
        counts: dict[tuple[str, str | None], OwnershipCount] = {}
        for ask in self._asks:
            for each in ask(lambda store: store.unowned()):
                known = counts.setdefault(
                    (each.workflow_id, each.version), OwnershipCount(each.workflow_id, each.version, 0, 0, True)
                )
                known.unowned += each.unowned
                known.parked += each.parked
                known.is_declared = known.is_declared and each.is_declared
        return list(counts.values())
