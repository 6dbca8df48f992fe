"""Restart intensity and escalation: arithmetic over a clock that is passed in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors import Shutdown, add_restart, escalation


def exceeded_at(times: list[float], max_restarts: int, period: float) -> int | None:
    """Index of the first restart that is one too many."""
    restarts: tuple[float, ...] = ()
    for index, now in enumerate(times):
        restarts, is_exceeded = add_restart(restarts, now, max_restarts, period)
        if is_exceeded:
            return index
    return None


@pytest.mark.parametrize(
    ("times", "max_restarts", "period", "index"),
    [
        ([0, 0, 0], 3, 5, None),
        ([0, 0, 0, 0], 3, 5, 3),
        ([0], 0, 5, 0),
        ([0, 5], 1, 5, 1),
        ([0, 5.001], 1, 5, None),
        ([0, 3, 6, 9], 2, 5, None),
        ([0, 3, 5, 9], 2, 5, 2),
    ],
    ids=[
        "as many as allowed",
        "one more",
        "none allowed",
        "on the edge of the window",
        "just past the edge",
        "old ones leave the window",
        "three in a window",
    ],
)
def test_one_restart_more_than_allowed_within_the_window_is_too_many(
    times: list[float], max_restarts: int, period: float, index: int | None
) -> None:
    assert exceeded_at(times, max_restarts, period) == index


@given(
    gaps=st.lists(st.integers(min_value=0, max_value=8), max_size=30),
    max_restarts=st.integers(min_value=0, max_value=5),
    period=st.integers(min_value=1, max_value=10),
)
def test_intensity_is_exceeded_exactly_when_some_window_holds_too_many(
    gaps: list[int], max_restarts: int, period: int
) -> None:
    times = [float(sum(gaps[: index + 1])) for index in range(len(gaps))]
    windows = [sum(now - period <= at for at in times[: index + 1]) for index, now in enumerate(times)]
    expected = next((index for index, held in enumerate(windows) if held > max_restarts), None)
    assert exceeded_at(times, max_restarts, period) == expected


def test_what_is_remembered_of_restarts_is_bounded_by_how_many_are_allowed() -> None:
    restarts: tuple[float, ...] = ()
    for now in range(1000):
        restarts, _ = add_restart(restarts, now, 3, 1e9)
    assert restarts == (999, 998, 997, 996)


def test_a_child_gets_its_grace_then_is_cancelled_at_doubling_gaps_until_the_deadline() -> None:
    grace, *killing = escalation(5.0, kill_seconds=2.0)
    gaps = [gap for gap in killing if gap is not None]
    assert grace == 5.0
    assert sum(gaps) == pytest.approx(2.0)
    assert [later / earlier for earlier, later in pairwise(gaps)] == pytest.approx([2.0] * 9)


def test_brutal_kill_grants_no_grace() -> None:
    assert escalation(Shutdown.BRUTAL_KILL, 2.0) == escalation(5.0, 2.0)[1:]


def test_infinity_waits_for_ever_after_one_cancellation() -> None:
    assert escalation(Shutdown.INFINITY, 2.0) == (None,)
