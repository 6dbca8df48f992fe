"""The statements that read. `@.` stands for the schema. Pure."""

from __future__ import annotations

from typing import Any

from rotor_actors.ids import KEY_BYTES
from rotor_actors.records import RunFlag, RunStatus
from rotor_actors.stores import schema
from rotor_actors.stores.base import EndedRootsQuery, RunQuery
from rotor_actors.stores.postgres.texts import escaped

LAST = "\U0010ffff"
"""Behind every text that begins with a prefix."""

_MOST_ROWS = 2**63 - 1

_RUN = ", ".join(f"r.{column}" for column in schema.RUN_COLUMNS)
_LEAN_RUN = ", ".join(
    f"NULL::bytea AS {column}" if column in ("input", "result") else f"r.{column}" for column in schema.RUN_COLUMNS
)
_STEP = ", ".join(schema.STEP_COLUMNS)
_ITEM = ", ".join(schema.ITEM_COLUMNS)

_UNSEEN = f"flags & {RunFlag.UNSEEN:d} <> 0"


def _child(column: str) -> str:
    """Of a child whose end its parent has not seen, nothing is given that tells of it."""
    if column == "status":
        return f"CASE WHEN {_UNSEEN} THEN '{RunStatus.RUNNING}' ELSE status END"
    if column in ("ended_at", "end_seq", "result", "error"):
        return f"CASE WHEN {_UNSEEN} THEN NULL ELSE {column} END"
    return f"CASE WHEN {_UNSEEN} THEN 0 ELSE {column} END" if column == "result_crc" else column


_CHILD = ", ".join(_child(column) for column in schema.CHILD_COLUMNS)

NEWEST_SEQ = f"""greatest(
    coalesce((SELECT max(s.seq) FROM @.rotor_steps AS s WHERE s.n = r.n), 0),
    coalesce((SELECT max(c.end_seq) FROM @.rotor_runs AS c WHERE c.parent_n = r.n AND c.{_UNSEEN.replace("<>", "=")}), 0))"""

LIVE_RUNS = f"SELECT {_RUN}, {NEWEST_SEQ} FROM @.rotor_runs AS r WHERE ended_at IS NULL ORDER BY n"
OWNED = f"SELECT {_RUN}, {NEWEST_SEQ}, cancel FROM @.rotor_runs AS r WHERE n = ANY ($1::bigint[]) ORDER BY depth, n"
FIND = f"SELECT {_RUN} FROM @.rotor_runs AS r WHERE run_id = $1"
ROWS = f"SELECT {_RUN} FROM @.rotor_runs AS r WHERE n = ANY ($1::bigint[]) ORDER BY n"
STEPS = f"SELECT {_STEP} FROM @.rotor_steps WHERE n = $1 ORDER BY seq LIMIT $2"
STEPS_OF = (
    f"SELECT {_STEP} FROM @.rotor_steps WHERE n = ANY ($1::bigint[]) AND length(key) <= {KEY_BYTES} ORDER BY n, seq"
)
CHILDREN_OF = f"""
    SELECT {_CHILD} FROM @.rotor_runs WHERE parent_n = ANY ($1::bigint[])
    AND (length(parent_key) <= {KEY_BYTES} OR ended_at IS NULL OR {_UNSEEN}) ORDER BY parent_n, n"""
_OF_MAP = f"length({{key}}) > {KEY_BYTES} AND substr({{key}}, 1, length($5::bytea)) = $5"
TIMED_OUT_IN_A_MAP = f"""
    SELECT {_STEP} FROM @.rotor_steps WHERE n = $1 AND seq >= $2 AND (seq, 0::bigint) > ($2, $3::bigint) AND seq <= $4
    AND {_OF_MAP.format(key="key")} ORDER BY seq LIMIT $6"""
ENDED_IN_A_MAP = f"""
    SELECT {_CHILD} FROM @.rotor_runs WHERE parent_n = $1 AND (end_seq, n) > ($2, $3) AND end_seq <= $4
    AND NOT {_UNSEEN} AND {_OF_MAP.format(key="parent_key")} ORDER BY end_seq, n LIMIT $6"""
PARENTS_OF = "SELECT n, parent_n FROM @.rotor_runs WHERE n = ANY ($1::bigint[])"
TREE_NUMBERS = "SELECT n FROM @.rotor_runs WHERE root_n = $1 ORDER BY depth DESC, n DESC LIMIT $2"
COUNT_ALL = "SELECT status, count(*) FROM @.rotor_runs GROUP BY status"
COUNT_TREE = "SELECT status, count(*) FROM @.rotor_runs WHERE root_n = $1 GROUP BY status"
ITEMS = f"""
    SELECT {_ITEM} FROM @.rotor_items WHERE space = $1 AND (ord, item_key) > ($2, $3) ORDER BY ord, item_key LIMIT $4"""
# Nothing of what is outside limits what is inside: else the order is followed, through all of the space.
ITEMS_OF_PREFIX = f"""
    SELECT * FROM (
        SELECT {_ITEM} FROM @.rotor_items WHERE space = $1 AND item_key >= $5 AND item_key < $6 OFFSET 0) AS i
    WHERE (ord, item_key) > ($2, $3) ORDER BY ord, item_key LIMIT $4"""
ITEM = f"SELECT {_ITEM} FROM @.rotor_items WHERE space = $1 AND item_key = $2"
ITEMS_OF = f"SELECT {_ITEM} FROM @.rotor_items WHERE n = ANY ($1::bigint[]) ORDER BY space, ord, item_key"

