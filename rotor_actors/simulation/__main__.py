"""`python -m rotor_actors.simulation`: random work in many universes, with crashes and a failing disk, or with several
replicas that share a database, judged.

Exit status 0: no violation. 1: some universe failed; it says which, and how to see it again. 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rotor_actors.simulation.pool import Job, Tally, default_faults, describe, play, play_all, replica_faults
from rotor_actors.simulation.progress import Progress
from rotor_actors.simulation.reporting import versions
from rotor_actors.simulation.running import Outcome
from rotor_actors.simulation.schedule import Schedule, count
from rotor_actors.simulation.shrinking import shrink
from rotor_actors.simulation.universe import Settings

_MOST_REPORTED = 5


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    given = _parser().parse_args(arguments)
    job = Job(*_size(given.runs), _settings(given), given.cancels, given.work)
    if given.replay is not None:
        return _replay(job, Schedule.parse(given.replay))
    total = _run(job, given)
    print(_summary(job, given, total))
    if given.json:
        Path(given.json).write_text(json.dumps(_record(given, total), indent=2) + "\n", encoding="utf-8")
    for seed, text in total.failures[:_MOST_REPORTED]:
        print(_failure(job, given, seed, text))
    return 1 if total.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rotor_actors.simulation", description="Random work in many simulated universes, judged."
    )
    add = parser.add_argument
    add("--universes", type=int, default=1_000, help="how many (default 1000)")
    add("--minutes", type=float, default=None, help="instead: for how long")
    add("--runs", default="10x10", help="runs started x children of each (default 10x10)")
    add("--jobs", type=int, default=1, help="in how many processes (default 1)")
    add("--seed", type=int, default=0, help="the first seed (default 0); each universe has the next one")
    add("--faults", type=float, default=1.0, help="how much goes wrong; 0: nothing, 1: as usual, 5: a lot")
    add("--cancels", type=float, default=0.15, help="how probable it is that a started run is cancelled (0.15)")
    add(
        "--work",
        choices=("both", "fan-out", "trial"),
        default="both",
        help="what kind of work (both in turn); of replicas a fan-out is a crowd: lines, events, singletons, too",
    )
    add("--store", choices=("sqlite", "memory"), default="sqlite")
    add(
        "--replicas",
        type=int,
        default=0,
        help="so many processes share one database (1 to 4; default 0: a store of its own)",
    )
    add("--policy", default="sound", help="sound, chaos or pct(3)")
    add("--json", default=None, metavar="FILE", help="write the numbers to a file, too")
    add("--replay", default=None, metavar="SCHEDULE", help="run the one universe that a failure has named")
    return parser


def _size(text: str) -> tuple[int, int]:
    roots, _, width = text.partition("x")
    if not (roots.isdecimal() and width.isdecimal()):
        raise SystemExit(f"--runs {text}: expected two numbers, as in 10x10")
    return int(roots), int(width)


def _settings(given: argparse.Namespace) -> Settings:
    if given.replicas < 0:
        raise SystemExit(f"--replicas {given.replicas}: expected a number from 0")
    faults = replica_faults(given.faults) if given.replicas else default_faults(given.faults)
    return Settings(faults=faults, store=given.store, policy=given.policy, replicas=given.replicas)


def _run(job: Job, given: argparse.Namespace) -> Tally:
    total, began = Tally(), time.perf_counter()
    progress = Progress(given.universes if given.minutes is None else None, given.minutes)
    try:
        for tally in play_all(job, _seeds(given, began), given.jobs):
            total.add(tally)
            for seed, text in tally.failures:
                print(f"seed {seed}: {text.partition(chr(10))[0]}", file=sys.stderr)
            progress.show(total.universes, len(total.failures))
    except KeyboardInterrupt:
        print("interrupted: what follows is about the universes that were run", file=sys.stderr)
    progress.end()
    total.seconds = time.perf_counter() - began
    return total


def _seeds(given: argparse.Namespace, began: float) -> Iterator[int]:
    if given.minutes is None:
        yield from range(given.seed, given.seed + given.universes)
        return
    for seed in itertools.count(given.seed):
        if time.perf_counter() - began > 60 * given.minutes:
            return
        yield seed


def _summary(job: Job, given: argparse.Namespace, total: Tally) -> str:
    rate = total.universes / total.seconds if total.seconds else 0.0
    lines = [
        f"{total.universes} universes of {job.roots} x {job.width} runs on {_store(given)}, seeds from {given.seed}: "
        f"{len(total.failures)} violations",
        f"  {total.runs} runs, {total.commits} commits, {total.crashes} crashes, {total.virtual_seconds / 86400:.1f} "
        f"virtual days in {total.seconds:.1f} s",
        f"  {rate:.1f} universes/s with {given.jobs} process{'es' if given.jobs > 1 else ''}",
        f"  faults fired: {_counts(total.fired)}",
        f"  invariants checked: {_counts(total.checked)}",
        f"  {versions()}",
    ]
    return "\n".join(lines)


def _store(given: argparse.Namespace) -> str:
    return f"a database of {given.replicas} replicas" if given.replicas else str(given.store)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items())) or "none"


def _record(given: argparse.Namespace, total: Tally) -> dict[str, object]:
    return {
        "universes": total.universes, "size": given.runs, "jobs": given.jobs, "store": _store(given), "work": given.work,
        "first_seed": given.seed, "violations": len(total.failures), "runs": total.runs, "commits": total.commits,
        "crashes": total.crashes, "seconds": round(total.seconds, 1),
        "universes_per_second": round(total.universes / max(total.seconds, 1e-9), 2),
        "faults_fired": total.fired, "invariants_checked": total.checked, "versions": versions(),
    }  # fmt: skip


# Failures


def _failure(job: Job, given: argparse.Namespace, seed: int, text: str) -> str:
    first, _ = play(job, seed)
    if first.failure is None:
        return f"\nseed {seed} failed, and not when run again in this process:\n{text}"
    smallest, runs = shrink(first, lambda choices: play(job, seed, replay=choices)[0])
    schedule = Schedule(seed, None, smallest.choices)
    options = f"--runs {given.runs} --faults {given.faults} --store {given.store} --policy '{given.policy}' --work {given.work}"
    options += f" --replicas {given.replicas}" if given.replicas else ""
    return "\n".join(
        [
            f"\nseed {seed} failed; {count(first.choices)} choices, shrunk to {count(smallest.choices)} in {runs} runs:",
            describe(smallest),
            f"replay: python -m rotor_actors.simulation {options} --cancels {given.cancels} --replay '{schedule}'",
        ]
    )


def _replay(job: Job, schedule: Schedule) -> int:
    outcome: Outcome = play(job, schedule.seed, point=schedule.point, replay=schedule.choices)[0]
    if outcome.failure is None:
        print("this universe does not fail")
        return 0
    print(describe(outcome))
    return 1


if __name__ == "__main__":
    sys.exit(main())
