"""Compensation and budgets: a trip that is booked step by step, and taken back when it does not work out.

python examples/trip.py
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

from rotor_actors import Budget, Context, Runtime, workflow
from rotor_actors.errors import WorkflowFailedError


@dataclass(frozen=True)
class Booking:
    what: str
    price: float


@dataclass(frozen=True)
class Offer:
    agency: str
    price: float


AGENCIES = [Offer("near", 80.0), Offer("far", 300.0), Offer("closed", 0.0)]
LOG: list[str] = []


async def ask(offer: Offer) -> Offer:
    """Stand-in for a request."""
    await asyncio.sleep(offer.price / 2_000)
    if offer.agency == "closed":
        raise ConnectionError("nobody answers")
    return offer


async def book(what: str, price: float) -> Booking:
    LOG.append(f"booked {what}")
    return Booking(what, price)


async def take_back(what: str, price: float, booking: Booking) -> None:
    LOG.append(f"took back {booking.what}")


@workflow(id="offer", retries=0)
async def offer(ctx: Context, agency: Offer) -> Offer:
    return await ctx.step.run("ask", ask, agency)


@workflow(id="trip", retries=0)
async def trip(ctx: Context, extras: list[str]) -> float:
    """Take the first agency that answers, and book within the budget; what was booked is undone if that fails."""
    won = await ctx.step.first("agencies", workflow=offer, items=AGENCIES, timeout="1m")
    assert won.body is not None
    left: float | None = None
    for what in ["hotel", *extras]:
        booking = await ctx.step.run(what, book, what, won.body.price, undo=take_back)
        left = await ctx.charge("euros", booking.price)
    return left or 0.0


async def main(store: str | os.PathLike[str] = ":memory:") -> tuple[float, str]:
    budget = Budget(deadline="10m", runs=3, units={"euros": 200})
    async with Runtime(store, workflows=[trip, offer]) as runtime:
        left = await runtime.execute(trip, ["car"], budget=budget)
        handle = await runtime.start(trip, ["car", "balloon"], budget=budget)
        try:
            await handle.result()
        except WorkflowFailedError as error:
            LOG.append(error.error.type.rpartition(".")[2])
        (undoing, *_) = await runtime.runs(workflow="trip.undo")
        undone: list[str] = await runtime.run(undoing.run_id).result()
        return left, ", ".join(undone)


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:2])))
    print("\n".join(LOG))
