"""As much of HTTP over ASGI as the dashboard needs: a request that is read, a response that is sent.

A raw ASGI app works mounted under every framework, where they differ in what `path` and `root_path` hold. So routes are
known by how a path ends, never by how it begins, and run ids travel in the query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_BODY = 1_048_576
_LONGEST_NUMBER = 18

COMMON_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
}


class HttpError(Exception):
    """An answer that is not what was asked for. `str(error)` is shown to the visitor."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """A request, its headers by lower-case name."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.query: Mapping[str, str] = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))

    def text(self, name: str) -> str:
        """A parameter that must be there. Raises HttpError."""
        value = self.query.get(name, "")
        if not value:
            raise HttpError(400, f"the parameter {name!r} is missing")
        return value

    def number(self, name: str, default: int, *, at_most: int) -> int:
        """A whole number from the query. Raises HttpError."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isdecimal() or len(text) > _LONGEST_NUMBER:
            raise HttpError(400, f"the parameter {name!r} must be a whole number, got {text[:_LONGEST_NUMBER]!r}")
        return min(int(text), at_most)

    def moment(self, name: str) -> float | None:
        """Seconds since the epoch from the query, or None. Raises HttpError."""
        text = self.query.get(name)
        if not text:
            return None
        try:
            return float(text)
        except ValueError:
            raise HttpError(400, f"the parameter {name!r} is in seconds since the epoch, got {text!r}") from None

    async def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises HttpError."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "the request was cut off")
            body += message.get("body", b"")
            if len(body) > LARGEST_BODY:
                raise HttpError(413, f"a body of more than {LARGEST_BODY} bytes is refused")
            if not message.get("more_body", False):
                break
        try:
            return msgspec.json.decode(bytes(body), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise HttpError(400, f"the body is not a JSON object: {error}") from error


class Response:
    """An answer that is whole."""

    def __init__(
        self, body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body = body
        self.status = status
        self.headers = {**COMMON_HEADERS, "content-type": content_type, **(headers or {})}

    @classmethod
    def of(cls, value: object, status: int = 200) -> Response:
        """JSON."""
        return cls(msgspec.json.encode(value), "application/json", status)

    async def send(self, send: Send, *, is_head: bool = False) -> None:
        await start(send, self.status, {**self.headers, "content-length": str(len(self.body))})
        await send({"type": "http.response.body", "body": b"" if is_head else self.body})


async def start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Send the head of an answer."""
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
