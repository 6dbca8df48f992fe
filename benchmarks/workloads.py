"""The fan-out that several benchmarks run: N durable children of one trivial step each, beside the same bare."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rotor_actors import Context, workflow


@dataclass(frozen=True)
class FanOut:
    """How many children, and how many of them at a time: `window` 0 for all at once."""

    n: int
    window: int = 0
    by: str = "batches"

    @property
    def expected(self) -> int:
        return self.n * (self.n - 1) // 2


async def trivial(number: int) -> int:
    return number


@workflow(id="child")
async def child(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", trivial, number)


@workflow(id="fan-out")
async def fan_out(ctx: Context, plan: FanOut) -> int:
    """The sum of what all children return."""
    if not plan.window:
        return await _batch(ctx, range(plan.n))
    if plan.by == "semaphore":
        limit = asyncio.Semaphore(plan.window)
        return sum(await asyncio.gather(*(_limited(ctx, limit, number) for number in range(plan.n))))
    total = 0
    for first in range(0, plan.n, plan.window):
        total += await _batch(ctx, range(first, min(first + plan.window, plan.n)))
    return total


async def _batch(ctx: Context, numbers: range) -> int:
    invocations = await asyncio.gather(
        *(ctx.step.invoke(f"child {number}", workflow=child, data=number, timeout="1h") for number in numbers)
    )
    return sum(invocation.result for invocation in invocations)


async def _limited(ctx: Context, limit: asyncio.Semaphore, number: int) -> int:
    async with limit:
        return (await ctx.step.invoke(f"child {number}", workflow=child, data=number, timeout="1h")).result


async def bare_fan_out(plan: FanOut) -> int:
    """The same without durability: a task for each, and `gather`."""
    if not plan.window:
        return await _bare_batch(range(plan.n))
    if plan.by == "semaphore":
        limit = asyncio.Semaphore(plan.window)
        tasks = [asyncio.create_task(_bare_limited(limit, number)) for number in range(plan.n)]
        return sum(await asyncio.gather(*tasks))
    total = 0
    for first in range(0, plan.n, plan.window):
        total += await _bare_batch(range(first, min(first + plan.window, plan.n)))
    return total


async def _bare_batch(numbers: range) -> int:
    return sum(await asyncio.gather(*[asyncio.create_task(trivial(number)) for number in numbers]))


async def _bare_limited(limit: asyncio.Semaphore, number: int) -> int:
    async with limit:
        return await trivial(number)
