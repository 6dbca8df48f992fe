"""Universes of random work in several processes, judged by the oracle: what the command line and `make soak` run."""

from __future__ import annotations

import gc
import multiprocessing
import queue
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.context import SpawnContext
from typing import Any, cast

import msgspec

from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.judge import Judge, judged
from rotor_actors.simulation.oracle import Oracle
from rotor_actors.simulation.plan import Size
from rotor_actors.simulation.playing import Work
from rotor_actors.simulation.replicas.trials import judged_crowd, judged_replicas
from rotor_actors.simulation.running import Outcome, run_universe
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.timeline import timeline
from rotor_actors.simulation.universe import Settings, Universe

_SEEDS_PER_TASK = 10
_COLLECT_AFTER_STEPS = 40_000
_real_time = time.perf_counter


class Job(msgspec.Struct, frozen=True):
    """What the universes of one command have in common."""

    roots: int
    width: int
    settings: Settings
    cancels: float = 0.15
    work: str = "both"
    """`fan-out` (exactly so many runs; of replicas a crowd), `trial` (up to so many, of everything that runs do), or one
    after the other."""

    def is_trial(self, seed: int) -> bool:
        return self.work == "trial" or (self.work == "both" and seed % 2 == 1)


class Tally(msgspec.Struct):
    """What some universes have shown; they can be added up."""

    universes: int = 0
    runs: int = 0
    commits: int = 0
    crashes: int = 0
    steps: int = 0
    seconds: float = 0.0
    virtual_seconds: float = 0.0
    fired: dict[str, int] = {}
    checked: dict[str, int] = {}
    failures: list[tuple[int, str]] = []

    def add(self, other: Tally) -> None:
        for name in ("universes", "runs", "commits", "crashes", "steps", "seconds", "virtual_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fired = dict(Counter(self.fired) + Counter(other.fired))
        self.checked = dict(Counter(self.checked) + Counter(other.checked))
        self.failures = [*self.failures, *other.failures]


def play(
    job: Job, seed: int, *, point: Any = None, replay: dict[str, list[int]] | None = None
) -> tuple[Outcome, Tally]:
    """One universe of random work."""
    oracles: list[Oracle] = []
    size = Size(roots=job.roots, children=job.width)
    if job.settings.replicas:
        judges = cast("list[Judge]", oracles)
        main = judged_replicas(size, judges) if job.is_trial(seed) else judged_crowd(job.width, judges)
    elif job.is_trial(seed):
        main = judged(size, cast("list[Judge]", oracles))
    else:
        main = _fan_out(job, oracles)
    began = _real_time()
    outcome = run_universe(main, seed=seed, settings=job.settings, point=point, replay=replay)
    checked = sum((oracle.checked for oracle in oracles), Counter[str]())
    runs = sum(len(oracle.ledger.accounts) for oracle in oracles)
    tally = Tally(
        1, runs, outcome.commits, outcome.crashes, outcome.steps, _real_time() - began, outcome.seconds,
        dict(outcome.fired), dict(checked),
    )  # fmt: skip
    if outcome.failure is not None:
        tally.failures = [(seed, describe(outcome))]
    return outcome, tally


def _fan_out(job: Job, oracles: list[Oracle]) -> Callable[[Universe], Awaitable[None]]:
    async def main(universe: Universe) -> None:
        oracle = Oracle()
        oracles.append(oracle)
        oracle.attach(universe)
        await Work(job.roots, job.width, job.cancels)(Simulation(universe))

    return main


def describe(outcome: Outcome) -> str:
    """A failure in a few lines."""
    lines = [f"{type(outcome.failure).__name__}: {outcome.failure}", *timeline(outcome.trace, 25)]
    return "\n".join(lines)


def play_all(job: Job, seeds: Iterator[int], processes: int) -> Iterator[Tally]:
    """Universe after universe, in so many processes; what each batch of them has shown."""
    if processes == 1:
        for batch in _batches(seeds):
            yield _play_batch(job, batch)
        return
    with _Workers(multiprocessing.get_context("spawn"), job, processes) as workers:
        yield from workers.tallies(_batches(seeds))


def _batches(seeds: Iterator[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for seed in seeds:
        batch.append(seed)
        if len(batch) == _SEEDS_PER_TASK:
            yield batch
            batch = []
    if batch:
        yield batch


def _play_batch(job: Job, seeds: list[int]) -> Tally:
    total, steps = Tally(), 0
    for seed in seeds:
        outcome, tally = play(job, seed)
        total.add(tally)
        steps += outcome.steps
        if steps > _COLLECT_AFTER_STEPS:
            steps = 0
            gc.collect()
    return total


class _Workers:
    """Processes that take batches of seeds and give tallies. Spawned: a forked one has the threads' locks, not them."""

    def __init__(self, context: SpawnContext, job: Job, processes: int) -> None:
        self._batches: Any = context.Queue()
        self._tallies: Any = context.Queue()
        self._processes = [
            context.Process(target=_work, args=(job, self._batches, self._tallies), daemon=True)
            for _ in range(processes)
        ]

    def __enter__(self) -> _Workers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def tallies(self, batches: Iterator[list[int]]) -> Iterator[Tally]:
        under_way = 0
        for batch in batches:
            self._batches.put(batch)
            under_way += 1
            if under_way > 2 * len(self._processes):
                yield self._next()
                under_way -= 1
        for _ in range(under_way):
            yield self._next()

    def _next(self) -> Tally:
        while True:
            try:
                got: Tally | str = self._tallies.get(timeout=1.0)
            except queue.Empty:
                if not all(process.is_alive() for process in self._processes):
                    raise RuntimeError("a worker process has ended: see what it printed above") from None
                continue
            if isinstance(got, str):
                raise RuntimeError(f"a worker process failed:\n{got}")
            return got


def _work(job: Job, batches: Any, tallies: Any) -> None:
    import traceback

    while True:
        try:
            tallies.put(_play_batch(job, batches.get()))
        except KeyboardInterrupt:
            return
        except BaseException:
            tallies.put(traceback.format_exc())
            return


def default_faults(strength: float) -> Faults:
    """A bit of everything but flipped bits, which no run survives unharmed."""
    return Faults(
        crash=0.01 * strength,
        failed_fsync=0.003 * strength,
        failed_write=0.003 * strength,
        disk_full=0.003 * strength,
    )


def replica_faults(strength: float) -> Faults:
    """A bit of everything that can go wrong between replicas and their database."""
    return Faults(
        crash=0.01 * strength,
        lost_statement=0.005 * strength,
        lost_reply=0.005 * strength,
        late_statement=0.003 * strength,
        slow_reply=0.01 * strength,
        pause=0.005 * strength,
        blocked_loop=0.003 * strength,
        partition=0.003 * strength,
        database_restart=0.002 * strength,
        bad_hint=min(0.1 * strength, 0.8),
        skew=0.5 if strength else 0.0,
    )
