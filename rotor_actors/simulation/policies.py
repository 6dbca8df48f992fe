"""Who goes next among those that are ready.

`sound` is what asyncio does: first in, first out. Whatever fails under it can fail in production. `chaos` and `pct`
also try orders that asyncio never takes, though another loop might: a failure there is a hint, not a proof.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from rotor_actors.simulation.tape import Tape


class Policy(Protocol):
    """Takes the next handle out of those that are ready, of which there is at least one."""

    def take(self, ready: deque[asyncio.Handle]) -> asyncio.Handle: ...


class Sound:
    """First in, first out."""

    def take(self, ready: deque[asyncio.Handle]) -> asyncio.Handle:
        return ready.popleft()


class Chaos:
    """Any task, each as likely as the others; callbacks that are of no task stay in their order, as one more task."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def take(self, ready: deque[asyncio.Handle]) -> asyncio.Handle:
        firsts = _firsts(ready)
        if len(firsts) == 1:
            return ready.popleft()
        return _take_of(ready, self._tape.choose(len(firsts)), firsts)


class PCT:
    """Each task has a priority, the highest goes first; at `changes` moments the one that goes is put last.

    Finds bugs that need so many order constraints with a known probability (Burckhardt et al., 2010).
    """

    def __init__(self, tape: Tape, changes: int, within: int = 2_000) -> None:
        self._tape = tape
        self._steps = 0
        self._lowest = 0.0
        self._changes = {tape.choose(within) for _ in range(changes)}
        self._priorities: dict[int, float] = {}

    def take(self, ready: deque[asyncio.Handle]) -> asyncio.Handle:
        self._steps += 1
        firsts = _firsts(ready)
        if len(firsts) == 1:
            return ready.popleft()
        chosen = max(range(len(firsts)), key=lambda position: self._priority(firsts[position][0]))
        if self._steps in self._changes:
            self._lowest -= 1.0
            self._priorities[firsts[chosen][0]] = self._lowest
        return _take_of(ready, chosen, firsts)

    def _priority(self, owner: int) -> float:
        known = self._priorities.get(owner)
        if known is None:
            known = self._priorities[owner] = 1.0 - self._tape.between(0.0, 1.0)
        return known


def policy_of(name: str, tape: Tape) -> Policy:
    """A policy by its name.

    Raises:
        ValueError: it is none of `sound`, `chaos`, `pct(d)`.
    """
    if name == "sound":
        return Sound()
    if name == "chaos":
        return Chaos(tape)
    if name.startswith("pct(") and name.endswith(")") and name[4:-1].isdecimal():
        return PCT(tape, int(name[4:-1]))
    raise ValueError(f"policy must be 'sound', 'chaos' or 'pct(3)' (with a number of your choice), got {name!r}")


def _owner(handle: asyncio.Handle) -> int:
    """The number of the task that a handle drives; -1 for callbacks of no task."""
    callback: Any = handle._callback  # type: ignore[attr-defined]  # pyright: ignore
    task = getattr(callback, "__self__", None)
    return hash(task) if isinstance(task, asyncio.Task) else -1


def _firsts(ready: deque[asyncio.Handle]) -> list[tuple[int, int]]:
    """Each owner with the position of its first handle, in order of position."""
    found: dict[int, int] = {}
    for position, handle in enumerate(ready):
        found.setdefault(_owner(handle), position)
    return list(found.items())


def _take_of(ready: deque[asyncio.Handle], chosen: int, firsts: list[tuple[int, int]]) -> asyncio.Handle:
    position = firsts[chosen][1]
    handle = ready[position]
    del ready[position]
    return handle
