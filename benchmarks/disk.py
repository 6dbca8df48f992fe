"""Stores on a real disk that count their commits."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from host import Setup, Stopwatch

from rotor_actors import MemoryStore, SQLiteStore
from rotor_actors.records import Entry, Kind, RunCreated, RunRow, StepRecorded, StepRow


@dataclass
class Commits:
    """What was committed. `count` and `longest` tell how effects were grouped, and whether one commit was too large."""

    count: int = 0
    largest: int = 0
    longest: float = 0.0
    newest_at: float = field(default_factory=time.perf_counter)
    seconds: list[float] = field(default_factory=lambda: list[float]())

    def note(self, entries: int, seconds: float) -> None:
        self.count += 1
        self.largest = max(self.largest, entries)
        self.longest = max(self.longest, seconds)
        self.seconds.append(seconds)
        self.newest_at = time.perf_counter()

    def fields(self) -> dict[str, object]:
        return {
            "commits": self.count,
            "entries_in_largest_commit": self.largest,
            "longest_commit_ms": round(self.longest * 1e3, 2),
        }

    async def rest(self, seconds: float = 0.5) -> None:
        """Wait until nothing has been committed for so long."""
        while time.perf_counter() - self.newest_at < seconds:  # noqa: ASYNC110  (a quiet spell is no event)
            await asyncio.sleep(0.02)


class CountedSQLite(SQLiteStore):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits = Commits()

    def commit(self, entries: list[Entry]) -> None:
        watch = Stopwatch()
        super().commit(entries)
        self.commits.note(len(entries), watch())


class CountedMemory(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.commits = Commits()

    def commit(self, entries: list[Entry]) -> None:
        watch = Stopwatch()
        super().commit(entries)
        self.commits.note(len(entries), watch())


def new_store(setup: Setup, directory: Path) -> CountedSQLite | CountedMemory:
    return CountedMemory() if setup.store == "memory" else CountedSQLite(directory / "bench.db")


def commit_seconds(setup: Setup, count: int) -> list[float]:
    """How long one bare commit of one entry takes, `count` times: what a durable step cannot be cheaper than."""
    seconds: list[float] = []
    with scratch(setup) as directory:
        store = new_store(setup, directory)
        store.open()
        store.commit([RunCreated(RunRow(1, "run", "workflow", 1, "run", time.time()), 1)])
        for seq in range(2, count + 2):
            row = StepRow(1, time.time(), Kind.RUN, seq.to_bytes(16, "big"), f"step {seq}", payload=b"\x01", seq=seq)
            watch = Stopwatch()
            store.commit([StepRecorded(row, seq)])
            seconds.append(watch())
        store.close()
    return seconds


@contextmanager
def scratch(setup: Setup) -> Generator[Path]:
    """A directory on a real disk, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="rotor-bench-", dir=setup.directory or _disk()) as directory:
        yield Path(directory)


def _disk() -> str:
    """The first usual place that is no RAM disk: there fsync costs nothing, and figures mean nothing."""
    places = [tempfile.gettempdir(), "/var/tmp", os.getcwd()]
    for place in places:
        if os.path.isdir(place) and file_system(place) not in ("tmpfs", "ramfs"):
            return place
    return places[0]


def file_system(place: str) -> str:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    path, found, kind = os.path.realpath(place), "", "unknown"
    for mount in mounts:
        _, point, of_kind, *_ = mount.split(" ")
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(found):
            found, kind = point, of_kind
    return kind
