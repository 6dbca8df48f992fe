"""Durations: what is accepted, what is refused, and what the refusal says."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.durations import humanize, seconds
from rotor_actors.errors import DurationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("1.5h", 5400.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("0s", 0.0),
        (timedelta(minutes=2), 120.0),
        (90, 90.0),
        (0.25, 0.25),
        (0, 0.0),
    ],
)
def test_a_duration_becomes_seconds(value: Any, expected: float) -> None:
    result = seconds(value, name="timeout")
    assert result == expected
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "5",
        "-5m",
        "10 parsecs",
        "5x",
        "5M",
        "m",
        "30m1h",
        "1h1h",
        "1e3s",
        "nan",
        "inf",
        "٣s",
        "9" * 400 + "s",
        "5m\n",
        -1,
        -0.001,
        True,
        False,
        float("nan"),
        float("inf"),
        10**400,
        timedelta(seconds=-1),
        [],
        b"5m",
        object(),
        1j,
    ],
)
def test_what_is_no_duration_is_refused_with_the_name_and_a_right_value(value: Any) -> None:
    with pytest.raises(DurationError, match=r'^timeout=.*write it like timeout="5m"'):
        seconds(value, name="timeout")


def test_a_duration_error_is_a_value_error_that_quotes_what_was_found() -> None:
    with pytest.raises(ValueError, match="'10 parsecs'"):
        seconds("10 parsecs", name="timeout")


def test_none_is_a_type_error_that_names_the_parameter_and_shows_a_right_value() -> None:
    with pytest.raises(TypeError, match=r'timeout is required.*timeout="5m"'):
        seconds(None, name="timeout")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_zero_is_refused_where_it_is_senseless() -> None:
    with pytest.raises(DurationError, match="must be more than 0s"):
        seconds(0, name="timeout", exclusive=True)
    with pytest.raises(DurationError, match="must be more than 0s"):
        seconds("0s", name="timeout", exclusive=True)


def test_a_duration_outside_its_bounds_is_refused_by_naming_the_bound() -> None:
    assert seconds("24h", name="timeout", maximum=86_400) == 86_400
    with pytest.raises(DurationError, match="must be at most 1d"):
        seconds("25h", name="timeout", maximum=86_400)
    with pytest.raises(DurationError, match="must be at least 1s"):
        seconds("999ms", name="every", minimum=1)


def test_a_value_whose_repr_raises_is_refused_all_the_same() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(DurationError, match="<Rude>"):
        seconds(Rude(), name="timeout")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (5400, "1h30m"),
        (86_400, "1d"),
        (0.5, "500ms"),
        (61.25, "1m1s250ms"),
        (0.00025, "0.25ms"),
        (-90, "-1m30s"),
        (float("inf"), "inf"),
        (59.9999, "1m"),
    ],
)
def test_seconds_are_written_for_people(value: float, text: str) -> None:
    assert humanize(value) == text


@given(st.floats(min_value=0, max_value=1e10))
def test_what_is_written_for_people_is_read_again_to_the_millisecond(value: float) -> None:
    assert seconds(humanize(value), name="x") == pytest.approx(value, abs=0.000_501)


@given(st.text(max_size=20) | st.from_regex(r"[0-9.]{1,4}(ms|s|m|h|d)([0-9]{1,3}(ms|s))?"))
def test_any_text_is_a_finite_duration_or_refused(text: str) -> None:
    try:
        amount = seconds(text, name="x")
    except DurationError:
        return
    assert 0 <= amount < float("inf")
