"""What the dashboard shows: lists, a run with its invoker and its children, the tree, the waterfall."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from dashboard_kit import get, visit
from kit import World

import rotor_actors.dashboard
from rotor_actors import Context, MemoryStore, RetryPolicy, Runtime, workflow
from rotor_actors.dashboard import trees
from rotor_actors.errors import WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.records import Entry, Kind, RunCreated, RunRow, RunStatus, StepRecorded, StepRow
from rotor_actors.stores.base import RunQuery

pytestmark = pytest.mark.asyncio


async def parse(text: str) -> int:
    if text == "bad":
        raise ValueError("cannot parse <bad>")
    return len(text)


@workflow(id="leaf", retries=0)
async def leaf(ctx: Context, text: str) -> int:
    return await ctx.step.run("parse", parse, text, retries=RetryPolicy(1, initial="10s", jitter=False))


@workflow(id="napper")
async def napper(ctx: Context) -> None:
    await ctx.step.sleep("nap", "10h")


@workflow(id="top")
async def top(ctx: Context, texts: list[str]) -> int:
    total = 0
    for text in texts:
        try:
            total += (await ctx.step.invoke(f"leaf {text}", workflow=leaf, data=text, timeout="1h")).result
        except WorkflowFailedError:
            total -= 1
    try:
        await ctx.step.invoke("nap", workflow=napper, data=None, timeout="1m")
    except WorkflowTimeoutError:
        pass
    return total


async def test_one_walks_from_an_invoke_step_to_its_child_and_from_a_child_to_its_invoker() -> None:
    async with World(top, leaf, napper) as world:
        handle = await world.runtime.start(top, ["good", "bad"])
        assert await world.result(handle) == 3
        app = world.runtime.dashboard()
        detail = await get(app, "api/run", id=handle.run_id)
        children = {step["step_id"]: step["child"] for step in detail["steps"]}
        assert {name: child["status"] for name, child in children.items()} == {
            "leaf good": "completed", "leaf bad": "failed", "nap": "running",
        }  # fmt: skip
        assert {step["step_id"]: step["status"] for step in detail["steps"]}["nap"] == "timed_out"
        for name, child in children.items():
            below = await get(app, "api/run", id=child["run_id"])
            assert below["run"]["parent_run_id"] == handle.run_id
            assert below["run"]["parent_step_id"] == name
            assert [above["run_id"] for above in below["breadcrumb"]] == [handle.run_id]
        assert (await get(app, "api/run", id=children["nap"]["run_id"]))["run"]["marks"] == ["timed out on, runs on"]


async def test_a_cancelled_and_a_recovered_run_link_to_their_invoker_too() -> None:
    async with World(top, leaf, napper) as world:
        handle = await world.runtime.start(top, [])
        await world.clock.advance("10s")
        await world.crash()
        await world.open()
        await world.clock.advance("10s")
        child = (await get(world.runtime.dashboard(), "api/run", id=handle.run_id))["steps"][0]["child"]
        assert child["status"] == "running"
        await world.runtime.cancel(handle.run_id, "enough")
        below = await get(world.runtime.dashboard(), "api/run", id=child["run_id"])
        assert below["run"]["status"] == "cancelled"
        assert [above["run_id"] for above in below["breadcrumb"]] == [handle.run_id]


async def test_a_failed_run_shows_its_error_with_traceback_and_its_payloads_as_text() -> None:
    async with World(top, leaf) as world:
        handle = await world.runtime.start(leaf, "bad")
        with pytest.raises(WorkflowFailedError):
            await world.result(handle)
        detail = await get(world.runtime.dashboard(), "api/run", id=handle.run_id)
        assert detail["run"]["error"]["type"] == "ValueError"
        assert "in parse" in detail["run"]["error"]["traceback"]
        assert detail["input"] == '"bad"'


async def test_the_run_list_filters_and_pages_without_repeating_a_run() -> None:
    async with World(top, leaf) as world:
        handles = [await world.runtime.start(leaf, "x" * n) for n in range(5)]
        for handle in handles:
            await world.result(handle)
        app = world.runtime.dashboard()
        first = await get(app, "api/runs", limit=2, workflow="leaf")
        second = await get(app, "api/runs", limit=2, workflow="leaf", after=first["next"])
        third = await get(app, "api/runs", limit=2, workflow="leaf", after=second["next"])
        shown = [run["run_id"] for page in (first, second, third) for run in page["runs"]]
        assert shown == [handle.run_id for handle in reversed(handles)]
        assert third["next"] is None
        assert first["counts"] == {"completed": 5}
        assert (await get(app, "api/runs", status="failed"))["runs"] == []


async def test_the_run_list_is_searched_by_id_error_age_and_place_in_the_tree() -> None:
    async with World(top, leaf, napper) as world:
        handle = await world.runtime.start(top, ["good", "bad"], run_id="the-top")
        await world.result(handle)
        app = world.runtime.dashboard()

        async def found(**query: str | int) -> list[str]:
            return sorted(run["workflow_id"] for run in (await get(app, "api/runs", **query))["runs"])

        assert await found(top=1) == ["top"]
        assert await found(id="the-") == ["top"]
        assert await found(error="cannot parse") == ["leaf"]
        assert await found(status="running,failed") == ["leaf", "napper"]
        now = int(world.clock.now())
        assert await found(since=now + 1) == []
        assert len(await found(since=now - 3600)) == 4


async def test_the_tree_comes_parents_first_and_the_waterfall_keeps_waiting_and_working_apart() -> None:
    async with World(top, leaf, napper) as world:
        handle = await world.runtime.start(top, ["good", "bad"])
        await world.result(handle)
        app = world.runtime.dashboard()
        nodes = (await get(app, "api/tree", id=handle.run_id))["nodes"]
        assert [(node[1], node[2], node[3]) for node in nodes] == [
            (-1, "top", "completed"), (0, "leaf", "completed"), (0, "leaf", "failed"), (0, "napper", "running"),
        ]  # fmt: skip
        bad = next(node for node in nodes if node[3] == "failed")
        tries = [span for span in (await get(app, "api/timeline", id=bad[0]))["spans"] if span["label"] == "parse"]
        assert [(span["attempt"], span["status"]) for span in tries] == [(1, "failed"), (2, "failed")]
        assert tries[1]["works_from"] - tries[1]["waits_from"] == pytest.approx(10)
        assert tries[1]["ends"] >= tries[1]["works_from"]


async def test_workflows_are_counted_and_services_are_listed() -> None:
    async with World(top, leaf) as world:
        await world.result(await world.runtime.start(leaf, "abc"))
        app = world.runtime.dashboard()
        stats = {each["workflow_id"]: each for each in (await get(app, "api/workflows"))["workflows"]}
        assert stats["leaf"]["counts"] == {"completed": 1}
        assert sum(stats["leaf"]["per_minute"]) == 1
        assert stats["top"]["registered"]
        services = (await get(app, "api/services"))["services"]
        assert {"journal", "loader"} <= {service["id"] for service in services}
        assert {service["status"] for service in services} == {"running"}


async def test_what_does_not_exist_is_said_by_name() -> None:
    async with World(leaf) as world, visit(world.runtime.dashboard()) as browser:
        answer = await browser.get("api/run", params={"id": "nobody"})
        assert (answer.status_code, answer.json()["error"]) == (404, "no run has the id 'nobody' in this store")
        assert (await browser.get("api/runs", params={"limit": "many"})).status_code == 400
        assert (await browser.get("api/runs", params={"status": "asleep"})).status_code == 400
        assert (await browser.get("api/nothing")).status_code == 404
        assert (await browser.delete("api/runs")).status_code == 405


async def test_redaction_reaches_inputs_results_and_errors() -> None:
    def redact(workflow_id: str, what: str, value: Any) -> Any:
        return f"<{what} of {workflow_id}>"

    async with World(leaf) as world:
        good, bad = await world.runtime.start(leaf, "good"), await world.runtime.start(leaf, "bad")
        await world.result(good)
        with pytest.raises(WorkflowFailedError):
            await world.result(bad)
        app = world.runtime.dashboard(redact=redact)
        detail = await get(app, "api/run", id=good.run_id)
        assert (detail["input"], detail["result"]) == ('"<input of leaf>"', '"<result of leaf>"')
        assert (await get(app, "api/run", id=bad.run_id))["run"]["error"]["message"] == "<error of leaf>"
        assert "parse" not in str(await get(app, "api/runs"))


@workflow(id="reporting")
async def reporting(ctx: Context) -> None:
    ctx.report({"done": 1})
    ctx.report({"done": 2, "of": 3})
    ctx.report("ada@example.com", key="mail")
    await ctx.step.sleep("doze", "1h")


async def test_a_run_shows_the_newest_of_what_it_reports_also_after_a_restart() -> None:
    def redact(workflow_id: str, what: str, value: Any) -> Any:
        return "***" if what == "progress" and isinstance(value, str) else value

    async with World(reporting) as world:
        await world.runtime.start(reporting, run_id="r")
        await world.clock.advance("1m")
        shown = await get(world.runtime.dashboard(), "api/run", id="r")
        assert shown["progress"].splitlines() == ['{"done": 2, "of": 3}', 'mail: "ada@example.com"']
        await world.reopen()
        shown = await get(world.runtime.dashboard(redact=redact), "api/run", id="r")
        assert shown["progress"].splitlines() == ['{"done": 2, "of": 3}', 'mail: "***"']


async def test_a_tree_of_ten_thousand_runs_is_one_answer_of_bounded_size() -> None:
    @workflow(id="wide")
    async def wide(ctx: Context, n: int) -> None:
        import asyncio

        await asyncio.gather(*(ctx.step.invoke(str(i), workflow=empty, data=None, timeout="1h") for i in range(n)))

    @workflow(id="empty")
    async def empty(ctx: Context) -> None: ...

    async with Runtime(MemoryStore()) as runtime:
        handle = await runtime.start(wide, 10_000)
        await handle.result()
        async with visit(runtime.dashboard()) as browser:
            answer = await browser.get("api/tree", params={"id": handle.run_id})
        assert len(answer.json()["nodes"]) == 10_001
        assert len(answer.content) < 2_000_000


class Counted(MemoryStore):
    """Counts the rows that it gives."""

    given = 0

    def list_runs(self, query: RunQuery) -> list[RunRow]:
        found = super().list_runs(query)
        self.given += len(found)
        return found

    def steps(self, n: int, limit: int | None = None) -> list[StepRow]:
        found = super().steps(n, limit)
        self.given += len(found)
        return found


def a_tree(width: int, depth: int) -> list[Entry]:
    """A root with so many children, the newest of which has a chain below it."""
    root = RunRow(1, "r1", "w", 1, "r1", 1.0, status=RunStatus.COMPLETED, ended_at=2.0)
    rows, above = [root], root
    for n in range(2, 2 + width + depth):
        parent = root if n < 2 + width else above
        above = RunRow(
            n, f"r{n}", "w", 1, "r1", float(n), depth=parent.depth + 1, parent_n=parent.n, parent_run_id=parent.run_id,
            parent_key=str(n).encode(), status=RunStatus.COMPLETED, ended_at=2.0,
        )  # fmt: skip
        rows.append(above)
    return [RunCreated(row, row.n) for row in rows]


@pytest.mark.parametrize(("width", "depth"), [(300, 0), (2, 300), (60, 60)])
async def test_a_tree_that_is_too_large_is_read_no_further_than_it_is_shown(
    width: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "LARGEST_TREE", 50)
    monkeypatch.setattr(trees, "MOST_PARENTS", 30)
    store = Counted()
    store.commit(a_tree(width, depth))
    total = 1 + width + depth
    async with Runtime(store) as runtime:
        app = runtime.dashboard()
        store.given = 0
        answer = await get(app, "api/tree", id="r1")
        assert store.given <= 51
        nodes = answer["nodes"]
        assert len(nodes) <= 50
        assert answer["left_out"] == total - len(nodes)
        assert all(parent < place for place, (_, parent, *_) in enumerate(nodes)), "parents before their children"
        store.given = 0
        assert (await get(app, "api/run", id="r1", steps=20))["below"] == total - 1
        assert store.given <= 21
        part = await get(app, "api/run", id=f"r{1 + width}", steps=20)
        assert min(depth, 29) <= part["below"] <= depth
        assert len(part["breadcrumb"]) == 1


async def test_of_a_run_with_very_many_steps_no_more_are_read_than_are_shown() -> None:
    store = Counted()
    store.commit(a_tree(0, 0))
    store.commit(
        [StepRecorded(StepRow(1, float(i), Kind.RUN, b"%d" % i, f"s{i}", seq=i + 2), i + 2) for i in range(200)]
    )
    async with Runtime(store) as runtime:
        store.given = 0
        shown = await get(runtime.dashboard(), "api/run", id="r1", steps=20)
        assert (len(shown["steps"]), shown["steps_more"]) == (20, 1), "one more at least"
        assert store.given <= 22


# The page itself


BUNDLE = Path(rotor_actors.dashboard.__file__).parent / "static" / "index.html"


async def test_the_page_is_small_and_asks_nobody_else_for_anything() -> None:
    text = BUNDLE.read_text("utf-8")
    assert len(gzip.compress(text.encode(), 9)) <= 60 * 1024
    wanted = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(https?:)?//[^\"')]+", text)
    assert not wanted


async def test_the_policy_lets_run_what_is_in_the_page_and_nothing_else() -> None:
    async with Runtime(":memory:") as runtime, visit(runtime.dashboard()) as browser:
        answer = await browser.get("")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", answer.text, re.DOTALL)
    assert scripts
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert answer.headers["x-frame-options"] == "DENY"


async def test_a_stream_whose_runtime_closes_ends_as_one_whole_answer_and_the_next_is_an_error() -> None:
    sent: list[dict[str, Any]] = []
    came = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await came.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/api/changes", "headers": []}
    scope["client"] = ("127.0.0.1", 1)
    async with World(top) as world:
        app = world.runtime.dashboard()
        streaming = asyncio.ensure_future(app(dict(scope), receive, send))
        while len(sent) < 2:  # noqa: ASYNC110 - until the first number has been sent
            await asyncio.sleep(0)
    await streaming
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body")
    sent.clear()
    await app(dict(scope), receive, send)
    assert sent[0]["status"] == 409


async def test_a_number_that_no_machine_can_read_is_refused_by_name() -> None:
    async with World(top) as world, visit(world.runtime.dashboard()) as browser:
        answer = await browser.get("api/runs", params={"limit": "9" * 5_000})
        assert (answer.status_code, "'limit' must be a whole number" in answer.text) == (400, True)
