"""Traces, metrics and log fields: told once, of what is durable, across restarts."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from kit import World

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.dashboard import Visitor
from rotor_actors.errors import WorkflowFailedError
from rotor_actors.observing import Observer
from rotor_actors.telemetry import LogFields, Metrics, Tracing, add_run_fields
from rotor_actors.telemetry.logs import CURRENT_STEP

pytestmark = pytest.mark.asyncio

step_log = logging.getLogger("a.library.used.in.a.step")


async def work(text: str) -> str:
    step_log.warning("working on %s", text)
    if text == "bad":
        raise ValueError("bad text")
    return text


@workflow(id="child", retries=0)
async def child(ctx: Context, text: str) -> str:
    return await ctx.step.run("work", work, text)


@workflow(id="parent", retries=0)
async def parent(ctx: Context, texts: list[str]) -> int:
    for text in texts:
        await ctx.invoke(f"invoke {text}", workflow=child, body=text, retries=0)
    await ctx.step.sleep("rest", "1h")
    return len(texts)


@workflow(id="flaky", retries=RetryPolicy(2, initial="1s"))
async def flaky(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise RuntimeError("once")


# Traces


class Spans:
    """An SDK provider that keeps its spans."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[Any]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def names(self) -> list[str]:
        return sorted(span.name for span in self._exporter.get_finished_spans() if span.name != "commit")


async def test_one_trace_holds_a_root_run_with_its_steps_and_children_across_a_restart() -> None:
    spans = Spans()
    async with World(parent, child, observers=[Tracing(spans.provider)]) as world:
        handle = await world.runtime.start(parent, ["a"])
        await world.clock.advance("1m")
        before = spans.names()
        await world.crash()
        await world.open()
        assert spans.names() == before, "recovery told something again"
        assert await world.result(world.runtime.run(handle.run_id)) == 1
    assert spans.names() == ["run child", "run parent", "step rest", "step work"]
    (top,), (below,), (step,) = spans.named("run parent"), spans.named("run child"), spans.named("step work")
    assert top.parent is None
    assert below.parent.span_id == top.context.span_id
    assert step.parent.span_id == below.context.span_id
    assert len({span.context.trace_id for span in (top, below, step)}) == 1
    assert top.attributes["rotor.run_id"] == handle.run_id
    assert below.attributes["rotor.parent_step_id"] == "invoke a"
    assert (top.end_time - top.start_time) // 10**9 >= 3600


async def test_the_spans_of_a_step_body_stand_under_the_step() -> None:
    spans = Spans()
    tracer = spans.provider.get_tracer("a library")

    async def traced() -> None:
        with tracer.start_as_current_span("query"):
            pass

    @workflow(id="tracing")
    async def tracing(ctx: Context) -> None:
        await ctx.step.run("ask", traced)

    async with Runtime(":memory:", observers=[Tracing(spans.provider)]) as runtime:
        await runtime.execute(tracing)
    (query,), (step,) = spans.named("query"), spans.named("step ask")
    assert query.parent.span_id == step.context.span_id
    assert query.context.trace_id == step.context.trace_id


async def test_a_failed_run_and_a_cancelled_one_say_so() -> None:
    spans = Spans()
    async with World(parent, child, observers=[Tracing(spans.provider)]) as world:
        failed = await world.runtime.start(child, "bad")
        with pytest.raises(WorkflowFailedError):
            await world.result(failed)
        cancelled = await world.runtime.start(parent, [])
        await world.clock.advance("1s")
        await cancelled.cancel()
    (bad,), (gone,) = spans.named("run child"), spans.named("run parent")
    assert (bad.status.status_code.name, bad.status.description) == ("ERROR", "ValueError: bad text")
    assert gone.attributes["rotor.status"] == "cancelled"


async def test_commits_are_traced_when_asked_for_and_nothing_is_told_without_a_provider() -> None:
    spans = Spans()
    async with Runtime(":memory:", observers=[Tracing(spans.provider)]) as runtime:
        await runtime.execute(child, "a")
    assert spans.named("commit")
    async with Runtime(":memory:", observers=[Tracing()]) as runtime:
        assert await runtime.execute(child, "a") == "a"


# Metrics


