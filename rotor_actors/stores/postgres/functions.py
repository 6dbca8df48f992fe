"""What the database does by itself: each verb that changes something is one function, called in a statement of its own.

Each takes the fence first: the replica's own row, `FOR KEY SHARE`, so that whoever takes the row away waits for this, or
this does nothing. The statements of a function see each what those before it did; in a single one with several parts
they would not, and a run that is inserted and ends in it would stay open.

A run that another replica owns is only touched when all rows of the commit that may be somebody else's have been
locked, in one order: two commits never wait for each other in a ring.

A function that was released stays as it is: replicas of that version go on calling it while a newer one has already
brought the schema up to date. Add another, under another name.
"""

from __future__ import annotations

from rotor_actors.records import STICKY_FLAGS, MailKind, RunFlag, RunStatus
from rotor_actors.stores import schema
from rotor_actors.stores.postgres.tables import attributes

# How a run stands that is created: its creator's, or in the same commit left to others.
IS_LEFT, IS_PARKED, TO_COORDINATOR = 1, 2, 4
CANCEL_COLUMNS = ("n", "ended_at", "end_seq", "error", "result_crc", "flags")

# Rows come as arrays of these: half of what an array for each column costs, on both sides.
_TYPES = f"""
CREATE TYPE @.rotor_created AS ({attributes(schema.RUN_COLUMNS)}, standing integer);
CREATE TYPE @.rotor_claimed AS (
    {attributes(schema.RUN_COLUMNS)}, newest_seq bigint, cancel bytea, begins boolean, is_below boolean, is_mine boolean
);
CREATE TYPE @.rotor_amended AS ({attributes(schema.AMEND_COLUMNS)});
CREATE TYPE @.rotor_changed AS ({attributes(schema.CHANGE_COLUMNS)});
CREATE TYPE @.rotor_recorded AS ({attributes(schema.STEP_COLUMNS)});
CREATE TYPE @.rotor_rested AS (n bigint, rest_seq bigint, wake_at float8);
CREATE TYPE @.rotor_cancelled AS ({attributes(CANCEL_COLUMNS)});
CREATE TYPE @.rotor_expired AS (space text COLLATE "C", upto float8);
CREATE TYPE @.rotor_dropped AS (space text COLLATE "C", item_key text COLLATE "C");
CREATE TYPE @.rotor_put AS ({attributes(schema.ITEM_COLUMNS)});
CREATE TYPE @.rotor_sent AS (addressee bigint, kind text, body bytea, once text COLLATE "C");
CREATE TYPE @.rotor_released AS (n bigint, is_parked boolean, to_coordinator boolean);
CREATE TYPE @.rotor_requested AS (n bigint, body bytea, flags integer);
CREATE TYPE @.rotor_flagged AS (n bigint, flags integer);
CREATE TYPE @.rotor_seen AS (n bigint, end_seq bigint);
CREATE TYPE @.rotor_watched AS (n bigint, watcher bigint);
CREATE TYPE @.rotor_declaration AS (workflow_id text COLLATE "C", versions text[] COLLATE "C");
"""

# Whatever the statistics say, a commit looks up the rows that it names, one by one.
PLANS = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off " \
         "SET enable_mergejoin = off SET jit = off"  # fmt: skip

FENCE = "PERFORM 1 FROM @.rotor_replicas WHERE number = me FOR KEY SHARE;"


def _updates(columns: tuple[str, ...]) -> str:
    # What others than its owner have said of it stays, until it has ended and is brought back.
    sticky = (
        f"v.flags | CASE WHEN r.ended_at IS NULL OR v.ended_at IS NOT NULL THEN r.said & {STICKY_FLAGS:d} ELSE 0 END"
    )
    return ", ".join(f"{name} = {sticky if name == 'flags' else f'v.{name}'}" for name in columns[1:])


_NOBODYS = "owner = NULL, is_parked = false, to_coordinator = false, cancel = NULL"

# The only clock that decides leases and due times.
_NOW = """
CREATE FUNCTION @.rotor_now() RETURNS float8 LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM clock_timestamp())::float8
$$;
"""

