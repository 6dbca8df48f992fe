"""What `import rotor_actors` costs over a bare interpreter, and whether it pulls in what it should not.

    python benchmarks/bench_import.py [--repeat 15]

Whole processes are timed, bare and importing in turns; `seconds` is what the import adds, `cpu_seconds`
the same on the CPU, which a busy machine disturbs less; `asyncio_seconds` is what
`import asyncio` alone adds. `slowest` are the modules that
`python -X importtime` names as the slowest by themselves, in microseconds.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from common import emit, median, options, parse, tell
from host import Setup, Stopwatch

HEAVY = [
    "starlette", "fastapi", "uvicorn", "httpx", "aiohttp",
    "opentelemetry", "prometheus_client",
    "asyncpg", "psycopg", "sqlalchemy", "sqlite3",
    "rich", "textual", "typer", "click",
    "pydantic", "attrs", "numpy", "uvloop",
]  # fmt: skip

LIST_MODULES = "import json, sys, rotor_actors; print(json.dumps(sorted(sys.modules)))"


def seconds_of(code: str) -> tuple[float, float]:
    """Of a whole process, by the clock and on the CPU."""
    watch, before = Stopwatch(), _cpu_of_children()
    subprocess.run([sys.executable, "-c", code], check=True)
    return watch(), _cpu_of_children() - before


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # to the microsecond; os.times() counts in hundredths
    return usage.ru_utime + usage.ru_stime


def heavy_modules() -> list[str]:
    """Those of the heavy ones that the import pulls in, over what a bare interpreter of this environment has."""
    listed = subprocess.run([sys.executable, "-c", LIST_MODULES], check=True, capture_output=True, text=True).stdout
    bare_code = LIST_MODULES.replace(", rotor_actors", "")
    bare = subprocess.run([sys.executable, "-c", bare_code], check=True, capture_output=True, text=True).stdout
    return sorted(set(HEAVY) & (set(json.loads(listed)) - set(json.loads(bare))))


def slowest(count: int = 8) -> dict[str, int]:
    command = [sys.executable, "-X", "importtime", "-c", "import rotor_actors"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    times: dict[str, int] = {}
    for line in lines:
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            times[name.strip()] = int(own)
    return dict(sorted(times.items(), key=lambda item: -item[1])[:count])


def measure(setup: Setup) -> None:
    seconds_of("import rotor_actors")  # compiled, and in the page cache
    pairs = [(seconds_of("pass"), seconds_of("import rotor_actors")) for _ in range(setup.repeat)]
    asyncio_added = median([seconds_of("import asyncio")[0] - bare[0] for bare, _ in pairs])
    added = [whole[0] - bare[0] for bare, whole in pairs]
    bare, whole = median([bare[0] for bare, _ in pairs]), median([whole[0] for _, whole in pairs])
    heavy = heavy_modules()
    emit(
        "import", 1, added, setup,
        bare_seconds=bare, whole_seconds=whole, ratio_to_bare=whole / bare,
        cpu_seconds=median([whole[1] - bare[1] for bare, whole in pairs]),
        asyncio_seconds=asyncio_added,
        heavy_modules=heavy, slowest=slowest(),
    )  # fmt: skip
    tell(f"import: {median(added) * 1e3:.0f} ms over {bare * 1e3:.0f} ms bare; heavy: {', '.join(heavy) or 'none'}")


def main() -> None:
    _, setup = parse(options(__doc__, n=[1], repeat=15))
    measure(setup)


if __name__ == "__main__":
    main()
