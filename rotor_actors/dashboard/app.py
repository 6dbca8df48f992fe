"""The ASGI app: which answer belongs to which address."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from rotor_actors.dashboard.actions import Actions
from rotor_actors.dashboard.asgi import HttpError, Receive, Request, Response, Scope, Send
from rotor_actors.dashboard.changes import stream
from rotor_actors.dashboard.guard import Guard, Visitor
from rotor_actors.dashboard.page import page
from rotor_actors.dashboard.reading import Reading
from rotor_actors.errors import RotorError

_logger = logging.getLogger("rotor_actors.dashboard")

Answer = Callable[[Request, Visitor], Awaitable[object]]


class Dashboard:
    """An ASGI app, to be mounted anywhere or served alone; made by `runtime.dashboard()`.

    Routes are known by how the path ends, so it does not matter what it is mounted at, or what a proxy strips.
    """

    def __init__(
        self,
        reading: Reading,
        actions: Actions,
        guard: Guard,
        newest: Callable[[], Awaitable[int]],
        answers: dict[str, Answer],
        not_ready: Callable[[], str],
        metrics: Callable[[], Response] | None,
    ) -> None:
        self._guard = guard
        self._newest = newest
        self._actions = actions
        self._page: Response | None = None
        self._not_ready = not_ready
        self._metrics = metrics
        self._answers: dict[str, Answer] = {
            "api/runs": lambda request, _: reading.runs(request),
            "api/run": lambda request, _: reading.detail(request),
            "api/tree": lambda request, _: reading.tree(request),
            "api/timeline": lambda request, _: reading.timeline(request),
            **answers,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Request(scope, receive), receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, request: Request, receive: Receive, send: Send) -> None:
        try:
            if (probe := self._probe(request.path)) is not None:
                await probe.send(send, is_head=request.method == "HEAD")
                return
            visitor = await self._guard.visitor(request)
            if request.method == "GET" and request.path.endswith("/api/changes"):
                await stream(self._newest, receive, send)
                return
            response = await self._answer(request, visitor)
        except HttpError as error:
            response = Response.of({"error": str(error)}, error.status)
        except RotorError as error:
            response = Response.of({"error": f"{type(error).__name__}: {error}"}, 409)
        except Exception:
            _logger.exception("%s %s failed", request.method, request.path)
            response = Response.of({"error": "the dashboard failed; its log says how"}, 500)
        await response.send(send, is_head=request.method == "HEAD")

    def _probe(self, path: str) -> Response | None:
        """`healthz`: the event loop turns. `readyz`: new work is welcome, else why not. Whoever can reach us may ask."""
        if path.endswith("/healthz"):
            return Response.of({"status": "ok"})
        if path.endswith("/readyz"):
            reason = self._not_ready()
            return Response.of(
                {"status": "not ready", "reason": reason} if reason else {"status": "ok"}, 503 if reason else 200
            )
        return None

    async def _answer(self, request: Request, visitor: Visitor) -> Response:
        route = _route(request.path)
        if route == "api/act":
            if request.method != "POST":
                raise HttpError(405, "actions are posted")
            self._guard.check_may_act(visitor, request)
            return Response.of(await self._actions.act(await request.json(), visitor.name))
        if request.method not in ("GET", "HEAD"):
            raise HttpError(405, f"{request.method} means nothing here")
        if route is None and self._metrics is not None and request.path.endswith("/metrics"):
            return self._metrics()
        if route is None:
            if self._page is None:
                self._page = page()
            return self._page
        answer = self._answers.get(route)
        if answer is None:
            raise HttpError(404, f"nothing is at {route}")
        found: Any = await answer(request, visitor)
        return found if isinstance(found, Response) else Response.of(found)


def _route(path: str) -> str | None:
    """`api/…` from the end of the path, or None: then it is the page that is asked for."""
    parts = path.rstrip("/").rsplit("/", 2)
    return f"api/{parts[-1]}" if len(parts) > 1 and parts[-2] == "api" else None


async def _lifespan(receive: Receive, send: Send) -> None:
    """Served alone: nothing of its own to start or to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
