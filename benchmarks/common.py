"""What the benchmarks share: options, figures, JSON lines.

Each measurement runs in a fresh process, so that none pays for what another left behind. Lines for machines go to
stdout, text for people to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw
from disk import file_system, scratch
from host import FROZEN_THRESHOLDS, Setup, has_loop


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
    return {
        **_environment(),
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "file_system": file_system(str(directory)),
        "sqlite": apsw.sqlite_lib_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
