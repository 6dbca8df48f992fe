"""All planted bugs are found, within a budget; the engine as it is passes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mutants import FLIPS, MUTANTS, USUAL, Mutant
from replica_mutants import LOST_REPLIES, OF_TREES, REPLICA_MUTANTS, STANDSTILLS, WEATHER

from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.judge import Judge, judged
from rotor_actors.simulation.plan import Size
from rotor_actors.simulation.replicas.crowd import SCENES
from rotor_actors.simulation.replicas.trials import judged_crowd, judged_replicas
from rotor_actors.simulation.running import run_universe
from rotor_actors.simulation.universe import Settings

UNIVERSES = 80
SIZE = Size(roots=3, ops=5, children=4)
# A mutant that cannot even run is no bug that was found.
_BROKEN = (AttributeError, NameError, TypeError, ImportError)


REPLICAS, WIDTH = 3, 4


def budget(faults: Faults, scenes: tuple[str, ...]) -> int:
    """In weather or work made for a bug it has to be found sooner."""
    if faults != WEATHER:
        return UNIVERSES // 4
    return UNIVERSES // 2 if scenes else UNIVERSES


def first_failure_of_replicas(
    faults: Faults, universes: int, scenes: tuple[str, ...] = ()
) -> tuple[int, BaseException | None]:
    """Trials and crowds in turn, or a crowd of some scenes."""
    for seed in range(universes):
        is_crowd = seed % 2 or scenes
        work = judged_crowd(WIDTH, [], scenes or SCENES) if is_crowd else judged_replicas(SIZE, [])
        outcome = run_universe(work, seed=seed, settings=Settings(faults=faults, replicas=REPLICAS))
        if outcome.failure is not None:
            return seed + 1, outcome.failure
    return universes, None


def first_failure(faults: Faults, universes: int) -> tuple[int, BaseException | None]:
    """After how many universes something was wrong, and what."""
    for seed in range(universes):
        judges: list[Judge] = []
        outcome = run_universe(judged(SIZE, judges), seed=seed, settings=Settings(faults=faults))
        if outcome.failure is not None:
            return seed + 1, outcome.failure
    return universes, None


@pytest.mark.parametrize("planted", MUTANTS, ids=lambda planted: planted.name.replace(" ", "-"))
def test_a_planted_bug_is_found(
    planted: Mutant, monkeypatch: pytest.MonkeyPatch, score: Callable[[str, str, int], None]
) -> None:
    with monkeypatch.context() as patch:
        planted.plant(patch)
        universes, failure = first_failure(planted.faults, UNIVERSES)
    if isinstance(failure, _BROKEN):
        raise failure
    score(planted.name, "" if failure is None else str(failure), universes)
    assert failure is not None, f"not found in {universes} universes: {planted.name}"


@pytest.mark.parametrize("planted", REPLICA_MUTANTS, ids=lambda planted: planted.name.replace(" ", "-"))
def test_a_planted_bug_of_replicas_is_found(
    planted: Mutant, monkeypatch: pytest.MonkeyPatch, score: Callable[[str, str, int], None]
) -> None:
    with monkeypatch.context() as patch:
        planted.plant(patch)
        universes, failure = first_failure_of_replicas(
            planted.faults, budget(planted.faults, planted.scenes), planted.scenes
        )
    if isinstance(failure, _BROKEN):
        raise failure
    score(f"replicas: {planted.name}", "" if failure is None else str(failure), universes)
    assert failure is not None, f"not found in {universes} universes: {planted.name}"


@pytest.mark.parametrize(
    ("faults", "scenes"), [(WEATHER, ()), (STANDSTILLS, ()), (LOST_REPLIES, ()), (WEATHER, OF_TREES)],
    ids=["weather", "standstills", "lost-replies", "trees"],
)  # fmt: skip
def test_replicas_as_they_are_pass_the_same_budget(faults: Faults, scenes: tuple[str, ...]) -> None:
    universes, failure = first_failure_of_replicas(faults, budget(faults, scenes), scenes)
    assert failure is None, f"universe {universes - 1}: {failure}"


@pytest.mark.parametrize("faults", [USUAL, FLIPS, Faults(crash=0.01, disk_full=0.2), Faults(crash=0.05, failed_fsync=0.05)],
                         ids=["usual", "flips", "full", "failing"])  # fmt: skip
def test_the_engine_as_it_is_passes_the_same_budget(faults: Faults) -> None:
    universes, failure = first_failure(faults, UNIVERSES)
    assert failure is None, f"universe {universes - 1}: {failure}"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 15
    assert len({planted.name for planted in MUTANTS}) == len(MUTANTS)
    assert len(REPLICA_MUTANTS) >= 20
    assert len({planted.name for planted in REPLICA_MUTANTS}) == len(REPLICA_MUTANTS)
