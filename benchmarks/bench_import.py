"""What an import costs over a bare interpreter, and whether it pulls in what it should not.

    python benchmarks/bench_import.py [--repeat 15]

Whole processes are timed, bare and importing in turns; `seconds` is what the import adds, `cpu_seconds` the same on
the CPU, which a busy machine disturbs less. Bytecode is there, as it is where a package is installed; only
`import_all_without_bytecode` compiles our own modules each time, as a container does that installs without compiling.
`slowest` are the modules that `python -X importtime` names as the slowest by themselves, in microseconds.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common import emit, median, options, parse, tell
from host import Setup, Stopwatch

HEAVY = [
    "starlette", "fastapi", "uvicorn", "httpx", "aiohttp",
    "opentelemetry", "prometheus_client",
    "asyncpg", "psycopg", "sqlalchemy", "sqlite3",
    "rich", "textual", "typer", "click",
    "pydantic", "attrs", "numpy", "uvloop",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent

LIST_MODULES = "import json, sys; from rotor_actors import *; print(json.dumps(sorted(sys.modules)))"
HELP = """
import sys
from rotor_actors.cli.main import main
sys.argv = ["rotor", "--help"]
main()
"""
STATEMENTS = {
    "import": "import rotor_actors",
    "import_runtime": "from rotor_actors import Context, Runtime, workflow",
    "import_all": "from rotor_actors import *",
    "rotor_help": HELP,
}


class Interpreter:
    """Fresh interpreters that share a directory of bytecode: as an installed package has it, whatever our environment
    says about writing any."""

    def __init__(self, bytecode: str) -> None:
        self._bytecode = Path(bytecode)
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._env["PYTHONPYCACHEPREFIX"] = bytecode

    def forget_ours(self) -> None:
        """From now on our own modules are compiled each time; the standard library and others' are not."""
        for package in ("rotor_actors", "supervisors"):
            shutil.rmtree(self._bytecode.joinpath(*ROOT.parts[1:], package))
        self._env["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(self, code: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *options, "-c", code]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=self._env)

    def seconds_of(self, code: str) -> tuple[float, float]:
        """Of a whole process, by the clock and on the CPU."""
        watch, before = Stopwatch(), _cpu_of_children()
        self.run(code)
        return watch(), _cpu_of_children() - before


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # to the microsecond; os.times() counts in hundredths
    return usage.ru_utime + usage.ru_stime


def heavy_modules(python: Interpreter) -> list[str]:
    """Those of the heavy ones that the import pulls in, over what a bare interpreter of this environment has."""
    listed = python.run(LIST_MODULES).stdout
    bare = python.run(LIST_MODULES.replace("from rotor_actors import *;", "")).stdout
    return sorted(set(HEAVY) & (set(json.loads(listed)) - set(json.loads(bare))))


def slowest(python: Interpreter, count: int = 8) -> dict[str, int]:
    lines = python.run(STATEMENTS["import_all"], "-X", "importtime").stderr.splitlines()
    times: dict[str, int] = {}
    for line in lines:
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            times[name.strip()] = int(own)
    return dict(sorted(times.items(), key=lambda item: -item[1])[:count])


def measure(setup: Setup, python: Interpreter, name: str, code: str, **more: object) -> None:
    python.seconds_of(code)  # compiled, where it is kept, and in the page cache
    pairs = [(python.seconds_of("pass"), python.seconds_of(code)) for _ in range(setup.repeat)]
    added = [whole[0] - bare[0] for bare, whole in pairs]
    bare, whole = median([bare[0] for bare, _ in pairs]), median([whole[0] for _, whole in pairs])
    cpu = median([whole[1] - bare[1] for bare, whole in pairs])
    emit(
        name, 1, added, setup,
        bare_seconds=bare, whole_seconds=whole, ratio_to_bare=whole / bare, cpu_seconds=cpu, **more,
    )  # fmt: skip
    tell(f"{name}: {median(added) * 1e3:.0f} ms over {bare * 1e3:.0f} ms bare, {cpu * 1e3:.0f} ms of them on the CPU")


def main() -> None:
    _, setup = parse(options(__doc__, n=[1], repeat=15))
    with TemporaryDirectory() as bytecode:
        python = Interpreter(bytecode)
        measure(setup, python, "import_asyncio", "import asyncio")
        for name, code in STATEMENTS.items():
            measure(setup, python, name, code)
        heavy = heavy_modules(python)
        tell(f"heavy: {', '.join(heavy) or 'none'}")
        names: dict[str, object] = {"heavy_modules": heavy, "slowest": slowest(python)}
        python.forget_ours()
        measure(setup, python, "import_all_without_bytecode", STATEMENTS["import_all"], **names)


if __name__ == "__main__":
    main()
