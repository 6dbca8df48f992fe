"""The tables of the SQLite store. What reads and writes them is built from the records' own fields."""

from __future__ import annotations

from rotor_actors.records import ChildRow, ItemRow, RunRow, StepRow

APPLICATION_ID = 0x526F746F  # "Roto"

# Rows are clustered by what grows: runs by their number, journal rows by run and entry. Random hashes as clustered
# keys cost half of the throughput at a million runs; the public id has an index of its own. `numbers` is a row of its
# own, so that opening does not have to look at all that is stored.
_RUNS_AND_STEPS = """
CREATE TABLE runs(
    n INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL, workflow_id TEXT NOT NULL, root_n INTEGER NOT NULL, root_run_id TEXT NOT NULL,
    created_at REAL NOT NULL, parent_n INTEGER, parent_run_id TEXT, parent_key BLOB, parent_step_id TEXT,
    generation INTEGER NOT NULL, depth INTEGER NOT NULL, input BLOB, headers BLOB, retries BLOB, timeout REAL,
    deadline REAL,
    status TEXT NOT NULL, attempt INTEGER NOT NULL, attempt_seq INTEGER NOT NULL, attempt_at REAL, wake_at REAL,
    rest_seq INTEGER NOT NULL, recoveries INTEGER NOT NULL, ended_at REAL, end_seq INTEGER, result BLOB, error BLOB,
    flags INTEGER NOT NULL, input_crc INTEGER NOT NULL, result_crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX runs_by_id ON runs(run_id);
CREATE INDEX runs_by_parent ON runs(parent_n) WHERE parent_n IS NOT NULL;
CREATE INDEX runs_by_root ON runs(root_n);
CREATE INDEX runs_live ON runs(n) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs(parent_n, end_seq) WHERE parent_n IS NOT NULL AND end_seq IS NOT NULL;
CREATE TABLE steps(
    n INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL, step_id TEXT NOT NULL,
    target TEXT NOT NULL, status TEXT NOT NULL, payload BLOB, began_at REAL, attempts INTEGER NOT NULL, due REAL,
    seq INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY(n, seq)
) WITHOUT ROWID;
CREATE TABLE numbers(last_n INTEGER NOT NULL, last_seq INTEGER NOT NULL);
INSERT INTO numbers VALUES (0, 0);
"""

_ITEMS = """
CREATE TABLE items(
    space TEXT NOT NULL, item_key TEXT NOT NULL, body BLOB, n INTEGER, ord INTEGER NOT NULL, due REAL,
    crc INTEGER NOT NULL,
    PRIMARY KEY(space, item_key)
) WITHOUT ROWID;
CREATE INDEX items_in_order ON items(space, ord, item_key);
CREATE INDEX items_by_owner ON items(n) WHERE n IS NOT NULL;
CREATE INDEX items_by_due ON items(space, due) WHERE due IS NOT NULL;
"""

# Said in the same words by whoever wants to follow the indexes of what has ended. It names a column that they hold, so
# that counting them needs no look at the rows.
HAS_ENDED = "status IN ('completed', 'failed', 'cancelled')"

_LOOKING = f"""
ALTER TABLE runs ADD COLUMN version TEXT;
ALTER TABLE runs ADD COLUMN origin_run_id TEXT;
ALTER TABLE runs ADD COLUMN attempts_before INTEGER NOT NULL DEFAULT 0;
CREATE INDEX runs_by_workflow ON runs(workflow_id);
CREATE INDEX runs_by_time ON runs(created_at);
CREATE INDEX runs_ended_by_status ON runs(status) WHERE {HAS_ENDED};
CREATE INDEX runs_ended_by_workflow ON runs(workflow_id, status) WHERE {HAS_ENDED};
CREATE INDEX runs_with_error ON runs(n) WHERE error IS NOT NULL;
CREATE INDEX runs_ended_roots ON runs(ended_at) WHERE parent_n IS NULL AND ended_at IS NOT NULL;
CREATE TABLE rotor_transactions(
    n INTEGER NOT NULL, step_key BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY(n, step_key)
) WITHOUT ROWID;
"""

_EVENTS = "ALTER TABLE runs ADD COLUMN event BLOB;"

# The step at position i makes version i + 1 of version i. A new file takes all of them: never change one that was
# released, add another.
STEPS_TO_VERSION = (_RUNS_AND_STEPS, _ITEMS, _LOOKING, _EVENTS)
SCHEMA_VERSION = len(STEPS_TO_VERSION)

PROGRESS_SPACE = "progress"
SPENT_SPACE = "budget-spent"
"""Items of this space belong to the run whose number is their `ord`: they outlive its end, and go when it is deleted."""

RUN_FIELDS = RunRow.__struct_fields__
MUTABLE_FIELDS = RUN_FIELDS[RUN_FIELDS.index("status") :]
STEP_FIELDS = StepRow.__struct_fields__
ITEM_FIELDS = tuple("item_key" if field == "key" else field for field in ItemRow.__struct_fields__[:-1])
CHILD_FIELDS = tuple("parent_key" if field == "key" else field for field in ChildRow.__struct_fields__)

# As stored: with the checksums.
RUN_COLUMNS = (*RUN_FIELDS, "input_crc", "result_crc")
AMEND_COLUMNS = ("n", "input", "headers", "event", "input_crc")
CHANGE_COLUMNS = ("n", *MUTABLE_FIELDS, "result_crc")
STEP_COLUMNS = (*STEP_FIELDS, "crc")
CHILD_COLUMNS = (*CHILD_FIELDS, "result_crc")
ITEM_COLUMNS = (*ITEM_FIELDS, "crc")

BLOBS = frozenset({"parent_key", "input", "headers", "retries", "event", "result", "error", "key", "payload", "body"})


def blob_positions(columns: tuple[str, ...]) -> tuple[int, ...]:
    """Which of the columns are blobs."""
    return tuple(position for position, column in enumerate(columns) if column in BLOBS)
