"""What tests of the runtime share: a store that crashes where it is told to, and a world with a clock moved by hand.

    async with World() as world:
        handle = await world.runtime.start(greet, "you")
        assert await world.result(handle) == "hello you"    # moves the clock as far as it takes
        await world.crash()                                 # nothing is recorded any more; the runtime is gone
        await world.open()                                  # another runtime on the same store and the same clock

No test sleeps for real: `await world.clock.advance("1h")` moves time, stops at each timer on the way, and lets all
that this sets off come to rest.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from rotor_actors import Duration, ManualClock, MemoryStore, RunHandle, Runtime, Workflow
from rotor_actors.durations import seconds
from rotor_actors.errors import StoreError
from rotor_actors.records import Entry, Fact, flatten

T = TypeVar("T")

STRIDE = int(os.environ.get("ROTOR_TEST_STRIDE", "1"))
"""Of the journal positions at which suites crash, how many they go on by: more than one where a store is slow."""

IS_SHARED = hasattr(MemoryStore, "claim")
"""Do the tests run on a store that replicas share (`ROTOR_TEST_STORE`)?"""


class FragileStore(MemoryStore):
    """A store in memory that remembers what was committed, and loses its power after so many entries.

    Attributes:
        facts: all that was committed, in order, groups opened.
        entries_left: how many more entries it keeps before a commit fails; None for any number. The entries of the
            failing commit up to there are kept, as after a power cut.
        before_commit: called with the entries of each commit, before anything is kept.
    """

    time: Callable[[], float] | None = None
    """For stores that have a clock of their own: it shows this instead."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Fact] = []
        self.entries_left: int | None = None
        self.before_commit: Callable[[list[Entry]], None] = lambda entries: None

    def commit(self, entries: list[Entry]) -> None:
        self.before_commit(entries)
        kept = entries if self.entries_left is None else entries[: self.entries_left]
        if kept:
            super().commit(kept)
            self.facts.extend(flatten(kept))
        if self.entries_left is not None:
            self.entries_left -= len(kept)
            if len(kept) < len(entries):
                raise StoreError("the power is gone")

    def damage_item(self, space: str, key: str) -> None:
        """Flip a bit of it, as a disk does."""
        flip = getattr(super(), "damage_item", None)
        if flip is None:
            self._items[space][key].is_damaged = True
        else:
            flip(space, key)

    def committed(self, kind: type[T]) -> list[T]:
        """The facts of one kind, in order."""
        return [fact for fact in self.facts if isinstance(fact, kind)]


class World:
    """One store, one clock, and the runtime that is open on them.

    Args:
        workflows: known to each runtime that is opened here, and so found by recovery.
        options: further arguments for each `Runtime`.

    Attributes:
        runtime: the one that is open now.
    """

    def __init__(
        self, *workflows: Workflow[Any, Any], store: FragileStore | None = None, clock: ManualClock | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.store = store or FragileStore()
        self.clock = clock or ManualClock()
        self.store.time = self.clock.now
        self._workflows = workflows
        self._options: dict[str, Any] = {"drain_timeout": 0, **options}
        self._runtime: Runtime | None = None
        self.opened = 0

    @property
    def runtime(self) -> Runtime:
        assert self._runtime is not None, "no runtime is open"
        return self._runtime

    async def __aenter__(self) -> World:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, *workflows: Workflow[Any, Any], **options: Any) -> Runtime:
        """Open a runtime on what the store holds; `workflows` and `options` are in place of the world's own."""
        assert self._runtime is None, "crash or close the other runtime first"
        self.store.entries_left = None
        self.opened += 1
        runtime = Runtime(
            self.store,
            workflows=workflows or self._workflows,
            clock=self.clock,
            rng=random.Random(self.opened),
            **{**self._options, **options},
        )
        await runtime.__aenter__()
        self._runtime = runtime
        return runtime

    async def close(self) -> None:
        """Leave as a program does that ends in good order: without draining, and runs go on next time."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.__aexit__(None, None, None)

    async def crash(self) -> None:
        """Lose all that is not committed, and the runtime."""
        self.store.entries_left = 0
        await self.close()

    async def reopen(self, *workflows: Workflow[Any, Any], **options: Any) -> Runtime:
        """Crash, and open another runtime."""
        await self.crash()
        return await self.open(*workflows, **options)

    async def settle(self) -> None:
        """Let all that is under way come to rest, without moving the clock."""
        await self.clock.advance(0)

    @overload
    async def result(self, run: RunHandle[T], within: Duration = ...) -> T: ...

    @overload
    async def result(self, run: str, within: Duration = ...) -> Any: ...

    async def result(self, run: RunHandle[Any] | str, within: Duration = "30d") -> Any:
        """The result of a run, moving the clock only as far as it takes, and by no more than `within`."""
        handle = self.runtime.run(run) if isinstance(run, str) else run
        return await self.wait(handle.result(), within)

    async def wait(self, work: Awaitable[T], within: Duration = "30d") -> T:
        """Await `work`, moving the clock as far as it takes, and by no more than `within`."""
        task = asyncio.ensure_future(work)
        end = self.clock.now() + seconds(within, name="within")
        while not await self._is_done(task) and self.clock.now() < end:
            due = self.clock.next_due()
            await self.clock.advance(min(end if due is None else due, end) - self.clock.now())
        if not task.done():
            task.cancel()
            raise AssertionError(f"still waiting after {within} of the world's time")
        return await task

    async def _is_done(self, task: asyncio.Future[Any]) -> bool:
        await self.settle()
        for _ in range(5):  # from the runtime's answer to the end of the task that waits for it
            await asyncio.sleep(0)
        return task.done()

    async def execute(self, workflow: Workflow[Any, T], data: Any = None, **options: Any) -> T:
        """Start a run and give its result, moving the clock as far as it takes."""
        return await self.result(await self.runtime.start(workflow, data, **options))


async def untouched(runtime: Runtime) -> int:
    """How many unfinished runs are left as they are, because nobody here knows their workflow, or their version.

    Where replicas share the store these are nobody's; else they are this runtime's, and it can name them.
    """
    if IS_SHARED:
        assert runtime.orphans() == []
        return sum(each.runs for each in await runtime.unowned() if not each.can_run)
    return len(runtime.orphans())


async def until(condition: Callable[[], object]) -> None:
    """Wait for what a thread does, where there is nothing to await."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def with_a_crash_after_each_entry(
    make_world: Callable[[], World], workflow: Workflow[Any, T], data: Any = None, *, run_id: str = "the-run"
) -> list[T | BaseException]:
    """Run `workflow` once undisturbed, then once for each journal position with a crash there and a recovery.

    Gives the outcomes, a result or the exception that `handle.result()` raised: the undisturbed one first. A test says
    that they are all equal.
    """
    outcomes: list[T | BaseException] = []
    position: int | None = None
    while True:
        world = make_world()
        await world.open()
        world.store.entries_left = position
        first = await _outcome(world, workflow, data, run_id)
        if isinstance(first, StoreError):
            await world.reopen()
            first = await _outcome(world, workflow, data, run_id)
        elif position is not None:
            await world.close()
            return outcomes  # the crash would have come after the end
        await world.close()
        outcomes.append(first)
        position = 0 if position is None else position + STRIDE


async def _outcome(world: World, workflow: Workflow[Any, T], data: Any, run_id: str) -> T | BaseException:
    try:
        return await world.execute(workflow, data, run_id=run_id)
    except Exception as error:
        return error
