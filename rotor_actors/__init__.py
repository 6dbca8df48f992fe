"""An asyncio actor-based runtime for durable workflows: a library, one file on disk, no server.

What is public is loaded when it is first asked for: `rotor --help`, or a module that needs only `rotor_actors.errors`,
does not wait for the engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same for type checkers and editors: tests/test_import.py holds both lists side by side
    from rotor_actors.budget import Budget
    from rotor_actors.cancellation import CancelReport
    from rotor_actors.checking import Broken, CheckReport, check_runs
    from rotor_actors.child_ends import Invocation, InvokeOutcome
    from rotor_actors.clock import Clock, ManualClock, SystemClock
    from rotor_actors.context import Context
    from rotor_actors.define import workflow
    from rotor_actors.durations import Duration
    from rotor_actors.errors import ErrorInfo
    from rotor_actors.flow.options import Batch, Debounce, FlowControl, Idempotency, Singleton
    from rotor_actors.flow.views import FlowKey, WaitingRun
    from rotor_actors.handle import RunHandle
    from rotor_actors.records import RunStatus
    from rotor_actors.retention import Retention
    from rotor_actors.retry import RetryPolicy
    from rotor_actors.runtime import Runtime
    from rotor_actors.runtime_view import RuntimeView
    from rotor_actors.step import Step
    from rotor_actors.stores.base import Store
    from rotor_actors.stores.memory import MemoryStore
    from rotor_actors.stores.postgres.store import PostgresStore
    from rotor_actors.stores.sqlite import SQLiteStore
    from rotor_actors.stores.transaction import Transaction
    from rotor_actors.views import ReplicaInfo, RunInfo, RunTree, StepInfo, UnownedRuns, Update
    from rotor_actors.workflows import CancelOn, Cron, EndedRun, Event, Workflow, cron

__all__ = [
    "Batch",
    "Broken",
    "Budget",
    "CancelOn",
    "CancelReport",
    "CheckReport",
    "Clock",
    "Context",
    "Cron",
    "Debounce",
    "Duration",
    "EndedRun",
    "ErrorInfo",
    "Event",
    "FlowControl",
    "FlowKey",
    "Idempotency",
    "Invocation",
    "InvokeOutcome",
    "ManualClock",
    "MemoryStore",
    "PostgresStore",
    "ReplicaInfo",
    "Retention",
    "RetryPolicy",
    "RunHandle",
    "RunInfo",
    "RunStatus",
    "RunTree",
    "Runtime",
    "RuntimeView",
    "SQLiteStore",
    "Singleton",
    "Step",
    "StepInfo",
    "Store",
    "SystemClock",
    "Transaction",
    "UnownedRuns",
    "Update",
    "WaitingRun",
    "Workflow",
    "check_runs",
    "cron",
    "workflow",
]

_HOMES = {
    "budget": ("Budget",),
    "cancellation": ("CancelReport",),
    "checking": ("Broken", "CheckReport", "check_runs"),
    "child_ends": ("Invocation", "InvokeOutcome"),
    "clock": ("Clock", "ManualClock", "SystemClock"),
    "context": ("Context",),
    "define": ("workflow",),
    "durations": ("Duration",),
    "errors": ("ErrorInfo",),
    "flow.options": ("Batch", "Debounce", "FlowControl", "Idempotency", "Singleton"),
    "flow.views": ("FlowKey", "WaitingRun"),
    "handle": ("RunHandle",),
    "records": ("RunStatus",),
    "retention": ("Retention",),
    "retry": ("RetryPolicy",),
    "runtime": ("Runtime",),
    "runtime_view": ("RuntimeView",),
    "step": ("Step",),
    "stores.base": ("Store",),
    "stores.memory": ("MemoryStore",),
    "stores.postgres.store": ("PostgresStore",),
    "stores.sqlite": ("SQLiteStore",),
    "stores.transaction": ("Transaction",),
    "views": ("ReplicaInfo", "RunInfo", "RunTree", "StepInfo", "UnownedRuns", "Update"),
    "workflows": ("CancelOn", "Cron", "EndedRun", "Event", "Workflow", "cron"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # else a misspelt name would pass type checkers

    def __getattr__(name: str) -> object:
        if name == "errors":
            return import_module("rotor_actors.errors")
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"rotor_actors.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
