"""What drives a map, on the body's own loop: a feeder that keeps the window full, and a consumer that takes ends.

Items are pulled one by one, and only while there is room: running children and ends that nobody has taken yet are
never more than the window. So memory does not grow with the number of items, whichever of the two sides is slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Protocol, cast

from rotor_actors.ids import map_child_key, map_index_of
from rotor_actors.map_state import MapState
from rotor_actors.messages import StepEnded
from rotor_actors.step_specs import InvokeSpec

# So many children are asked for in one callback: then others of the body, and of the host, have their turn.
ASKED_AT_ONCE = 32


class Mapper(Protocol):
    """What a running attempt offers to a map."""

    def ask_child(self, opened: MapState, index: int, spec: object, future: object) -> StepEnded | None:
        """Ask for a child: its end where it is known; else `future.set_result` is called with it."""
        ...

    def next_of_memo(self, opened: MapState) -> StepEnded | asyncio.Future[None] | None:
        """What an earlier attempt recorded, end by end; a future to wait for the next page; None when that is all."""
        ...

    def withdraw(self, key: bytes) -> None: ...


class Items:
    """The items of a map, pulled one by one, whether they come from an iterable or an async one."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._sync: Iterator[Any] | None = None
        self._async: AsyncIterator[Any] | None = None
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._sync = iter(items)
        self.pulled = 0
        self.are_exhausted = False

    async def pull(self) -> Any:
        """The next item; check `are_exhausted` before it is used."""
        try:
            if self._sync is not None:
                item = next(self._sync)
            else:
                assert self._async is not None
                item = await anext(self._async)
        except (StopIteration, StopAsyncIteration):
            self.are_exhausted = True
            return None
        self.pulled += 1
        return item

    async def close(self) -> None:
        """Let a generator that was not used up clean up."""
        if not self.are_exhausted:
            self.are_exhausted = True
            if self._sync is not None:
                getattr(self._sync, "close", _nothing)()
            elif hasattr(self._async, "aclose"):
                await cast(Any, self._async).aclose()


class FanOut:
    """One map under way. It stands in for the future of each of its children.

    Args:
        body: the attempt. opened: the map's state in it.
        items: what is mapped over. window: how many children at a time.
        spec_of: makes the request for an item's child; raises what is wrong with the item.
    """

    def __init__(
        self, body: Mapper, opened: MapState, items: Iterable[Any] | AsyncIterable[Any], window: int,
        spec_of: Callable[[Any], InvokeSpec],
    ) -> None:  # fmt: skip
        self._body = body
        self._opened = opened
        self._items = Items(items)
        self._window = window
        self._spec_of = spec_of
        self._held: dict[int, Any] = {}
        """Items that were pulled, and are not asked for before the memo is used up: it may hold their ends."""
        self._running: set[int] = set()
        self._ended: deque[StepEnded] = deque()
        self._is_one_in_use = False
        """The consumer has taken an end, and has not come back: it may be about to leave, so it keeps its room."""
        self._error: BaseException | None = None
        self._is_fed = False
        self._is_closed = False
        self._room: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._feeder: asyncio.Task[None] | None = None

    # The consumer

    async def next_end(self) -> StepEnded | None:
        """The next child's end, in the order of completion; None when all items are done.

        Raises what pulling or asking for an item raised, once all ends that came before are taken.
        """
        self._is_one_in_use = False
        _wake(self._room)
        if self._feeder is None:
            self._feeder = asyncio.get_running_loop().create_task(self._feed())
        while not self._ended:
            if self._error is not None:
                raise self._error
            if self._is_fed and not self._running:
                return None
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        self._is_one_in_use = True
        return self._ended.popleft()

    def close(self) -> None:
        """Withdraw what still runs; closing what has ended, or twice, is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        for index in sorted(self._running):
            self._body.withdraw(map_child_key(self._opened.key, index))
        self._running.clear()
        if self._feeder is not None:
            self._feeder.cancel()

    # As the future of its children

    def done(self) -> bool:
        return self._is_closed

    def set_result(self, ended: StepEnded) -> None:
        self._running.discard(map_index_of(ended.key))
        self._put(ended)

    def _put(self, ended: StepEnded) -> None:
        self._ended.append(ended)
        _wake(self._news)

    # The feeder

    async def _feed(self) -> None:
        try:
            await self._answer_from_memo()
            await self._ask_for_all()
        except asyncio.CancelledError as error:  # nobody has cancelled the feeder, unless the map is closed
            self._error = error
            raise
        except Exception as error:
            self._error = error
        finally:
            self._is_fed = True
            _wake(self._news)
            await self._items.close()

    @property
    def _has_room(self) -> bool:
        return len(self._held) + len(self._running) + self._untaken < self._window

    @property
    def _untaken(self) -> int:
        return len(self._ended) + self._is_one_in_use

    async def _room_is_made(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        await self._room

    async def _pull(self) -> None:
        item = await self._items.pull()
        if not self._items.are_exhausted:
            self._held[self._items.pulled - 1] = item

    async def _answer_from_memo(self) -> None:
        """Give the ends that earlier attempts recorded, in their order, before any child is asked for."""
        while self._opened.memo is not None:
            while self._has_room and not self._items.are_exhausted:
                await self._pull()
            if not self._held:
                if self._items.are_exhausted:
                    break
                await self._room_is_made()
            elif (ended := await self._next_of_memo()) is not None:
                await self._match(ended)
            else:
                break
        self._opened.leave_memo()

    async def _next_of_memo(self) -> StepEnded | None:
        while isinstance(found := self._body.next_of_memo(self._opened), asyncio.Future):
            await found
        return found

    async def _match(self, ended: StepEnded) -> None:
        """Find the item of a recorded end. It was pulled by then, unless the window was larger, or the code another."""
        index = map_index_of(ended.key)
        while index >= self._items.pulled and not self._items.are_exhausted:
            if self._untaken:
                await self._room_is_made()
            else:
                await self._pull()
        if index in self._held:
            del self._held[index]
            self._put(ended)

    async def _ask_for_all(self) -> None:
        asked = 0
        while True:
            while self._held:
                index = next(iter(self._held))  # the lowest: they were pulled in order
                self._ask(index, self._held.pop(index))
                asked += 1
                if asked % ASKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if self._items.are_exhausted:
                return
            if self._has_room:
                await self._pull()
            else:
                await self._room_is_made()

    def _ask(self, index: int, item: Any) -> None:
        ended = self._body.ask_child(self._opened, index, self._spec_of(item), self)
        if ended is None:
            self._running.add(index)
        else:
            self._put(ended)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _nothing() -> None: ...
