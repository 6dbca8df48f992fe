"""When to try again: the policy, the next delay, and what an exception itself says about it. No clock, no chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import msgspec

from rotor_actors.durations import Duration, humanize, seconds
from rotor_actors.errors import (
    DurationError,
    NonRetriableError,
    RetryAfterError,
    StepFailedError,
    WorkflowDefinitionError,
)

__all__ = ["RetryPolicy", "RetryRecord", "is_retriable", "leaves", "next_delay", "retry_after"]

_SHARE_OF_CHANCE: Final = 0.5


class RetryRecord(msgspec.Struct, frozen=True, array_like=True):
    """A policy as it is stored with a run that was given its own. Durations in seconds."""

    max_retries: int
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 3600.0
    jitter: bool = True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which delays to try again.

    >>> RetryPolicy(3, initial="5s").max_retries
    3

    Two policies are equal when they do the same: `"60s"` and `60` are one duration.

    Attributes:
        max_retries: attempts after the first: 3 means up to 4 attempts, 0 none but the first.
        initial: the delay before the first retry. factor: by how much each further one is longer.
        maximum: the longest delay. jitter: take off up to half of each delay by chance, so that what failed together
            does not come back together.

    Raises:
        WorkflowDefinitionError: a number is out of range; the message names the parameter.
        DurationError: a duration is not one; likewise.
    """

    max_retries: int
    initial: Duration = "1s"
    factor: float = 2.0
    maximum: Duration = "1h"
    jitter: bool = True

    def __post_init__(self) -> None:
        _check_count("max_retries", self.max_retries)
        initial, maximum = seconds(self.initial, name="initial"), seconds(self.maximum, name="maximum")
        if initial > maximum:
            raise WorkflowDefinitionError(
                f"initial={humanize(initial)} is longer than maximum={humanize(maximum)}; "
                f'pass a longer maximum, for example maximum="{humanize(initial)}"'
            )
        if not _is_number(self.factor) or not 1 <= self.factor < math.inf:
            raise WorkflowDefinitionError(
                f"factor={self.factor!r} must be a number of at least 1, for example factor=2.0"
            )
        if type(self.jitter) is not bool:
            raise WorkflowDefinitionError(f"jitter={self.jitter!r} must be True or False")
        for name, value in (("initial", initial), ("factor", float(self.factor)), ("maximum", maximum)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        retries: int | RetryPolicy | None,
        default: int | RetryPolicy = 3,
        *,
        delay: Duration | None = None,
        name: str = "retries",
    ) -> RetryPolicy:
        """The policy meant by a `retries` argument: a policy, a number of retries, or `None` for the default.

        Args:
            retries: what the user passed. default: what holds if that is `None`.
            delay: a constant delay before each retry, without jitter, in place of the policy's own delays.
            name: the parameter's name, for the message.
        """
        chosen = default if retries is None else retries
        if not isinstance(chosen, RetryPolicy):
            _check_count(name, chosen)
            chosen = cls(chosen)
        if delay is None:
            return chosen
        constant = seconds(delay, name="retry_delay")
        return cls(chosen.max_retries, initial=constant, factor=1.0, maximum=constant, jitter=False)

    def to_record(self) -> RetryRecord:
        """The form that is stored."""
        initial, maximum = seconds(self.initial, name="initial"), seconds(self.maximum, name="maximum")
        return RetryRecord(self.max_retries, initial, self.factor, maximum, self.jitter)

    @classmethod
    def from_record(cls, record: RetryRecord) -> RetryPolicy:
        """The policy that was stored; equal to the one it was made from."""
        return cls(record.max_retries, record.initial, record.factor, record.maximum, record.jitter)


def next_delay(policy: RetryPolicy, failures: int, error_after: float | None, random: float) -> float | None:
    """Seconds until the next attempt, or `None` when the retries are used up.

    Args:
        policy: what holds for this step or run.
        failures: failed attempts so far, the last one included (so 1 after the first).
        error_after: what the error asked for (`retry_after`); a delay above zero holds in place of the policy's.
        random: a random number in [0, 1), used for jitter.
    """
    if failures > policy.max_retries:
        return None
    if error_after:
        return error_after
    delay = _backoff(policy, failures)
    return delay - delay * _SHARE_OF_CHANCE * random if policy.jitter else delay


def is_retriable(error: BaseException) -> bool:
    """May an attempt that ended with this be repeated? Not if it, or any member of a group, is non-retriable."""
    return not any(_is_final(each) for each in leaves(error))


def retry_after(error: BaseException) -> float | None:
    """The delay in seconds that a `RetryAfterError` asks for, the longest one of a group; `None` without any.

    An `after` that is no duration counts as none: the failure at hand matters more than this one.
    """
    delays = [_after(each) for each in leaves(error) if isinstance(each, RetryAfterError)]
    return max((delay for delay in delays if delay is not None), default=None)


def _backoff(policy: RetryPolicy, failures: int) -> float:
    initial, maximum = seconds(policy.initial, name="initial"), seconds(policy.maximum, name="maximum")
    try:
        return min(maximum, initial * policy.factor ** max(0, failures - 1))
    except OverflowError:
        return maximum if initial else 0.0


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exception itself, or the members of a group of any depth. Without recursion: groups nest without bound."""
    stack = [error]
    while stack:
        each = stack.pop()
        if isinstance(each, BaseExceptionGroup):
            stack.extend(cast("BaseExceptionGroup[BaseException]", each).exceptions)
        else:
            yield each


def _is_final(error: BaseException) -> bool:
    # A non-retriable class that could not be built again is a StepFailedError now, and still non-retriable.
    return isinstance(error, NonRetriableError) or (isinstance(error, StepFailedError) and not error.retriable)


def _after(error: RetryAfterError) -> float | None:
    try:
        return seconds(error.after, name="after")
    except (DurationError, TypeError, AttributeError):  # a subclass may not have called our __init__
        return None


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WorkflowDefinitionError(
            f"{name}={value!r} must be a number of retries of at least 0 (3 means up to 4 attempts), "
            f"for example {name}=3, or {name}=RetryPolicy(3, initial='5s')"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
