"""The dashboard works mounted in each framework, at any prefix, behind proxies that strip it and that do not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from dashboard_kit import visit

from rotor_actors import Runtime
from rotor_actors.dashboard.changes import STREAM_SECONDS

pytestmark = pytest.mark.asyncio


def in_fastapi(dashboard: Any, prefix: str) -> Any:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    app.mount(prefix, dashboard)
    return app


def in_starlette(dashboard: Any, prefix: str) -> Any:
    applications = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    return applications.Starlette(routes=[routing.Mount(prefix, app=dashboard)])


def in_litestar(dashboard: Any, prefix: str) -> Any:
    litestar = pytest.importorskip("litestar")
    return litestar.Litestar([litestar.asgi(prefix, is_mount=True, copy_scope=True)(dashboard)])


@pytest.mark.parametrize("mount", [in_fastapi, in_starlette, in_litestar])
@pytest.mark.parametrize("prefix", ["/dash", "/ops/rotor"])
@pytest.mark.parametrize("root_path", ["", "/proxy"], ids=["no proxy", "behind a proxy"])
async def test_it_answers_at_any_prefix(mount: Callable[[Any, str], Any], prefix: str, root_path: str) -> None:
    async with Runtime(":memory:") as runtime:
        app = mount(runtime.dashboard(), prefix)
        async with visit(app, root_path=root_path) as browser:
            page = await browser.get(f"{prefix}/", follow_redirects=True)
            assert "<title>rotor</title>" in page.text
            assert (await browser.get(f"{prefix}/api/runs")).json()["runs"] == []


async def test_a_stream_of_changes_says_where_it_stands_and_ends_by_itself() -> None:
    """So that an open tab never keeps a server from stopping."""
    async with Runtime(":memory:") as runtime, visit(runtime.dashboard()) as browser:
        begun = asyncio.get_running_loop().time()
        answer = await browser.get("api/changes")
        took = asyncio.get_running_loop().time() - begun
    assert answer.headers["content-type"] == "text/event-stream"
    assert re.match(r"data: \d+\n\n", answer.text)
    assert answer.text.endswith("event: bye\ndata: \n\n")
    assert took >= STREAM_SECONDS


async def test_served_alone_it_answers_to_the_lifespan() -> None:
    said: list[str] = []
    orders = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(orders)

    async def send(message: Any) -> None:
        said.append(message["type"])

    async with Runtime(":memory:") as runtime:
        await runtime.dashboard()({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
