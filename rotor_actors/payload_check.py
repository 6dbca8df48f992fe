"""Was anything altered on the way into storage and back? Compared part by part, so that the answer names a place.

`==` alone is not enough: `IntEnum` members equal integers, `nan` equals nothing, a class may compare by id only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime, time
from decimal import Decimal
from itertools import chain
from typing import Any, Final, cast

import msgspec

from rotor_actors.payload_hooks import is_model, kind_of, type_name

__all__ = ["difference", "is_same_plain"]

_SEQUENCES: Final = (list, tuple)
_ATOMS: Final[frozenset[type]] = frozenset({str, int, bool, bytes, type(None)})


def is_same_plain(value: object, decoded: object) -> bool:
    """Is this plain data (atoms, lists, dicts), and the same, type by type? The quick check of untyped values.

    False only says that `difference` must look: it knows more types, nan, and can say what is wrong.
    """
    kind = type(value)
    if kind is not type(decoded):
        return False
    if kind in _ATOMS or kind is float:
        return value == decoded
    if kind is list:
        return _are_same_lists(value, decoded)
    return kind is dict and _are_same_dicts(value, decoded)


def _are_same_lists(value: Any, decoded: Any) -> bool:
    return len(value) == len(decoded) and all(map(is_same_plain, value, decoded))


def _are_same_dicts(value: Any, decoded: Any) -> bool:
    return (
        len(value) == len(decoded)
        and all(map(is_same_plain, value, decoded))
        and all(map(is_same_plain, value.values(), decoded.values()))
    )


def difference(value: Any, decoded: Any, *, exact: bool) -> str | None:
    """What was altered, as text with its place; `None` if nothing was.

    Args:
        value: what was to be stored. decoded: what came back.
        exact: types must be the same everywhere (untyped values). Otherwise the annotation chose between list and
            tuple, set and frozenset, `IntEnum` and `int`, and equal values will do. An integer may come back as the
            equal float in both cases: only an annotation `float` does that.
    """
    return _compare(value, decoded, exact, "")


def _compare(value: Any, decoded: Any, exact: bool, path: str) -> str | None:
    kind, other = kind_of(value), kind_of(decoded)
    if kind in _ATOMS and kind is other:
        return None if value == decoded else _altered(value, decoded, path)
    if kind is not other and not _is_annotations_choice(value, decoded, exact):
        return _altered(value, decoded, path)
    if issubclass(kind, _SEQUENCES) and issubclass(other, _SEQUENCES):
        return _compare_items(value, decoded, exact, path)
    if issubclass(kind, dict) and issubclass(other, dict):
        return _compare_dicts(value, decoded, exact, path)
    if (names := _field_names(value)) is not None:
        return _compare_fields(value, decoded, names, exact, path)
    return None if _same_leaf(value, decoded) else _altered(value, decoded, path)


def _is_annotations_choice(value: Any, decoded: Any, exact: bool) -> bool:
    """May the two types differ, because the annotation said which to use?"""
    if type(value) is int and type(decoded) is float:
        return True
    return not exact and _field_names(value) is None and _field_names(decoded) is None


def _compare_items(value: list[Any], decoded: list[Any], exact: bool, path: str) -> str | None:
    if len(value) != len(decoded):
        return _altered(value, decoded, path)
    for index, (ours, theirs) in enumerate(zip(value, decoded, strict=True)):
        if ours is not theirs and (found := _compare(ours, theirs, exact, f"{path}[{index}]")):
            return found
    return None


def _compare_dicts(value: dict[Any, Any], decoded: dict[Any, Any], exact: bool, path: str) -> str | None:
    if len(value) != len(decoded):
        return _altered(value, decoded, path)
    for ours, theirs in zip(value, decoded, strict=True):
        found = _compare(ours, theirs, exact, f"{path} key {_quote(ours)}") or _compare(
            value[ours], decoded[theirs], exact, f"{path}[{_quote(ours)}]"
        )
        if found:
            return found
    return None


def _compare_fields(value: Any, decoded: Any, names: Iterable[str], exact: bool, path: str) -> str | None:
    for name in names:
        ours, theirs = getattr(value, name, None), getattr(decoded, name, None)
        if ours is not theirs and (found := _compare(ours, theirs, exact, f"{path}.{name}")):
            return found
    return None


def _field_names(value: Any) -> Iterable[str] | None:
    """The names of what makes up an instance of a data class, or `None` for anything else."""
    kind = kind_of(value)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return [attribute.name for attribute in attributes]
    if is_model(kind):
        return chain(cast("dict[str, Any]", vars(value)), ("__pydantic_extra__", "__pydantic_private__"))
    return None


def _same_leaf(value: Any, decoded: Any) -> bool:
    if isinstance(value, datetime | time) and isinstance(decoded, datetime | time):
        # Not by `==`: that compares instants, not the hour a reader sees, and says False for any local time that a
        # change of clocks skips or repeats (PEP 495).
        bare = value.replace(tzinfo=None) == decoded.replace(tzinfo=None)
        return bare and value.utcoffset() == decoded.utcoffset()
    if isinstance(value, float | Decimal) and value != value:
        return bool(decoded != decoded)
    return bool(value == decoded)


def _altered(value: object, decoded: object, path: str) -> str:
    place = f" at {path.strip()}" if path else ""
    if type(value) is type(decoded):
        return f"{_quote(value)}{place} would come back as {_quote(decoded)}"
    return f"{_quote(value)}{place} ({type_name(type(value))}) would come back as {type_name(type(decoded))}"


def _quote(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type_name(type(value))}>"
    return text if len(text) <= 60 else f"{text[:60]}..."
