"""What a workflow, or an invoke, can ask for: each option refuses by itself what cannot work."""

from __future__ import annotations

from typing import Literal

import msgspec

from rotor_actors.durations import Duration, seconds
from rotor_actors.errors import WorkflowDefinitionError
from rotor_actors.ids import is_storable

LONGEST_KEY = 200
LONGEST_NAME = 3 * LONGEST_KEY + 2
"""Of a key's name: a workflow's id, a path, and what is found there. An index of PostgreSQL holds 2704 bytes."""
HIGHEST_PRIORITY = 100
_DATA = "data"


class FlowControl(msgspec.Struct, frozen=True):
    """How many runs of one key may run at once, and how many may begin in a period. What is over it waits, in order.

    Args:
        key: a path into the input (`"data"`, `"data.user_id"`, `"data.lines.0"`): a key for each value found there,
            of that workflow; a value that is missing is a key, too. Any other text is one key, shared by all
            workflows and invokes that name it.
        parallelism: how many runs of the key may run at once, from their begin to their end.
        rate: how many may begin within any `period`. A retry is no begin.
        period: what `rate` is counted over.

    Raises:
        WorkflowDefinitionError: neither `parallelism` nor `rate`, a number below 1, a `period` without a `rate`, or a
            key that is no path though it looks like one.
        DurationError: `period` is no duration.

    Example:
        >>> FlowControl("data.user_id", parallelism=1)
        FlowControl(key='data.user_id', parallelism=1, rate=None, period=None)
    """

    key: str
    parallelism: int | None = None
    rate: int | None = None
    period: Duration | None = None

    def __post_init__(self) -> None:
        check_key("FlowControl", self.key)
        _check_count("FlowControl", "parallelism", self.parallelism)
        _check_count("FlowControl", "rate", self.rate)
        if self.parallelism is None and self.rate is None:
            raise WorkflowDefinitionError(
                f"FlowControl({self.key!r}) limits nothing; give parallelism=, rate= with period=, or both"
            )
        if self.period is not None:
            seconds(self.period, name="period", exclusive=True)
            if self.rate is None:
                raise WorkflowDefinitionError(
                    f"FlowControl({self.key!r}): period={self.period!r} without a rate; say how many may begin in it, "
                    f"e.g. rate=10, or leave it out"
                )

    @property
    def period_seconds(self) -> float:
        """The period; a second unless given."""
        return 1.0 if self.period is None else seconds(self.period, name="period")


class Debounce(msgspec.Struct, frozen=True):
    """Starts that follow each other make one run, with the data of the last: it begins when none came for `period`.

    Args:
        period: how long it must be quiet.
        key: as of `FlowControl`, always the workflow's own; left out, all its starts are one.
        max_wait: begin at the latest so long after the first start, quiet or not.
    """

    period: Duration
    key: str | None = None
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        period = seconds(self.period, name="period", exclusive=True)
        check_optional_key("Debounce", self.key)
        if self.max_wait is not None and seconds(self.max_wait, name="max_wait", exclusive=True) < period:
            raise WorkflowDefinitionError(
                f"Debounce(period={self.period!r}, max_wait={self.max_wait!r}): it must be able to wait for one period; "
                f"raise max_wait, or leave it out"
            )


class Singleton(msgspec.Struct, frozen=True):
    """At most one run that has not ended.

    Args:
        key: as of `FlowControl`, always the workflow's own; left out, one run of the workflow.
        mode: `"skip"`: a start gives the run there is, and an invoke fails; `"cancel"`: the run there is is cancelled,
            and the new one begins when it has cleaned up.
    """

    key: str | None = None
    mode: Literal["skip", "cancel"] = "skip"

    def __post_init__(self) -> None:
        check_optional_key("Singleton", self.key)
        if self.mode not in ("skip", "cancel"):
            raise WorkflowDefinitionError(f"Singleton(mode={self.mode!r}): the modes are 'skip' and 'cancel'")


class Idempotency(msgspec.Struct, frozen=True):
    """The same key within the period gives the same run, whether that has ended or not.

    Args:
        key: as of `FlowControl`, always the workflow's own.
        period: how long a key is remembered, from the start that made the run.
    """

    key: str
    period: Duration = "24h"

    def __post_init__(self) -> None:
        check_key("Idempotency", self.key)
        seconds(self.period, name="period", exclusive=True)


class Batch(msgspec.Struct, frozen=True):
    """Starts are gathered and given to one run, whose data is the list of theirs.

    Args:
        max_size: a batch of so many begins at once.
        timeout: it begins at the latest so long after its first element came.
        key: a path into an element, as of `FlowControl`: a batch for each value.
    """

    max_size: int
    timeout: Duration
    key: str | None = None

    def __post_init__(self) -> None:
        _check_count("Batch", "max_size", self.max_size)
        seconds(self.timeout, name="timeout", exclusive=True)
        check_optional_key("Batch", self.key)


def is_path(key: str) -> bool:
    """Whether a key is looked up in the input; any other is itself."""
    return key == _DATA or key.startswith(_DATA + ".")


def path_of(key: str) -> tuple[str, ...]:
    """The segments of a path behind `data`."""
    return tuple(key.split(".")[1:])


def check_priority(workflow_id: str, priority: int | str) -> None:
    """Raise WorkflowDefinitionError unless it is a number in range, or a path."""
    if isinstance(priority, str):
        if is_path(priority):
            check_key("priority", priority)
            return
        raise WorkflowDefinitionError(
            f"workflow {workflow_id!r}: priority={priority!r} is no path into the input; write 'data.priority', or a number"
        )
    if type(priority) is not int or abs(priority) > HIGHEST_PRIORITY:
        raise WorkflowDefinitionError(
            f"workflow {workflow_id!r}: priority must be an int from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY} (the higher "
            f"goes first), or a path such as 'data.priority'; got {priority!r}"
        )


def check_optional_key(owner: str, key: str | None) -> None:
    """`check_key`, where None is fine."""
    if key is not None:
        check_key(owner, key)


def check_key(owner: str, key: str) -> None:
    """Raise WorkflowDefinitionError unless it is a path or a text that can be a key."""
    if not isinstance(key, str) or not key.strip() or len(key) > LONGEST_KEY or not is_storable(key):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkflowDefinitionError(
            f"{owner}: key must be a path such as 'data.user_id', or a text of 1 to {LONGEST_KEY} characters; got {key!r}"
        )
    if key.startswith(("event.", "input.", "ctx.")):
        raise WorkflowDefinitionError(
            f"{owner}: key {key!r} would be one key for all runs; a path into the input begins with 'data', e.g. "
            f"'data.{key.rpartition('.')[2]}'"
        )
    if is_path(key) and not all(path_of(key)):
        raise WorkflowDefinitionError(f"{owner}: the path {key!r} has an empty segment; write e.g. 'data.user.id'")


def _check_count(owner: str, name: str, value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 1):
        raise WorkflowDefinitionError(f"{owner}: {name} must be a whole number of at least 1; got {value!r}")
