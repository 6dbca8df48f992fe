"""What the parts of a sharded runtime do for each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rotor_actors.records import Entry
from rotor_actors.step_specs import EventRecord


@dataclass(frozen=True)
class Part:
    """One shard, to the others.

    Attributes:
        read: calls a function with its store's reader. append: appends an entry; durable when it returns.
        deliver: delivers events there; durable when it returns.
    """

    read: Callable[[Callable[[Any], Any]], Awaitable[Any]]
    append: Callable[[Entry], Awaitable[None]]
    deliver: Callable[[Sequence[EventRecord]], Awaitable[list[str]]]
