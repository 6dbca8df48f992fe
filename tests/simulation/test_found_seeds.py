"""Universes in which a bug of the engine was found. The seed of each is kept, though a seed is another universe once the
work, or what is drawn for it, has changed: beside each stands the test that tells of its bug in a few lines."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest

from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.judge import Judge, judged
from rotor_actors.simulation.plan import Size
from rotor_actors.simulation.pool import Job, play, replica_faults
from rotor_actors.simulation.replicas.trials import judged_replicas
from rotor_actors.simulation.running import run_universe
from rotor_actors.simulation.universe import Settings, Universe

FULL = Faults(disk_full=0.1, crash=0.01)
FAILING = Faults(crash=0.02, failed_fsync=0.02, failed_write=0.02)
SOAK = Faults(crash=0.02, failed_fsync=0.006, failed_write=0.006, disk_full=0.006)


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        # An end that waited for room on a full disk was told: test_nobody_is_told_of_an_end_that_waits_for_room.
        (71, FULL), (109, Faults(disk_full=0.1)), (9, FAILING),
        # A run that was being started was taken for one that had ended: test_a_run_that_is_looked_up_while_it_is_being…
        (8, Faults(crash=0.03)),
        # A child that was timed out on was withdrawn: test_a_child_that_is_timed_out_on_is_not_withdrawn_by_a_scope…
        (1031, Faults(crash=0.05)), (1046, Faults(crash=0.05)), (1170, FULL),
    ],
)  # fmt: skip
def test_a_trial_that_failed_once_passes(seed: int, faults: Faults) -> None:
    judges: list[Judge] = []
    outcome = run_universe(judged(Size(), judges), seed=seed, settings=Settings(faults=faults))
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize(
    ("seed", "roots", "width"),
    [
        # What a failed sync had left in the WAL was believed: test_what_a_failed_sync_left_is_made_durable_before…
        (4000267, 2, 3), (4001398, 2, 3),
    ],
)  # fmt: skip
def test_a_universe_of_the_soak_that_failed_once_passes(seed: int, roots: int, width: int) -> None:
    outcome, _ = play(Job(roots, width, Settings(faults=SOAK)), seed)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize(
    "seed",
    [
        # A run taken in while its parent was a stub here told nobody of its end: the parent waited until its timeout.
        65,
        # Entries of a new owner were older than the note of rest of a run without steps: it slept over a child's end.
        44, 106,
    ],
)  # fmt: skip
def test_a_universe_of_three_replicas_that_failed_once_passes(seed: int) -> None:
    judges: list[Judge] = []
    settings = Settings(faults=replica_faults(1.0), replicas=3)
    outcome = run_universe(judged_replicas(Size(), judges), seed=seed, settings=settings)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize(
    "seed",
    [
        # A run was claimed, its parent timed out on it and ended, and only then it was taken in: by the row that was
        # claimed, nobody had let go of it, and it was cancelled with its parent.
        100047,
        # A caller of `cancel` read in the store that the run had ended while its replica was given up: what was still
        # to be swept was asked of the engine that was gone, and the caller was never answered.
        100131,
        # The judge's: a singleton's run ended and its next one was created in one commit of the database.
        3003154, 3003340,
    ],
)  # fmt: skip
def test_a_wider_universe_of_three_replicas_that_failed_once_passes(seed: int) -> None:
    outcome, _ = play(Job(3, 4, Settings(faults=replica_faults(1.0), replicas=3)), seed)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize(
    "seed",
    [
        # A child was withdrawn after it had been claimed, and another was invoked by its key: no place was found for it.
        124,
        # The judge took the second look of a cancellation at what hangs on the cancelled run for one without a reason.
        109,
    ],
)
def test_a_longer_universe_of_three_replicas_that_failed_once_passes(seed: int) -> None:
    settings = Settings(faults=replica_faults(1.0), replicas=3)
    outcome = run_universe(judged_replicas(Size(roots=3, ops=5, children=4), []), seed=seed, settings=settings)
    assert outcome.failure is None, outcome.failure


def test_a_universe_that_is_over_is_forgotten() -> None:
    """Exceptions kept a frame of the run loop, and that a tuple which the collector does not look into: closed runtimes
    stayed in memory for good."""
    known: list[weakref.ref[Universe]] = []

    def noted(main: Callable[[Universe], Awaitable[None]]) -> Callable[[Universe], Awaitable[None]]:
        async def inner(universe: Universe) -> None:
            known.append(weakref.ref(universe))
            await main(universe)

        return inner

    for seed in range(5):
        run_universe(noted(judged(Size(), [])), seed=seed, settings=Settings(faults=Faults(crash=0.03)))
    gc.collect()
    assert len(known) == 5
    assert [each() for each in known] == [None] * 5
