"""The same fan-out on DBOS with SQLite, beside ours: N durable children of one trivial step each.

    python benchmarks/bench_peers.py [--n 200 1000]

Needs the extra `bench`; without `dbos` a line says so. The two take turns, each in a process of its own.
`ratio_to_dbos` is how many times as many children per second ours finishes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace

from common import emit, median, options, parse, skip, tell
from dbos_fan_out import fan_out_on_dbos
from disk import new_store, scratch
from host import Setup, Stopwatch, in_fresh_process, run
from workloads import FanOut, child, fan_out

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
        return run(setup, fan_out_on_dbos(f"sqlite:///{directory}/dbos.sqlite", n))


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
