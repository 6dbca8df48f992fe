"""Without the changes of `set_order` and numbered hashes tasks come in any order; with them, in the caller's."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from rotor_actors import set_order
from rotor_actors.loop_tasks import RunFuture, RunTask
from rotor_actors.run_loop import RunLoop
from rotor_actors.set_order import OrderedSet

COUNT = 40
IN_ORDER = list(range(COUNT))

Scene = Callable[[], Coroutine[Any, Any, list[int]]]


def run_loop(where: str = "a run") -> RunLoop:
    return RunLoop(0.0, where)  # type: ignore[abstract]


def on_run_loop(scene: Scene) -> list[int]:
    loop = run_loop()
    task = loop.create_task(scene())
    while not task.done():
        loop.run()
        due = loop.next_due()
        if not task.done():
            assert due is not None, "the scene is stuck"
            loop.set_time(due)
            number = loop.pop_due(due)
            assert number is not None
            loop.fire(number)
    result: list[int] = task.result()
    return result


async def started_by_as_completed() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        order.append(number)

    for done in asyncio.as_completed([one(number) for number in range(COUNT)]):
        await done
    return order


async def cancelled_by_a_task_group() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            order.append(number)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(COUNT):
                group.create_task(one(number))
            await asyncio.sleep(0)
            raise ValueError("enough")
    except* ValueError:
        pass
    return order


async def cancelled_by_an_anyio_group() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        try:
            await anyio.sleep(1000)
        finally:
            order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(COUNT):
            group.start_soon(one, number)
        await asyncio.sleep(0)
        group.cancel_scope.cancel()
    return order


async def cancelled_in_nested_anyio_scopes() -> list[int]:
    order: list[int] = []

    async def one(number: int) -> None:
        with anyio.CancelScope():
            try:
                await anyio.sleep(1000)
            finally:
                order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(COUNT):
            group.start_soon(one, number)
        await asyncio.sleep(0)
        group.cancel_scope.cancel()
    return order


async def done_of_a_wait_for_tasks() -> list[int]:
    tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(COUNT)]
    done, _ = await asyncio.wait(tasks)
    return _rotated([tasks.index(task) for task in done])


async def done_of_a_wait_for_gathers() -> list[int]:
    gathers = [asyncio.gather(asyncio.sleep(0)) for _ in range(COUNT)]
    done, _ = await asyncio.wait(gathers)
    order = [gathers.index(each) for each in done]
    return _rotated(order)


def clutter() -> object:
    """Something that takes a place on the heap, so that the next object gets another one."""
    loop = run_loop(f"run {random.random()}")
    future: asyncio.Future[None] = asyncio.Future(loop=loop)
    kept: list[object] = [bytearray(random.randrange(1, 2000)), loop.create_future(), future, loop]
    return random.choice(kept)


def _rotated(order: list[int]) -> list[int]:
    """A set of things that hash by consecutive numbers is in their order, save for where in the table that begins."""
    first = order.index(0)
    return order[first:] + order[:first]


SCENES: list[Scene] = [
    started_by_as_completed, cancelled_by_a_task_group, cancelled_by_an_anyio_group, cancelled_in_nested_anyio_scopes,
    done_of_a_wait_for_tasks,
]  # fmt: skip


@pytest.fixture(autouse=True)
def installed() -> None:
    set_order.install()


@pytest.mark.parametrize("scene", SCENES)
def test_order_is_the_callers_on_the_run_loop(scene: Scene) -> None:
    heap = [bytearray(random.randrange(1, 2000)) for _ in range(500)]
    for _ in range(20):
        heap[random.randrange(len(heap))] = bytearray(random.randrange(1, 2000))
        assert on_run_loop(scene) == IN_ORDER


def test_gathers_that_were_waited_for_come_in_the_same_order_each_time() -> None:
    heap: list[object] = []
    orders: set[tuple[int, ...]] = set()
    for _ in range(40):
        heap += [clutter() for _ in range(50)]
        random.shuffle(heap)
        del heap[1000:]
        orders.add(tuple(on_run_loop(done_of_a_wait_for_gathers)))
    assert len(orders) == 1


WITHOUT = """
    import asyncio, random, sys
    sys.path[:0] = {path!r}
    from rotor_actors.loop_tasks import RunFuture, RunTask
    from rotor_actors.run_loop import RunLoop
    import test_set_order as scenes
    RunTask.__hash__ = object.__hash__
    RunFuture.__hash__ = object.__hash__
    heap = []
    for scene in [*scenes.SCENES, scenes.done_of_a_wait_for_gathers]:
        orders = set()
        for _ in range(40):
            heap += [scenes.clutter() for _ in range(50)]
            random.shuffle(heap)
            del heap[1000:]
            orders.add(tuple(scenes.on_run_loop(scene)))
        print(scene.__name__, len(orders))
"""


def test_without_the_changes_the_order_is_any() -> None:
    """If this fails, asyncio or anyio no longer iterate such sets, and a change of ours can go."""
    program = textwrap.dedent(WITHOUT).format(path=sys.path)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    orders = dict(line.split() for line in done.stdout.splitlines())
    assert len(orders) == len(SCENES) + 1
    assert all(int(count) > 1 for count in orders.values()), orders


def vars_of(scope: anyio.CancelScope) -> dict[str, Any]:
    return {name: getattr(scope, name, None) for name in ("_child_scopes", "_tasks")}


def test_nothing_changes_on_other_loops() -> None:
    async def ordinary() -> None:
        task = asyncio.ensure_future(asyncio.sleep(0))
        assert hash(task) == object.__hash__(task)
        gathered = asyncio.gather(task)
        assert hash(gathered) == object.__hash__(gathered)
        assert type(vars_of(anyio.CancelScope())["_child_scopes"]) is set
        await gathered
        done, pending = await asyncio.wait([task])
        assert type(done) is set
        assert not pending
        assert [await each for each in asyncio.as_completed([asyncio.sleep(0, 1)])] == [1]

    asyncio.run(ordinary())


def test_a_second_install_changes_nothing() -> None:
    before = (anyio.CancelScope, asyncio.tasks.__dict__["set"], asyncio.tasks.__dict__["_GatheringFuture"].__init__)
    set_order.install()
    assert before == (
        anyio.CancelScope, asyncio.tasks.__dict__["set"], asyncio.tasks.__dict__["_GatheringFuture"].__init__
    )  # fmt: skip


def test_numbers_are_the_same_for_the_same_run_and_far_apart_for_others() -> None:
    def hashes(where: str) -> list[int]:
        loop = run_loop(where)
        futures = [loop.create_future() for _ in range(3)]
        task = loop.create_task(asyncio.sleep(0))
        loop.run()
        assert isinstance(task, RunTask)
        assert all(isinstance(future, RunFuture) for future in futures)
        return [hash(each) for each in (*futures, task)]

    assert hashes("run a") == hashes("run a")
    assert not {*hashes("run a")} & {*hashes("run b")}


def test_ordered_set_is_a_set_in_order_of_insertion() -> None:
    items = OrderedSet()
    for item in (3, 1, 2, 3):
        items.add(item)
    assert list(items) == [3, 1, 2]
    items.remove(1)
    items.discard(9)
    assert len(items) == 2
    assert 3 in items
    for item in items:  # anyio may change it while it iterates
        items.discard(item)
    assert not list(items)
    with pytest.raises(KeyError):
        items.remove(3)
