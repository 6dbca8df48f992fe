"""Events and signals: an order is started by an event, waits for its payment, is approved by a signal, or cancelled.

python examples/orders_by_event.py
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from rotor_actors import CancelOn, Context, Event, Runtime, workflow
from rotor_actors.errors import WorkflowCancelledError

LARGE = 1_000


@dataclass(frozen=True)
class Order:
    order: str
    amount: float


def ship(order: str) -> str:
    """Stand-in for a request to the warehouse."""
    return f"parcel of {order}"


@workflow(id="order", on="order.created", cancel_on=[CancelOn("order.cancelled", match="data.order")])
async def process(ctx: Context, order: Order) -> str:
    enough = f"event.data.amount >= {order.amount}"
    paid = await ctx.step.wait_for_event("payment", event="order.paid", timeout="3d", match="data.order", where=enough)
    if paid is None:
        return f"{order.order} was not paid"
    if order.amount >= LARGE:
        await ctx.step.wait_for_signal("approval", signal=f"approve {order.order}", timeout="1d")
    parcel = await ctx.step.run("ship", ship, order.order)
    await ctx.step.send_event("shipped", Event("order.shipped", {"order": order.order}))
    return parcel


@workflow(id="mail", on="order.shipped")
async def mail(ctx: Context, shipped: dict[str, str]) -> str:
    return f"{shipped['order']} is on its way"


async def reached(runtime: Runtime, run_id: str, what: str) -> None:
    """Wait until the run waits for it: an event or a signal that nobody waits for is not kept."""
    while what not in await runtime.why(run_id):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def main(store: str | os.PathLike[str] = ":memory:") -> list[str]:
    lines: list[str] = []
    async with Runtime(store, workflows=[process, mail]) as runtime:
        orders = [Order("tea", 20), Order("piano", 5_000), Order("dream", 7)]
        sent = [Event("order.created", order, id=f"created {order.order}") for order in orders]
        tea, piano, dream = await runtime.send(sent)
        assert await runtime.send(sent) == [tea, piano, dream], "sent again, delivered once"
        for run_id in (tea, piano, dream):
            await reached(runtime, run_id, "order.paid")

        await runtime.send(Event("order.paid", {"order": "tea", "amount": 5}))  # too little: nobody's
        await runtime.send(
            [Event("order.paid", {"order": order.order, "amount": order.amount}) for order in orders[:2]]
        )
        await runtime.send(Event("order.cancelled", {"order": "dream"}))
        await reached(runtime, piano, "approve piano")
        await runtime.signal("approve piano")

        for run_id in (tea, piano, dream):
            try:
                lines.append(await runtime.run(run_id).result())
            except WorkflowCancelledError as error:
                lines.append(f"cancelled: {error.reason.partition(' (')[0]}")
        for told in await runtime.runs(workflow=mail):
            lines.append(await runtime.run(told.run_id).result())
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(asyncio.run(main())))
