"""Steps one after another in one run, beside one bare commit of the same store.

    python benchmarks/bench_sequential.py [--n 2000]

Each step waits until the outcome of the one before is durable, so it cannot be cheaper than a commit.
`ratio_to_commit` is the median step over the median commit.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from common import emit, median, options, parse, percentile, tell
from disk import commit_seconds, new_store, scratch
from host import Setup, in_fresh_process, run
from workloads import trivial

from rotor_actors import Context, Runtime, workflow


@dataclass
class Measured:
    totals: list[float]
    steps: list[float]
    commits: list[float]


def measure(setup: Setup, n: int) -> Measured:
    return run(setup, _measure(setup, n))


async def _measure(setup: Setup, n: int) -> Measured:
    measured = Measured([], [], commit_seconds(setup, n // 2 or 1))
    for _ in range(setup.repeat):
        moments = await _moments(setup, n)
        measured.totals.append(moments[-1] - moments[0])
        measured.steps += [later - earlier for earlier, later in itertools.pairwise(moments)]
    measured.commits += commit_seconds(setup, n // 2 or 1)
    return measured


async def _moments(setup: Setup, n: int) -> list[float]:
    moments: list[float] = []

    @workflow(id="sequential")
    async def sequential(ctx: Context, steps: int) -> int:
        moments.append(time.perf_counter())
        for number in range(steps):
            await ctx.step.run(f"step {number}", trivial, number)
            moments.append(time.perf_counter())
        return steps

    with scratch(setup) as directory:
        async with Runtime(new_store(setup, directory)) as runtime:
            assert await runtime.execute(sequential, n) == n
    return moments


def main() -> None:
    args, setup = parse(options(__doc__, n=[2_000]))
    for n in args.n:
        measured = in_fresh_process(measure, setup, n)
        step, commit = median(measured.steps), median(measured.commits)
        emit(
            "sequential", n, measured.totals, setup,
            steps_per_second=n / median(measured.totals),
            p50_us=step * 1e6, p95_us=percentile(measured.steps, 0.95) * 1e6,
            commit_p50_us=commit * 1e6, commit_p95_us=percentile(measured.commits, 0.95) * 1e6,
            ratio_to_commit=step / commit,
        )  # fmt: skip
        tell(
            f"sequential {n}: p50 {step * 1e6:.0f} µs a step, {step / commit:.2f} times one commit ({commit * 1e6:.0f} µs)"
        )


if __name__ == "__main__":
    main()
