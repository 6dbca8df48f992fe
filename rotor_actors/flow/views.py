"""What callers see of flow control."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from rotor_actors.flow.line import Line


class FlowKey(msgspec.Struct, frozen=True):
    """One key.

    Attributes:
        name: a constant as it is; what was found at a path as `workflow:path=value`.
        parallelism, rate, period: what it allows, as the newest run of it said; None for no limit.
        running, waiting: how many of its runs.
        is_paused: nobody of it begins.
        opens_at: when its rate lets the next one begin; None: now, as far as the rate is concerned.
    """

    name: str
    parallelism: int | None
    rate: int | None
    period: float | None
    running: int
    waiting: int
    is_paused: bool
    opens_at: datetime | None


class WaitingRun(msgspec.Struct, frozen=True):
    """A run that flow control keeps from beginning.

    Attributes:
        run_id, workflow_id: the run.
        key: the name of the key it waits for; None where it waits for something else.
        position: 1 is next; 0 where there is no order.
        priority: the higher goes first.
        since: when it was started or invoked.
        reason: what keeps the first of its key from beginning.
    """

    run_id: str
    workflow_id: str
    key: str | None
    position: int
    priority: int
    since: datetime
    reason: str


def flow_key(line: Line, now: float) -> FlowKey:
    """What is to be seen of a line."""
    limits, opens_at = line.limits, line.opens_at(now)
    return FlowKey(
        line.name, limits.parallelism, limits.rate, None if limits.rate is None else limits.period, line.running,
        line.waiting, line.is_paused, None if opens_at <= now else datetime.fromtimestamp(opens_at, UTC),
    )  # fmt: skip
