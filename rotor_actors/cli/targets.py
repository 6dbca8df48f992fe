"""From `module:name` on the command line to workflows and runtimes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any, cast

from rotor_actors.cli.main import UsageError
from rotor_actors.cli.stores import stores_of
from rotor_actors.runtime import Runtime
from rotor_actors.step_runner import StepRunner
from rotor_actors.workflows import Workflow


def load(target: str) -> Any:
    """What `module:name` names; the current directory is looked in first. Raises UsageError."""
    module_name, colon, path = target.partition(":")
    if not colon or not module_name or not path:
        raise UsageError(f"{target!r}: expected MODULE:NAME, e.g. shop.orders:place_order")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            raise UsageError(f"{target!r}: there is no module {error.name!r} here ({os.getcwd()})") from error
        raise
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{target!r}: {getattr(found, '__name__', found)!r} has no {name!r}")
        found = getattr(found, name)
    return found


def load_workflow(target: str) -> Workflow[Any, Any]:
    """The workflow that `module:name` names. Raises UsageError."""
    found = load(target)
    if not isinstance(found, Workflow):
        raise UsageError(f"{target!r} is {type(found).__name__}; expected a function decorated with @workflow")
    workflow: Workflow[Any, Any] = found  # pyright: ignore[reportUnknownVariableType]
    return workflow


def workflows_beside(target: str) -> list[Workflow[Any, Any]]:
    """All workflows of the module that `module:name` names: those that a run of it may invoke by id."""
    module = importlib.import_module(target.partition(":")[0])
    return [value for value in vars(module).values() if isinstance(value, Workflow)]


def runners_beside(target: str) -> dict[str, StepRunner]:
    """The step runners of the runtimes in the module that `module:name` names."""
    module = importlib.import_module(target.partition(":")[0])
    found: dict[str, StepRunner] = {}
    for value in vars(module).values():
        if isinstance(value, Runtime):
            found |= value.given_runners()
    return found


def load_runtime(target: str, store: str, *, must_use_store: bool = False) -> Runtime:
    """A runtime from what `module:name` names: one, a function that makes one, or workflows.

    Raises:
        UsageError: it is nothing of that; or it has a store of its own, and `must_use_store`.
    """
    found = load(target)
    if callable(found) and not isinstance(found, Workflow | Runtime):
        found = found()
    if isinstance(found, Runtime):
        if must_use_store:
            raise UsageError(
                f"{target!r} has a store of its own, so --store would not be used: leave it out, or name workflows"
            )
        return found
    if isinstance(found, Workflow):
        chosen: Workflow[Any, Any] = found  # pyright: ignore[reportUnknownVariableType]
        return Runtime(
            stores_of(store), workflows=[chosen, *(each for each in workflows_beside(target) if each is not chosen)]
        )
    if isinstance(found, Iterable):
        workflows: list[Any] = list(found)  # pyright: ignore[reportUnknownArgumentType]
        if workflows and all(isinstance(each, Workflow) for each in workflows):
            return Runtime(stores_of(store), workflows=workflows)
    kind = type(cast(object, found)).__name__
    raise UsageError(f"{target!r} is {kind}; expected a Runtime, a function that makes one, or workflows")
