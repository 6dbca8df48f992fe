"""Who waits for events of which name and content. Pure: it finds those an event is for, and performs nothing.

A hundred thousand may wait for one name, each for its own order. Where what they ask for demands that a place in the
event has a certain value, they are found by that value; only the others of that name are looked at one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from rotor_actors.events.expression import Node, PathKey, equality, holds, index_key, is_indexable, look_up

O = TypeVar("O")  # noqa: E741


class Waiter(Generic[O]):
    """One that waits.

    Args:
        owner: whoever is told.
        name: of the event.
        node: what the event must be like, bound; None: any.
        until: an event that comes later is not for it; None: for ever.
    """

    __slots__ = ("name", "node", "number", "owner", "place", "until")

    def __init__(self, owner: O, name: str, node: Node | None, until: float | None) -> None:
        self.owner = owner
        self.name = name
        self.node = node
        self.until = until
        self.place: tuple[tuple[PathKey, ...], Any] | None = None
        """Path and value by which it is found, if it is."""
        self.number = 0


class _OfOneName(Generic[O]):
    """By path and then by value; under None those that must be looked at."""

    __slots__ = ("by_place", "others")

    def __init__(self) -> None:
        self.by_place: dict[tuple[PathKey, ...], dict[Any, dict[int, Waiter[O]]]] = {}
        self.others: dict[int, Waiter[O]] = {}

    @property
    def is_empty(self) -> bool:
        return not self.by_place and not self.others


class Waiters(Generic[O]):
    """All that wait, in the order in which they came.

    Attributes:
        evaluations: how many expressions were evaluated so far.
    """

    def __init__(self) -> None:
        self._names: dict[str, _OfOneName[O]] = {}
        self._order = itertools.count(1)
        self._count = 0
        self.evaluations = 0

    def __len__(self) -> int:
        return self._count

    def are_for(self, name: str) -> bool:
        """Somebody waits for events of this name."""
        return name in self._names

    def add(self, waiter: Waiter[O]) -> None:
        waiter.number = next(self._order)
        self._count += 1
        of_name = self._names.setdefault(waiter.name, _OfOneName())
        found = equality(waiter.node)
        if found is None:
            of_name.others[waiter.number] = waiter
            return
        path, value = found
        waiter.place = path, index_key(value)
        of_name.by_place.setdefault(path, {}).setdefault(index_key(value), {})[waiter.number] = waiter

    def discard(self, waiter: Waiter[O]) -> None:
        """Twice is fine."""
        of_name = self._names.get(waiter.name)
        if of_name is None or not waiter.number:
            return
        if waiter.place is None:
            of_name.others.pop(waiter.number, None)
        else:
            path, key = waiter.place
            values = of_name.by_place[path]
            values[key].pop(waiter.number, None)
            if not values[key]:
                del values[key]
            if not values:
                del of_name.by_place[path]
        if of_name.is_empty:
            del self._names[waiter.name]
        self._count -= 1
        waiter.number = 0

    def matching(self, event: dict[str, Any], now: float) -> list[Waiter[O]]:
        """Those that the event is for, in the order in which they came. They stay."""
        of_name = self._names.get(event["name"])
        if of_name is None:
            return []
        found = [waiter for waiter in self._candidates(of_name, event) if self._is_for(waiter, event, now)]
        found.sort(key=lambda waiter: waiter.number)
        return found

    def _candidates(self, of_name: _OfOneName[O], event: dict[str, Any]) -> Iterable[Waiter[O]]:
        for path, values in of_name.by_place.items():
            value = look_up(event, path)
            if is_indexable(value):
                yield from values.get(index_key(value), {}).values()
        yield from of_name.others.values()

    def _is_for(self, waiter: Waiter[O], event: dict[str, Any], now: float) -> bool:
        if waiter.until is not None and now >= waiter.until:
            return False
        if waiter.node is None:
            return True
        self.evaluations += 1
        return holds(waiter.node, event)
