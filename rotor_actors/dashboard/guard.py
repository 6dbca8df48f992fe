"""Who may look, and who may act. Decides; sends nothing.

1. With an `auth` hook: whoever it knows.
2. Without: only this machine itself, and only by a name of its own. The name is looked at because a page of another
   site can make a browser on this machine ask for it under a name of that site's (DNS rebinding); a forwarded request
   comes from a proxy, so from anybody. Proxies are known by what they add. One on this machine that adds nothing at
   all looks like a browser on this machine, and cannot be told from it: behind a proxy there must be `auth`.
3. To act, a request must come from the dashboard's own page: it carries a header that a page of another site may not
   send, and says that it does not come from one.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from rotor_actors.dashboard.asgi import HttpError, Request

ACTION_HEADER = "x-rotor-action"
_OF_PROXIES = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "fastly-client-ip",
    "fly-client-ip", "client-ip", "cdn-loop", "x-proxyuser-ip", "x-request-start", "x-amzn-trace-id", "x-arr-log-id",
    "x-cloud-trace-context", "x-remote-user", "remote-user",
})  # fmt: skip
_OF_PROXIES_BEGIN = ("x-forwarded", "x-original-", "x-envoy-", "x-auth-request-", "x-azure-", "x-appengine-", "x-amz-cf-",
                     "x-vercel-", "cf-", "tailscale-")  # fmt: skip


class Visitor(msgspec.Struct, frozen=True):
    """Who is looking.

    Attributes:
        name: shown, and written into the audit.
        may_act: False shows everything and changes nothing.
    """

    name: str = ""
    may_act: bool = True


Auth: TypeAlias = Callable[[Mapping[str, str]], "Visitor | Awaitable[Visitor | None] | None"]
"""Is given the request's headers, names in lower case; answers who it is, or None to refuse."""


class Guard:
    """See the module.

    Args:
        auth: the hook, or None for loopback only.
        read_only: nobody may act.
        insecure: without `auth`, answer everybody: only behind something that asks who they are.
    """

    def __init__(self, auth: Auth | None, *, read_only: bool, insecure: bool) -> None:
        self._auth = auth
        self._read_only = read_only
        self._insecure = insecure

    async def visitor(self, request: Request) -> Visitor:
        """Who it is. Raises HttpError."""
        visitor = await self._known(request)
        return Visitor(visitor.name, may_act=False) if self._read_only else visitor

    async def _known(self, request: Request) -> Visitor:
        if self._auth is not None:
            known: Any = self._auth(request.headers)
            if inspect.isawaitable(known):
                known = await known
            if not isinstance(known, Visitor):
                raise HttpError(401, "you are not known here")
            return known
        if not self._insecure and (why := why_not_local(request)):
            raise HttpError(
                403,
                "without auth= the dashboard answers only requests from this machine itself, under the name localhost, "
                f"and not through a proxy: {why}; give runtime.dashboard(auth=…), or insecure=True behind a guard of "
                "your own",
            )
        return Visitor()

    def check_may_act(self, visitor: Visitor, request: Request) -> None:
        """Raises HttpError unless this visitor may change something by this request."""
        if not visitor.may_act:
            raise HttpError(403, "this dashboard is read-only" + (" for you" if not self._read_only else ""))
        if request.headers.get(ACTION_HEADER) is None:
            raise HttpError(403, f"an action must carry the header {ACTION_HEADER}")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HttpError(403, "actions are accepted from the dashboard's own page only")


def why_not_local(request: Request) -> str:
    """What says that a request comes from elsewhere, or may; "" where nothing does: it comes from this machine, asks for
    it by a name of its own, and no proxy passed it on."""
    client = request.scope.get("client")
    if client is None:
        return "it came over a socket that has no address, as proxies use"
    if not _is_loopback(str(client[0])):
        return f"it came from {client[0]}"
    for header in request.headers:
        if header in _OF_PROXIES or header.startswith(_OF_PROXIES_BEGIN):
            return f"its header {header} says that a proxy passed it on"
    if request.scope.get("http_version") == "1.0":  # nginx, left as it is, says nothing else of itself
        return "it speaks HTTP/1.0, as proxies do and browsers do not"
    if not _is_own_name(request.headers.get("host", "localhost")):
        return "it asks for another name than localhost"
    origin = request.headers.get("origin", "null")
    if origin != "null" and not _is_own_name(origin.partition("://")[2]):
        return f"it was made by a page of {origin}"
    return ""


def _is_own_name(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return name == "localhost" or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
