"""Flow control: one delivery per customer at a time, a slow printer shared by all, edits that are gathered.

python examples/flow_control.py
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from rotor_actors import Batch, Context, FlowControl, Runtime, workflow

ADA = "deliver:data.customer=ada"  # the key's name: workflow, path, and the value found there


@dataclass(frozen=True)
class Order:
    customer: str
    item: str
    express: int = 0


@dataclass(frozen=True)
class Report:
    waiting: list[str]
    delivered: list[str]
    labels: list[int]


async def drive(order: Order) -> str:
    """Stand-in for the van."""
    await asyncio.sleep(0.02)
    return f"{order.item} to {order.customer}"


@workflow(id="print-labels", batch=Batch(3, timeout="200ms"))
async def print_labels(ctx: Context, orders: list[Order]) -> int:
    """Each start brings some orders; a run has three of them, or what came within 200 ms."""
    return len(orders)


@workflow(id="deliver", flow_control=FlowControl("data.customer", parallelism=1), priority="data.express")
async def deliver(ctx: Context, order: Order) -> str:
    """One at a time for each customer; express orders first, then in the order in which they came."""
    return await ctx.step.run("drive", drive, order)


async def main(store: str | os.PathLike[str] = ":memory:") -> Report:
    """Hold one customer's orders back, look at who waits, and let them go."""
    orders = [Order("ada", "tea"), Order("ada", "pot"), Order("ada", "cup", express=1), Order("bob", "jam")]
    async with Runtime(store, workflows=[deliver, print_labels]) as runtime:
        labels = [await runtime.start(print_labels, [order]) for order in orders]
        await runtime.pause_key(ADA)
        handles = [await runtime.start(deliver, order) for order in orders]
        await handles[-1].result()
        waiting = [(await runtime.info(each.run_id)).input.item for each in runtime.waiting(ADA)]
        print(f"waiting: {', '.join(waiting)}; {runtime.waiting(ADA)[0].reason}")
        await runtime.resume_key(ADA)
        for handle in handles:
            await handle.result()
        runs = await runtime.runs(workflow=deliver)
        delivered = [run.result for run in sorted(runs, key=lambda run: run.ended_at or run.created_at)]
        sizes = {label.run_id: await label.result() for label in labels}
    print(f"delivered: {'; '.join(delivered)}")
    print(f"labels printed: {list(sizes.values())}")
    return Report(waiting, delivered, list(sizes.values()))


if __name__ == "__main__":
    asyncio.run(main())
