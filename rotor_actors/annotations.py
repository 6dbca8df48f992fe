"""What a function says about its data and its result, read the way `typing.get_type_hints` reads it."""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Union, cast

__all__ = ["MISSING", "Annotations", "annotations_of"]


class _Missing(enum.Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing.MISSING
"""No annotation, or one whose names cannot be resolved: the value is untyped."""


class Annotations(NamedTuple):
    """The resolved annotations of one function.

    Attributes:
        data: of the data parameter; `None` if there is no such parameter, `MISSING` if it has no annotation.
        returns: of the result, of what awaiting the call gives; `MISSING` if there is none.
        unresolved: the texts of those that could not be resolved (and count as `MISSING`), for messages.
    """

    data: Any
    returns: Any
    unresolved: tuple[str, ...] = ()


def annotations_of(fn: Callable[..., Any], *, data_at: int = 1) -> Annotations:
    """The annotations of a function, method, `functools.partial`, class, or object with `__call__`.

    Args:
        fn: what will be called. A class returns its own instances.
        data_at: position of the data parameter; 1 is the one after `ctx`.

    Never raises: a callable without a signature (many builtins) has nothing but `MISSING`.
    """
    unresolved: list[str] = []
    inner = _innermost(fn)
    data = _resolve(_parameter(fn, data_at), inner, unresolved)
    if _is_class(fn):
        return Annotations(data, fn, tuple(unresolved))
    returns = _resolve(_return_annotation(fn), inner, unresolved)
    if not inspect.iscoroutinefunction(inner):
        returns = _awaited(returns)
    return Annotations(data, returns, tuple(unresolved))


def _is_class(fn: object) -> bool:
    return isinstance(fn, type) or isinstance(typing.get_origin(fn), type)


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except Exception:  # ValueError for builtins; from 3.14 on also what evaluating an annotation raises
        return None


def _parameter(fn: Callable[..., Any], position: int) -> object:
    signature = _signature(fn)
    if signature is None:
        return MISSING
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [each for each in signature.parameters.values() if each.kind in by_position]
    if position >= len(parameters):
        return None
    return _given(parameters[position].annotation)


def _return_annotation(fn: Callable[..., Any]) -> object:
    signature = _signature(fn)
    return MISSING if signature is None else _given(signature.return_annotation)


def _given(annotation: object) -> object:
    return MISSING if annotation is inspect.Signature.empty else annotation


def _innermost(fn: Any) -> Any:
    """The plain function whose globals the annotations are written in."""
    while True:
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        elif isinstance(fn, type):
            return vars(fn).get("__init__", fn)
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif not isinstance(fn, types.FunctionType) and isinstance(call := type(fn).__call__, types.FunctionType):
            fn = call
        else:
            return fn


def _resolve(annotation: object, fn: Any, unresolved: list[str]) -> Any:
    """The annotation with its names looked up, each on its own: one that cannot be found does not take the others."""
    if annotation is MISSING or annotation is None:
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, getattr(fn, "__globals__", {}), _locals(fn), include_extras=True)["it"]
    except Exception:
        unresolved.append(annotation if isinstance(annotation, str) else repr(annotation))
        return MISSING


def _locals(fn: Any) -> dict[str, object]:
    """Names of enclosing functions that the body uses too, and type parameters."""
    names: dict[str, object] = {each.__name__: each for each in getattr(fn, "__type_params__", ())}
    code = getattr(fn, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(fn, "__closure__", None) or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def _awaited(annotation: Any) -> Any:
    """`Awaitable[T]`, `Coroutine[Any, Any, T]`, `Task[T]` of a sync function mean T; also as member of a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Union or origin is types.UnionType:
        members = tuple(_awaited(each) for each in arguments)
        return MISSING if MISSING in members else cast("Any", Union)[members]
    if isinstance(origin, type) and issubclass(origin, collections.abc.Awaitable):
        return arguments[-1]
    if isinstance(annotation, type) and issubclass(cast("type[object]", annotation), collections.abc.Awaitable):
        return MISSING
    return annotation
