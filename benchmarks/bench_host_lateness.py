"""How late a 5 ms timer of the host is while N durable children run on the same loop.

    python benchmarks/bench_host_lateness.py [--n 100000] [--window 1000]

On asyncio, and on uvloop where it is installed; beside the same timer on an idle loop and during a bare `create_task`
and `gather` of the same N. Due times are a fixed grid. `p50_ms`, `p99_ms` and `max_ms` are of the timers as they fired;
in `p99_all_ms` a due time that passed while the loop was busy counts, too, as late as it then was.

On a busy machine all of that is mostly waiting for a processor. `busy_p99_ms` and `busy_max_ms` are how late a timer that
is due at any moment would be by what the loop's own thread does, in CPU time of that thread, pass by pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from common import emit, median, options, parse, percentile, skip, tell
from disk import new_store, scratch
from host import Setup, Stopwatch, has_loop, in_fresh_process, run
from workloads import FanOut, bare_fan_out, child, fan_out

from rotor_actors import Runtime

INTERVAL = 0.005
IDLE_SECONDS = 2.0


@dataclass
class Lateness:
    """A timer that is due every 5 ms, and by how much it missed that."""

    fired: list[float] = field(default_factory=lambda: list[float]())
    all: list[float] = field(default_factory=lambda: list[float]())
    seconds: float = 0.0
    busy: list[float] = field(default_factory=lambda: list[float]())

    def fields(self) -> dict[str, object]:
        return {
            "p50_ms": percentile(self.fired, 0.5) * 1e3,
            "p99_ms": percentile(self.fired, 0.99) * 1e3,
            "max_ms": max(self.fired) * 1e3,
            "p99_all_ms": percentile(self.all, 0.99) * 1e3,
            "timers": len(self.fired),
            **({"busy_p99_ms": self._busy(0.99) * 1e3, "busy_max_ms": max(self.busy) * 1e3} if self.busy else {}),
        }

    def _busy(self, share: float) -> float:
        """By how much a timer would be late, at most, that is due at a random moment: in this share of all moments."""
        least, most, total = 0.0, max(self.busy), sum(self.busy)
        for _ in range(40):
            middle = (least + most) / 2
            if sum(each - middle for each in self.busy if each > middle) > (1 - share) * total:
                least = middle
            else:
                most = middle
        return most


@contextmanager
def passes(busy: list[float]) -> Generator[None]:
    """Note what each pass of an asyncio loop takes in CPU time of its thread."""
    loop: Any = asyncio.get_running_loop()
    run_once = getattr(loop, "_run_once", None)
    if run_once is None:
        yield  # uvloop has no such thing
        return

    def timed() -> None:
        began = time.thread_time()
        run_once()
        busy.append(time.thread_time() - began)

    loop._run_once = timed
    try:
        yield
    finally:
        del loop._run_once


class Timer:
    def __init__(self, lateness: Lateness) -> None:
        self._lateness = lateness
        self._loop = asyncio.get_running_loop()
        self._watch = Stopwatch()
        self._due = time.monotonic() + INTERVAL
        self._handle = self._loop.call_later(INTERVAL, self._fire)

    def _fire(self) -> None:
        now = time.monotonic()
        late = max(0.0, now - self._due)  # uvloop counts in whole milliseconds and may be early
        self._lateness.fired.append(late)
        self._due += INTERVAL
        while late >= 0:
            self._lateness.all.append(late)
            late -= INTERVAL
        while self._due <= now:
            self._due += INTERVAL
        self._handle = self._loop.call_later(self._due - time.monotonic(), self._fire)

    async def stop(self) -> None:
        """Let the timer fire that became due during the work, then stop it."""
        self._lateness.seconds += self._watch()
        await asyncio.sleep(2 * INTERVAL)
        self._handle.cancel()


@dataclass
class Measured:
    idle: Lateness
    bare: Lateness
    durable: Lateness
    durable_seconds: list[float]
    longest_commit: float = 0.0


def measure(setup: Setup, plan: FanOut) -> Measured:
    return run(setup, _measure(setup, plan))


async def _measure(setup: Setup, plan: FanOut) -> Measured:
    measured = Measured(Lateness(), Lateness(), Lateness(), [])
    timer = Timer(measured.idle)
    await asyncio.sleep(IDLE_SECONDS)
    await timer.stop()
    for _ in range(setup.repeat):
        await _durable(setup, plan, measured)
        timer = Timer(measured.bare)
        assert await bare_fan_out(plan) == plan.expected
        await timer.stop()
    return measured


async def _durable(setup: Setup, plan: FanOut, measured: Measured) -> None:
    with scratch(setup) as directory:
        store = new_store(setup, directory)
        async with Runtime(store, workflows=[child, fan_out]) as runtime:
            timer, watch = Timer(measured.durable), Stopwatch()
            with passes(measured.durable.busy):
                assert await runtime.execute(fan_out, plan) == plan.expected
            measured.durable_seconds.append(watch())
            await timer.stop()
    measured.longest_commit = max(measured.longest_commit, store.commits.longest)


def report(setup: Setup, n: int, measured: Measured, window: int) -> None:
    repeat = len(measured.durable_seconds)
    emit("host_lateness_idle", n, [IDLE_SECONDS], setup, **measured.idle.fields())
    emit("host_lateness_bare", n, [measured.bare.seconds / repeat], setup, **measured.bare.fields())
    emit(
        "host_lateness", n, measured.durable_seconds, setup,
        window=window, **measured.durable.fields(), longest_commit_ms=measured.longest_commit * 1e3,
    )  # fmt: skip
    late = measured.durable.fields()
    tell(
        f"5 ms timer during {n} children on {setup.loop}: p99 {late['p99_ms']:.1f} ms, max {late['max_ms']:.1f} ms "
        f"(by its own work: p99 {late.get('busy_p99_ms', 0.0):.1f} ms, max {late.get('busy_max_ms', 0.0):.1f} ms; "
        f"bare: max {max(measured.bare.fired) * 1e3:.1f} ms), {median(measured.durable_seconds):.2f} s"
    )


def main() -> None:
    parser = options(__doc__, n=[100_000], repeat=1)
    parser.add_argument("--window", type=int, default=0, help="how many children at a time (default: all)")
    args, setup = parse(parser)
    for loop in ("asyncio", "uvloop"):
        chosen = replace(setup, loop=loop)
        if not has_loop(loop):
            skip("host_lateness", f"{loop} is not installed", chosen)
            continue
        for n in args.n:
            report(chosen, n, in_fresh_process(measure, chosen, FanOut(n, args.window)), args.window)


if __name__ == "__main__":
    main()
