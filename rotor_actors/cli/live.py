"""Following a run in the terminal: a live tree where rich is installed and somebody looks, else a line now and then."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from rotor_actors.cli.output import MARKS, wants_color
from rotor_actors.introspection import Introspection
from rotor_actors.records import RunStatus
from rotor_actors.views import RunInfo, RunTree

LOOK_SECONDS = 0.25
LINE_SECONDS = 1.0
LARGEST_TREE = 40
_STYLES = {"queued": "yellow", "running": "blue", "completed": "green", "failed": "red", "cancelled": "dim"}


class Progress(NamedTuple):
    """How many runs of a tree have ended, of those known so far."""

    ended: int
    known: int

    def __str__(self) -> str:
        return f"{100 * self.ended // max(1, self.known)} % of {self.known} runs"


class Screen(Protocol):
    """Where it is shown."""

    def show(self, said: str, tree: RunTree | None, done: Progress) -> None: ...


async def follow(source: Introspection, run_id: str, *, plain: bool = False) -> RunInfo:
    """Show a run on stderr until it has ended; give it as it ended then."""
    async with _screen(plain) as screen:
        while True:
            run = await source.info(run_id)
            counts = await source.count(root=run.root_run_id)
            is_small = sum(counts.values()) <= LARGEST_TREE
            ended = sum(count for status, count in counts.items() if status.is_terminal)
            done = Progress(ended, sum(counts.values()))
            screen.show(_said(run, counts), await source.tree(run_id) if is_small else None, done)
            if run.status.is_terminal:
                return run
            await asyncio.sleep(LOOK_SECONDS)


def _said(run: RunInfo, counts: dict[RunStatus, int]) -> str:
    parts = [f"{count} {status.value}" for status, count in sorted(counts.items()) if count]
    return f"{MARKS[run.status]} {run.workflow_id} {run.status.value}: {', '.join(parts)}"


class _Lines:
    """A line when something has changed, at most one a second."""

    def __init__(self) -> None:
        self._last = ""
        self._at = 0.0
        self._owed = ""

    def show(self, said: str, tree: RunTree | None, done: Progress) -> None:
        said = f"{said} ({done})"
        if said == self._last:
            return
        now = time.monotonic()
        if now - self._at < LINE_SECONDS and self._last:
            self._owed = said
            return
        self.say(said, now)

    def say(self, said: str, now: float) -> None:
        self._last, self._at, self._owed = said, now, ""
        print(said, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._owed and self._owed != self._last:
            self.say(self._owed, time.monotonic())


class _Rich:
    """The tree itself, redrawn in place; a progress bar where it is too large for that."""

    def __init__(self, live: Any) -> None:
        self._live = live

    def show(self, said: str, tree: RunTree | None, done: Progress) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text
        from rich.tree import Tree

        if tree is None:  # too large to be drawn: how far it is says more
            bar = ProgressBar(total=done.known, completed=done.ended, width=50)
            self._live.update(Group(Text(said), bar, Text(str(done))), refresh=True)
            return
        top = Tree(Text(said))
        todo = [] if tree is None else [(top, child) for child in tree.children]
        while todo:
            above, at = todo.pop(0)
            run = at.run
            label = f"{MARKS[run.status]} {run.parent_step_id or ''}: {run.workflow_id} {run.waiting_for}"
            below = above.add(Text(label, style=_STYLES[run.status]))
            todo.extend((below, child) for child in at.children)
        self._live.update(top, refresh=True)


@asynccontextmanager
async def _screen(plain: bool) -> AsyncGenerator[Screen]:
    if plain or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or not _has_rich():
        lines = _Lines()
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, no_color=not wants_color(sys.stderr))
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield _Rich(live)


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
