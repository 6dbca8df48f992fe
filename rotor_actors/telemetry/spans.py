"""OpenTelemetry spans: one trace for each root run, across processes and restarts.

A span is emitted when what it tells of has become durable: the end of a run, the outcome of a step, a commit. Trace and
span ids are hashes of run ids and step keys, so a run that begins in one process and ends in another is one span, and
what it did in both stands under it. A replay commits nothing, so it emits nothing.

    run <workflow>          rotor.run_id, rotor.root_run_id, rotor.workflow_id, rotor.status, rotor.attempts
    ├─ step <id>            rotor.step_id, rotor.step_kind, rotor.status, rotor.executions
    └─ run <workflow>       of a child; linked to the step that invoked it by rotor.parent_step_id
    commit                  rotor.facts; a trace of its own

Within a step's body the step's span is the current one: what an HTTP client or a database driver traces stands under it.
"""

from __future__ import annotations

import contextvars
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from rotor_actors.errors import ErrorInfo
from rotor_actors.observing import Gauges, Observer
from rotor_actors.records import Fact, Kind, OutcomeStatus, RunRow, RunStatus, StepRecorded, StepRow
from rotor_actors.telemetry.known_runs import KnownRuns

_SILENT = frozenset({Kind.TIMER, Kind.ATTEMPT, Kind.STEP_RETRY})


class Tracing(Observer):
    """Emits spans. Needs the extra `otel`; without a provider of your own it costs a look at each commit.

    Args:
        provider: an SDK `TracerProvider`; None for the global one.
        commits: emit a span for each commit, too.

    Raises:
        ImportError: opentelemetry is not installed: `pip install 'rotor-actors[otel]'`.

    With a provider that is not the SDK's, ids are its own, and spans of one root run make no one trace.
    """

    def __init__(self, provider: Any = None, *, commits: bool = True) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._provider: Any = provider
        self._commits = commits
        self._runs = KnownRuns()
        self._ids = _ChosenIds()
        self._tracer: Any = None

    def opened(self, runs: Iterable[RunRow], gauges: Gauges) -> None:
        self._runs.open(runs)
        provider: Any = self._provider or self._trace.get_tracer_provider()
        self._tracer = provider.get_tracer("rotor_actors")
        if hasattr(self._tracer, "id_generator"):
            self._tracer.id_generator = self._ids

    def taken_in(self, runs: Iterable[RunRow]) -> None:
        self._runs.take_in(runs)

    def step_begins(self, run: RunRow, key: bytes, step_id: str, execution: int, context: contextvars.Context) -> None:
        span = self._trace.NonRecordingSpan(self._span_context(run.root_run_id, step_span_id(run.run_id, key)))
        context.run(self._make_current, span)

    def _make_current(self, span: Any) -> None:
        from opentelemetry import context

        context.attach(self._trace.set_span_in_context(span))

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        self._runs.learn(facts)
        for fact in facts:
            if isinstance(fact, StepRecorded) and fact.step.kind not in _SILENT:
                run = self._runs.get(fact.step.n)
                if run is not None:
                    self._step(run, fact.step)
        for row, status, at in self._runs.ended(facts):
            self._run(row, status, at)
        if self._commits:
            self._commit(len(facts), seconds)

    def _step(self, run: RunRow, step: StepRow) -> None:
        failed = step.status is not OutcomeStatus.COMPLETED
        self._emit(
            f"step {step.step_id}",
            run.root_run_id,
            step_span_id(run.run_id, step.key),
            run_span_id(run.run_id),
            (step.began_at if step.began_at is not None else step.at, step.at),
            {
                "rotor.run_id": run.run_id,
                "rotor.step_id": step.step_id,
                "rotor.step_kind": step.kind.value,
                "rotor.status": step.status.value,
                "rotor.executions": step.attempts,
            },
            step.status.value if failed else "",
        )

    def _run(self, row: RunRow, status: RunStatus, at: float) -> None:
        attributes: dict[str, Any] = {
            "rotor.run_id": row.run_id,
            "rotor.root_run_id": row.root_run_id,
            "rotor.workflow_id": row.workflow_id,
            "rotor.status": status.value,
            "rotor.attempts": row.attempt,
        }
        if row.parent_step_id is not None:
            attributes["rotor.parent_step_id"] = row.parent_step_id
        said = ""
        if status is RunStatus.FAILED:
            said = "failed"
            if row.error is not None:
                info = msgspec.msgpack.decode(row.error, type=ErrorInfo)
                said = f"{info.type}: {info.message}"
        above = None if row.parent_run_id is None else run_span_id(row.parent_run_id)
        name = f"run {row.workflow_id}"
        self._emit(name, row.root_run_id, run_span_id(row.run_id), above, (row.created_at, at), attributes, said)

    def _commit(self, facts: int, seconds: float) -> None:
        end = time.time_ns()  # of the host's own clock: a span of the process, not of a run
        span = self._tracer.start_span("commit", context=_no_context(), start_time=end - int(seconds * 1e9))
        span.set_attribute("rotor.facts", facts)
        span.end(end)

    def _emit(
        self, name: str, root: str, span_id: int, above: int | None, times: tuple[float, float],
        attributes: dict[str, Any], error: str,
    ) -> None:  # fmt: skip
        context = _no_context()
        if above is not None:
            parent = self._trace.NonRecordingSpan(self._span_context(root, above))
            context = self._trace.set_span_in_context(parent, context)
        with self._ids.chosen(trace_id(root), span_id):
            begin, end = times
            span = self._tracer.start_span(name, context=context, start_time=int(begin * 1e9), attributes=attributes)
        if error:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, error))
        span.end(int(max(begin, end) * 1e9))

    def _span_context(self, root: str, span_id: int) -> Any:
        flags = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        return self._trace.SpanContext(trace_id(root), span_id, is_remote=True, trace_flags=flags)


class _ChosenIds:
    """An id generator whose next ids can be chosen; else they are random."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._random = RandomIdGenerator()
        self._trace_id = 0
        self._span_id = 0

    def chosen(self, trace_id: int, span_id: int) -> _ChosenIds:
        self._trace_id, self._span_id = trace_id, span_id
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._trace_id = self._span_id = 0

    def generate_trace_id(self) -> int:
        return self._trace_id or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        return self._span_id or self._random.generate_span_id()

    def is_trace_id_random(self) -> bool:
        return False


def _no_context() -> Any:
    from opentelemetry.context import Context

    return Context()


def trace_id(root_run_id: str) -> int:
    """The trace of a root run."""
    return _hashed(b"trace:" + root_run_id.encode(), 16)


def run_span_id(run_id: str) -> int:
    """The span of a run."""
    return _hashed(b"run:" + run_id.encode(), 8)


def step_span_id(run_id: str, key: bytes) -> int:
    """The span of a step."""
    return _hashed(b"step:" + run_id.encode() + b":" + key, 8)


def _hashed(text: bytes, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=size).digest(), "big") or 1
