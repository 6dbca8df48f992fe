"""The error matrix: what a parent sees when a child fails, takes too long, or is cancelled.

python examples/error_matrix.py
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from rotor_actors import Context, EndedRun, Runtime, workflow
from rotor_actors.errors import WorkflowCancelledError, WorkflowFailedError, WorkflowTimeoutError

rooms: set[str] = set()  # the world outside, which knows nothing of runs: who has a room


async def book_room(guest: str) -> str:
    """Doing it twice is doing it once, as it must be for a step: a crash may come between its end and its record."""
    rooms.add(guest)
    return f"room for {guest}"


async def release_room(guest: str) -> None:
    rooms.discard(guest)


# 1. Failure: the child's own retries are used up (here it has none).


@workflow(id="divide", retries=0)
async def divide(ctx: Context, number: int) -> float:
    return 1 / number


@workflow(id="parent-of-failure")
async def parent_of_failure(ctx: Context, number: int) -> str:
    try:
        await ctx.step.invoke("divide", workflow=divide, data=number, timeout="1m")
    except WorkflowFailedError as failure:
        return f"{failure.workflow_id} failed: {failure.error.type}: {failure.error.message}"
    return "no failure"


# 2. Timeout: the parent stops waiting, the child runs on, and its result can be had later by its run id.


@workflow(id="slow")
async def slow(ctx: Context, seconds: float) -> str:
    await ctx.step.sleep("work", seconds)
    return f"done after {seconds} s"


@workflow(id="parent-of-timeout")
async def parent_of_timeout(ctx: Context, seconds: float) -> str:
    """Return the run id of the child that was too slow."""
    try:
        await ctx.step.invoke("slow", workflow=slow, data=seconds, timeout=seconds / 4)
    except WorkflowTimeoutError as timeout:
        return timeout.run_id
    return "no timeout"


# 3. Cancellation: what the child did is undone by its `on_cancel` handler, which is a run of its own.


async def cancel_booking(ctx: Context, ended: EndedRun[str]) -> None:
    """Steps are refused in a cancelled run, so compensation has its own run: durable, and retried when it fails."""
    await ctx.step.run("release room", release_room, ended.data)


@workflow(id="booking", on_cancel=cancel_booking)
async def booking(ctx: Context, guest: str) -> str:
    room = await ctx.step.run("book room", book_room, guest)
    await ctx.step.sleep("until payment", "1h")
    return room


@workflow(id="parent-of-cancellation")
async def parent_of_cancellation(ctx: Context, guest: str) -> str:
    """Its child is cancelled by someone else: for the parent that is an ordinary exception, it runs on."""
    try:
        await ctx.step.invoke("booking", workflow=booking, data=guest, timeout="2h", run_id=f"booking-{guest}")
    except WorkflowCancelledError as cancellation:
        return f"{cancellation.workflow_id} was cancelled"
    return "no cancellation"


async def show_failure(runtime: Runtime) -> str:
    return await runtime.execute(parent_of_failure, 0)


async def show_timeout(runtime: Runtime) -> str:
    late_run_id = await runtime.execute(parent_of_timeout, 0.4)
    return f"gave up waiting, then: {await runtime.run(late_run_id).result()}"


async def show_cancellation(runtime: Runtime) -> str:
    parent = await runtime.start(parent_of_cancellation, "Ada")
    await until(lambda: "Ada" in rooms)
    report = await runtime.cancel("booking-Ada", "changed her mind")
    seen = await parent.result()
    await until(lambda: not rooms)
    return f"{seen}, {len(report.cancelled)} run with it, rooms still booked: {len(rooms)}"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is awaited happens in the world outside
        await asyncio.sleep(0.01)


async def main(store: str | os.PathLike[str] = ":memory:") -> list[str]:
    """Go through the three rows of the matrix, and return what the parents saw."""
    async with Runtime(store) as runtime:
        rows = [await show_failure(runtime), await show_timeout(runtime), await show_cancellation(runtime)]
    for row in rows:
        print(row)
    return rows


if __name__ == "__main__":
    asyncio.run(main())
