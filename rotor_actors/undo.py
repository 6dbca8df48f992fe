"""What `step.run(…, undo=…)` keeps of a step: how it is undone, by a function that another process finds by its name.

Nothing is pickled, and nothing is imported. A function is known as `module:name` when it stands at the top of a module
that has been imported, or as `:name` when its workflow lists it in `undos=`.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from rotor_actors.payload import Codec
from rotor_actors.retry import RetryRecord
from rotor_actors.workflows import Workflow


class UndoNote(msgspec.Struct, frozen=True):
    """How a step is undone. `args` are the step's arguments, encoded by the types of the function's parameters."""

    args: list[bytes]
    retries: RetryRecord
    timeout: float


class UndoSpec(msgspec.Struct, frozen=True):
    """What is recorded when the step has completed."""

    name: str
    note: bytes


def undo_name(workflow: Workflow[Any, Any], fn: Callable[..., Any]) -> str | None:
    """By which name a later process finds the function; None when by none."""
    name: str = getattr(fn, "__name__", "")
    if workflow.undos.get(name) is fn:
        return f":{name}"
    full = f"{getattr(fn, '__module__', '')}:{getattr(fn, '__qualname__', '')}"
    return full if find_undo(workflow, full) is fn else None


def find_undo(workflow: Workflow[Any, Any], name: str) -> Callable[..., Any] | None:
    """The function of this name. A program's main module has another name when it is imported: there, too."""
    module, _, path = name.partition(":")
    if not module:
        return workflow.undos.get(path)
    for place in (module, workflow.fn.__module__):
        found: Any = sys.modules.get(place)
        for part in path.split("."):
            found = getattr(found, part, None)
        if callable(found):
            return typing.cast("Callable[..., Any]", found)
    return workflow.undos.get(path.rpartition(".")[2])  # it was moved since


def takes(fn: Callable[..., Any], count: int) -> bool:
    """Can the function be called with so many positional arguments?"""
    try:
        inspect.signature(fn).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True  # a builtin that tells nothing of itself
    return True


def parameter_codecs(fn: Callable[..., Any], count: int, codec_of: Callable[[object], Codec]) -> list[Codec]:
    """The codecs of the first parameters; where nothing is said of one, a codec for plain data."""
    try:
        hints = typing.get_type_hints(fn)
    except Exception:
        hints = {}
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        names = [each.name for each in inspect.signature(fn).parameters.values() if each.kind in kinds]
    except ValueError:
        names = []
    types = [hints.get(name, Any) for name in names[:count]]
    return [codec_of(each) for each in (*types, *(Any for _ in range(count - len(types))))]
