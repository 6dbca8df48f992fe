"""Random bodies, crashed and replayed: each must take the branches that it took before, and end as it ended before.

`ROTOR_RANDOM_BODIES=5000 ROTOR_RANDOM_FIRST=0` tries more of them, `ROTOR_RANDOM_CRASHES` at more positions each.
"""

from __future__ import annotations

import logging
import os
import random

import pytest
from crash_kit import CrashingStore, crash_at, differences, run_once
from kit import STRIDE
from random_bodies import random_body

from rotor_actors import RetryPolicy

pytestmark = pytest.mark.asyncio

BODIES = int(os.environ.get("ROTOR_RANDOM_BODIES", "75"))
FIRST = int(os.environ.get("ROTOR_RANDOM_FIRST", "0"))
CRASHES = int(os.environ.get("ROTOR_RANDOM_CRASHES", "8"))
BODIES_PER_TEST = 25
POLICY = RetryPolicy(2, initial="7s", jitter=False)


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of crashes make tens of thousands of lines."""
    caplog.set_level(logging.CRITICAL + 1, "rotor_actors")
    caplog.set_level(logging.CRITICAL + 1, "asyncio")


# What was wrong once: gathers in no order, a sleep that began anew, the late end of a child in the record, …
REGRESSIONS = [1, 3, 7, 15, 30255, 60559, 60726]


async def try_seed(seed: int, most: int, *, with_events: bool = False) -> int:
    """Crash the body of this seed at some positions; gives the number of crashes, or fails with the seed."""
    body, rng = random_body(seed, with_events=with_events), random.Random(seed)
    reference = await run_once(body, retries=POLICY)
    crashes = 0
    for position in _some(rng, reference.store, most)[::STRIDE]:
        twice, looks = rng.random() < 0.5, rng.choice([None, None, 1, 3])
        crashed = await crash_at(body, position, retries=POLICY, crashes=1 + twice, looks=looks)
        problems = differences(reference, crashed)
        assert not problems, f"seed {seed}, crashed at entry {position}, looks {looks}, twice {twice}:\n" + "\n".join(
            problems
        )
        crashes += crashed.crashes
    return crashes


def _some(rng: random.Random, store: CrashingStore, most: int) -> list[int]:
    positions = range(store.committed)
    return list(positions) if len(positions) <= most else sorted(rng.sample(positions, most))


@pytest.mark.parametrize("first", range(FIRST, FIRST + BODIES, BODIES_PER_TEST))
async def test_random_bodies_take_the_same_branches_after_a_crash(first: int) -> None:
    crashes = 0
    for seed in range(first, min(first + BODIES_PER_TEST, FIRST + BODIES)):
        crashes += await try_seed(seed, CRASHES)
    assert crashes > BODIES_PER_TEST // 2 // STRIDE
    print(f"seeds from {first}: {crashes} crashes")


@pytest.mark.parametrize("first", range(FIRST, FIRST + BODIES // 3, BODIES_PER_TEST))
async def test_random_bodies_that_send_and_wait_for_events_do_so_too(first: int) -> None:
    crashes = 0
    for seed in range(first, first + BODIES_PER_TEST):
        crashes += await try_seed(seed, CRASHES, with_events=True)
    assert crashes > BODIES_PER_TEST // 2 // STRIDE


@pytest.mark.parametrize("seed", REGRESSIONS)
async def test_bodies_that_diverged_once(seed: int) -> None:
    assert await try_seed(seed, 50) > 1
