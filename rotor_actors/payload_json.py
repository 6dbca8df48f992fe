"""Stored bytes as JSON-safe data, for people to look at: dashboard, command line, export."""

from __future__ import annotations

import base64
import math
from datetime import datetime
from typing import Any, Final

import msgspec

from rotor_actors.payload_hooks import from_ext, kind_of

__all__ = ["to_json"]

_DECODER: Final = msgspec.msgpack.Decoder[Any](ext_hook=from_ext)
# Beyond this, JavaScript's numbers have gaps: a dashboard would show another number than the stored one.
_EXACT_IN_JAVASCRIPT: Final = 2**53 - 1


def to_json(blob: bytes) -> object:
    """What the bytes hold, as something `json.dumps(..., allow_nan=False)` takes. For display: cannot be turned back.

    bytes become `"base64:..."`, nan and the infinities and integers that JavaScript cannot hold become text, keys
    become text. Bytes that are no msgpack become a note saying so; never raises.
    """
    try:
        return _safe(_DECODER.decode(blob))
    except Exception as error:
        return f"<unreadable: {type(error).__name__}: {error}>"


def _safe(value: Any) -> object:
    kind = kind_of(value)
    if kind is dict:
        return {_key(key): _safe(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_safe(item) for item in value]
    return _safe_atom(value)


def _safe_atom(value: object) -> object:
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= _EXACT_IN_JAVASCRIPT else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return f"base64:{base64.b64encode(value).decode()}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(_safe(key))
