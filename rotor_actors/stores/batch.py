"""From a commit's entries to rows: what is written several times within one commit is written once. Pure."""

from __future__ import annotations

import zlib

from rotor_actors.records import (
    Entry,
    RunChanged,
    RunCreated,
    RunRested,
    RunRow,
    RunsCancelled,
    StepRecorded,
    StepRow,
    flatten,
)


class RowBatch:
    """The rows of one commit, at most one of each kind for each run.

    Written in the order created, changed, rested, cancelled, they come to what the entries say in theirs.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self.created: dict[int, RunRow] = {}
        self.changed: dict[int, RunRow] = {}
        self.steps: list[StepRow] = []
        self.rested: dict[int, RunRested] = {}
        self.cancelled: dict[int, RunsCancelled] = {}
        self.last_seq = max((entry.seq for entry in entries), default=0)
        for entry in flatten(entries):
            match entry:
                case RunCreated():
                    self.created[entry.run.n] = entry.run
                case RunChanged():
                    self._change(entry.run)
                case StepRecorded():
                    self.steps.append(entry.step)
                case RunsCancelled():
                    self.cancelled.update(dict.fromkeys(entry.ns, entry))
                case RunRested():
                    self.rested[entry.n] = entry

    def _change(self, run: RunRow) -> None:
        rows = self.created if run.n in self.created else self.changed
        rows[run.n] = run
        # The snapshot is newer than these.
        if self.rested:
            self.rested.pop(run.n, None)
        if self.cancelled:
            self.cancelled.pop(run.n, None)

    @property
    def last_n(self) -> int:
        return max(self.created, default=0)


def crc(*payloads: bytes | None) -> int:
    """SQLite does not notice a flipped bit in a payload: this does."""
    value = 0
    for payload in payloads:
        if payload:
            value = zlib.crc32(payload, value)
    return value