_PACKED = """
CREATE FUNCTION @.rotor_packed(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN n < 128 THEN substr(int8send(n), 8) WHEN n < 256 THEN '\\xcc'::bytea || substr(int8send(n), 8)
                WHEN n < 65536 THEN '\\xcd'::bytea || substr(int8send(n), 7)
                WHEN n < 4294967296 THEN '\\xce'::bytea || substr(int8send(n), 5) ELSE '\\xcf'::bytea || int8send(n) END
$$;
"""

# `rotor_packed` is MessagePack's way of writing a number.
_SETTLE = f"""
CREATE FUNCTION @.rotor_settle(ended bigint[]) RETURNS bigint[] LANGUAGE plpgsql {PLANS} AS $$
DECLARE hints bigint[];
BEGIN
    DELETE FROM @.rotor_mail WHERE addressee = ANY (ended);
    IF NOT EXISTS (SELECT FROM @.rotor_watches) THEN RETURN NULL; END IF;
    WITH gone AS (DELETE FROM @.rotor_watches WHERE n = ANY (ended) RETURNING n, watcher),
    sent AS (
        INSERT INTO @.rotor_mail(addressee, kind, body)
        SELECT watcher, '{MailKind.ENDED}', @.rotor_packed(n) FROM gone WHERE @.rotor_is_there(watcher) ORDER BY n, watcher
        RETURNING addressee)
    SELECT array_agg(@.rotor_reader_of(addressee)) INTO hints FROM sent;
    RETURN hints;
END $$;
"""

_ADDRESSES = """
CREATE FUNCTION @.rotor_is_there(addressee bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN addressee < 0 THEN EXISTS (SELECT FROM @.rotor_replicas WHERE number = -addressee)
                WHEN addressee > 0 THEN EXISTS (SELECT FROM @.rotor_runs WHERE n = addressee AND ended_at IS NULL)
                ELSE true END
$$;
CREATE FUNCTION @.rotor_reader_of(addressee bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(CASE WHEN addressee < 0 THEN -addressee
                         WHEN addressee > 0 THEN (SELECT owner FROM @.rotor_runs WHERE n = addressee)
                         ELSE (SELECT coordinator FROM @.rotor_desk) END, 0)
$$;
"""

_PARAMETERS = {
    "touched": "bigint[]", "deleted": "bigint[]", "created": "@.rotor_created[]", "amended": "@.rotor_amended[]",
    "changed": "@.rotor_changed[]", "recorded": "@.rotor_recorded[]", "rested": "@.rotor_rested[]",
    "cancelled": "@.rotor_cancelled[]", "ended": "bigint[]", "owners": "bigint[]", "expired": "@.rotor_expired[]",
    "dropped": "@.rotor_dropped[]", "put": "@.rotor_put[]", "taken": "bigint[]", "sent": "@.rotor_sent[]",
    "released": "@.rotor_released[]", "requested": "@.rotor_requested[]", "flagged": "@.rotor_flagged[]",
    "seen": "@.rotor_seen[]", "watched": "@.rotor_watched[]",
}  # fmt: skip
COMMIT_PARAMETERS = tuple(_PARAMETERS)
"""In the order of the arguments, behind the replica's number. NULL stands for none: most commits have few kinds."""

