"""A service whose workflows run on as many replicas as are started, over one PostgreSQL.

    rotor serve app:runtime --replicas 2 --port 8080     # workflows and their dashboard, on one machine
    uvicorn --factory app:create_web --port 8000         # an API that runs workflows, too: one more replica

Compose and Kubernetes files are beside this one. `DATABASE_URL` says where the database is; without it a file will do,
for one process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import RunNotFoundError, WorkflowError, WorkflowTimeoutError

DRAIN_SECONDS = 20
"""Kubernetes must wait longer than this before it kills: see `terminationGracePeriodSeconds`."""


@dataclass(frozen=True)
class Order:
    item: str
    quantity: int = 1
    after: str = "0s"
    """Reserved so much later: time enough to kill the replica that waits."""


async def reserve(item: str) -> str:
    """Stand-in for a call to the warehouse."""
    return f"reserved {item}"


@workflow(id="reserve-item")
async def reserve_item(ctx: Context, item: str) -> str:
    return await ctx.step.run("reserve", reserve, item)


@workflow(id="place-order", retries=2)
async def place_order(ctx: Context, order: Order) -> list[str]:
    """A child for each piece: any replica with room may run it."""
    await ctx.step.sleep("until", order.after)
    items = [order.item] * order.quantity
    pieces = ctx.step.map("pieces", workflow=reserve_item, items=items, timeout="10m", placement="any")
    return [end.body or "" async for end in pieces]


def runtime() -> Runtime:
    """What `rotor serve app:runtime` opens."""
    return Runtime(
        os.environ.get("DATABASE_URL", "orders.db"),
        workflows=[place_order, reserve_item],
        drain_timeout=DRAIN_SECONDS,
        label=os.environ.get("REPLICA_LABEL", ""),
    )


def create_web() -> FastAPI:
    """The API. Probes are at /rotor/healthz and /rotor/readyz; the dashboard is at /rotor/."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with app.state.runtime:
            yield

    app = FastAPI(lifespan=lifespan)
    app.state.runtime = runtime()
    app.mount("/rotor", app.state.runtime.dashboard())
    app.post("/orders", status_code=202)(start_order)
    app.get("/orders/{run_id}")(read_order)
    app.get("/replicas")(list_replicas)
    return app


def get_runtime(request: Request) -> Runtime:
    return cast(Runtime, request.app.state.runtime)


Durable = Annotated[Runtime, Depends(get_runtime)]


async def start_order(order: Order, durable: Durable) -> dict[str, str]:
    """Durable when it is answered: whichever replica lives carries it out."""
    return {"run_id": (await durable.start(place_order, order)).run_id}


async def read_order(run_id: str, durable: Durable) -> list[str]:
    """Wherever the order runs: this replica need not be the one that started it. On 504 ask again.

    A request that waited longer than the server lets it, when it stops, would end as an error.
    """
    try:
        return cast("list[str]", await durable.run(run_id).result(timeout="4s"))
    except RunNotFoundError as error:
        raise HTTPException(404, f"no order {run_id}") from error
    except WorkflowTimeoutError as error:
        raise HTTPException(504, f"order {run_id} has not ended yet") from error
    except WorkflowError as error:
        raise HTTPException(502, str(error)) from error


async def list_replicas(durable: Durable) -> Any:
    """As any of them sees all."""
    return msgspec.to_builtins(await durable.replicas(), enc_hook=str)
