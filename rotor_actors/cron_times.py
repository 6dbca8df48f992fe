"""When a schedule is due, in its time zone. Pure; the calendar's rules are cronsim's.

Over a change of the clocks it does what cron does: what is due at a time that is skipped runs right after the gap,
what is due at a time that comes twice runs once, and what is due every so many minutes or hours keeps its pace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime

from rotor_actors.workflows import Cron

MOST_MISSED = 1_000
ON_TIME_SECONDS = 60.0
"""What is due so long ago, or less, was not missed."""

_FIRST_SPAN = 3_600.0


def next_time(cron: Cron, after: float) -> float:
    """The first time that is later than `after`; epoch seconds."""
    return next(_times(cron, after))


def due_times(cron: Cron, last: float, now: float, most: int) -> list[float]:
    """The times after `last` up to `now`, but the latest `most` of them.

    Looked for in spans that grow backwards, so that a schedule of every minute, missed for a year, is no matter.
    """
    span = _FIRST_SPAN
    while True:
        begin = max(last, now - span)
        found: deque[float] = deque(maxlen=most)
        for time in _times(cron, begin):
            if time > now:
                break
            found.append(time)
        if len(found) >= most or begin <= last:
            return list(found)
        span *= 4


def to_start(cron: Cron, last: float, now: float) -> list[float]:
    """The times for which runs are to be started, now that some have passed: by the schedule's policy."""
    match cron.missed:
        case "all":
            return due_times(cron, last, now, MOST_MISSED)
        case "latest":
            return due_times(cron, last, now, 1)
        case "skip":
            return [time for time in due_times(cron, last, now, 1) if now - time <= ON_TIME_SECONDS]


def _times(cron: Cron, after: float) -> Iterator[float]:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

    for moment in CronSim(cron.expression, datetime.fromtimestamp(after, ZoneInfo(cron.timezone))):
        time = moment.timestamp()
        # Asked in the hour that comes twice, cronsim may give a time of its first turn.
        if time > after:
            yield time
