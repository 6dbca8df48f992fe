"""A parent that awaits one child at a time, beside one bare commit of the same store.

    python benchmarks/bench_await_child.py [--n 1000]

`ratio_to_commit` is the median `step.invoke` over the median of bare commits of one entry, made one after the other by one
thread. `ratio_to_own_commit` is over the median of the commits that the runtime made meanwhile: one for each child, of some
four rows and their indexes, by a thread that has slept. A child with a step cannot be cheaper than one of those: its step
waits until the child is durable. One without a step waits for nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from common import emit, median, options, parse, percentile, tell
from disk import commit_seconds, new_store, scratch
from host import Setup, in_fresh_process, run
from workloads import child

from rotor_actors import Context, Runtime, workflow


@dataclass
class Measured:
    totals: list[float]
    invokes: list[float]
    commits: list[float]
    own_commits: list[float]


@workflow(id="child-without-a-step")
async def child_without_a_step(ctx: Context, number: int) -> int:
    return number


def measure(setup: Setup, n: int, has_step: bool) -> Measured:
    return run(setup, _measure(setup, n, has_step))


async def _measure(setup: Setup, n: int, has_step: bool) -> Measured:
    measured = Measured([], [], commit_seconds(setup, n // 2 or 1), [])
    for _ in range(setup.repeat):
        seconds, commits = await _invokes(setup, n, has_step)
        measured.own_commits += commits
        measured.totals.append(sum(seconds))
        measured.invokes += seconds
    measured.commits += commit_seconds(setup, n // 2 or 1)
    return measured


async def _invokes(setup: Setup, n: int, has_step: bool) -> tuple[list[float], list[float]]:
    seconds: list[float] = []
    target = child if has_step else child_without_a_step

    @workflow(id="parent")
    async def parent(ctx: Context, children: int) -> int:
        for number in range(children):
            began = time.perf_counter()
            await ctx.step.invoke(f"child {number}", workflow=target, data=number, timeout="1h")
            seconds.append(time.perf_counter() - began)
        return children

    with scratch(setup) as directory:
        store = new_store(setup, directory)
        async with Runtime(store) as runtime:
            assert await runtime.execute(parent, n) == n
    return seconds, store.commits.seconds


def main() -> None:
    args, setup = parse(options(__doc__, n=[1_000]))
    for n in args.n:
        for has_step in (True, False):
            measured = in_fresh_process(measure, setup, n, has_step)
            invoke, commit, own = median(measured.invokes), median(measured.commits), median(measured.own_commits)
            emit(
                "await_child" if has_step else "await_child_without_a_step", n, measured.totals, setup,
                p50_us=invoke * 1e6, p95_us=percentile(measured.invokes, 0.95) * 1e6,
                commit_p50_us=commit * 1e6, commit_p95_us=percentile(measured.commits, 0.95) * 1e6,
                ratio_to_commit=invoke / commit, own_commit_p50_us=own * 1e6, ratio_to_own_commit=invoke / own,
            )  # fmt: skip
            what = "with a step" if has_step else "without a step"
            tell(
                f"one child {what}: p50 {invoke * 1e6:.0f} µs, {invoke / own:.2f} times a commit of its own ({own * 1e6:.0f} µs), "
                f"{invoke / commit:.2f} times a bare one ({commit * 1e6:.0f} µs)"
            )


if __name__ == "__main__":
    main()
