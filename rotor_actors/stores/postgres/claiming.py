"""How the database gives runs away: claiming, taking, and freeing what a replica that is gone has owned.

Claims of several replicas never wait for each other: a row that somebody else is just looking at is skipped.
"""

from __future__ import annotations

from rotor_actors.records import RunFlag, RunStatus
from rotor_actors.stores import schema
from rotor_actors.stores.postgres.functions import FENCE, PLANS
from rotor_actors.stores.postgres.queries import NEWEST_SEQ

_UNOWNED = "r.ended_at IS NULL AND r.owner IS NULL"
_FITS = "(d.versions IS NULL OR r.version IS NULL OR r.version = ANY (d.versions))"
_MINE = f"EXISTS (SELECT FROM @.rotor_declared AS d WHERE d.replica = me AND d.workflow_id = r.workflow_id AND {_FITS})"
_ANYBODYS = (
    "EXISTS (SELECT FROM @.rotor_declared AS d JOIN @.rotor_replicas AS p ON p.number = d.replica "
    f"WHERE d.workflow_id = r.workflow_id AND {_FITS})"
)
_NOT_FOR_ANOTHER = "(is_mine OR NOT r.to_coordinator)"


def _more(condition: str, order: str, source: str = "@.rotor_runs AS r") -> str:
    """Choose further rows, up to the limit, and lock them."""
    return f"""
    IF cardinality(chosen) < at_most THEN
        SELECT chosen || coalesce(array_agg(n), '{{}}') INTO chosen FROM (
            SELECT r.n FROM {source} WHERE {_UNOWNED} AND {condition} AND NOT r.n = ANY (chosen)
            ORDER BY {order} LIMIT at_most - cardinality(chosen) FOR NO KEY UPDATE OF r SKIP LOCKED) AS t;
    END IF;"""


_DUE = f"r.is_parked AND r.wake_at <= (SELECT @.rotor_now()) AND {_MINE} AND {_NOT_FOR_ANOTHER}"
# Those that there is mail for are looked up one by one; those that sleep may be very many, and so the index of these must
# not be walked, whatever the statistics say: a cast keeps it out.
_WRITTEN_TO = (
    f"r.n = ANY (ARRAY(SELECT DISTINCT addressee FROM @.rotor_mail WHERE addressee > 0)) AND r.is_parked::integer = 1 "
    f"AND {_MINE} AND {_NOT_FOR_ANOTHER}"
)
_MAY_RUN = f"({_MINE} OR r.cancel IS NOT NULL AND NOT {_ANYBODYS}) AND {_NOT_FOR_ANOTHER}"
_TO_CANCEL = f"r.cancel IS NOT NULL AND {_MAY_RUN}"

# A child that was left to others as it was created. With the claim it has begun: that need not be recorded once more
# before its first step. What waits in a line owns an item, or is for the coordinator.
_BEGINS = (
    f"r.status = '{RunStatus.QUEUED}' AND r.parent_n IS NOT NULL AND r.attempt = 1 AND r.attempt_at IS NULL "
    "AND r.wake_at IS NULL AND r.cancel IS NULL AND NOT r.to_coordinator "
    "AND NOT EXISTS (SELECT FROM @.rotor_items AS i WHERE i.n = r.n)"
)
_CLAIMED = ", ".join(f"u.{column}" for column in schema.RUN_COLUMNS)

# A tree that is WHOLE is somebody's or nobody's: who holds its lock and can lock all rows of it takes it.
_WHOLE_TREES = f"""
    FOR tree IN SELECT DISTINCT c.root_n FROM @.rotor_runs AS c WHERE c.n = ANY (chosen) AND EXISTS (
            SELECT FROM @.rotor_runs AS r
            WHERE r.root_n = c.root_n AND {_UNOWNED} AND r.flags & {RunFlag.WHOLE:d} <> 0) LOOP
        wanted := NULL;
        IF pg_try_advisory_xact_lock(hashtextextended('rotor-tree @.', tree)) THEN
            SELECT array_agg(r.n) INTO wanted FROM @.rotor_runs AS r
            WHERE r.root_n = tree AND {_UNOWNED} AND {_MAY_RUN};
            SELECT array_agg(n) INTO locked FROM (
                SELECT n FROM @.rotor_runs WHERE n = ANY (wanted) AND owner IS NULL FOR NO KEY UPDATE SKIP LOCKED) AS t;
        END IF;
        SELECT coalesce(array_agg(n), '{{}}') INTO chosen FROM @.rotor_runs WHERE n = ANY (chosen) AND root_n <> tree;
        IF cardinality(wanted) = cardinality(locked) THEN
            chosen := chosen || wanted;
        END IF;
    END LOOP;
"""

