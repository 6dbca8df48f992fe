"""The expressions of `where` as trees: what of them can be looked up, and whether they hold of an event. Pure.

`event` is the event that comes in (`event.name`, `event.id`, `event.data…`), `data` is short for `event.data`, and
`own` is the event that started the run which waits. A path that is not there is `null`. Nothing is ever raised when
it is evaluated: values that cannot be compared are neither less nor greater.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

PathKey: TypeAlias = str | int


class Literal(msgspec.Struct, frozen=True):
    value: Any


class ListOf(msgspec.Struct, frozen=True):
    items: tuple[Node, ...]


class Path(msgspec.Struct, frozen=True):
    """A place in an event: `event.data.user.id` is `is_own=False, keys=("data", "user", "id")`."""

    is_own: bool
    keys: tuple[PathKey, ...]


class Compare(msgspec.Struct, frozen=True):
    op: str
    left: Node
    right: Node


class Not(msgspec.Struct, frozen=True):
    operand: Node


class Both(msgspec.Struct, frozen=True):
    parts: tuple[Node, ...]


class Either(msgspec.Struct, frozen=True):
    parts: tuple[Node, ...]


Node: TypeAlias = Literal | ListOf | Path | Compare | Not | Both | Either


def look_up(event: Any, keys: Sequence[PathKey]) -> Any:
    """The value at a path in an event of plain data, or None where there is none."""
    for key in keys:
        if isinstance(event, dict):
            event = event.get(key)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        elif isinstance(event, list | tuple) and type(key) is int and key < len(event):  # pyright: ignore[reportUnknownArgumentType]
            event = event[key]  # pyright: ignore[reportUnknownVariableType]
        else:
            return None
    return event  # pyright: ignore[reportUnknownVariableType]


def own_paths(node: Node) -> list[Path]:
    """The paths into the run's own event, in the order in which `bind` takes their values."""
    match node:
        case Path():
            return [node] if node.is_own else []
        case Compare():
            return own_paths(node.left) + own_paths(node.right)
        case Not():
            return own_paths(node.operand)
        case Both() | Either():
            return [path for part in node.parts for path in own_paths(part)]
        case ListOf():
            return [path for item in node.items for path in own_paths(item)]
        case Literal():
            return []


def bind(node: Node, values: Iterator[Any]) -> Node:
    """The expression with values in place of the paths into the run's own event."""
    match node:
        case Path():
            return Literal(next(values)) if node.is_own else node
        case Compare():
            return Compare(node.op, bind(node.left, values), bind(node.right, values))
        case Not():
            return Not(bind(node.operand, values))
        case Both():
            return Both(tuple(bind(part, values) for part in node.parts))
        case Either():
            return Either(tuple(bind(part, values) for part in node.parts))
        case ListOf():
            return ListOf(tuple(bind(item, values) for item in node.items))
        case Literal():
            return node


def equality(node: Node | None) -> tuple[tuple[PathKey, ...], Any] | None:
    """A place in the event and the value it must have, if the (bound) expression demands one that can be looked up."""
    if isinstance(node, Both):
        return next((found for part in node.parts if (found := equality(part)) is not None), None)
    if not isinstance(node, Compare) or node.op != "==":
        return None
    for path, other in ((node.left, node.right), (node.right, node.left)):
        if isinstance(path, Path) and not path.is_own and isinstance(other, Literal) and is_indexable(other.value):
            return path.keys, other.value
    return None


def is_indexable(value: Any) -> bool:
    """It equals itself, and has a hash that says so."""
    return value is None or type(value) in (bool, int, str, bytes) or (type(value) is float and value == value)


def index_key(value: Any) -> Any:
    """As in the expressions, 1 equals 1.0, and not true."""
    return (value,) if type(value) is bool else value


def holds(node: Node | None, event: Any) -> bool:
    """Is the (bound) expression true of this event?"""
    return node is None or bool(_value(node, event))


def _value(node: Node, event: Any) -> Any:
    match node:
        case Literal():
            return node.value
        case Path():
            return look_up(event, node.keys)
        case Compare():
            return _compare(node.op, _value(node.left, event), _value(node.right, event))
        case Both():
            return all(_value(part, event) for part in node.parts)
        case Either():
            return any(_value(part, event) for part in node.parts)
        case Not():
            return not _value(node.operand, event)
        case ListOf():
            return [_value(item, event) for item in node.items]


def _compare(op: str, left: Any, right: Any) -> bool:
    match op:
        case "==":
            return _equal(left, right)
        case "!=":
            return not _equal(left, right)
        case "in":
            return _contains(left, right)
        case "not in":
            return not _contains(left, right)
        case _:
            return _in_order(op, left, right)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return bool(left == right)


def _contains(item: Any, container: Any) -> bool:
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, list | tuple | set | frozenset | dict):
        return any(_equal(item, each) for each in container)  # pyright: ignore[reportUnknownVariableType]
    return False


def _in_order(op: str, left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    try:
        match op:
            case "<":
                return bool(left < right)
            case "<=":
                return bool(left <= right)
            case ">":
                return bool(left > right)
            case _:
                return bool(left >= right)
    except TypeError:
        return False
