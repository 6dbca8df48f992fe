"""Order where asyncio and anyio iterate sets of objects hashed by address.

Their order differs from process to process, and with it the order in which tasks start and are cancelled: of random
workflow bodies, six in ten diverged on replay. Three order-only changes, installed once for the process and without
effect outside a `RunLoop`, mend what the loop itself cannot (its tasks and futures hash by number already):

* `asyncio.as_completed` puts bare coroutines through `set(...)`: inside a run loop that name, as seen by the module
  `asyncio.tasks`, keeps the caller's order. The module's own attribute is the one place that all ways of importing
  `as_completed` share.
* `asyncio.gather` makes its future by itself, not by asking the loop: inside a run loop it gets a number, too. The
  sets that `asyncio.wait` gives back would otherwise have those futures in any order.
* anyio's `CancelScope` keeps its child scopes in a set: scopes made inside a run loop get an ordered one.

And one that only words an error: a lock, event or queue of asyncio that belongs to another loop raises the named error
inside a run loop, not asyncio's RuntimeError.
"""

from __future__ import annotations

import asyncio.mixins
import asyncio.tasks
import builtins
from asyncio import events
from collections.abc import Iterable, Iterator
from typing import Any


class OrderedSet:
    """As much of a set as anyio's cancel scopes use, in order of insertion."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: dict[Any, None] = {}

    def add(self, item: object) -> None:
        self._items[item] = None

    def remove(self, item: object) -> None:
        del self._items[item]

    def discard(self, item: object) -> None:
        self._items.pop(item, None)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._items))

    def __len__(self) -> int:
        return len(self._items)


def install() -> None:
    """Make the changes; a second call changes nothing."""
    from anyio._backends._asyncio import CancelScope  # here: a tenth of what importing the library would cost

    if not hasattr(asyncio.tasks, "set"):
        asyncio.tasks.set = _set_in_order  # type: ignore[attr-defined]
    gathering = getattr(asyncio.tasks, "_GatheringFuture", None)
    if gathering is not None and gathering.__hash__ is not _hash_by_number:
        gathering.__init__ = _with_number(gathering.__init__)
        gathering.__hash__ = _hash_by_number
    if not hasattr(CancelScope.__init__, "__wrapped__"):
        CancelScope.__init__ = _with_ordered_children(CancelScope.__init__)  # type: ignore[method-assign]
    mixin = getattr(asyncio.mixins, "_LoopBoundMixin", None)
    if mixin is not None and not hasattr(mixin._get_loop, "__wrapped__"):
        mixin._get_loop = _naming_the_error(mixin._get_loop)


def _is_ordered(loop: object) -> bool:
    """A loop that numbers what it makes: a `RunLoop`, and the simulator's."""
    return hasattr(loop, "next_number")


def _set_in_order(*items: Iterable[Any]) -> Any:
    if items and _is_ordered(events._get_running_loop()):
        return dict.fromkeys(items[0])
    return builtins.set[Any](*items)


def _with_number(init: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        loop: Any = events._get_running_loop()
        if _is_ordered(loop):
            self.number = loop.next_number()

    return __init__


def _hash_by_number(self: Any) -> int:
    number: int | None = getattr(self, "number", None)
    return builtins.object.__hash__(self) if number is None else number


def _with_ordered_children(init: Any) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if _is_ordered(events._get_running_loop()):
            self._child_scopes = OrderedSet()

    __init__.__wrapped__ = init  # type: ignore[attr-defined]
    return __init__


def _naming_the_error(get_loop: Any) -> Any:
    def _get_loop(self: Any) -> Any:
        loop: Any = events._get_running_loop()
        if self._loop is not None and self._loop is not loop and hasattr(loop, "refusal"):
            raise loop.refusal(f"what belongs to another event loop, {self!r}")
        return get_loop(self)

    _get_loop.__wrapped__ = get_loop  # type: ignore[attr-defined]
    return _get_loop
