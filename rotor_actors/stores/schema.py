"""The tables of the SQLite store, and the statements that are built from the records' own fields."""

from __future__ import annotations

from rotor_actors.records import ChildRow, RunRow, StepRow

APPLICATION_ID = 0x526F746F  # "Roto"
SCHEMA_VERSION = 1

# Rows are clustered by what grows: runs by their number, journal rows by run and entry. Random hashes as clustered
# keys cost half of the throughput at a million runs; the public id has an index of its own.
CREATE = """
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
CREATE TABLE steps(
    n INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, key BLOB NOT NULL, step_id TEXT NOT NULL,
    target TEXT NOT NULL, status TEXT NOT NULL, payload BLOB, began_at REAL, attempts INTEGER NOT NULL, due REAL,
    seq INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY(n, seq)
) WITHOUT ROWID;
CREATE TABLE numbers(last_n INTEGER NOT NULL, last_seq INTEGER NOT NULL);
INSERT INTO numbers VALUES (0, 0);
"""

RUN_FIELDS = RunRow.__struct_fields__
STEP_FIELDS = StepRow.__struct_fields__
FIRST_MUTABLE = RUN_FIELDS.index("status")
MUTABLE_FIELDS = RUN_FIELDS[FIRST_MUTABLE:]

SELECT_RUN = f"SELECT {', '.join(RUN_FIELDS)}, input_crc, result_crc FROM runs"
SELECT_STEP = f"SELECT {', '.join(STEP_FIELDS)}, crc FROM steps"
CHILD_FIELDS = tuple("parent_key" if field == "key" else field for field in ChildRow.__struct_fields__)
SELECT_CHILD = f"SELECT {', '.join(CHILD_FIELDS)}, result_crc FROM runs"

# SQLite takes 32 766 variables in a statement.
_MAX_VARIABLES = 32_000
INSERT_RUN_ROWS = _MAX_VARIABLES // (len(RUN_FIELDS) + 2)
UPDATE_RUN_ROWS = _MAX_VARIABLES // (len(MUTABLE_FIELDS) + 2)
REST_ROWS = _MAX_VARIABLES // 3
INSERT_STEP_ROWS = _MAX_VARIABLES // (len(STEP_FIELDS) + 1)


def _values(columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return ",".join([row] * rows)


def insert_runs(rows: int) -> str:
    return f"INSERT INTO runs VALUES {_values(len(RUN_FIELDS) + 2, rows)}"


def update_runs(rows: int) -> str:
    columns = (*MUTABLE_FIELDS, "result_crc")
    changes = ", ".join(f"{column} = v.column{number}" for number, column in enumerate(columns, start=2))
    return f"UPDATE runs SET {changes} FROM (VALUES {_values(len(columns) + 1, rows)}) AS v WHERE runs.n = v.column1"


def insert_steps(rows: int) -> str:
    return f"INSERT INTO steps VALUES {_values(len(STEP_FIELDS) + 1, rows)}"


def update_rests(rows: int) -> str:
    return (
        f"UPDATE runs SET rest_seq = v.column2, wake_at = v.column3 FROM (VALUES {_values(3, rows)}) AS v "
        "WHERE runs.n = v.column1"
    )
