"""The same fan-out on DBOS with SQLite, beside ours: N durable children of one trivial step each.

    python benchmarks/bench_peers.py [--n 200 1000]

Needs the extra `bench`; without `dbos` a line says so. The two take turns, each in a process of its own.
`ratio_to_dbos` is how many times as many children per second ours finishes.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import emit, median, options, parse, skip, tell
from disk import new_store, scratch
from host import Setup, Stopwatch, in_fresh_process, run
from workloads import FanOut, child, fan_out, trivial

from rotor_actors import Runtime


def measure_ours(setup: Setup, n: int) -> float:
    async def measure() -> float:
        plan = FanOut(n)
        with scratch(setup) as directory:
            async with Runtime(new_store(setup, directory), workflows=[child, fan_out]) as runtime:
                watch = Stopwatch()
                assert await runtime.execute(fan_out, plan) == plan.expected
                return watch()

    return run(setup, measure())


def measure_dbos(setup: Setup, n: int) -> float:
    with scratch(setup) as directory:
        return run(setup, _fan_out_on_dbos(directory, n))


async def _fan_out_on_dbos(directory: Path, n: int) -> float:
    dbos: Any = importlib.import_module("dbos").DBOS
    config = {"name": "bench", "system_database_url": f"sqlite:///{directory}/dbos.sqlite", "log_level": "ERROR",
              "run_admin_server": False}  # fmt: skip
    dbos(config=config)

    # Called as coroutines under gather: of the ways to start children, the fastest here.
    @dbos.step()  # type: ignore[untyped-decorator]
    async def work(number: int) -> int:
        return await trivial(number)

    @dbos.workflow()  # type: ignore[untyped-decorator]
    async def dbos_child(number: int) -> int:
        return int(await work(number))

    @dbos.workflow()  # type: ignore[untyped-decorator]
    async def dbos_parent(children: int) -> int:
        return sum(await asyncio.gather(*(dbos_child(number) for number in range(children))))

    dbos.launch()
    try:
        watch = Stopwatch()
        handle = await dbos.start_workflow_async(dbos_parent, n)
        assert await handle.get_result() == FanOut(n).expected
        return watch()
    finally:
        dbos.destroy()


def main() -> None:
    args, setup = parse(options(__doc__, n=[200, 1_000], repeat=1))
    if importlib.util.find_spec("dbos") is None:
        skip("peers_dbos", "dbos is not installed; it comes with the extra 'bench'", setup)
        return
    version = importlib.metadata.version("dbos")
    on_disk = replace(setup, store="sqlite")
    for n in args.n:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(setup.repeat):
            ours.append(in_fresh_process(measure_ours, on_disk, n))
            theirs.append(in_fresh_process(measure_dbos, on_disk, n))
        ratio = median(theirs) / median(ours)
        emit("peers_ours", n, ours, on_disk, children_per_second=n / median(ours), ratio_to_dbos=ratio)
        emit("peers_dbos", n, theirs, on_disk, children_per_second=n / median(theirs), dbos=version)
        tell(
            f"fan-out {n}: ours {n / median(ours):,.0f}/s, DBOS {version} {n / median(theirs):,.0f}/s, {ratio:.0f} times"
        )


if __name__ == "__main__":
    main()
