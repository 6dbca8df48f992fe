"""Saying that something has changed: server-sent events in streams that end by themselves.

An open stream keeps a server from stopping: uvicorn, granian and hypercorn wait for it before they tell the application
anything. So none lives longer than a moment, and the page asks again. What is sent is a number; the page reads anew
when it is another than before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rotor_actors.dashboard.asgi import COMMON_HEADERS, Receive, Send, start
from rotor_actors.errors import RotorError

STREAM_SECONDS = 0.6
LOOK_SECONDS = 0.15


async def stream(newest: Callable[[], Awaitable[int]], receive: Receive, send: Send) -> None:
    """Send the newest number, then each other one, until the stream's time is over or the visitor is gone.

    An error before the first number is raised, to be an answer of its own; later the stream ends with it, and the page,
    which asks again, gets it then.
    """
    number = await newest()
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + STREAM_SECONDS
    gone = loop.create_task(_until_gone(receive))
    try:
        await start(send, 200, {**COMMON_HEADERS, "content-type": "text/event-stream", "x-accel-buffering": "no"})
        sent: int | None = None
        while loop.time() < ends_at and not gone.done():
            if number != sent:
                sent = number
                await _write(send, f"data: {number}\n\n")
            await asyncio.wait([gone], timeout=LOOK_SECONDS)
            try:
                number = await newest()
            except RotorError:
                break
        if not gone.done():
            await _write(send, "event: bye\ndata: \n\n")
            await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _write(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
