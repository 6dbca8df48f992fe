"""Say how far the runs are: one line that is rewritten on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from rotor_actors import RunStatus

ENDED = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
CLEAR_LINE = "\r\x1b[K"
DIM, RED, RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"
PLAIN_EVERY = 2.0  # seconds between two plain lines


def count_ended(counts: Mapping[RunStatus, int]) -> int:
    return sum(counts.get(status, 0) for status in ENDED)


class Progress:
    """Shows counts of runs by status. `ended_before` are those of earlier processes: they are not in the rate."""

    def __init__(self, stream: TextIO, ended_before: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._ended_before = ended_before
        self._clock = clock
        self._started = self._shown_at = clock()
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")

    def update(self, counts: Mapping[RunStatus, int]) -> None:
        """Show these counts; where lines cannot be rewritten, only when some time has passed since the last ones."""
        if self._live:
            self._stream.write(CLEAR_LINE + self._line(counts))
        elif self._clock() - self._shown_at >= PLAIN_EVERY:
            self._stream.write(self._line(counts) + "\n")
            self._shown_at = self._clock()
        self._stream.flush()

    def finish(self, counts: Mapping[RunStatus, int]) -> None:
        """Show the last counts, and leave the line."""
        self._stream.write((CLEAR_LINE if self._live else "") + self._line(counts) + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._stream.write((CLEAR_LINE if self._live else "") + text + "\n")
        self._stream.flush()

    def _line(self, counts: Mapping[RunStatus, int]) -> str:
        ended = count_ended(counts)
        failed = counts.get(RunStatus.FAILED, 0)
        known = sum(counts.values())
        rate = (ended - self._ended_before) / max(self._clock() - self._started, 0.001)
        parts = [f"{ended} of {known} runs done", f"{known - ended} running"]
        if failed:
            parts.append(self._paint(RED, f"{failed} failed"))
        return ", ".join(parts) + self._paint(DIM, f", {rate:.0f}/s")

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{RESET}" if self._colour else text