REMOTE_CHILDREN = f"""
    SELECT {_RUN}, owner FROM @.rotor_runs AS r WHERE parent_n = ANY ($1::bigint[]) AND end_seq IS NULL
    UNION ALL
    SELECT {_RUN}, owner FROM @.rotor_runs AS r WHERE parent_n = ANY ($1::bigint[]) AND {_UNSEEN} AND end_seq IS NOT NULL
    ORDER BY 1"""
REPLICAS = """
    SELECT number, label, began_at, lease_until, is_draining,
        number IS NOT DISTINCT FROM (SELECT coordinator FROM @.rotor_desk),
        (SELECT count(*) FROM @.rotor_runs WHERE owner = number AND ended_at IS NULL)
    FROM @.rotor_replicas ORDER BY number"""
DECLARED = "SELECT replica, workflow_id, versions FROM @.rotor_declared"
OWNERS = """
    SELECT n, CASE WHEN ended_at IS NULL OR EXISTS (SELECT FROM @.rotor_replicas WHERE number = owner) THEN owner END
    FROM @.rotor_runs WHERE n = ANY ($1::bigint[])"""
UNOWNED = """
    SELECT workflow_id, version, count(*), count(*) FILTER (WHERE is_parked), EXISTS (
        SELECT FROM @.rotor_declared AS d JOIN @.rotor_replicas AS p ON p.number = d.replica
        WHERE d.workflow_id = r.workflow_id
        AND (d.versions IS NULL OR r.version IS NULL OR r.version = ANY (d.versions)))
    FROM @.rotor_runs AS r WHERE ended_at IS NULL AND owner IS NULL GROUP BY workflow_id, version
    ORDER BY workflow_id, version NULLS FIRST"""
MAIL = """
    SELECT id, addressee, kind, body FROM @.rotor_mail AS m WHERE id > $2 AND CASE
        WHEN addressee < 0 THEN addressee = -$1::bigint
        WHEN addressee = 0 THEN (SELECT coordinator FROM @.rotor_desk) IS NOT DISTINCT FROM $1
        ELSE EXISTS (SELECT FROM @.rotor_runs WHERE n = addressee AND owner = $1) END
    ORDER BY id LIMIT $3"""


class Statement:
    """A statement and its arguments, gathered one by one."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._conditions: list[str] = []
        self.arguments: list[Any] = []

    def add(self, value: object) -> str:
        """The place of an argument."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def where(self, condition: str, *values: object) -> None:
        """`{}` stands for each of the values."""
        self._conditions.append(condition.format(*(self.add(value) for value in values)))

    def ordered(self, order: str, limit: int) -> str:
        conditions = " AND ".join(self._conditions) or "true"
        return f"{self._sql} WHERE {conditions} ORDER BY {order} LIMIT {self.add(limit)}"


def list_runs(query: RunQuery) -> tuple[str, list[Any]]:
    """Newest first: by time, because numbers of different replicas are in no order."""
    statement = Statement(f"SELECT {_LEAN_RUN if query.is_lean else _RUN} FROM @.rotor_runs AS r")
    if query.workflow_id is not None:
        statement.where("workflow_id = {}", escaped(query.workflow_id))
    for column, value in (("parent_n", query.parent_n), ("root_n", query.root_n)):
        if value is not None:
            statement.where(f"{column} = {{}}", value)
    if query.is_root:
        statement.where("parent_n IS NULL")
    if query.statuses:
        _add_statuses(statement, query.statuses)
    if query.id_prefix:
        prefix = escaped(query.id_prefix)
        statement.where("run_id >= {} AND run_id < {}", prefix, prefix + LAST)
    if query.error is not None:
        # As bytes: a text of PostgreSQL has no character 0.
        statement.where("error IS NOT NULL AND position({}::bytea IN error) > 0", query.error.encode())
    _add_times(statement, query)
    return statement.ordered("created_at DESC, n DESC", min(query.limit, _MOST_ROWS)), statement.arguments


def _add_statuses(statement: Statement, statuses: tuple[RunStatus, ...]) -> None:
    """Said in the words of the partial indexes where one of them holds all that is wanted."""
    statement.where("status = ANY ({}::text[])", list(statuses))
    if not any(status.is_terminal for status in statuses):
        statement.where("ended_at IS NULL")
    elif all(status in (RunStatus.FAILED, RunStatus.CANCELLED) for status in statuses):
        statement.where("status IN ('failed', 'cancelled')")


def _add_times(statement: Statement, query: RunQuery) -> None:
    if query.since is not None:
        statement.where("created_at >= {}::float8", query.since)
    if query.until is not None:
        statement.where("created_at < {}::float8", query.until)
    if query.before_n is None:
        return
    if query.before_at is not None:
        statement.where("(created_at, n) < ({}::float8, {}::bigint)", query.before_at, query.before_n)
    else:
        known = "(SELECT created_at FROM @.rotor_runs WHERE n = {}::bigint)"
        statement.where(
            f"(created_at, n) < (coalesce({known}, 'infinity'), {{}}::bigint)", query.before_n, query.before_n
        )


def ended_roots(query: EndedRootsQuery) -> tuple[str, list[Any]]:
    """Along the index of top-level runs that have ended, which is in the order of their ends."""
    statement = Statement(f"SELECT {_RUN} FROM @.rotor_runs AS r")
    statement.where("parent_n IS NULL AND ended_at IS NOT NULL AND ended_at <= {}::float8", query.before)
    statement.where("(ended_at, n) > ({}::float8, {}::bigint)", *query.after)
    statement.where("status = ANY ({}::text[])", list(query.statuses))
    if query.workflow_id is not None:
        statement.where("workflow_id = {}", escaped(query.workflow_id))
    return statement.ordered("ended_at, n", query.limit), statement.arguments
