"""Traces, metrics and log fields: observers to be given to `Runtime(observers=[…])`. Loaded when asked for.

* `Tracing` (extra `otel`): OpenTelemetry spans, one trace for each root run, across processes and restarts.
* `Metrics` (extra `prometheus`): Prometheus metrics, seconds and bounded labels.
* `LogFields`: run, root, workflow, step and attempt on every record that is logged in a step.
"""

from rotor_actors.telemetry.logs import LogFields, add_run_fields
from rotor_actors.telemetry.metrics import Metrics
from rotor_actors.telemetry.spans import Tracing

__all__ = ["LogFields", "Metrics", "Tracing", "add_run_fields"]
