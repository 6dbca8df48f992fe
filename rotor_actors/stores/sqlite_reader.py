"""Reading a SQLite store, through one connection: for its owner, and for whoever looks at somebody else's file."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rotor_actors.errors import StoreError
from rotor_actors.ids import KEY_BYTES, is_storable
from rotor_actors.records import ChildRow, History, ItemRow, RunRow, RunStatus, StepRow
from rotor_actors.stores import schema
from rotor_actors.stores.base import EndedRootsQuery, EndsQuery, ItemQuery, LiveRun, RunQuery, merged_ends
from rotor_actors.stores.run_queries import Chosen, chosen_by, ended_by
from rotor_actors.stores.sqlite_connection import Connection
from rotor_actors.stores.sqlite_errors import translated
from rotor_actors.stores.sqlite_reading import ROWS_PER_PAGE, Bindings, Decoder, Pages

_NEWEST_SEQ = """max(
    coalesce((SELECT max(seq) FROM steps WHERE steps.n = runs.n), 0),
    coalesce((SELECT max(end_seq) FROM runs AS c WHERE c.parent_n = runs.n AND c.end_seq IS NOT NULL), 0))"""

_RUNS = Pages("runs", schema.RUN_COLUMNS, ("n",))
_LEAN_RUNS = Pages("runs", schema.RUN_COLUMNS, ("n",), without=("input", "result"))
_LIVE_RUNS = Pages("runs", schema.RUN_COLUMNS, ("n",), (_NEWEST_SEQ,))
_CHILDREN = Pages("runs", schema.CHILD_COLUMNS, ("n",))
_STEPS = Pages("steps", schema.STEP_COLUMNS, ("n", "seq"))
_ITEMS = Pages("items", schema.ITEM_COLUMNS, ("space", "item_key"))

_NOT_OF_A_MAP = f"length(key) <= {KEY_BYTES}"
_NOT_ENDED_IN_A_MAP = f"(length(parent_key) <= {KEY_BYTES} OR ended_at IS NULL)"
_TIMED_OUT_IN_A_MAP = (
    f"n = :n AND seq >= :seq AND (seq, 0) > (:seq, :run) AND seq <= :upto AND length(key) > {KEY_BYTES} "
    "AND substr(key, 1, length(:prefix)) = :prefix ORDER BY seq"
)
_ENDED_IN_A_MAP = (
    "parent_n = :n AND end_seq >= :seq AND (end_seq, n) > (:seq, :run) AND end_seq <= :upto "
    f"AND length(parent_key) > {KEY_BYTES} AND substr(parent_key, 1, length(:prefix)) = :prefix ORDER BY end_seq, n"
)

_LARGEST = 2**62
_N, _CREATED_AT = schema.RUN_COLUMNS.index("n"), schema.RUN_COLUMNS.index("created_at")

# What has ended is counted along an index, and so is what has not.
COUNT_ALL = f"""
    SELECT status, count(*) FROM runs WHERE {schema.HAS_ENDED} GROUP BY status
    UNION ALL SELECT status, count(*) FROM runs WHERE ended_at IS NULL GROUP BY status"""
_COUNT_TREE = "SELECT status, count(*) FROM runs WHERE root_n = ? GROUP BY status"

_LAST_CHARACTER = "\U0010ffff"


class SQLiteReader:
    """The reading verbs of a store (`StoreReader`) over a file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = Decoder(path)
        self._reader: Connection | None = None
        self._reading = threading.Lock()

    @property
    def path(self) -> Path:
        return self._path

    def last_numbers(self) -> tuple[int, int]:
        with self._snapshot() as reader:
            last_n, last_seq = reader.execute("SELECT last_n, last_seq FROM numbers").get
            return last_n, last_seq

    def live_runs(self) -> list[LiveRun]:
        with self._snapshot() as reader:
            rows = _LIVE_RUNS.along(reader, "ended_at IS NULL AND n > :after ORDER BY n", {}, "n", -1)
            return [LiveRun(self._decoder.run_or_mark(row[:-1]), row[-1]) for row in rows]

    def histories(self, ns: list[int]) -> dict[int, History]:
        found = {n: History([], []) for n in ns}
        with self._snapshot() as reader:
            for step in map(self._decoder.step, _STEPS.of_groups(reader, "n", ns, "seq", _NOT_OF_A_MAP)):
                found[step.n].steps.append(step)
            children = _CHILDREN.of_groups(reader, "parent_n", ns, "n", _NOT_ENDED_IN_A_MAP)
            for child in map(self._decoder.child, children):
                found[child.parent_n].children.append(child)
        return found

    def child_ends(self, query: EndsQuery) -> list[StepRow | ChildRow]:
        bindings: Bindings = {
            "n": query.n, "seq": query.after[0], "run": query.after[1], "upto": query.upto_seq, "prefix": query.prefix,
        }  # fmt: skip
        with self._snapshot() as reader:
            steps = _STEPS.page(reader, _TIMED_OUT_IN_A_MAP, bindings, query.limit)
            children = _CHILDREN.page(reader, _ENDED_IN_A_MAP, bindings, query.limit)
            return merged_ends(query, map(self._decoder.step, steps), map(self._decoder.child, children))

    def parents_of(self, ns: list[int]) -> dict[int, int | None]:
        sql = "SELECT n, parent_n FROM runs WHERE n IN (SELECT value FROM json_each(?))"
        with self._snapshot() as reader:
            return dict(reader.execute(sql, (json.dumps(ns),)).fetchall())

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        with self._snapshot() as reader:
            where = "n = :n AND seq > :after ORDER BY seq"
            return list(map(self._decoder.step, _STEPS.along(reader, where, {"n": n}, "seq", -1, limit)))

    def find(self, run_id: str) -> RunRow | None:
        if not is_storable(run_id):
            return None  # such as a command line's bytes that are no text: nothing has it, and nothing is damaged
        with self._snapshot() as reader:
            rows = _RUNS.page(reader, "run_id = :run_id", {"run_id": run_id}, 1)
            return self._decoder.run(rows[0]) if rows else None

    def rows(self, ns: list[int]) -> list[RunRow]:
        with self._snapshot() as reader:
            return list(map(self._decoder.run, _RUNS.of_groups(reader, "n", ns, "n")))

    def tree_numbers(self, root_n: int, limit: int) -> list[int]:
        sql = "SELECT n FROM runs WHERE root_n = ? ORDER BY n DESC LIMIT ?"
        with self._snapshot() as reader:
            return [n for (n,) in reader.execute(sql, (root_n, limit)).fetchall()]

    def ended_roots(self, query: EndedRootsQuery) -> list[RunRow]:
        chosen = ended_by(query)
        with self._snapshot() as reader:
            rows = _RUNS.page(reader, chosen.where, chosen.bindings, query.limit)
            return [self._decoder.run_or_mark(row) for row in rows]

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        found: list[RunRow] = []
        with self._snapshot() as reader:
            for chosen in chosen_by(query):
                decode = self._decoder.lean_run if query.is_lean else self._decoder.run_or_mark
                found += map(decode, self._pages_of(reader, chosen, query))
        if len(query.statuses) > 1:
            found.sort(key=_by_time if query.is_by_time else _by_number, reverse=True)
            del found[query.limit :]
        return found

    def _pages_of(self, reader: Connection, chosen: Chosen, query: RunQuery) -> Iterator[list[Any]]:
        after = _LARGEST if query.before_n is None else query.before_n
        after_at = float("inf") if query.before_at is None else query.before_at
        left = query.limit
        while left > 0:
            size = min(left, ROWS_PER_PAGE)
            bindings = {**chosen.bindings, "after": after, "after_at": after_at}
            rows = (_LEAN_RUNS if query.is_lean else _RUNS).page(reader, chosen.where, bindings, size)
            yield from rows
            if len(rows) < size:
                return
            after, after_at, left = rows[-1][_N], rows[-1][_CREATED_AT], left - size

    def count_by_status(self, root_n: int | None) -> dict[RunStatus, int]:
        with self._snapshot() as reader:
            cursor = reader.execute(COUNT_ALL) if root_n is None else reader.execute(_COUNT_TREE, (root_n,))
            return {RunStatus(status): count for status, count in cursor.fetchall()}

    def items(self, query: ItemQuery) -> list[ItemRow]:
        of_prefix = "" if not query.prefix else "item_key >= :prefix AND item_key < :behind AND "
        where = f"space = :space AND {of_prefix}(ord, item_key) > (:ord, :key) ORDER BY ord, item_key"
        chosen = {"space": query.space, "prefix": query.prefix, "behind": query.prefix + _LAST_CHARACTER}
        found: list[ItemRow] = []
        left = 2**62 if query.limit is None else query.limit
        ord_, key = query.after or (-(2**63), "")
        with self._snapshot() as reader:
            while left > 0:
                size = min(left, ROWS_PER_PAGE)
                rows = _ITEMS.page(reader, where, {**chosen, "ord": ord_, "key": key}, size)
                found.extend(map(self._decoder.item, rows))
                if len(rows) < size:
                    break
                ord_, key, left = found[-1].ord, found[-1].key, left - size
        return found

    def item(self, space: str, key: str) -> ItemRow | None:
        with self._snapshot() as reader:
            rows = _ITEMS.page(reader, "space = :space AND item_key = :key", {"space": space, "key": key}, 1)
            return self._decoder.item(rows[0]) if rows else None

    @contextmanager
    def _snapshot(self) -> Generator[Connection]:
        """All that is read within it is of one moment."""
        with self._reading, translated("read", self._path):
            reader = self._reader
            if reader is None:
                raise StoreError(f"{self._path} is closed")
            reader.execute("BEGIN")
            try:
                yield reader
            finally:
                if not reader.get_autocommit():
                    reader.execute("COMMIT")


def _by_number(run: RunRow) -> int:
    return run.n


def _by_time(run: RunRow) -> tuple[float, int]:
    return run.created_at, run.n
