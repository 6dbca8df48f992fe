"""The same seed is the same universe: in one process, and in others with another heap and other string hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rotor_actors.simulation import CrashPoint, Faults, Settings, Simulation, Universe, run_universe
from rotor_actors.simulation.playing import Work

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "simulated_universe.py"


async def work(universe: Universe) -> None:
    await Work(2, 3, cancels=0.3)(Simulation(universe))


def test_another_process_with_another_heap_and_other_hashes_runs_the_same_universes() -> None:
    outputs = {_output(hash_seed, ballast) for hash_seed, ballast in (("0", 0), ("1", 50_000), ("77", 123_457))}
    assert len(outputs) == 1
    output = outputs.pop()
    assert len(output.splitlines()) == 6
    assert len({line.split()[2] for line in output.splitlines()}) == 6, "each seed is another universe"


def _output(hash_seed: str, ballast: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, str(PROGRAM), str(ballast)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=240).stdout


def test_a_universe_is_the_same_when_it_is_replayed_from_its_choices() -> None:
    settings = Settings(faults=Faults(crash=0.05, disk_full=0.02))
    for seed in range(5):
        first = run_universe(work, seed=seed, settings=settings, with_hashes=True)
        again = run_universe(work, seed=seed, settings=settings, replay=first.choices, with_hashes=True)
        assert first.failure is None
        assert (first.trace_hash, first.disk_hash) == (again.trace_hash, again.disk_hash)
        assert again.choices == first.choices


def test_looking_for_the_real_world_does_not_change_a_universe() -> None:
    settings = Settings(faults=Faults(crash=0.05))
    hashes = {
        run_universe(work, seed=4, settings=settings, is_thorough=is_thorough, with_hashes=True).trace_hash
        for is_thorough in (False, True)
    }
    assert len(hashes) == 1


def test_the_universes_of_a_seed_are_the_same_up_to_their_crash_points() -> None:
    settings = Settings(store="memory")
    whole = run_universe(work, seed=1, settings=settings)
    crashed = run_universe(work, seed=1, settings=settings, point=CrashPoint(3, "before"))
    assert crashed.crashes == 1
    place = next(at for at, event in enumerate(crashed.trace) if type(event).__name__ == "Crashed")
    assert crashed.trace[:place] == whole.trace[:place]
