"""A new version of a workflow, while runs of the old one are still under way.

The checker names the run that the first attempt at it would break; `ctx.patched` mends that.

python examples/new_version.py [STORE]
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rotor_actors import Context, Runtime, Workflow, check_runs, workflow


def reserve(order: str) -> str:
    return f"{order}: reserved"


def ask_the_bank(order: str) -> str:
    return f"{order}: paid"


@workflow(id="order", version="1")
async def order_v1(ctx: Context, order: str) -> list[str]:
    reserved = await ctx.step.run("reserve", reserve, order)
    await ctx.step.sleep("a day to change one's mind", "1s")
    return [reserved, await ctx.step.run("pay", ask_the_bank, order)]


@workflow(id="order", version="2")
async def order_v2_too_simple(ctx: Context, order: str) -> list[str]:
    """Pays first. A run that has reserved already finds another step at its place."""
    paid = await ctx.step.run("pay", ask_the_bank, order)
    return [paid, await ctx.step.run("reserve", reserve, order)]


@workflow(id="order", version="2")
async def order_v2(ctx: Context, order: str) -> list[str]:
    """Pays first, but for the runs that are under way."""
    if ctx.patched("pay first"):
        paid = await ctx.step.run("pay", ask_the_bank, order)
        return [paid, await ctx.step.run("reserve", reserve, order)]
    reserved = await ctx.step.run("reserve", reserve, order)
    await ctx.step.sleep("a day to change one's mind", "1s")
    return [reserved, await ctx.step.run("pay", ask_the_bank, order)]


async def would_break(store: str | os.PathLike[str], new: Workflow[str, list[str]]) -> list[str]:
    report = await check_runs(store, [new])
    return [f"{each.run_id}: {each.what}" for each in report.broken]


async def main(store: str | os.PathLike[str]) -> tuple[list[str], list[str], dict[str, list[str]]]:
    async with Runtime(store, workflows=[order_v1], drain_timeout=0) as runtime:
        await runtime.start(order_v1, "a book", run_id="under way")
        while not await runtime.steps("under way"):  # noqa: ASYNC110 - a look at the record, not at something of ours
            await asyncio.sleep(0.01)
    too_simple, mended = await would_break(store, order_v2_too_simple), await would_break(store, order_v2)
    async with Runtime(store, workflows=[order_v2]) as runtime:
        new = await runtime.start(order_v2, "a lamp", run_id="new")
        results = {handle.run_id: await handle.result() for handle in (runtime.run("under way"), new)}
    return too_simple, mended, results


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "orders.db")
        broken, broken_then, results = asyncio.run(main(file))
    print("would break:", *broken, "\nwith patched:", *(broken_then or ["none"]))
    for run_id, result in results.items():
        print(f"{run_id}: {result}")
