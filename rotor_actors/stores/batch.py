"""From a commit's entries to rows: what is written several times within one commit is written once. Pure."""

from __future__ import annotations

import zlib
from typing import Any

from rotor_actors.records import Entry, RunChanged, RunCreated, RunRested, RunRow, RunsCancelled, StepRecorded, StepRow, flatten
from rotor_actors.stores.schema import MUTABLE_FIELDS, RUN_FIELDS, STEP_FIELDS


class RowBatch:
    """The rows of one commit: at most one for each run."""

    def __init__(self, entries: list[Entry]) -> None:
        self.created: dict[int, RunRow] = {}
        self.changed: dict[int, RunRow] = {}
        self.steps: list[StepRow] = []
        self.cancelled: list[RunsCancelled] = []
        self.rested: list[RunRested] = []
        self.last_seq = max((entry.seq for entry in entries), default=0)
        for entry in flatten(entries):
            match entry:
                case RunCreated():
                    self.created[entry.run.n] = entry.run
                case RunChanged():
                    rows = self.created if entry.run.n in self.created else self.changed
                    rows[entry.run.n] = entry.run
                case StepRecorded():
                    self.steps.append(entry.step)
                case RunsCancelled():
                    self.cancelled.append(entry)
                case RunRested():
                    self.rested.append(entry)


def crc(*payloads: bytes | None) -> int:
    """SQLite does not notice a flipped bit in a payload: this does."""
    value = 0
    for payload in payloads:
        if payload is not None:
            value = zlib.crc32(payload, value)
    return value


def run_values(row: RunRow) -> list[Any]:
    values = [getattr(row, field) for field in RUN_FIELDS]
    values.append(crc(row.input, row.headers, row.retries))
    values.append(crc(row.result, row.error))
    return values


def change_values(row: RunRow) -> list[Any]:
    values: list[Any] = [row.n]
    values.extend([getattr(row, field) for field in MUTABLE_FIELDS])
    values.append(crc(row.result, row.error))
    return values


def rest_values(entry: RunRested) -> list[Any]:
    return [entry.n, entry.rest_seq, entry.wake_at]


def step_values(row: StepRow) -> list[Any]:
    values = [getattr(row, field) for field in STEP_FIELDS]
    values.append(crc(row.payload))
    return values