async def test_metrics_count_each_end_once_over_a_restart() -> None:
    metrics = Metrics()
    async with World(parent, child, flaky, observers=[metrics]) as world:
        handle = await world.runtime.start(parent, ["a", "bad"])
        await world.clock.advance("1m")
        await world.crash()
        await world.open()
        await world.result(world.runtime.run(handle.run_id))
        await world.result(await world.runtime.start(flaky))
    told = metrics.registry.get_sample_value
    assert told("rotor_runs_created_total", {"workflow": "child"}) == 2
    assert told("rotor_runs_ended_total", {"workflow": "child", "status": "completed"}) == 1
    assert told("rotor_runs_ended_total", {"workflow": "child", "status": "failed"}) == 1
    assert told("rotor_runs_ended_total", {"workflow": "parent", "status": "completed"}) == 1
    assert told("rotor_steps_ended_total", {"workflow": "child", "kind": "run", "status": "completed"}) == 1
    assert told("rotor_attempts_failed_total", {"workflow": "flaky"}) == 1
    assert told("rotor_run_seconds_sum", {"workflow": "parent"}) >= 3600
    assert told("rotor_runs_live") == 0


async def test_labels_stay_bounded_whatever_workflow_ids_are_made_up() -> None:
    metrics = Metrics()
    async with Runtime(":memory:", observers=[metrics]) as runtime:
        for number in range(205):

            @workflow(id=f"made-up-{number}")
            async def made_up(ctx: Context) -> None: ...

            await runtime.execute(made_up)
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("rotor_runs_created_total{")]
    assert len(lines) == 201
    assert metrics.registry.get_sample_value("rotor_runs_created_total", {"workflow": "other"}) == 5


async def test_the_dashboard_exposes_metrics_and_probes_to_those_who_may_look() -> None:
    import httpx

    metrics = Metrics()
    async with Runtime(":memory:", observers=[metrics]) as runtime:
        app: Any = runtime.dashboard(metrics=metrics, auth=lambda headers: Visitor() if "x-user" in headers else None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://any/") as browser:
            assert (await browser.get("ops/metrics")).status_code == 401
            scraped = await browser.get("ops/metrics", headers={"x-user": "scraper"})
            assert "rotor_runs_live 0.0" in scraped.text
            assert (await browser.get("ops/healthz")).json() == {"status": "ok"}
            assert (await browser.get("ops/readyz")).status_code == 200
            runtime.announce_stop()
            answer = await browser.get("ops/readyz")
            assert (answer.status_code, answer.json()["reason"]) == (503, "the program is stopping")


# Logs


async def test_records_logged_in_a_step_carry_its_run() -> None:
    fields, said = LogFields(), io.StringIO()
    handler = logging.StreamHandler(said)
    handler.addFilter(fields)
    handler.setFormatter(logging.Formatter("%(workflow_id)s|%(run_id)s|%(step_id)s|%(attempt)s|%(message)s"))
    step_log.addHandler(handler)
    try:
        async with Runtime(":memory:", observers=[fields]) as runtime:
            await runtime.execute(child, "a", run_id="one")
        step_log.warning("outside")
    finally:
        step_log.removeHandler(handler)
    assert said.getvalue().splitlines() == ["child|one|work|1|working on a", "||||outside"]


async def test_structlog_gets_the_same_fields() -> None:
    seen: list[Any] = []

    async def logs() -> None:
        seen.append(add_run_fields(None, "info", {"event": "hello"}))

    @workflow(id="logging")
    async def logging_one(ctx: Context) -> None:
        await ctx.step.run("log", logs)

    async with Runtime(":memory:", observers=[LogFields()]) as runtime:
        await runtime.execute(logging_one, run_id="one")
    assert {name: seen[0][name] for name in ("event", "run_id", "step_id")} == {
        "event": "hello", "run_id": "one", "step_id": "log",
    }  # fmt: skip
    assert not CURRENT_STEP.get({})


# Observers as such


async def test_an_observer_that_fails_is_logged_and_the_runtime_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Observer):
        def committed(self, facts: Any, seconds: float) -> None:
            raise RuntimeError("broken observer")

    async with Runtime(":memory:", observers=[Broken()]) as runtime:
        assert await runtime.execute(child, "a") == "a"
    assert "broken observer" in caplog.text


async def test_what_is_shown_is_durable() -> None:
    """A commit that fails shows nothing: what it held may be gone."""
    seen: list[Any] = []

    class Watching(Observer):
        def committed(self, facts: Any, seconds: float) -> None:
            seen.extend(facts)

    async with World(child, observers=[Watching()]) as world:
        await world.runtime.start(child, "a")
        durable = len(seen)
        world.store.entries_left = 0
        await world.clock.advance("1s")
        assert len(seen) == durable
