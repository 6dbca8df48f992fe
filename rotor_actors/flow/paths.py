"""Finding a value in a stored input, and making a name of it."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import msgspec

from rotor_actors.errors import PayloadError
from rotor_actors.flow.options import HIGHEST_PRIORITY, LONGEST_KEY, is_path, path_of
from rotor_actors.payload_hooks import from_ext, kind_of

_DECODER: Final = msgspec.msgpack.Decoder[Any](ext_hook=from_ext)


class Input:
    """A stored input, decoded when first looked into, as plain data: names are those under which it is stored."""

    __slots__ = ("_blob", "_value")

    def __init__(self, blob: bytes | None) -> None:
        self._blob = blob
        self._value: Any = msgspec.UNSET

    def at(self, path: tuple[str, ...]) -> Any:
        """The value at the path; None where there is none."""
        if self._value is msgspec.UNSET:
            self._value = None if self._blob is None else _DECODER.decode(self._blob)
        value = self._value
        for segment in path:
            value = _member(value, segment)
        return value

    def first(self) -> Input:
        """The first of a batch's elements."""
        element = Input(None)
        element._value = self.at(("0",))
        return element


def _member(value: Any, segment: str) -> Any:
    kind = kind_of(value)
    if kind is dict:
        return value.get(segment)
    if kind is list and segment.isdecimal() and int(segment) < len(value):
        return value[int(segment)]
    return None


def own_name(workflow_id: str, key: str | None, data: Input) -> str:
    """The name of a key that is the workflow's own."""
    if key is None:
        return workflow_id
    return f"{workflow_id}:{key}={_text(data.at(path_of(key)))}" if is_path(key) else f"{workflow_id}:{key}"


def flow_name(workflow_id: str, key: str, data: Input) -> str:
    """The name of a flow control key: a constant is everybody's, what is found in the input is the workflow's."""
    return own_name(workflow_id, key, data) if is_path(key) else key


def priority_of(where: str, priority: int | str, data: Input, *, is_lenient: bool = False) -> int:
    """A number as it is; what is found at a path, nothing being 0, brought into range.

    Raises:
        PayloadError: no whole number is found there.
    """
    if isinstance(priority, int):
        return priority
    value = data.at(path_of(priority))
    if value is None or (is_lenient and type(value) is not int):
        return 0
    if type(value) is not int:
        raise PayloadError(f"{where}: its priority is the int at {priority!r} of the input; found {value!r}")
    return max(-HIGHEST_PRIORITY, min(HIGHEST_PRIORITY, value))


def _text(value: Any) -> str:
    """The value for people, and the same for the same value."""
    text = value if isinstance(value, str) else _json(value)
    if len(text) <= LONGEST_KEY:
        return text
    return f"{text[: LONGEST_KEY - 33]}~{blake2b(text.encode(), digest_size=16).hexdigest()}"


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, order="sorted").decode()
    except Exception:  # what JSON cannot hold
        return repr(value)
