"""The values inside exceptions as msgpack, exact without annotations: no one annotates `raise KeyError(("a", 1))`.

Each type msgpack does not know is an extension around its parts. A value of any other type is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from rotor_actors.errors import ErrorInfo, PayloadError
from rotor_actors.payload import Codecs
from rotor_actors.payload_hooks import INTEGER_EXT, from_ext, kind_of, widen

__all__ = ["pack_value", "unpack_value"]

_Row = tuple[type, int, Callable[[Any], Any], Callable[[Any], Any]]

# Type, code, to parts, from parts. Codes are stored: never reuse one.
_TABLE: Final[tuple[_Row, ...]] = (
    (tuple, 10, list[Any], tuple[Any, ...]),
    (set, 11, list[Any], set[Any]),
    (frozenset, 12, list[Any], frozenset[Any]),
    (UUID, 13, str, UUID),
    (Decimal, 14, str, Decimal),
    (datetime, 15, datetime.isoformat, datetime.fromisoformat),
    (date, 16, date.isoformat, date.fromisoformat),
    (timedelta, 17, lambda each: [each.days, each.seconds, each.microseconds], lambda parts: timedelta(*parts)),
    (
        ErrorInfo,
        18,
        lambda each: [each.type, each.message, each.traceback, each.is_final],
        lambda parts: ErrorInfo(*parts),
    ),
)


def pack_value(value: object, codecs: Codecs) -> bytes:
    """The value as msgpack.

    Raises:
        PayloadError: it holds something that would not come back as it was.
    """
    return codecs.of().encode(_tagged(value, codecs))


def unpack_value(blob: bytes) -> Any:
    """The value of what `pack_value` made, equal in type and value."""
    return msgspec.msgpack.decode(blob, ext_hook=_untagged)


def _tagged(value: Any, codecs: Codecs) -> Any:
    kind = kind_of(value)
    if kind is list:
        return [_tagged(each, codecs) for each in value]
    if kind is dict:
        return {_key(key, codecs): _tagged(each, codecs) for key, each in value.items()}
    for known, code, to_parts, _ in _TABLE:
        if kind is known:
            return msgspec.msgpack.Ext(code, pack_value(to_parts(value), codecs))
    # Exactly as it was, or refused.
    return widen(codecs.of().round_trip(value)[1])


def _key(key: Any, codecs: Codecs) -> Any:
    return codecs.of().round_trip(key)[1]


def _untagged(code: int, data: memoryview) -> object:
    if code == INTEGER_EXT:
        return from_ext(code, data)
    for _, known, _, from_parts in _TABLE:
        if code == known:
            return from_parts(unpack_value(bytes(data)))
    raise PayloadError(f"unknown extension {code}: the error was recorded by another version of this library")
