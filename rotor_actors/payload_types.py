"""Annotations as msgspec sees them: which can be stored, and what their structure asks for."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Final, NoReturn, TypeVar, cast

import msgspec

from rotor_actors.annotations import MISSING
from rotor_actors.payload_hooks import from_ext, from_plain, type_name

__all__ = ["Traits", "describe", "is_untyped"]

_NO_TYPE: Final[tuple[object, ...]] = (MISSING, Any, object, inspect.Parameter.empty, NoReturn, typing.Never)


def is_untyped(annotation: object) -> bool:
    """Does the annotation say nothing about the value? So do `object`, a bare type variable, and `NoReturn`."""
    return isinstance(annotation, TypeVar) or any(annotation is each for each in _NO_TYPE)


def describe(annotation: object) -> str:
    """The annotation as its author wrote it, nearly."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return type_name(annotation)
    return repr(annotation).replace("typing.", "")


class Traits:
    """What an annotation's structure says about how its values must be handled.

    `exact`: has a part without a type, where only an exact comparison finds a loss.
    `offsets`: may hold datetimes, whose offset msgpack would drop.
    """

    __slots__ = ("decoder", "exact", "offsets")

    def __init__(self, annotation: object) -> None:
        self.decoder = msgspec.msgpack.Decoder(cast("Any", annotation), dec_hook=from_plain, ext_hook=from_ext)
        self.exact = self.offsets = False
        try:
            root = msgspec.inspect.type_info(annotation)
        except Exception:  # msgspec before 0.20 stumbles over some Literals here, which it decodes
            self.exact = self.offsets = True
        else:
            self._walk(root)

    def _walk(self, root: object) -> None:
        # `root` keeps the whole tree alive, so that ids stay unique while it is walked; types may be recursive.
        seen: set[int] = set()
        stack: list[object] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, tuple):
                stack.extend(cast("tuple[object, ...]", node))
            elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
                seen.add(id(node))
                self._note(node)
                stack.extend(getattr(node, name) for name in node.__struct_fields__)

    def _note(self, node: object) -> None:
        custom = isinstance(node, msgspec.inspect.CustomType)
        self.exact |= custom or isinstance(node, msgspec.inspect.AnyType)
        self.offsets |= custom or isinstance(node, msgspec.inspect.DateTimeType)
