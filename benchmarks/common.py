"""What the benchmarks share: options, a store on a real disk, repeated timing, JSON lines.

Each measurement runs in a fresh process, so that none pays for what another left behind. Lines for machines go to
stdout, text for people to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rotor_actors import MemoryStore, SQLiteStore
from rotor_actors.records import Entry, Kind, RunCreated, RunRow, StepRecorded, StepRow

P = ParamSpec("P")
T = TypeVar("T")

# What a host would choose that holds 100 000 live runs and does not want each collection to visit all of them.
FROZEN_THRESHOLDS = (100_000, 50, 100)


@dataclass(frozen=True)
class Setup:
    """How the host is set up in one measurement."""

    loop: str = "asyncio"
    gc: str = "default"
    store: str = "sqlite"
    directory: str | None = None
    repeat: int = 3

    def fields(self) -> dict[str, object]:
        return {"loop": self.loop, "gc": self.gc, "store": self.store}


def options(description: str | None, *, n: Sequence[int], repeat: int = 3) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, nargs="+", default=list(n), help=f"sizes (default: {' '.join(map(str, n))})")
    parser.add_argument("--repeat", type=int, default=repeat, help=f"times each is measured (default: {repeat})")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="the host's event loop")
    parser.add_argument(
        "--gc", choices=["default", "off", "freeze"], default="default",
        help=f"the host's collector: as it is, switched off, or gc.freeze() with thresholds {FROZEN_THRESHOLDS}",
    )  # fmt: skip
    parser.add_argument("--store", choices=["sqlite", "memory"], default="sqlite")
    parser.add_argument("--dir", help="where stores are put (default: a temporary directory that is no RAM disk)")
    return parser


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Setup]:
    """Read the command line and print the machine's line; ends the program when the loop asked for is missing."""
    args = parser.parse_args()
    setup = Setup(args.loop, args.gc, args.store, args.dir, args.repeat)
    with scratch(setup) as directory:
        print_line({"name": "machine", **_machine(directory)})
    if not has_loop(setup.loop):
        skip(Path(sys.argv[0]).stem, f"{setup.loop} is not installed", setup)
        sys.exit(0)
    return args, setup


def has_loop(name: str) -> bool:
    return name == "asyncio" or importlib.util.find_spec(name) is not None


# Running


def in_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in a new interpreter and give its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args, **kwargs).result()


def run(setup: Setup, main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the loop and with the collector that the setup names."""
    set_up_gc(setup)
    with asyncio.Runner(loop_factory=_loop_factory(setup.loop)) as runner:
        return runner.run(main)


def set_up_gc(setup: Setup) -> None:
    gc.collect()
    if setup.gc == "off":
        gc.disable()
    elif setup.gc == "freeze":
        gc.freeze()
        gc.set_threshold(*FROZEN_THRESHOLDS)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began


# Stores


@dataclass
class Commits:
    """What was committed. `count` and `longest` tell how effects were grouped, and whether one commit was too large."""

    count: int = 0
    largest: int = 0
    longest: float = 0.0
    newest_at: float = field(default_factory=time.perf_counter)

    def note(self, entries: int, seconds: float) -> None:
        self.count += 1
        self.largest = max(self.largest, entries)
        self.longest = max(self.longest, seconds)
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
        if os.path.isdir(place) and _file_system(place) not in ("tmpfs", "ramfs"):
            return place
    return places[0]


def _file_system(place: str) -> str:
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


# Memory


def resident_bytes() -> int:
    """What of this process is in memory now; where that cannot be told, the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# Figures


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def emit(name: str, n: int, seconds: Sequence[float], setup: Setup, **fields: object) -> None:
    """Print one measurement: `seconds` is the median of the repetitions, `per_unit_us` that for each of the `n`."""
    middle = median(seconds)
    print_line(
        {
            "name": name,
            "n": n,
            "seconds": _short(middle),
            "seconds_min": _short(min(seconds)),
            "seconds_max": _short(max(seconds)),
            "repeat": len(seconds),
            "per_unit_us": _short(middle / n * 1e6),
            **{key: _short(value) if isinstance(value, float) else value for key, value in fields.items()},
            **setup.fields(),
            **_environment(),
        }
    )


def skip(name: str, why: str, setup: Setup) -> None:
    """Print that there is no figure, and why."""
    print_line({"name": name, "skipped": why, **setup.fields(), **_environment()})


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_line(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def _short(value: float) -> float:
    """Five digits: more would be noise."""
    return float(f"{value:.5g}")


def _environment() -> dict[str, object]:
    return {"python": platform.python_version(), "cpu_count": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}


def _machine(directory: Path) -> dict[str, object]:
    import apsw

    return {
        **_environment(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "file_system": _file_system(str(directory)),
        "sqlite": apsw.sqlite_lib_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
