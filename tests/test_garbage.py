"""What the cyclic collector has to do: nothing for runs that have ended, little for those that wait."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from kit import World

from rotor_actors import Context, workflow
from rotor_actors.loop_tasks import RunTask, StepFuture
from rotor_actors.run import Run
from rotor_actors.run_actor import RunActor
from rotor_actors.run_loop import RunLoop

pytestmark = pytest.mark.asyncio

OURS = (Run, RunActor, RunLoop, RunTask, StepFuture)
CHILDREN = 100


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tracked() -> Counter[str]:
    """What the collector visits, by type."""
    return Counter(type(each).__qualname__ for each in gc.get_objects())


def ours() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, OURS)]


async def work(number: int) -> int:
    return number


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    if number % 10 == 0:
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("in a group", work, number))
    return await ctx.step.run("work", work, number)


@workflow(id="sleeping")
async def sleeping(ctx: Context, number: int) -> None:
    await ctx.step.sleep("night", "8h")


@pytest.mark.usefixtures("no_collections")
async def test_runs_that_have_ended_leave_nothing_to_the_collector() -> None:
    @workflow(id="wide")
    async def wide(ctx: Context) -> int:
        invokes = (ctx.step.invoke("c", workflow=child, data=n, timeout="1h") for n in range(CHILDREN))
        return sum(each.result for each in await asyncio.gather(*invokes))

    before = ours()  # what other tests have left, and somebody holds
    async with World(wide, child) as world:
        await world.execute(wide)
        assert [each for each in ours() if not any(each is other for other in before)] == []


@pytest.mark.usefixtures("no_collections")
async def test_of_an_invoke_that_waits_the_collector_sees_few_objects() -> None:
    """Each full collection visits them all, and the host's loop stands still meanwhile."""

    @workflow(id="wide")
    async def wide(ctx: Context) -> None:
        before = tracked()
        invokes = [
            asyncio.create_task(ctx.step.invoke("c", workflow=sleeping, data=n, timeout="24h")) for n in range(CHILDREN)
        ]
        await asyncio.sleep(0)  # all of them have asked; no child has begun
        added = tracked() - before
        seen.append(sum(number for number in added.values() if number >= CHILDREN / 2) / CHILDREN)
        for each in invokes:
            each.cancel()

    seen: list[float] = []
    async with World(wide, sleeping) as world:
        await world.execute(wide)
    assert seen[0] <= 8, "the task, its coroutine, weak reference and wake-up, what it awaits, and the pending step"


# Contexts that tasks of steps share


class Peculiar:
    def __eq__(self, other: object) -> NoReturn:
        raise ValueError("cannot be compared")

    __hash__ = None  # type: ignore[assignment]


async def test_steps_see_context_variables_whatever_their_values_do_when_compared() -> None:
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    @workflow(id="peculiar")
    async def peculiar(ctx: Context) -> int:
        tasks: list[asyncio.Task[int]] = []
        for number in range(4):
            variable.set(Peculiar())
            tasks.append(asyncio.create_task(ctx.step.run(f"step {number}", work, number)))
        return sum(await asyncio.gather(*tasks))

    async with World(peculiar) as world:
        assert await world.execute(peculiar) == 6


async def test_what_one_task_of_a_body_sets_no_other_sees() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def apart(ctx: Context, number: int) -> int:
        before = variable.get()
        variable.set(number)
        await ctx.step.run(f"step {number}", work, number)
        return before * 100 + variable.get()

    @workflow(id="apart")
    async def several(ctx: Context) -> list[int]:
        variable.set(7)
        return await asyncio.gather(*(apart(ctx, number) for number in range(3)))

    async with World(several) as world:
        assert await world.execute(several) == [700, 701, 702]
