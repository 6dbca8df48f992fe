"""How far a long command is: one line that is drawn over on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

_WIDTH = 30
_SECONDS_PER_LINE = 10.0


class Progress:
    """On standard error.

    Args:
        total: how many universes there will be; None when it goes by time.
        minutes: how long it will take, when it goes by time.
    """

    def __init__(self, total: int | None, minutes: float | None) -> None:
        self._total = total
        self._minutes = minutes
        self._began = self._shown = time.perf_counter()
        self._is_terminal = sys.stderr.isatty()

    def show(self, done: int, failures: int) -> None:
        now = time.perf_counter()
        if not self._is_terminal and now - self._shown < _SECONDS_PER_LINE:
            return
        self._shown = now
        share = self._share(done, now)
        text = f"{done} universes, {done / max(now - self._began, 1e-9):.1f}/s, {failures} violations"
        if self._is_terminal:
            filled = int(_WIDTH * share)
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (_WIDTH - filled)}] {share:4.0%} {text} ")
        else:
            sys.stderr.write(f"{share:4.0%} {text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._is_terminal:
            sys.stderr.write("\n")

    def _share(self, done: int, now: float) -> float:
        if self._total is not None:
            return done / self._total
        return min(1.0, (now - self._began) / (60 * (self._minutes or 1.0)))
