"""Retries: how often, after which delay, and what an exception says about it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.errors import (
    DurationError,
    ErrorInfo,
    NonRetriableError,
    RetryAfterError,
    StepFailedError,
    WorkflowDefinitionError,
)
from rotor_actors.retry import RetryPolicy, RetryRecord, is_retriable, next_delay, retry_after

STEADY = RetryPolicy(3, initial="1s", factor=2.0, maximum="5s", jitter=False)


def test_three_retries_mean_up_to_four_attempts() -> None:
    delays = [next_delay(STEADY, failures, None, 0.5) for failures in (1, 2, 3, 4)]
    assert delays == [1.0, 2.0, 4.0, None]


def test_no_retries_mean_one_attempt() -> None:
    assert next_delay(RetryPolicy(0), 1, None, 0.5) is None


def test_the_delay_never_exceeds_the_maximum() -> None:
    policy = RetryPolicy(100_000, maximum="1h", jitter=False)
    assert next_delay(policy, 99_999, None, 0.0) == 3600.0


def test_no_initial_delay_stays_no_delay() -> None:
    policy = RetryPolicy(100_000, initial=0, jitter=False)
    assert next_delay(policy, 1, None, 0.0) == 0.0
    assert next_delay(policy, 99_999, None, 0.0) == 0.0


@given(random=st.floats(min_value=0, max_value=1, exclude_max=True), failures=st.integers(1, 50))
def test_jitter_takes_off_up_to_half_of_the_delay(random: float, failures: int) -> None:
    jittered = next_delay(RetryPolicy(50), failures, None, random)
    plain = next_delay(RetryPolicy(50, jitter=False), failures, None, random)
    assert jittered is not None
    assert plain is not None
    assert plain / 2 <= jittered <= plain


def test_what_the_error_asks_for_holds_in_place_of_the_policys_delay() -> None:
    assert next_delay(STEADY, 1, 90.0, 0.5) == 90.0
    assert next_delay(STEADY, 1, 0.0, 0.5) == 1.0


def test_what_the_error_asks_for_gives_no_further_retry() -> None:
    assert next_delay(STEADY, 4, 90.0, 0.5) is None


@pytest.mark.parametrize("retries", [-1, True, False, 1.5, "3"])
def test_a_number_of_retries_that_is_none_is_refused_by_name(retries: Any) -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"^max_retries="):
        RetryPolicy(retries)
    with pytest.raises(WorkflowDefinitionError, match=r"^retries=.*for example retries=3"):
        RetryPolicy.of(retries)


@pytest.mark.parametrize("factor", [0.5, -1, float("nan"), float("inf"), True, "2"])
def test_a_factor_that_makes_no_sense_is_refused_by_name(factor: Any) -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"^factor="):
        RetryPolicy(3, factor=factor)


def test_durations_that_are_none_are_refused_by_name() -> None:
    with pytest.raises(DurationError, match=r"^initial="):
        RetryPolicy(3, initial="10 parsecs")
    with pytest.raises(DurationError, match=r"^maximum="):
        RetryPolicy(3, maximum=-1)
    with pytest.raises(DurationError, match=r"^retry_delay="):
        RetryPolicy.of(3, delay="soon")


def test_an_initial_delay_above_the_maximum_is_refused_with_a_remedy() -> None:
    with pytest.raises(WorkflowDefinitionError, match='maximum="2h"'):
        RetryPolicy(3, initial="2h")


def test_jitter_must_be_a_bool() -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"^jitter="):
        RetryPolicy(3, jitter=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_retries_argument_is_a_policy_a_number_or_the_default() -> None:
    assert RetryPolicy.of(STEADY) is STEADY
    assert RetryPolicy.of(5) == RetryPolicy(5)
    assert RetryPolicy.of(None) == RetryPolicy(3)
    assert RetryPolicy.of(None, STEADY) is STEADY
    assert RetryPolicy.of(0, STEADY) == RetryPolicy(0)


def test_a_retry_delay_is_constant() -> None:
    policy = RetryPolicy.of(2, delay="5s")
    assert [next_delay(policy, failures, None, 0.7) for failures in (1, 2, 3)] == [5.0, 5.0, None]


def test_policies_with_the_same_durations_in_other_words_are_equal() -> None:
    assert RetryPolicy(3, initial="60s") == RetryPolicy(3, initial=60)


@pytest.mark.parametrize("policy", [RetryPolicy(3), STEADY, RetryPolicy(0, initial=0, maximum="7d", factor=1)])
def test_a_policy_survives_storing(policy: RetryPolicy) -> None:
    blob = msgspec.msgpack.encode(policy.to_record())
    assert RetryPolicy.from_record(msgspec.msgpack.decode(blob, type=RetryRecord)) == policy


def test_only_a_non_retriable_error_is_not_retried() -> None:
    class Hopeless(NonRetriableError):
        pass

    assert is_retriable(ValueError())
    assert not is_retriable(NonRetriableError())
    assert not is_retriable(Hopeless())


def test_one_non_retriable_member_makes_a_group_non_retriable() -> None:
    inner = ExceptionGroup("inner", [KeyError(), NonRetriableError()])
    assert not is_retriable(ExceptionGroup("outer", [ValueError(), inner]))
    assert is_retriable(ExceptionGroup("outer", [ValueError(), KeyError()]))


def test_a_group_of_any_depth_is_understood() -> None:
    group: Any = NonRetriableError()
    for _ in range(5000):
        group = ExceptionGroup("deeper", [group])
    assert not is_retriable(group)


def test_a_stand_in_for_a_non_retriable_error_is_non_retriable() -> None:
    info = ErrorInfo("Local", "no")
    assert not is_retriable(StepFailedError("no", error=info, retriable=False))
    assert is_retriable(StepFailedError("no", error=info))


def test_a_retry_after_error_gives_its_delay_in_seconds() -> None:
    assert retry_after(RetryAfterError("later", "90s")) == 90.0
    assert retry_after(ValueError()) is None


def test_the_longest_delay_of_a_group_counts() -> None:
    group = ExceptionGroup("g", [RetryAfterError("a", 5), ExceptionGroup("h", [RetryAfterError("b", "1m")])])
    assert retry_after(group) == 60.0


def test_an_after_that_is_no_duration_counts_as_none() -> None:
    class Forgetful(RetryAfterError):
        def __init__(self) -> None:
            Exception.__init__(self)

    assert retry_after(RetryAfterError("later", "10 parsecs")) is None
    assert retry_after(Forgetful()) is None
