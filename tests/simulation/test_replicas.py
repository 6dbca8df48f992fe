"""Several replicas in one universe: what goes wrong between them and the database, and what holds all the same."""

from __future__ import annotations

import pytest

from rotor_actors.places import Places
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.judge import Judge
from rotor_actors.simulation.plan import Size
from rotor_actors.simulation.pool import replica_faults
from rotor_actors.simulation.replicas import crowd_judge
from rotor_actors.simulation.replicas.crowd import LIMIT
from rotor_actors.simulation.replicas.trials import judged_crowd, judged_replicas
from rotor_actors.simulation.running import Outcome, run_universe
from rotor_actors.simulation.universe import Settings

# All at once, and each of them seldom.
WEATHER = replica_faults(1.0)


def play(seed: int, replicas: int, faults: Faults = WEATHER) -> Outcome:
    judges: list[Judge] = []
    settings = Settings(faults=faults, replicas=replicas)
    return run_universe(judged_replicas(Size(), judges), seed=seed, settings=settings, with_hashes=True)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_without_faults_all_runs_end_as_planned(replicas: int) -> None:
    for seed in range(10):
        outcome = play(seed, replicas, Faults())
        assert outcome.failure is None, f"seed {seed}: {outcome.failure}"
        assert not outcome.fired


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_without_faults_a_crowd_comes_to_its_end(replicas: int) -> None:
    for seed in range(10):
        outcome = run_universe(judged_crowd(5, []), seed=seed, settings=Settings(replicas=replicas))
        assert outcome.failure is None, f"seed {seed}: {outcome.failure}"


@pytest.mark.parametrize("replicas", [2, 4])
def test_lines_events_singletons_and_fan_outs_hold_over_replicas_whatever_goes_wrong(replicas: int) -> None:
    for seed in range(8):
        outcome = run_universe(judged_crowd(5, []), seed=seed, settings=Settings(faults=WEATHER, replicas=replicas))
        assert outcome.failure is None, f"seed {seed}: {outcome.failure}"


def test_a_line_that_lets_in_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd_judge, "LIMIT", LIMIT - 1)  # a tighter one than the engine was told
    failures = [
        run_universe(judged_crowd(5, []), seed=seed, settings=Settings(replicas=2)).failure for seed in range(20)
    ]
    assert any("a line has its limit" in str(each) for each in failures)


def test_the_same_seed_is_the_same_universe() -> None:
    for seed in (3, 7):
        first, second = play(seed, 3), play(seed, 3)
        assert (first.trace_hash, first.disk_hash) == (second.trace_hash, second.disk_hash)
        assert first.choices == second.choices


def test_its_choices_make_the_same_universe_again() -> None:
    first = play(7, 3)
    judges: list[Judge] = []
    again = run_universe(
        judged_replicas(Size(), judges), seed=7, settings=Settings(faults=WEATHER, replicas=3), replay=first.choices,
        with_hashes=True,
    )  # fmt: skip
    assert again.fired == first.fired
    assert again.trace_hash == first.trace_hash


def test_an_error_that_the_engine_caught_and_logged_fails_the_universe(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(self: Places) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Places, "_load", break_down)  # nothing of a run depends on it: nobody else would notice
    failures = [play(seed, 3).failure for seed in range(5)]
    assert any("no unhandled exception" in str(each) and "planted" in str(each) for each in failures), failures
