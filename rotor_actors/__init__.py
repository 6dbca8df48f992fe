"""An asyncio actor-based runtime for durable workflows: a library, one file on disk, no server."""

from rotor_actors.budget import Budget
from rotor_actors.cancellation import CancelReport
from rotor_actors.checking import Broken, CheckReport, check_runs
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
from rotor_actors.step import Invocation, InvokeOutcome, Step
from rotor_actors.stores.base import Store
from rotor_actors.stores.memory import MemoryStore
from rotor_actors.stores.sqlite import SQLiteStore
from rotor_actors.stores.transaction import Transaction
from rotor_actors.views import RunInfo, RunTree, StepInfo, Update
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
    "Update",
    "WaitingRun",
    "Workflow",
    "check_runs",
    "cron",
    "workflow",
]
