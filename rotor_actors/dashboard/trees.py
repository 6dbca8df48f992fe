"""Trees of any size, read no further than they are shown. Called where the store is read."""

from __future__ import annotations

from typing import Any, NamedTuple

from rotor_actors.records import RunRow
from rotor_actors.stores.base import RunQuery, StoreReader

LARGEST_TREE = 20_000
# Of a larger tree the levels from the top are read, a question for each parent.
MOST_PARENTS = 2_000
HIGHEST_BREADCRUMB = 100


class Below(NamedTuple):
    """A run and all below it, parents before their children, without their payloads.

    Attributes:
        rows: at most `LARGEST_TREE`. left_out: how many more there are; of a part of a larger tree, how many at least.
    """

    rows: list[RunRow]
    left_out: int


def below(store: StoreReader, top: RunRow) -> Below:
    """What is to be shown of the tree below `top`."""
    total = sum(store.count_by_status(top.root_n).values())
    if total > LARGEST_TREE:
        return _from_the_top(store, top, total)
    rows = store.list_runs(RunQuery(root_n=top.root_n, limit=LARGEST_TREE, is_lean=True))
    known, found = {top.n}, list[RunRow]()
    # Where several replicas number their runs, a parent may have a larger number than its child.
    for row in sorted(rows, key=lambda each: (each.depth, each.n)):
        if row.n == top.n or row.parent_n in known:
            known.add(row.n)
            found.append(row)
    return Below(found, 0)


def _from_the_top(store: StoreReader, top: RunRow, total: int) -> Below:
    found, seen, asked = [top], 1, 0
    for asked, parent in enumerate(found):  # which grows meanwhile
        if asked == MOST_PARENTS or seen > len(found):
            break
        room = LARGEST_TREE - len(found)
        # One more than there is room for, so that it is known whether something is left out.
        children = store.list_runs(RunQuery(parent_n=parent.n, limit=room + 1, is_lean=True))[::-1]
        seen += len(children)
        found += children[:room]
    if top.n == top.root_n:
        return Below(found, total - len(found))
    return Below(found, max(seen - len(found), 1 if asked == MOST_PARENTS else 0))


def as_arrays(tree: Below, top: RunRow) -> dict[str, Any]:
    """For the page: a large tree is a long answer."""
    index = {row.n: place for place, row in enumerate(tree.rows)}
    nodes = [
        (row.run_id, -1 if row.n == top.n else index[row.parent_n or 0], row.workflow_id, row.status.value,
         row.parent_step_id or "", row.created_at, row.attempt_at, row.ended_at, row.attempt)
        for row in tree.rows
    ]  # fmt: skip
    return {"nodes": nodes, "left_out": tree.left_out}


def count_below(store: StoreReader, row: RunRow) -> int:
    """How many runs are below it; of a part of a tree that is too large, how many at least."""
    if row.n == row.root_n:
        return sum(store.count_by_status(row.root_n).values()) - 1
    tree = below(store, row)
    return len(tree.rows) - 1 + tree.left_out


def above(store: StoreReader, row: RunRow) -> list[RunRow]:
    """Its invokers, from the root down; of very many the nearest."""
    found: list[RunRow] = []
    at: RunRow | None = row
    while at is not None and at.parent_run_id is not None and len(found) < HIGHEST_BREADCRUMB:
        at = store.find(at.parent_run_id)
        if at is not None:
            found.append(at)
    return found[::-1]