_OF_RUNS = f"""
    IF deleted IS NOT NULL THEN
        DELETE FROM @.rotor_steps WHERE n = ANY (deleted);
        DELETE FROM @.rotor_transactions WHERE n = ANY (deleted);
        DELETE FROM @.rotor_watches WHERE n = ANY (deleted);
        DELETE FROM @.rotor_items
            WHERE space IN ('{schema.PROGRESS_SPACE}', '{schema.SPENT_SPACE}') AND ord = ANY (deleted);
        DELETE FROM @.rotor_runs WHERE n = ANY (deleted);
    END IF;
    IF created IS NOT NULL THEN
        INSERT INTO @.rotor_runs({", ".join(schema.RUN_COLUMNS)}, owner, is_parked, to_coordinator)
        SELECT {", ".join(f"v.{name}" for name in schema.RUN_COLUMNS)},
            CASE WHEN v.ended_at IS NULL AND v.standing = 0 THEN me END,
            v.standing & {IS_PARKED} <> 0, v.standing & {TO_COORDINATOR} <> 0
        FROM unnest(created) AS v;
        IF EXISTS (SELECT FROM unnest(created) AS v WHERE v.standing <> 0) THEN
            hints := hints || 0::bigint;
        END IF;
    END IF;
    IF amended IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET {_updates(schema.AMEND_COLUMNS)} FROM unnest(amended) AS v WHERE r.n = v.n;
    END IF;
    IF changed IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET {_updates(schema.CHANGE_COLUMNS)},
            said = CASE WHEN r.ended_at IS NULL OR v.ended_at IS NOT NULL THEN said ELSE 0 END,
            owner = CASE WHEN v.ended_at IS NULL THEN owner END, is_parked = is_parked AND v.ended_at IS NULL,
            to_coordinator = to_coordinator AND v.ended_at IS NULL, cancel = CASE WHEN v.ended_at IS NULL THEN cancel END
        FROM unnest(changed) AS v WHERE r.n = v.n;
    END IF;
    IF recorded IS NOT NULL THEN
        INSERT INTO @.rotor_steps({", ".join(schema.STEP_COLUMNS)}) SELECT v.* FROM unnest(recorded) AS v;
    END IF;
    IF rested IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET rest_seq = v.rest_seq, wake_at = v.wake_at
        FROM unnest(rested) AS v WHERE r.n = v.n;
    END IF;
    IF cancelled IS NOT NULL THEN
        UPDATE @.rotor_runs AS r
        SET status = '{RunStatus.CANCELLED}', ended_at = v.ended_at, end_seq = v.end_seq, error = v.error,
            result_crc = v.result_crc, flags = r.flags | v.flags, {_NOBODYS}
        FROM unnest(cancelled) AS v WHERE r.n = v.n;
    END IF;
"""

_OF_ITEMS = f"""
    IF owners IS NOT NULL THEN
        DELETE FROM @.rotor_items WHERE n = ANY (owners);
    END IF;
    IF expired IS NOT NULL THEN
        DELETE FROM @.rotor_items AS i USING unnest(expired) AS v WHERE i.space = v.space AND i.due <= v.upto;
    END IF;
    IF dropped IS NOT NULL THEN
        DELETE FROM @.rotor_items AS i USING unnest(dropped) AS v WHERE i.space = v.space AND i.item_key = v.item_key;
    END IF;
    IF put IS NOT NULL THEN
        INSERT INTO @.rotor_items({", ".join(schema.ITEM_COLUMNS)}) SELECT v.* FROM unnest(put) AS v
        ON CONFLICT (space, item_key) DO UPDATE
        SET {", ".join(f"{name} = excluded.{name}" for name in schema.ITEM_COLUMNS[2:])};
    END IF;
"""

