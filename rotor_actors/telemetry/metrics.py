"""Prometheus metrics. Names begin with `rotor_`, times are in seconds, labels are bounded.

| metric | labels | |
|---|---|---|
| `rotor_runs_created_total` | workflow | runs created |
| `rotor_runs_ended_total` | workflow, status | runs that ended: completed, failed, cancelled |
| `rotor_run_seconds` | workflow | from creation to the end, of runs that completed |
| `rotor_attempts_failed_total` | workflow | attempts that failed and were tried again |
| `rotor_steps_ended_total` | workflow, kind, status | recorded outcomes of steps |
| `rotor_step_seconds` | workflow | from the first begin of a step's body to its outcome |
| `rotor_step_retries_total` | workflow | failed executions that were tried again |
| `rotor_commits_total`, `rotor_commit_seconds`, `rotor_commit_facts` | | commits, how long they took, what they held |
| `rotor_replicas`, `rotor_coordinator` | | many replicas: how many there are; 1 where this one coordinates |
| `rotor_unowned_runs`, `rotor_stuck_runs` | | runs that nobody owns; of them those that no replica can run: alarm at these |
| `rotor_runs_live`, `rotor_steps_in_flight`, `rotor_effects_waiting`, `rotor_entries_waiting`, `rotor_store_full` | | now |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rotor_actors.observing import Gauges, Observer, ReplicasSeen
from rotor_actors.records import Fact, Kind, RunCreated, RunRow, RunStatus, StepRecorded
from rotor_actors.telemetry.known_runs import KnownRuns

MOST_WORKFLOWS = 200
_OTHER = "other"
_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3_600, 21_600, 86_400)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_FACTS = (1, 5, 25, 100, 500, 2_000, 10_000)


class Metrics(Observer):
    """Counts what becomes durable. Needs the extra `prometheus`.

    Args:
        registry: where the metrics are registered; None for one of its own, which `text()` renders.

    Raises:
        ImportError: prometheus_client is not installed: `pip install 'rotor-actors[prometheus]'`.

    Example:
        >>> from rotor_actors import Runtime
        >>> metrics = Metrics()
        >>> runtime = Runtime(":memory:", observers=[metrics])
        >>> "rotor_runs_live" in metrics.text().decode()
        True
    """

    def __init__(self, registry: Any = None) -> None:
        import prometheus_client as prometheus

        self._render = prometheus.generate_latest
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        self.registry: Any = prometheus.CollectorRegistry() if registry is None else registry
        self._runs = KnownRuns()
        self._workflows: set[str] = set()
        in_here: dict[str, Any] = {"registry": self.registry}
        self._created = prometheus.Counter("rotor_runs_created", "Runs created", ["workflow"], **in_here)
        self._ended = prometheus.Counter("rotor_runs_ended", "Runs that ended", ["workflow", "status"], **in_here)
        self._run_seconds = prometheus.Histogram(
            "rotor_run_seconds", "Creation to completion", ["workflow"], buckets=_SECONDS, **in_here
        )
        self._attempts = prometheus.Counter("rotor_attempts_failed", "Attempts tried again", ["workflow"], **in_here)
        self._steps = prometheus.Counter(
            "rotor_steps_ended", "Recorded outcomes of steps", ["workflow", "kind", "status"], **in_here
        )
        self._step_seconds = prometheus.Histogram(
            "rotor_step_seconds",
            "First begin of a step's body to its outcome",
            ["workflow"],
            buckets=_SECONDS,
            **in_here,
        )
        self._retries = prometheus.Counter("rotor_step_retries", "Executions tried again", ["workflow"], **in_here)
        self._commits = prometheus.Histogram(
            "rotor_commit_seconds", "How long commits took", buckets=_COMMIT_SECONDS, **in_here
        )
        self._facts = prometheus.Histogram("rotor_commit_facts", "Facts in a commit", buckets=_FACTS, **in_here)
        self._gauges = {
            name: prometheus.Gauge(f"rotor_{name}", text, **in_here)
            for name, text in (
                ("runs_live", "Runs that have not ended"),
                ("steps_in_flight", "Step bodies under way"),
                ("effects_waiting", "Effects that wait for the disk"),
                ("entries_waiting", "Entries that are not durable yet"),
                ("store_full", "1 while the disk is full"),
                ("replicas", "Replicas that have the store open"),
                ("coordinator", "1 where this replica coordinates"),
                ("unowned_runs", "Unended runs that no replica owns"),
                ("stuck_runs", "Unended runs that no replica owns or can run"),
            )
        }

    def opened(self, runs: Iterable[RunRow], gauges: Gauges) -> None:
        self._runs.open(runs)
        self._gauges["runs_live"].set_function(lambda: gauges.live_runs)
        self._gauges["steps_in_flight"].set_function(lambda: gauges.steps_in_flight)
        self._gauges["effects_waiting"].set_function(lambda: gauges.effects_waiting)
        self._gauges["entries_waiting"].set_function(lambda: gauges.entries_waiting)
        self._gauges["store_full"].set_function(lambda: gauges.is_full)

    def replicas_seen(self, seen: ReplicasSeen) -> None:
        self._gauges["replicas"].set(seen.replicas)
        self._gauges["coordinator"].set(seen.is_coordinator)
        self._gauges["unowned_runs"].set(seen.unowned)
        self._gauges["stuck_runs"].set(seen.stuck)

    def taken_in(self, runs: Iterable[RunRow]) -> None:
        self._runs.take_in(runs)

    def committed(self, facts: Sequence[Fact], seconds: float) -> None:
        self._commits.observe(seconds)
        self._facts.observe(len(facts))
        self._runs.learn(facts)
        for fact in facts:
            if isinstance(fact, RunCreated):
                self._created.labels(self._label(fact.run)).inc()
            elif isinstance(fact, StepRecorded):
                self._step(fact)
        for row, status, at in self._runs.ended(facts):
            workflow = self._label(row)
            self._ended.labels(workflow, status.value).inc()
            if status is RunStatus.COMPLETED:
                self._run_seconds.labels(workflow).observe(at - row.created_at)

    def _step(self, fact: StepRecorded) -> None:
        step, run = fact.step, self._runs.get(fact.step.n)
        workflow = _OTHER if run is None else self._label(run)
        if step.kind is Kind.ATTEMPT:
            self._attempts.labels(workflow).inc()
        elif step.kind is Kind.STEP_RETRY:
            self._retries.labels(workflow).inc()
        elif step.kind is not Kind.TIMER:
            self._steps.labels(workflow, step.kind.value, step.status.value).inc()
            if step.kind is Kind.RUN and step.began_at is not None:
                self._step_seconds.labels(workflow).observe(max(0.0, step.at - step.began_at))

    def _label(self, row: RunRow) -> str:
        """The workflow's id, while there are not too many: one that makes up ids must not fill the scraper's disk."""
        id = row.workflow_id
        if id in self._workflows:
            return id
        if len(self._workflows) >= MOST_WORKFLOWS:
            return _OTHER
        self._workflows.add(id)
        return id

    def text(self) -> bytes:
        """What a scrape answers, of type `content_type`."""
        rendered: bytes = self._render(self.registry)
        return rendered
