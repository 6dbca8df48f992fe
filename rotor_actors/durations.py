"""Durations: `"90s"`, `"5m"`, `"1h30m"`, a `timedelta`, or a number of seconds become a float of seconds."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from rotor_actors.errors import DurationError

__all__ = ["Duration", "humanize", "seconds"]

Duration = str | int | float | timedelta
"""`"500ms"`, `"90s"`, `"5m"`, `"1h30m"`, `"7d"`, a `timedelta`, or a number of seconds."""

# Units from large to small, each at most once; "m" must not eat the first letter of "ms".
_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_PATTERN: Final = re.compile(
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?", re.ASCII
)
_FACTORS: Final = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_LONGEST_QUOTE: Final = 60


def seconds(
    value: Duration, *, name: str, minimum: float = 0.0, exclusive: bool = False, maximum: float | None = None
) -> float:
    """The duration in seconds, between `minimum` and `maximum`.

    >>> seconds("1h30m", name="timeout")
    5400.0

    Args:
        value: what the user passed.
        name: the parameter's name, for the message.
        minimum: the smallest value allowed; not allowed itself if `exclusive` (so `exclusive=True` refuses zero).
        maximum: the largest value allowed, or `None` for any.

    Raises:
        TypeError: `value` is `None`; the message names the parameter and shows a right value.
        DurationError: anything else that is no usable duration, with the same help.
    """
    if value is None:  # pyright: ignore[reportUnnecessaryComparison] - callers are not always type-checked
        raise TypeError(f"{name} is required and must be a duration, not None; for example {name}={_example(maximum)}")
    amount = _amount(value)
    if amount is None or not math.isfinite(amount):
        raise _refused(name, value, "is not a duration", maximum)
    if amount < minimum or (exclusive and amount == minimum):
        bound = f"more than {humanize(minimum)}" if exclusive else f"at least {humanize(minimum)}"
        raise _refused(name, value, f"must be {bound}", maximum)
    if maximum is not None and amount > maximum:
        raise _refused(name, value, f"must be at most {humanize(maximum)}", maximum)
    return amount


def humanize(seconds: float) -> str:
    """The duration for people, as text that `seconds` reads again: `"1h30m"`. Rounded to milliseconds; never raises.

    >>> humanize(5400), humanize(0.5), humanize(0)
    ('1h30m', '500ms', '0s')
    """
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return f"-{humanize(-seconds)}"
    if 0 < seconds < 0.001:
        return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"
    rest = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _amount(value: object) -> float | None:
    if isinstance(value, str):
        return _parse(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def _parse(text: str) -> float | None:
    match = _PATTERN.fullmatch(text)
    if match is None or not text:
        return None
    return math.fsum(float(count) * factor for count, factor in zip(match.groups(), _FACTORS, strict=True) if count)


def _refused(name: str, value: object, reason: str, maximum: float | None) -> DurationError:
    quoted = _quote(value)
    return DurationError(
        f"{name}={quoted} {reason}; write it like {name}={_example(maximum)} "
        '("500ms", "90s", "5m", "1h30m", "7d", a timedelta, or a number of seconds)'
    )


def _quote(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def _example(maximum: float | None) -> str:
    return '"5m"' if maximum is None or maximum >= 300 else f'"{humanize(maximum)}"'