_OF_OTHERS = f"""
    IF taken IS NOT NULL THEN
        DELETE FROM @.rotor_mail WHERE id = ANY (taken);
    END IF;
    IF released IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET owner = NULL, is_parked = v.is_parked, to_coordinator = v.to_coordinator
        FROM unnest(released) AS v WHERE r.n = v.n AND r.ended_at IS NULL;
        hints := hints || 0::bigint;
    END IF;
    IF requested IS NOT NULL THEN
        WITH hit AS (
            UPDATE @.rotor_runs AS r SET cancel = coalesce(r.cancel, v.body), flags = r.flags | v.flags,
                said = r.said | v.flags
            FROM unnest(requested) AS v WHERE r.n = v.n AND r.ended_at IS NULL RETURNING r.n, v.body, r.owner),
        sent AS (
            INSERT INTO @.rotor_mail(addressee, kind, body) SELECT n, '{MailKind.CANCEL}', body FROM hit ORDER BY n)
        SELECT hints || array_agg(DISTINCT coalesce(owner, 0)) INTO hints FROM hit;
        UPDATE @.rotor_runs AS r SET flags = r.flags | v.flags FROM unnest(requested) AS v
        WHERE r.n = v.n AND v.flags <> 0 AND r.ended_at IS NOT NULL AND r.flags & {RunFlag.UNSEEN:d} <> 0;
    END IF;
    IF flagged IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET flags = r.flags | v.flags, said = r.said | v.flags
        FROM unnest(flagged) AS v WHERE r.n = v.n;
    END IF;
    IF seen IS NOT NULL THEN
        UPDATE @.rotor_runs AS r SET flags = r.flags & ~{RunFlag.UNSEEN:d}, end_seq = v.end_seq
        FROM unnest(seen) AS v WHERE r.n = v.n;
    END IF;
    IF watched IS NOT NULL THEN
        INSERT INTO @.rotor_watches(n, watcher)
        SELECT v.n, v.watcher FROM unnest(watched) AS v JOIN @.rotor_runs AS r ON r.n = v.n AND r.ended_at IS NULL
        WHERE @.rotor_is_there(v.watcher)
        ON CONFLICT DO NOTHING;
        WITH told AS (
            INSERT INTO @.rotor_mail(addressee, kind, body)
            SELECT v.watcher, '{MailKind.ENDED}', @.rotor_packed(v.n) FROM unnest(watched) AS v
            WHERE NOT @.rotor_is_there(v.n) AND @.rotor_is_there(v.watcher)
            RETURNING addressee)
        SELECT hints || array_agg(DISTINCT @.rotor_reader_of(addressee)) INTO hints FROM told;
    END IF;
    IF sent IS NOT NULL THEN
        WITH posted AS (
            INSERT INTO @.rotor_mail(addressee, kind, body, once)
            SELECT v.addressee, v.kind, v.body, v.once
            FROM unnest(sent) WITH ORDINALITY AS v(addressee, kind, body, once, i)
            WHERE @.rotor_is_there(v.addressee) ORDER BY i
            RETURNING addressee)
        SELECT hints || array_agg(DISTINCT @.rotor_reader_of(addressee)) INTO hints FROM posted;
    END IF;
    IF ended IS NOT NULL THEN
        hints := hints || @.rotor_settle(ended);
    END IF;
"""

_COMMIT = f"""
CREATE FUNCTION @.rotor_commit(me bigint, {", ".join(f"{name} {kind}" for name, kind in _PARAMETERS.items())})
RETURNS bigint[] LANGUAGE plpgsql {PLANS} AS $$
#variable_conflict use_column
DECLARE hints bigint[] := '{{}}';
BEGIN
    {FENCE}
    IF NOT FOUND THEN RETURN NULL; END IF;
    IF touched IS NOT NULL THEN
        PERFORM 1 FROM @.rotor_runs WHERE n = ANY (touched) ORDER BY n FOR NO KEY UPDATE;
    END IF;
    {_OF_RUNS}{_OF_ITEMS}{_OF_OTHERS}
    RETURN hints;
END $$;
"""

_REGISTER = """
CREATE FUNCTION @.rotor_enter(lease float8) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE mine bigint; now_ float8 := @.rotor_now();
BEGIN
    INSERT INTO @.rotor_replicas(label, began_at, lease_until) VALUES ('', now_, now_ + lease) RETURNING number INTO mine;
    UPDATE @.rotor_replicas SET label = 'replica-' || mine WHERE number = mine;
    RETURN mine;
END $$;
CREATE FUNCTION @.rotor_leave(me bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @.rotor_runs SET owner = NULL WHERE owner = me AND ended_at IS NULL;
    UPDATE @.rotor_desk SET coordinator = NULL WHERE coordinator = me;
    DELETE FROM @.rotor_declared WHERE replica = me;
    DELETE FROM @.rotor_replicas WHERE number = me;
    DELETE FROM @.rotor_mail WHERE addressee = -me;
END $$;
"""

_DECLARE = f"""
CREATE FUNCTION @.rotor_declare(me bigint, named text, declared @.rotor_declaration[]) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    {FENCE}
    IF NOT FOUND THEN RETURN NULL; END IF;
    UPDATE @.rotor_replicas SET label = named WHERE number = me;
    DELETE FROM @.rotor_declared WHERE replica = me;
    INSERT INTO @.rotor_declared SELECT me, v.workflow_id, v.versions FROM unnest(declared) AS v;
    RETURN true;
END $$;
"""

COMMITTING = _TYPES + _NOW + _PACKED + _ADDRESSES + _SETTLE + _COMMIT
REGISTERING = _REGISTER + _DECLARE
