"""Open a store that a killed process left behind, with N unfinished runs in it.

    python benchmarks/bench_recovery.py [--n 10000]

`recovery_under_way`: each run has one finished step and one in flight when its process gets SIGKILL. `seconds` is from
opening until all second steps have been begun again; `repeated_steps` counts finished steps that were executed again,
read from a file that the steps write to: it must be 0.
`recovery_sleeping`: each run sleeps. `seconds` is the time to open; `body_executions`, which must be 0, counts the
bodies that ran.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from common import emit, median, options, parse, skip, tell
from disk import CountedSQLite, scratch
from host import Setup, Stopwatch, in_fresh_process, run

from rotor_actors import Context, RunStatus, Runtime, Workflow, workflow

AT_ONCE = 500


class SideEffects:
    """A file that outlives the process: one line for each thing that happened."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "side-effects"
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, what: str, number: int) -> None:
        os.write(self._fd, f"{what} {number}\n".encode())

    def count(self) -> Counter[str]:
        return Counter(self._path.read_text(encoding="ascii").splitlines())


class Work:
    """The steps of the runs that are killed, and who waits for all of them to have begun."""

    def __init__(self, directory: Path, n: int, *, is_to_be_killed: bool) -> None:
        self.effects = SideEffects(directory)
        self.all_begun = asyncio.Event()
        self._left = n
        self._is_to_be_killed = is_to_be_killed

    async def first(self, number: int) -> int:
        self.effects.note("first", number)
        return number

    async def second(self, number: int) -> int:
        self.effects.note("second", number)
        self._left -= 1
        if not self._left:
            self.all_begun.set()
        if self._is_to_be_killed:
            await asyncio.sleep(3600)
        return number


def two_steps(work: Work) -> Workflow[int, int]:
    @workflow(id="two-steps")
    async def run_two_steps(ctx: Context, number: int) -> int:
        first = await ctx.step.run("first", work.first, number)
        return await ctx.step.run("second", work.second, first, timeout="2h")

    return run_two_steps


def sleeping(effects: SideEffects) -> Workflow[int, None]:
    @workflow(id="sleeping")
    async def sleep_long(ctx: Context, number: int) -> None:
        effects.note("body", number)
        await ctx.step.sleep("long", "6h")

    return sleep_long


# The process that is killed


async def _start_all(runtime: Runtime, target: Workflow[int, Any], n: int) -> None:
    for first in range(0, n, AT_ONCE):
        await asyncio.gather(*(runtime.start(target, i) for i in range(first, min(first + AT_ONCE, n))))


def fill_with_work(setup: Setup, directory: Path, n: int, ready: Event) -> None:
    async def fill() -> None:
        work = Work(directory, n, is_to_be_killed=True)
        async with Runtime(directory / "bench.db") as runtime:
            await _start_all(runtime, two_steps(work), n)
            # A second step begins once the outcome of the first is durable: so all of those are.
            await work.all_begun.wait()
            ready.set()
            await asyncio.sleep(3600)

    run(setup, fill())


def fill_with_sleepers(setup: Setup, directory: Path, n: int, ready: Event) -> None:
    async def fill() -> None:
        store = CountedSQLite(directory / "bench.db")
        async with Runtime(store) as runtime:
            await _start_all(runtime, sleeping(SideEffects(directory)), n)
            await store.commits.rest()
            ready.set()
            await asyncio.sleep(3600)

    run(setup, fill())


def fill_and_kill(fill: Callable[[Setup, Path, int, Event], None], setup: Setup, directory: Path, n: int) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=fill, args=(setup, directory, n, ready))
    process.start()
    while not ready.wait(0.1):
        if process.exitcode is not None:
            raise SystemExit(f"the process that was to be killed ended by itself: {process.exitcode}")
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


# The process that recovers


@dataclass
class Recovered:
    opened: float
    begun: float = 0.0
    ended: float = 0.0


def recover_work(setup: Setup, directory: Path, n: int) -> Recovered:
    async def recover() -> Recovered:
        work = Work(directory, n, is_to_be_killed=False)
        watch = Stopwatch()
        async with Runtime(directory / "bench.db", workflows=[two_steps(work)]) as runtime:
            recovered = Recovered(watch())
            await work.all_begun.wait()
            recovered.begun = watch()
            while (await runtime.count()).get(RunStatus.COMPLETED, 0) < n:  # noqa: ASYNC110  (the store is asked)
                await asyncio.sleep(0.01)
            recovered.ended = watch()
        return recovered

    return run(setup, recover())


def recover_sleepers(setup: Setup, directory: Path) -> Recovered:
    async def recover() -> Recovered:
        watch = Stopwatch()
        async with Runtime(
            directory / "bench.db", workflows=[sleeping(SideEffects(directory))], drain_timeout=0
        ) as runtime:
            recovered = Recovered(watch())
            await asyncio.sleep(1.0)  # whatever it would execute, it has begun
            assert not runtime.orphans()
        return recovered

    return run(setup, recover())


def measure_work(setup: Setup, n: int) -> None:
    times: list[Recovered] = []
    repeated = missing = 0
    for _ in range(setup.repeat):
        with scratch(setup) as directory:
            fill_and_kill(fill_with_work, setup, directory, n)
            before = SideEffects(directory).count()
            assert len(before) == 2 * n
            times.append(in_fresh_process(recover_work, setup, directory, n))
            after = SideEffects(directory).count() - before
        repeated += sum(count for what, count in after.items() if what.startswith("first"))
        missing += n - sum(what.startswith("second") for what in after)
    begun = [each.begun for each in times]
    emit(
        "recovery_under_way", n, begun, setup,
        open_seconds=median([each.opened for each in times]),
        all_ended_seconds=median([each.ended for each in times]),
        repeated_steps=repeated, steps_not_begun_again=missing,
    )  # fmt: skip
    tell(f"recovery of {n} under way: {median(begun):.2f} s until all go on, {repeated} finished steps repeated")


def measure_sleepers(setup: Setup, n: int) -> None:
    opened: list[float] = []
    executions = 0
    for _ in range(setup.repeat):
        with scratch(setup) as directory:
            fill_and_kill(fill_with_sleepers, setup, directory, n)
            before = SideEffects(directory).count()
            assert len(before) == n
            opened.append(in_fresh_process(recover_sleepers, setup, directory).opened)
            executions += (SideEffects(directory).count() - before).total()
    emit("recovery_sleeping", n, opened, setup, body_executions=executions)
    tell(f"recovery of {n} sleeping: {median(opened):.2f} s to open, {executions} bodies executed")


def main() -> None:
    args, setup = parse(options(__doc__, n=[10_000]))
    if setup.store == "memory":
        skip("recovery", "a store in memory does not outlive its process", setup)
        return
    for n in args.n:
        measure_work(setup, n)
        measure_sleepers(setup, n)


if __name__ == "__main__":
    main()
