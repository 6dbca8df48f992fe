"""Runs a universe of random work and prints the hashes of its trace and its disk. A perturbed heap must not matter."""

from __future__ import annotations

import sys

from rotor_actors.simulation import Faults, Settings, Simulation, Universe, run_universe
from rotor_actors.simulation.playing import Work


async def main(universe: Universe) -> None:
    await Work(3, 4, cancels=0.4)(Simulation(universe))


def run(seed: int, store: str, policy: str) -> str:
    faults = Faults(crash=0.05, failed_write=0.01, disk_full=0.01)
    settings = Settings(faults=faults, store=store, policy=policy)
    outcome = run_universe(main, seed=seed, settings=settings, with_hashes=True)
    if outcome.failure is not None:
        raise outcome.failure
    return f"{outcome.trace_hash} {outcome.disk_hash} {outcome.steps} {outcome.crashes}"


if __name__ == "__main__":
    ballast = [bytearray(n % 700) for n in range(int(sys.argv[1]))]  # other addresses for all that comes after
    del ballast[::3]
    for seed in (1, 2, 3):
        for store, policy in (("sqlite", "sound"), ("memory", "chaos")):
            print(seed, store, run(seed, store, policy))
