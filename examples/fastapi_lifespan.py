"""FastAPI: the runtime lives as long as the application, in its lifespan.

    python examples/fastapi_lifespan.py

Serve it with `uvicorn --factory fastapi_lifespan:create_app` from this directory. Here the requests are made in this
process, so that the example needs neither a server nor a network.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import RunNotFoundError, WorkflowError


@dataclass(frozen=True)
class Order:
    item: str
    quantity: int


@dataclass(frozen=True)
class Receipt:
    item: str
    total_cents: int


async def charge(order: Order) -> int:
    """Stand-in for a payment provider."""
    return 250 * order.quantity


@workflow(id="place-order", retries=2)
async def place_order(ctx: Context, order: Order) -> Receipt:
    return Receipt(order.item, await ctx.step.run("charge", charge, order))


def get_runtime(request: Request) -> Runtime:
    return cast(Runtime, request.app.state.runtime)


Durable = Annotated[Runtime, Depends(get_runtime)]


def create_app(store: str | os.PathLike[str] = "orders.db") -> FastAPI:
    """Make the application. Unfinished orders go on when it starts; when it stops, they are left to the next start."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with Runtime(store, workflows=[place_order]) as runtime:
            app.state.runtime = runtime
            yield

    app = FastAPI(lifespan=lifespan)
    app.post("/orders", status_code=202)(start_order)
    app.get("/orders/{run_id}")(read_receipt)
    return app


async def start_order(order: Order, runtime: Durable) -> dict[str, str]:
    """Answer as soon as the order is durable: from here on it is carried out, whatever happens to this process."""
    handle = await runtime.start(place_order, order)
    return {"run_id": handle.run_id}


async def read_receipt(run_id: str, runtime: Durable) -> Receipt:
    """Wait for the order. A client that goes away cancels the waiting, never the order."""
    try:
        return cast(Receipt, await runtime.run(run_id).result(timeout="30s"))
    except RunNotFoundError as error:
        raise HTTPException(404, f"no order {run_id}") from error
    except WorkflowError as error:
        raise HTTPException(502, str(error)) from error


async def main(store: str | os.PathLike[str] = ":memory:") -> dict[str, object]:
    """Place an order through the application and read its receipt."""
    app = create_app(store)
    transport = httpx.ASGITransport(app=app)  # it does not run the lifespan, hence the next line
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://a") as client,
    ):
        started = await client.post("/orders", json={"item": "tea", "quantity": 3})
        print(f"POST /orders: {started.status_code}")
        receipt = await client.get(f"/orders/{started.json()['run_id']}")
        print(f"GET /orders/…: {receipt.status_code} {receipt.json()}")
        unknown = await client.get("/orders/unknown")
        print(f"GET /orders/unknown: {unknown.status_code}")
    return {"receipt": receipt.json(), "unknown": unknown.status_code}


if __name__ == "__main__":
    asyncio.run(main())
