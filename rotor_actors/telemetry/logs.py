"""Which run and step a log record belongs to.

In a workflow's body use `ctx.logger`: it carries the run's fields, and is silent on replay. In a step, any logger will
do: `LogFields` marks the context in which a step's body runs, and adds what it finds there to records.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import MutableMapping
from typing import Any

from rotor_actors.observing import Observer
from rotor_actors.records import RunRow

FIELDS = ("run_id", "root_run_id", "workflow_id", "step_id", "attempt", "execution")

# Context variables must be a module's own. Its value belongs to the step whose context it is in.
CURRENT_STEP: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("rotor_step")


class LogFields(Observer, logging.Filter):
    """Adds `run_id`, `root_run_id`, `workflow_id`, `step_id`, `attempt` and `execution` to records logged in a step.

    Give it to the runtime, so that steps are marked, and to a handler as a filter, so that records are filled in. A
    record logged elsewhere gets empty fields, so that a format can name them always.

    Example:
        >>> import logging
        >>> from rotor_actors import Runtime
        >>> fields = LogFields()
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(fields)
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(workflow_id)s %(run_id)s %(step_id)s %(message)s"))
        >>> runtime = Runtime(":memory:", observers=[fields])
    """

    def step_begins(self, run: RunRow, key: bytes, step_id: str, execution: int, context: contextvars.Context) -> None:
        fields = {
            "run_id": run.run_id,
            "root_run_id": run.root_run_id,
            "workflow_id": run.workflow_id,
            "step_id": step_id,
            "attempt": run.attempt,
            "execution": execution,
        }
        context.run(CURRENT_STEP.set, fields)

    def filter(self, record: logging.LogRecord) -> bool:
        current = CURRENT_STEP.get({})
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, current.get(name, ""))
        return True


def add_run_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The same for structlog: a processor. `LogFields()` must be among the runtime's observers."""
    for name, value in CURRENT_STEP.get({}).items():
        event.setdefault(name, value)
    return event
