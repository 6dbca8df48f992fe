"""The store without a disk: for unit tests and simulation. The same verbs, over dicts."""

from __future__ import annotations

import copy
import os
from collections import Counter, defaultdict
from pathlib import Path

from rotor_actors.errors import StoreError
from rotor_actors.ids import is_map_child
from rotor_actors.records import (
    ChildRow,
    Entry,
    Fact,
    History,
    ItemDropped,
    ItemFact,
    ItemPut,
    ItemRow,
    ItemsDropped,
    ItemsExpired,
    RunAmended,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRested,
    RunRow,
    RunsCancelled,
    RunsDeleted,
    RunStatus,
    StepRecorded,
    StepRow,
    flatten,
)
from rotor_actors.stores.base import (
    EndedRootsQuery,
    EndsQuery,
    ItemQuery,
    LiveRun,
    RunQuery,
    is_wanted,
    merged_ends,
    newest_seq,
    place_of,
)
from rotor_actors.stores.memory_database import MemoryDatabase
from rotor_actors.stores.schema import PROGRESS_SPACE, SPENT_SPACE
from rotor_actors.stores.transaction import TransactionCall


class MemoryStore:
    """Keeps everything in this object. It outlives the runtime that uses it: open another on it to see it recover."""

    is_inline = True

    def __init__(self) -> None:
        self._runs: dict[int, RunRow] = {}
        self._steps: defaultdict[int, list[StepRow]] = defaultdict(list)
        self._children: defaultdict[int, list[int]] = defaultdict(list)
        self._by_id: dict[str, int] = {}
        self._items: defaultdict[str, dict[str, ItemRow]] = defaultdict(dict)
        self._owned: defaultdict[int, set[tuple[str, str]]] = defaultdict(set)
        self._last_seq = 0
        self._last_n = 0
        self._database = MemoryDatabase()
        self._transactions: dict[tuple[int, bytes], bytes] = {}

    def open(self) -> None: ...

    def close(self) -> None: ...

    def commit(self, entries: list[Entry]) -> None:
        facts = list(flatten(entries))
        self._refuse_known_ids(facts)
        for fact in facts:
            self._apply(fact)
        self._last_seq = max([self._last_seq, *(entry.seq for entry in entries)])

    def _apply(self, fact: Fact) -> None:
        match fact:
            case RunCreated():
                self._create(fact.run)
            case RunAmended():
                run = self._runs[fact.run.n]
                run.input, run.headers, run.event = fact.run.input, fact.run.headers, fact.run.event
            case RunChanged():
                self._runs[fact.run.n] = fact.run.copy()
            case StepRecorded():
                self._steps[fact.step.n].append(fact.step)
            case RunsCancelled():
                self._cancel(fact)
            case RunRested():
                run = self._runs[fact.n]
                run.rest_seq, run.wake_at = fact.rest_seq, fact.wake_at
            case RunsDeleted():
                for n in fact.ns:
                    self._delete(n)
            case ItemPut() | ItemDropped() | ItemsDropped() | ItemsExpired():
                self._keep_items(fact)
            case _:
                pass  # of a shared store

    def _refuse_known_ids(self, facts: list[Fact]) -> None:
        known = self._known_id(facts)
        if known is not None:
            raise StoreError(f"run id {known} is in the store already")

    def _known_id(self, facts: list[Fact]) -> str | None:
        """A run id that would be there twice."""
        created = Counter(entry.run.run_id for entry in facts if isinstance(entry, RunCreated))
        freed = {n for entry in facts if isinstance(entry, RunsDeleted) for n in entry.ns}
        for run_id, times in created.items():
            if times > 1 or self._by_id.get(run_id, -1) not in (-1, *freed):
                return run_id
        return None

    def _create(self, run: RunRow) -> None:
        self._runs[run.n] = run.copy()
        self._last_n = max(self._last_n, run.n)
        self._by_id[run.run_id] = run.n
        if run.parent_n is not None:
            self._children[run.parent_n].append(run.n)

    def _cancel(self, entry: RunsCancelled) -> None:
        for n in entry.ns:
            run = self._runs[n]
            run.status, run.ended_at, run.end_seq = RunStatus.CANCELLED, entry.at, entry.seq
            run.error = entry.error
            if n == entry.withdrawn:
                run.flags |= RunFlag.WITHDRAWN

    def _delete(self, n: int) -> None:
        self._steps.pop(n, None)
        for place in [place for place in self._transactions if place[0] == n]:
            del self._transactions[place]
        self._children.pop(n, None)
        run = self._runs.pop(n, None)
        if run is not None:
            del self._by_id[run.run_id]
            if run.parent_n is not None and run.parent_n in self._children:
                self._children[run.parent_n].remove(n)
        kept = [*self._items[PROGRESS_SPACE].values(), *self._items[SPENT_SPACE].values()]
        for item in [item for item in kept if item.ord == n]:
            self._drop_item(item.space, item.key)

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        """User tables live in a SQLite database in memory, which is this store's own."""
        known = self._transactions.get((n, key))
        if known is None:
            known = self._transactions[n, key] = self._database.transact(call)
        return known

    def _keep_items(self, entry: ItemFact) -> None:
        match entry:
            case ItemPut(item=item):
                self._drop_item(item.space, item.key)
                self._items[item.space][item.key] = copy.copy(item)
                if item.n is not None:
                    self._owned[item.n].add((item.space, item.key))
            case ItemDropped():
                self._drop_item(entry.space, entry.key)
            case ItemsDropped():
                for space, key in [each for n in entry.ns for each in self._owned.get(n, ())]:
                    self._drop_item(space, key)
            case ItemsExpired():
                items = list(self._items[entry.space].values())
                for item in items:
                    if item.due is not None and item.due <= entry.upto:
                        self._drop_item(item.space, item.key)

    def _drop_item(self, space: str, key: str) -> None:
        item = self._items[space].pop(key, None)
        if item is not None and item.n is not None:
            owned = self._owned[item.n]
            owned.discard((space, key))
            if not owned:
                del self._owned[item.n]

    def items(self, query: ItemQuery) -> list[ItemRow]:
        items = sorted(self._items.get(query.space, {}).values(), key=_place)
        if (after := query.after) is not None:
            items = [item for item in items if _place(item) > after]
        if query.prefix:
            items = [item for item in items if item.key.startswith(query.prefix)]
        return [copy.copy(item) for item in items[: query.limit]]

    def item(self, space: str, key: str) -> ItemRow | None:
        found = self._items.get(space, {}).get(key)
        return None if found is None else copy.copy(found)

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        return {n: self._runs[n].parent_n for n in ns}

    def last_numbers(self) -> tuple[int, int]:
        return self._last_n, self._last_seq

    def rows(self, ns: list[int]) -> list[RunRow]:
        return [self._runs[n].copy() for n in sorted(ns) if n in self._runs]

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        return sorted((n for n, run in self._runs.items() if run.root_n == root_n), reverse=True)[:limit]

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        chosen = [run for run in self._runs.values() if query.chooses(run)]
        chosen.sort(key=lambda run: (run.ended_at or 0.0, run.n))
        return [run.copy() for run in chosen[: query.limit]]

    def live_runs(self) -> list[LiveRun]:
        return [self._live(run) for run in self._runs.values() if not run.status.is_terminal]

    def _live(self, run: RunRow) -> LiveRun:
        ends = (child.end_seq for child in self._children_of(run.n) if _has_seen_end(child))
        return LiveRun(run.copy(), newest_seq(self.steps(run.n), ends))

    def histories(self, ns: list[int]) -> dict[int, History]:
        return {n: self._history(n) for n in ns}

    def _history(self, n: int) -> History:
        steps = [step for step in self.steps(n) if not is_map_child(step.key)]
        children = [_child(run) for run in self._children_of(n) if not _has_seen_end(run) or not _is_of_map(run)]
        return History(steps, children)

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        steps = (step for step in self.steps(query.n) if is_wanted(query, step.key, place_of(step)))
        ended = (_child(run) for run in self._children_of(query.n) if _has_seen_end(run) and _is_of_map(run))
        return merged_ends(query, steps, (child for child in ended if is_wanted(query, child.key, place_of(child))))

    def _children_of(self, n: int) -> list[RunRow]:
        return [self._runs[child] for child in self._children.get(n, ())]

    def find(self, run_id: str) -> RunRow | None:
        n = self._by_id.get(run_id)
        return None if n is None else self._runs[n].copy()

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        among = list(self._runs.values()) if query.parent_n is None else self._children_of(query.parent_n)
        runs = reversed(among)
        if query.is_by_time:
            runs = iter(sorted(among, key=lambda run: (run.created_at, run.n), reverse=True))
        found = (run.copy() for run in runs if _matches(run, query))
        return [run for _, run in zip(range(query.limit), found, strict=False)]

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        return dict(Counter(run.status for run in self._runs.values() if root_n is None or run.root_n == root_n))

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        return list(self._steps.get(n, ()))[:limit]

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a SQLite file, which `SQLiteStore` opens."""
        from rotor_actors.stores.sqlite import SQLiteStore  # here: who needs no disk need not load its driver
        from rotor_actors.stores.sqlite_files import refuse_existing

        refuse_existing(Path(path))
        entries: list[Entry] = [RunCreated(run, self._last_seq) for run in self._runs.values()]
        entries += [StepRecorded(step, step.seq) for steps in self._steps.values() for step in steps]
        entries += [ItemPut(item) for items in self._items.values() for item in items.values()]
        copy_of_it = SQLiteStore(path)
        copy_of_it.open()
        try:
            copy_of_it.commit(entries)
        finally:
            copy_of_it.close()

    def compact(self) -> None: ...

    def free(self, pages: int) -> int:
        return 0


def _place(item: ItemRow) -> tuple[int, str]:
    return item.ord, item.key


def _child(run: RunRow) -> ChildRow:
    assert run.parent_n is not None
    assert run.parent_key is not None
    if not _has_seen_end(run):
        return ChildRow(
            run.n, run.parent_n, run.run_id, run.workflow_id, run.parent_key, run.generation, RunStatus.RUNNING,
            run.flags, None, None, None, None,
        )  # fmt: skip
    return ChildRow(
        run.n, run.parent_n, run.run_id, run.workflow_id, run.parent_key, run.generation, run.status, run.flags,
        run.ended_at, run.end_seq, run.result, run.error,
    )  # fmt: skip


def _has_seen_end(run: RunRow) -> bool:
    """It has ended, and to its parent, too."""
    return run.end_seq is not None and not run.flags & RunFlag.UNSEEN


def _is_of_map(run: RunRow) -> bool:
    return run.parent_key is not None and is_map_child(run.parent_key)


def _matches(run: RunRow, query: RunQuery) -> bool:
    return (
        (not query.statuses or run.status in query.statuses)
        and query.workflow_id in (None, run.workflow_id)
        and query.parent_n in (None, run.parent_n)
        and query.root_n in (None, run.root_n)
        and not (query.is_root and run.parent_n is not None)
        and (query.since is None or run.created_at >= query.since)
        and (query.until is None or run.created_at < query.until)
        and run.run_id.startswith(query.id_prefix or "")
        and (query.error or "").encode() in (run.error or b"")
        and (query.error is None or run.error is not None)
        and _is_after(run, query)
    )


def _is_after(run: RunRow, query: RunQuery) -> bool:
    if query.before_n is None:
        return True
    if query.is_by_time and query.before_at is not None:
        return (run.created_at, run.n) < (query.before_at, query.before_n)
    return run.n < query.before_n