_CLAIM = f"""
CREATE FUNCTION @.rotor_claim(me bigint, at_most integer, coordinates boolean) RETURNS SETOF @.rotor_claimed
LANGUAGE plpgsql {PLANS} AS $$
#variable_conflict use_column
DECLARE is_leaving boolean; is_mine boolean; chosen bigint[] := '{{}}'; d record; tree bigint; wanted bigint[];
    locked bigint[]; fresh bigint[]; answer @.rotor_claimed;
BEGIN
    SELECT is_draining INTO is_leaving FROM @.rotor_replicas WHERE number = me FOR KEY SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    IF coordinates AND NOT is_leaving THEN
        UPDATE @.rotor_desk SET coordinator = me WHERE coordinator IS NULL;
    END IF;
    SELECT coordinator IS NOT DISTINCT FROM me INTO is_mine FROM @.rotor_desk;
    answer.is_mine := is_mine;
    RETURN NEXT answer;
    IF is_leaving THEN RETURN; END IF;
    {_more(_TO_CANCEL, "r.n")}
    {_more(_WRITTEN_TO, "r.n")}
    {_more(_DUE, "r.wake_at")}
    FOR d IN SELECT workflow_id, versions FROM @.rotor_declared WHERE replica = me ORDER BY random() LOOP
        EXIT WHEN cardinality(chosen) >= at_most;
        {
    _more(
        f"NOT r.is_parked AND r.workflow_id = d.workflow_id AND {_FITS} AND {_NOT_FOR_ANOTHER}",
        "r.root_n, r.depth, r.n",
    )
}
    END LOOP;
    {_WHOLE_TREES}
    IF chosen = '{{}}' THEN RETURN; END IF;
    SELECT coalesce(array_agg(r.n), '{{}}') INTO fresh FROM @.rotor_runs AS r WHERE r.n = ANY (chosen) AND {_BEGINS};
    RETURN QUERY
    WITH u AS (
        UPDATE @.rotor_runs SET owner = me, is_parked = false,
            status = CASE WHEN n = ANY (fresh) THEN '{RunStatus.RUNNING}' ELSE status END,
            attempt_at = CASE WHEN n = ANY (fresh) THEN (SELECT @.rotor_now()) ELSE attempt_at END
        WHERE n = ANY (chosen) RETURNING *, n = ANY (fresh) AS begins)
    SELECT {_CLAIMED}, CASE WHEN begins THEN 0 ELSE {NEWEST_SEQ.replace("r.n", "u.n")} END, cancel, begins,
        coalesce((SELECT p.ended_at IS NULL FROM @.rotor_runs AS p WHERE p.n = u.parent_n), false), NULL::boolean
    FROM u ORDER BY depth, n;
END $$;
"""

_TAKE = f"""
CREATE FUNCTION @.rotor_take(me bigint, wanted bigint[]) RETURNS boolean LANGUAGE plpgsql {PLANS} AS $$
DECLARE free integer;
BEGIN
    {FENCE}
    IF NOT FOUND THEN RETURN NULL; END IF;
    PERFORM 1 FROM @.rotor_runs WHERE n = ANY (wanted) ORDER BY n FOR NO KEY UPDATE;
    SELECT count(*) INTO free FROM @.rotor_runs AS r WHERE n = ANY (wanted) AND (
        owner IS NULL OR owner = me OR NOT EXISTS (SELECT FROM @.rotor_replicas WHERE number = r.owner));
    IF free < (SELECT count(DISTINCT each) FROM unnest(wanted) AS each) THEN RETURN false; END IF;
    UPDATE @.rotor_runs SET owner = me WHERE n = ANY (wanted);
    RETURN true;
END $$;
"""

# Two statements: as one, what a replica was writing while its row was taken away would be left to nobody. What is freed
# is named by number: a replica that entered after this has begun cannot be among the dead.
REAP_REPLICAS = """
DELETE FROM @.rotor_replicas WHERE number IN (
    SELECT number FROM @.rotor_replicas WHERE lease_until < (SELECT @.rotor_now())
    FOR UPDATE SKIP LOCKED) RETURNING number
"""

_FREE = f"""
CREATE FUNCTION @.rotor_free(at_most integer, tidies boolean) RETURNS integer LANGUAGE plpgsql {PLANS} AS $$
#variable_conflict use_column
DECLARE dead bigint[]; freed integer := 0; gone bigint;
BEGIN
    WITH RECURSIVE owners AS (
        (SELECT owner FROM @.rotor_runs WHERE ended_at IS NULL AND owner IS NOT NULL ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT r.owner FROM @.rotor_runs AS r WHERE r.ended_at IS NULL AND r.owner > o.owner
                ORDER BY r.owner LIMIT 1)
        FROM owners AS o WHERE o.owner IS NOT NULL)
    SELECT array_agg(owner) INTO dead FROM owners
    WHERE owner IS NOT NULL AND NOT EXISTS (SELECT FROM @.rotor_replicas WHERE number = owner);
    IF dead IS NOT NULL THEN
        UPDATE @.rotor_runs SET owner = NULL WHERE n IN (
            SELECT n FROM @.rotor_runs WHERE ended_at IS NULL AND owner = ANY (dead) LIMIT at_most
            FOR NO KEY UPDATE SKIP LOCKED);
        GET DIAGNOSTICS freed = ROW_COUNT;
    END IF;
    SELECT coordinator INTO gone FROM @.rotor_desk
    WHERE NOT EXISTS (SELECT FROM @.rotor_replicas WHERE number = coordinator);
    UPDATE @.rotor_desk SET coordinator = NULL WHERE coordinator = gone;
    IF tidies THEN
        DELETE FROM @.rotor_declared WHERE NOT EXISTS (SELECT FROM @.rotor_replicas WHERE number = replica);
        DELETE FROM @.rotor_watches WHERE NOT @.rotor_is_there(watcher);
        DELETE FROM @.rotor_mail WHERE addressee <> 0 AND NOT @.rotor_is_there(addressee);
    END IF;
    RETURN freed;
END $$;
"""

CLAIMING = _CLAIM + _TAKE + _FREE
