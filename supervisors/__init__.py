"""Supervision of asyncio tasks in the manner of OTP.

    async with Supervisor(strategy=Strategy.ONE_FOR_ONE, max_restarts=3, max_seconds=5) as supervisor:
        child = await supervisor.start_child(ChildSpec(id="poller", start=poll, shutdown=5.0))

The core is pure and works for any kind of child: `ChildTable`, `decide`, `affected`, `add_restart`, `escalation`.
The shell, `Supervisor`, runs children as tasks. It logs to the logger `supervisors`.
"""

from __future__ import annotations

from supervisors.chain import await_chain
from supervisors.child import Child, Down, Monitor
from supervisors.decision import Decision, affected, decide
from supervisors.errors import (
    ChildError,
    ChildExistsError,
    ChildNotFoundError,
    ChildRestartingError,
    ChildRunningError,
    ChildStartError,
    ExitShutdown,
    MaxRestartsExceeded,
    SupervisorError,
    SupervisorNotRunningError,
)
from supervisors.escalations import escalation
from supervisors.exits import STOPPED, Ending, Exit, ExitKind, classify
from supervisors.info import ChildCounts, ChildInfo
from supervisors.intensity import add_restart
from supervisors.spec import ChildId, ChildSpec, ChildType, Restart, Shutdown, ShutdownSpec, Strategy
from supervisors.supervisor import Supervisor
from supervisors.table import ChildState, ChildTable, RestartPlan

__all__ = [
    "STOPPED",
    "Child",
    "ChildCounts",
    "ChildError",
    "ChildExistsError",
    "ChildId",
    "ChildInfo",
    "ChildNotFoundError",
    "ChildRestartingError",
    "ChildRunningError",
    "ChildSpec",
    "ChildStartError",
    "ChildState",
    "ChildTable",
    "ChildType",
    "Decision",
    "Down",
    "Ending",
    "Exit",
    "ExitKind",
    "ExitShutdown",
    "MaxRestartsExceeded",
    "Monitor",
    "Restart",
    "RestartPlan",
    "Shutdown",
    "ShutdownSpec",
    "Strategy",
    "Supervisor",
    "SupervisorError",
    "SupervisorNotRunningError",
    "add_restart",
    "affected",
    "await_chain",
    "classify",
    "decide",
    "escalation",
]
