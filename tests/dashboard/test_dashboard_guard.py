"""Who may look at the dashboard, and who may act."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from dashboard_kit import ACTION, act, visit
from kit import World

from rotor_actors import Context, RunStatus, Runtime, workflow
from rotor_actors.dashboard import Visitor
from rotor_actors.dashboard.asgi import Request
from rotor_actors.dashboard.guard import why_not_local

pytestmark = pytest.mark.asyncio


@workflow(id="napper")
async def napper(ctx: Context) -> None:
    await ctx.step.sleep("nap", "10h")


@workflow(id="parent")
async def parent(ctx: Context) -> None:
    await ctx.step.invoke("child", workflow=napper, data=None, timeout="10h")


def known(headers: Mapping[str, str]) -> Visitor | None:
    name = headers.get("x-user", "")
    return Visitor(name, may_act=name != "guest") if name else None


@pytest.mark.parametrize(
    ("base", "client", "headers"),
    [
        ("http://localhost/", ("10.0.0.7", 1), {}),
        ("http://evil.test/", ("127.0.0.1", 1), {}),
        ("http://localhost/", ("127.0.0.1", 1), {"x-forwarded-for": "10.0.0.7"}),
    ],
    ids=["from another machine", "under a name that is not its own", "through a proxy"],
)
async def test_without_auth_only_this_machine_is_answered(
    base: str, client: tuple[str, int], headers: dict[str, str]
) -> None:
    async with Runtime(":memory:") as runtime:
        async with visit(runtime.dashboard(), base, client=client) as browser:
            refused = await browser.get("api/runs", headers=headers)
        assert refused.status_code == 403
        assert "auth=" in refused.json()["error"]
        async with visit(runtime.dashboard(insecure=True), base, client=client) as browser:
            assert (await browser.get("api/runs", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Server", "X-Real-IP",
        "X-Envoy-External-Address", "CF-Connecting-IP", "True-Client-IP", "X-Original-Host", "X-Auth-Request-User",
    ],
)  # fmt: skip
async def test_each_header_that_proxies_add_is_refused_by_its_name(header: str) -> None:
    async with Runtime(":memory:") as runtime, visit(runtime.dashboard()) as browser:
        refused = await browser.get("api/runs", headers={header: "x"})
        assert refused.status_code == 403
        assert f"its header {header.lower()} says that a proxy passed it on" in refused.json()["error"]


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ({"http_version": "1.0"}, "it speaks HTTP/1.0"),
        ({"client": None}, "a socket that has no address"),
        ({"headers": [(b"host", b"localhost"), (b"origin", b"https://ops.example")]}, "a page of https://ops.example"),
        ({"headers": [(b"host", b"ops.example")]}, "another name than localhost"),
        ({}, ""),
        ({"headers": [(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")]}, ""),
    ],
)
async def test_a_proxy_is_known_by_how_it_asks_too(scope: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/", "headers": [], "client": ("127.0.0.1", 1), "http_version": "1.1"
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    why = why_not_local(Request(asked | scope, receive))
    assert said in why
    assert bool(said) == bool(why)


@pytest.mark.parametrize("base", ["http://localhost:8000/", "http://127.0.0.1/", "http://[::1]:80/"])
async def test_this_machine_is_answered_under_each_of_its_own_names(base: str) -> None:
    async with Runtime(":memory:") as runtime, visit(runtime.dashboard(), base) as browser:
        assert (await browser.get("api/runs")).status_code == 200


async def test_auth_decides_who_is_answered_and_may_be_async() -> None:
    async def later(headers: Mapping[str, str]) -> Visitor | None:
        return known(headers)

    async with Runtime(":memory:") as runtime:
        for hook in (known, later):
            async with visit(runtime.dashboard(auth=hook), "http://any.test/", client=("10.0.0.7", 1)) as browser:
                assert (await browser.get("")).status_code == 401
                answer = await browser.get("api/session", headers={"X-User": "ada"})
                assert (answer.json()["user"], answer.json()["read_only"]) == ("ada", False)


async def test_cancel_ends_the_tree_says_how_many_and_is_written_into_the_audit() -> None:
    async with World(parent, napper) as world:
        handle = await world.runtime.start(parent)
        await world.clock.advance("1s")
        app = world.runtime.dashboard(auth=known)
        async with visit(app) as browser:
            answer = await browser.post(
                "api/act", json={"action": "cancel", "run_id": handle.run_id}, headers={**ACTION, "x-user": "ada"}
            )
            assert answer.json()["said"].startswith("Cancelled 2 runs")
            audit = (await browser.get("api/services", headers={"x-user": "ada"})).json()["audit"]
        assert await handle.status() is RunStatus.CANCELLED
        assert [(entry["user"], entry["action"], entry["target"]) for entry in audit] == [
            ("ada", "cancel", handle.run_id)
        ]
        await world.crash()
        await world.open()
        async with visit(world.runtime.dashboard()) as browser:
            assert (await browser.get("api/services")).json()["audit"] == audit


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({"x-rotor-action": ""}, ""), ({"sec-fetch-site": "cross-site"}, "own page")],
    ids=["a blank header is a header", "a page of another site"],
)
async def test_a_page_of_another_site_cannot_act(headers: dict[str, str], reason: str) -> None:
    async with World(napper) as world:
        handle = await world.runtime.start(napper)
        async with visit(world.runtime.dashboard()) as browser:
            bare = await browser.post("api/act", json={"action": "cancel", "run_id": handle.run_id})
            assert bare.status_code == 403
            if reason:
                answer = await act(world.runtime.dashboard(), {"action": "cancel", "run_id": handle.run_id}, **headers)
                assert answer.status_code == 403
                assert reason in answer.json()["error"]
        assert await handle.status() is RunStatus.RUNNING


async def test_a_read_only_dashboard_changes_nothing_for_anybody_and_a_guest_changes_nothing() -> None:
    async with World(napper) as world:
        handle = await world.runtime.start(napper)
        body = {"action": "cancel", "run_id": handle.run_id}
        assert (await act(world.runtime.dashboard(read_only=True), body)).status_code == 403
        assert (await act(world.runtime.dashboard(auth=known), body, **{"x-user": "guest"})).status_code == 403
        assert await handle.status() is RunStatus.RUNNING


async def test_bad_actions_are_refused_by_name() -> None:
    async with Runtime(":memory:") as runtime:
        app = runtime.dashboard()
        assert "unknown action 'explode'" in (await act(app, {"action": "explode"})).json()["error"]
        assert "'run_id' must be a text" in (await act(app, {"action": "cancel"})).json()["error"]
        assert (await act(app, {"action": "cancel", "run_id": "nobody"})).status_code == 409
        async with visit(app) as browser:
            answer = await browser.post("api/act", content=b"[1]", headers=ACTION)
            assert answer.status_code == 400
            answer = await browser.post("api/act", content=b'"' + b"x" * 2_000_000 + b'"', headers=ACTION)
            assert answer.status_code == 413


async def test_events_and_signals_are_sent_from_the_page_too() -> None:
    @workflow(id="on-event", on="shop.ordered")
    async def on_event(ctx: Context, order: dict[str, int]) -> int:
        return order["count"] + await ctx.step.wait_for_signal("go", signal="go", timeout="1h", returns=int)

    async with World(on_event) as world:
        app = world.runtime.dashboard()
        sent = (await act(app, {"action": "send", "name": "shop.ordered", "data": {"count": 2}})).json()
        assert sent["said"] == "Sent; it started 1 runs."
        await world.clock.advance("1s")
        assert (await act(app, {"action": "signal", "name": "go", "data": 40})).json() == {"said": "Signalled."}
        assert await world.result(world.runtime.run(sent["run_id"])) == 42
        assert (await act(app, {"action": "signal", "name": "go"})).status_code == 409
