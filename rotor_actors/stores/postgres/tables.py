"""The tables of a shared store. `@.` stands for the schema that they are in.

Each index is paid for with every run: those that hold all runs are what lists follow, and there are no others of their
kind. What only concerns live runs, top-level ones or failures has a partial index.
"""

from __future__ import annotations

from rotor_actors.ids import KEY_BYTES
from rotor_actors.records import RunFlag
from rotor_actors.stores import schema

_BIGINT = frozenset({
    "n", "root_n", "parent_n", "attempt_seq", "rest_seq", "end_seq", "seq", "input_crc", "result_crc", "crc", "ord",
})  # fmt: skip
_INTEGER = frozenset({"generation", "depth", "attempt", "recoveries", "flags", "attempts_before", "attempts"})
_TIME = frozenset({
    "created_at", "timeout", "deadline", "attempt_at", "wake_at", "ended_at", "at", "began_at", "due",
})  # fmt: skip
_MAY_BE_NULL = frozenset({
    "parent_n", "parent_run_id", "parent_key", "parent_step_id", "input", "headers", "retries", "timeout", "version",
    "origin_run_id", "event", "attempt_at", "wake_at", "ended_at", "end_seq", "result", "error", "deadline", "payload",
    "began_at", "due", "body",
})  # fmt: skip


def type_of(column: str) -> str:
    """The type of a column; texts are compared byte by byte, as Python compares them."""
    if column in schema.BLOBS:
        return "bytea"
    if column in _TIME:
        return "float8"
    if column in _BIGINT:
        return "bigint"
    return "integer" if column in _INTEGER else 'text collate "C"'


def columns(names: tuple[str, ...], *, are_of_items: bool = False) -> str:
    """As in CREATE TABLE."""
    optional = _MAY_BE_NULL | ({"n"} if are_of_items else frozenset[str]())
    return ", ".join(f"{name} {type_of(name)}{'' if name in optional else ' NOT NULL'}" for name in names)


def attributes(names: tuple[str, ...]) -> str:
    """As in CREATE TYPE."""
    return ", ".join(f"{name} {type_of(name)}" for name in names)


_LIVE = "ended_at IS NULL"

RUNS = f"""
CREATE TABLE @.rotor_runs(
    {columns(schema.RUN_COLUMNS)},
    owner bigint, is_parked boolean NOT NULL DEFAULT false, to_coordinator boolean NOT NULL DEFAULT false, cancel bytea,
    said integer NOT NULL DEFAULT 0,
    PRIMARY KEY (n)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
CREATE UNIQUE INDEX rotor_runs_by_id ON @.rotor_runs(run_id);
CREATE INDEX rotor_runs_by_time ON @.rotor_runs(created_at, n);
CREATE INDEX rotor_runs_by_workflow ON @.rotor_runs(workflow_id, created_at, n);
CREATE INDEX rotor_runs_by_root ON @.rotor_runs(root_n, depth, n);
CREATE INDEX rotor_runs_by_parent ON @.rotor_runs(parent_n, end_seq, n) WHERE parent_n IS NOT NULL;
CREATE INDEX rotor_runs_unseen ON @.rotor_runs(parent_n) WHERE flags & {RunFlag.UNSEEN:d} <> 0;
CREATE INDEX rotor_runs_live ON @.rotor_runs(owner, n) WHERE {_LIVE};
CREATE INDEX rotor_runs_unowned ON @.rotor_runs(workflow_id, root_n, depth, n)
    WHERE {_LIVE} AND owner IS NULL AND NOT is_parked;
CREATE INDEX rotor_runs_parked ON @.rotor_runs(wake_at) WHERE {_LIVE} AND owner IS NULL AND is_parked;
CREATE INDEX rotor_runs_to_cancel ON @.rotor_runs(n) WHERE {_LIVE} AND owner IS NULL AND cancel IS NOT NULL;
CREATE INDEX rotor_runs_whole ON @.rotor_runs(root_n)
    WHERE {_LIVE} AND owner IS NULL AND flags & {RunFlag.WHOLE:d} <> 0;
CREATE INDEX rotor_runs_not_well ON @.rotor_runs(status, created_at, n) WHERE status IN ('failed', 'cancelled');
CREATE INDEX rotor_runs_with_error ON @.rotor_runs(created_at, n) WHERE error IS NOT NULL;
CREATE INDEX rotor_runs_ended_roots ON @.rotor_runs(ended_at, n) WHERE parent_n IS NULL AND ended_at IS NOT NULL;
CREATE TABLE @.rotor_steps({columns(schema.STEP_COLUMNS)}, PRIMARY KEY (n, seq));
CREATE INDEX rotor_steps_of_maps ON @.rotor_steps(n, seq) WHERE length(key) > {KEY_BYTES};
CREATE TABLE @.rotor_items({columns(schema.ITEM_COLUMNS, are_of_items=True)}, PRIMARY KEY (space, item_key))
    WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX rotor_items_in_order ON @.rotor_items(space, ord, item_key);
CREATE INDEX rotor_items_by_owner ON @.rotor_items(n) WHERE n IS NOT NULL;
CREATE INDEX rotor_items_by_due ON @.rotor_items(space, due) WHERE due IS NOT NULL;
CREATE TABLE @.rotor_transactions(
    n bigint NOT NULL, step_key bytea NOT NULL, payload bytea NOT NULL, crc bigint NOT NULL, PRIMARY KEY (n, step_key)
);
"""

REPLICAS = """
CREATE TABLE @.rotor_replicas(
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, label text NOT NULL, began_at float8 NOT NULL,
    lease_until float8 NOT NULL, is_draining boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE TABLE @.rotor_declared(
    replica bigint NOT NULL, workflow_id text COLLATE "C" NOT NULL, versions text[] COLLATE "C"
);
CREATE INDEX rotor_declared_by_replica ON @.rotor_declared(replica);
CREATE TABLE @.rotor_desk(coordinator bigint);
INSERT INTO @.rotor_desk VALUES (NULL);
CREATE TABLE @.rotor_mail(
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, addressee bigint NOT NULL, kind text NOT NULL, body bytea,
    once text COLLATE "C"
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX rotor_mail_by_addressee ON @.rotor_mail(addressee, id);
CREATE UNIQUE INDEX rotor_mail_once ON @.rotor_mail(once) WHERE once IS NOT NULL;
CREATE TABLE @.rotor_watches(n bigint NOT NULL, watcher bigint NOT NULL, PRIMARY KEY (n, watcher));
"""
