"""Which rows a `RunQuery` chooses, in SQL that has an index to follow. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rotor_actors.records import RunStatus
from rotor_actors.stores.base import EndedRootsQuery, RunQuery
from rotor_actors.stores.schema import HAS_ENDED

Bindings = dict[str, object]

_LAST = "\U0010ffff"
"""Behind every text that begins with a prefix."""


class Chosen:
    """One statement's condition and order; several may make up a query, of which each has an index to follow."""

    def __init__(self, where: str, bindings: Bindings) -> None:
        self.where = where
        self.bindings = bindings


def chosen_by(query: RunQuery) -> list[Chosen]:
    """The query as one statement for each group of statuses: SQLite follows an index in its order for one value only,
    and would sort all that several choose."""
    return [_chosen(query, statuses) for statuses in _groups(query.statuses)]


def _groups(statuses: tuple[RunStatus, ...]) -> Iterator[tuple[RunStatus, ...]]:
    live = tuple(status for status in statuses if not status.is_terminal)
    ended = [status for status in dict.fromkeys(statuses) if status.is_terminal]
    if not statuses:
        yield ()
    if live:
        yield live
    for status in ended:
        yield (status,)


def _chosen(query: RunQuery, statuses: tuple[RunStatus, ...]) -> Chosen:
    conditions: list[str] = []
    bindings: Bindings = {}
    for column in ("workflow_id", "parent_n", "root_n"):
        value = getattr(query, column)
        if value is not None:
            conditions.append(f"{column} = :{column}")
            bindings[column] = value
    if query.is_root:
        conditions.append("parent_n IS NULL")
    conditions += _of_statuses(statuses, bindings)
    conditions += _of_texts(query, bindings)
    order = _ordered(query, conditions, bindings)
    return Chosen(" AND ".join(conditions) + order, bindings)


def _of_statuses(statuses: tuple[RunStatus, ...], bindings: Bindings) -> list[str]:
    """Said in the words of the partial indexes."""
    if not statuses:
        return []
    bindings |= {f"status{i}": status.value for i, status in enumerate(statuses)}
    if statuses[0].is_terminal:
        return ["status = :status0", HAS_ENDED]
    return [f"status IN ({', '.join(f':status{i}' for i in range(len(statuses)))})", "ended_at IS NULL"]


def _of_texts(query: RunQuery, bindings: Bindings) -> list[str]:
    conditions: list[str] = []
    if query.id_prefix:
        conditions.append("n IN (SELECT n FROM runs WHERE run_id >= :prefix AND run_id < :behind)")
        bindings |= {"prefix": query.id_prefix, "behind": query.id_prefix + _LAST}
    if query.error is not None:
        conditions.append("error IS NOT NULL AND instr(error, CAST(:error AS BLOB)) > 0")
        bindings["error"] = query.error
    return conditions


def _ordered(query: RunQuery, conditions: list[str], bindings: Bindings) -> str:
    """`:after` and `:after_at` are where the next page takes up."""
    if not query.is_by_time:
        conditions.append("n < :after")
        return " ORDER BY n DESC"
    conditions.append("(created_at, n) < (:after_at, :after)")
    if query.since is not None:
        conditions.append("created_at >= :since")
        bindings["since"] = query.since
    if query.until is not None:
        conditions.append("created_at < :until")
        bindings["until"] = query.until
    return " ORDER BY created_at DESC, n DESC"


def ended_by(query: EndedRootsQuery) -> Chosen:
    """Along the index of top-level runs that have ended, which is in the order of their ends."""
    bindings: Bindings = {f"status{i}": status.value for i, status in enumerate(query.statuses)}
    bindings |= {"before": query.before, "after_at": query.after[0], "after": query.after[1]}
    statuses = ", ".join(f":status{i}" for i in range(len(query.statuses)))
    where = (
        f"parent_n IS NULL AND ended_at IS NOT NULL AND ended_at <= :before AND (ended_at, n) > (:after_at, :after) "
        f"AND +status IN ({statuses})"
    )
    if query.workflow_id is not None:
        where += " AND +workflow_id = :workflow_id"
        bindings["workflow_id"] = query.workflow_id
    return Chosen(f"{where} ORDER BY ended_at, n", bindings)
