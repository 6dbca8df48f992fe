"""The line of a workflow's body that is being executed."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

from rotor_actors.loop_tasks import Guard
from rotor_actors.workflows import Workflow

# Of a workflow no more step ids than this are noted with their place: ids that are made of data share one place.
MOST_NOTED_STEPS = 200

_PASSED_OVER = (os.path.dirname(__file__) + os.sep, os.path.dirname(os.__file__) + os.sep + "asyncio" + os.sep)
_TASK_ENDS = (Guard.send.__code__, Guard.throw.__code__)


def place_on_stack() -> str:
    """The line of the body that is on the stack; "" where none is: a task of its own asks, or the body is at rest."""
    found = ""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code in _TASK_ENDS:
            return found  # what is beyond belongs to the host
        if not found and not code.co_filename.startswith(_PASSED_OVER):
            found = f"{code.co_filename}:{frame.f_lineno}, in {code.co_qualname}"
        frame = frame.f_back
    return ""


def place_in(workflow: Workflow[Any, Any]) -> str:
    """The line of the body that is on the stack, or else where its function is."""
    found = place_on_stack()
    code = getattr(workflow.fn, "__code__", None)
    if found or code is None:
        return found or f"a task of {workflow.fn!r}"
    return f"{code.co_filename}:{code.co_firstlineno}, in a task of {code.co_qualname}"
