"""A browser without a screen: asks a dashboard for things, in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from rotor_actors.dashboard import Dashboard

ACTION = {"x-rotor-action": "1"}


@asynccontextmanager
async def visit(
    dashboard: Any,
    base: str = "http://localhost/",
    *,
    client: tuple[str, int] = ("127.0.0.1", 5000),
    root_path: str = "",
) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=dashboard, client=client, root_path=root_path)
    async with httpx.AsyncClient(transport=transport, base_url=base) as browser:
        yield browser


async def get(dashboard: Dashboard, path: str, **query: str | int) -> Any:
    """What the API answers; an answer that is no success fails the test."""
    async with visit(dashboard) as browser:
        response = await browser.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def act(dashboard: Dashboard, body: Mapping[str, Any], **headers: str) -> httpx.Response:
    async with visit(dashboard) as browser:
        return await browser.post("api/act", json=body, headers={**ACTION, **headers})
