"""Durable fan-out: N children of one trivial step each, beside bare `asyncio.create_task` and `gather` of the same N.

    python benchmarks/bench_fan_out.py [--n 1000 10000 100000] [--loop uvloop] [--gc off|freeze] [--store memory]
    python benchmarks/bench_fan_out.py --window 1000 --n 10000 1000000 --repeat 1

`ratio_to_bare` is the cost of a durable child over that of a bare task, medians of the same process, taken in turns.
`growth` is the cost of a child over that at the first N. `cpu_ratio_to_bare` is the ratio in CPU time, the store's writer
thread included: on a busy machine it moves less than the clock does.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass

from common import emit, median, options, parse, tell
from disk import Commits, new_store, scratch
from host import Setup, Stopwatch, in_fresh_process, peak_bytes, run
from workloads import FanOut, bare_fan_out, child, fan_out

from rotor_actors import Runtime


@dataclass
class Measured:
    durable: list[float]
    bare: list[float]
    durable_cpu: list[float]
    bare_cpu: list[float]
    commits: Commits
    base_bytes: int
    peak_bytes: int


def measure(setup: Setup, plan: FanOut) -> Measured:
    return run(setup, _measure(setup, plan))


async def _measure(setup: Setup, plan: FanOut) -> Measured:
    measured = Measured([], [], [], [], Commits(), peak_bytes(), 0)
    for _ in range(setup.repeat):
        await _durable(setup, plan, measured)
        measured.peak_bytes = measured.peak_bytes or peak_bytes()  # of the first one alone
        gc.collect()
        watch, cpu = Stopwatch(), time.process_time()
        assert await bare_fan_out(plan) == plan.expected
        measured.bare.append(watch())
        measured.bare_cpu.append(time.process_time() - cpu)
        gc.collect()
    return measured


async def _durable(setup: Setup, plan: FanOut, measured: Measured) -> None:
    with scratch(setup) as directory:
        store = new_store(setup, directory)
        async with Runtime(store, workflows=[child, fan_out]) as runtime:
            await asyncio.sleep(0)  # its services have begun
            watch, cpu = Stopwatch(), time.process_time()
            assert await runtime.execute(fan_out, plan) == plan.expected
            measured.durable.append(watch())
            measured.durable_cpu.append(time.process_time() - cpu)
            measured.commits = store.commits


def main() -> None:
    parser = options(__doc__, n=[1_000, 10_000, 100_000])
    parser.add_argument("--window", type=int, default=0, help="how many children at a time (default: all)")
    parser.add_argument("--by", choices=["batches", "semaphore"], default="batches", help="how the window is kept")
    args, setup = parse(parser)
    first = 0.0
    for n in args.n:
        plan = FanOut(n, args.window, args.by)
        measured = in_fresh_process(measure, setup, plan)
        cost = median(measured.durable) / n
        first = first or cost
        ratio = median(measured.durable) / median(measured.bare)
        emit(
            "fan_out", n, measured.durable, setup,
            window=args.window, by=args.by if args.window else "all",
            children_per_second=n / median(measured.durable),
            ratio_to_bare=ratio, growth=cost / first,
            cpu_ratio_to_bare=median(measured.durable_cpu) / median(measured.bare_cpu),
            cpu_per_unit_us=median(measured.durable_cpu) / n * 1e6,
            bare_seconds=median(measured.bare), bare_per_unit_us=median(measured.bare) / n * 1e6,
            **measured.commits.fields(),
            peak_mib=measured.peak_bytes / 2**20, bytes_per_child=(measured.peak_bytes - measured.base_bytes) / n,
        )  # fmt: skip
        tell(
            f"fan-out {n}: {1 / cost:,.0f} children/s, {cost * 1e6:.1f} µs each, {ratio:.1f} times bare asyncio, "
            f"{measured.commits.count} commits, peak {measured.peak_bytes / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    main()
