"""What msgspec cannot store by itself: pydantic models, integers beyond 64 bits, offsets of datetimes.

Nothing here imports pydantic: a model can only reach us when somebody else has.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Final

import msgspec

__all__ = [
    "INTEGER_EXT",
    "from_ext",
    "from_plain",
    "is_model",
    "kind_of",
    "to_plain",
    "to_storable",
    "type_name",
    "widen",
]

# The one extension code of the storage format, besides msgpack's own timestamp (-1). Never reuse the number.
INTEGER_EXT: Final = 1

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**64 - 1
_KEPT: Final = (bytes, bytearray)
_SUBCLASSED: Final = (str, int, float, bytes)


def kind_of(value: object) -> type[Any]:
    """`type(value)`, whose own type checkers leave half unknown when the value is `Any`."""
    return type(value)


def type_name(kind: type) -> str:
    """The class as a reader would look for it: `int`, `decimal.Decimal`, `app.models.Company`."""
    name = kind.__qualname__
    return name if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{name}"


def is_model(kind: object) -> bool:
    """Is this a pydantic v2 model class? Not everything that stands for a type is a class: see `Iterable[int]`."""
    module = sys.modules.get("pydantic.main")
    base = None if module is None else vars(module).get("BaseModel")
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def to_plain(value: Any) -> Any:
    """msgspec's `enc_hook`: a model becomes a dict of its fields, anything else is refused with a remedy."""
    kind = kind_of(value)
    if is_model(kind):
        # Warnings off: what does not fit its field's type is found when the value is compared with what came back.
        return value.model_dump(round_trip=True, warnings=False, by_alias=not _reads_field_names())
    raise TypeError(_why_not(value))


def from_plain(kind: Any, value: Any) -> Any:
    """msgspec's `dec_hook`: the opposite of `to_plain`."""
    if kind is object:
        return value
    if not is_model(kind):
        raise TypeError(f"values of type {_alias_name(kind)} cannot be built from stored data")
    # Not strict: a UUID is stored as text.
    options = {"by_alias": True, "by_name": True} if _reads_field_names() else {}
    return kind.model_validate(value, strict=False, **options)


def _reads_field_names() -> bool:
    """Pydantic before 2.11 can be asked for aliases only, which fails where a field has different ones in and out."""
    version: str = vars(sys.modules["pydantic.version"])["VERSION"]
    return tuple(map(int, version.split(".")[:2])) >= (2, 11)


def from_ext(code: int, data: memoryview) -> object:
    """msgspec's `ext_hook`: integers of any size come back as such."""
    if code != INTEGER_EXT:
        raise ValueError(f"unknown extension {code}: the value was written by another version of this library")
    return int.from_bytes(data, "big", signed=True)


def to_storable(value: object) -> Any:
    """Plain data with datetimes as ISO text: msgpack's own timestamp would turn every offset into UTC."""
    return msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=to_plain)


def widen(value: Any) -> Any:
    """Plain data with each integer beyond 64 bits wrapped in our extension."""
    kind = kind_of(value)
    if kind is int and not _fits(value):
        return msgspec.msgpack.Ext(INTEGER_EXT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is list or kind is tuple:
        return [widen(item) for item in value]
    if kind is dict:
        return {_narrow(key): widen(item) for key, item in value.items()}
    return value


def _fits(number: int) -> bool:
    return _SMALLEST <= number <= _LARGEST


def _alias_name(kind: Any) -> str:
    return type_name(kind) if isinstance(kind, type) else repr(kind)


def _narrow(key: Any) -> Any:
    if isinstance(key, int) and not _fits(key):
        raise TypeError("an integer beyond 64 bits cannot be stored as a key of a dict; use str(key)")
    return key


def _why_not(value: object) -> str:
    kind = kind_of(value)
    name = type_name(kind)
    if inspect.isawaitable(value):
        return f"an object of type {name} cannot be stored; await it and pass its result"
    for base in _SUBCLASSED:
        if isinstance(value, base):
            return f"{name} is a subclass of {base.__name__} and would lose its type; pass {base.__name__}(value)"
    return (
        f"an object of type {name} cannot be stored; use plain data (a dataclass, msgspec.Struct, attrs class, "
        "NamedTuple, TypedDict, pydantic model, Enum, list, dict ...), and open connections and files inside the step "
        "that uses them"
    )
