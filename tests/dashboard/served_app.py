"""A service as people write it: a runtime in its lifespan, the dashboard mounted. For the tests of stopping."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from rotor_actors import Context, Runtime, workflow

CHILDREN = 100
DRAIN_SECONDS = 2.0


async def never_ends() -> None:
    await asyncio.sleep(3_600)


@workflow(id="served-child")
async def child(ctx: Context) -> None:
    await ctx.step.run("quick", asyncio.sleep, 0)
    await ctx.step.run("endless", never_ends, timeout="2h")


@workflow(id="served-parent")
async def parent(ctx: Context) -> None:
    await asyncio.gather(
        *(ctx.step.invoke(str(number), workflow=child, data=None, timeout="2h") for number in range(CHILDREN))
    )


class Mounted:
    """The dashboard of a runtime that is opened later, by the lifespan."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


dashboard = Mounted()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    runtime = Runtime(os.environ["SERVED_STORE"], workflows=[parent, child], drain_timeout=DRAIN_SECONDS)
    async with runtime:
        dashboard.app = runtime.dashboard()
        await runtime.start(parent, run_id="parent")
        yield


app = Starlette(lifespan=lifespan, routes=[Mount("/dash", app=dashboard)])
