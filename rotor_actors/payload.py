"""Codecs: a value becomes msgpack bytes and comes back equal in type and value, or `PayloadError` says why not.

What a step returns is handed on after its round trip, in the first execution as on replay, so the two never differ and
never alias the caller's object. No pickle.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rotor_actors.annotations import MISSING, Annotations, annotations_of
from rotor_actors.errors import PayloadError
from rotor_actors.payload_check import difference, is_same_plain
from rotor_actors.payload_hooks import from_ext, from_plain, to_plain, to_storable, type_name, widen
from rotor_actors.payload_json import to_json
from rotor_actors.payload_types import Traits, describe, is_untyped

__all__ = ["MISSING", "Annotations", "Codec", "Codecs", "annotations_of", "to_json"]

_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=to_plain)
_UNTYPED: Final = msgspec.msgpack.Decoder[Any](ext_hook=from_ext)
_ATOMS: Final[frozenset[object]] = frozenset({type(None), bool, int, float, str, bytes})
# Classes made inside functions are new ones on each call: a cache without a bound would keep them all.
_MOST_CACHED: Final = 4096


class Codecs:
    """The codecs of one runtime, one per annotation.

    >>> codec = Codecs().of(tuple[int, str])
    >>> codec.decode(codec.encode((1, "a")))
    (1, 'a')

    Args:
        limit: the largest number of bytes that one value may take.
    """

    def __init__(self, limit: int = 4 * 2**20) -> None:
        self.limit = limit
        self._codecs: dict[object, Codec] = {}
        # Annotations without a hash are known by identity; the entry holds them, so that the id stays theirs.
        self._unhashable: dict[int, tuple[object, Codec]] = {}

    def of(self, annotation: object = MISSING) -> Codec:
        """The codec of an annotation; of untyped values if it is missing or `Any`. Cached.

        Raises:
            PayloadError: values of this annotation can never be stored.
        """
        try:
            codec = self._codecs.get(annotation)
        except TypeError:
            return self._of_unhashable(annotation)
        if codec is None:
            codec = _make(annotation, self.limit)
            _keep(self._codecs, annotation, codec)
        return codec

    def _of_unhashable(self, annotation: object) -> Codec:
        entry = self._unhashable.get(id(annotation))
        if entry is None:
            entry = (annotation, _make(annotation, self.limit))
            _keep(self._unhashable, id(annotation), entry)
        return entry[1]


class Codec:
    """Encodes and decodes the values of one annotation. This class is the one for typed values.

    Attributes:
        annotation: the annotation, or `MISSING` for untyped values.
    """

    __slots__ = ("_decoder", "_exact", "_limit", "_offsets", "annotation")

    def __init__(self, annotation: object, limit: int, traits: Traits) -> None:
        self.annotation: Any = annotation
        self._limit = limit
        self._exact, self._offsets = traits.exact, traits.offsets
        self._decoder: msgspec.msgpack.Decoder[Any] = traits.decoder

    def gives_same(self, one: bytes | None, other: bytes | None) -> bool:
        """Do both stand for the same value? Sets are stored in no particular order."""
        if one == other or one is None or other is None:
            return one == other
        try:
            return bool(self.decode(one) == self.decode(other))
        except PayloadError:
            return False

    def encode(self, value: object) -> bytes:
        """The value as msgpack.

        Raises:
            PayloadError: it has no faithful form, or takes more than the limit.
        """
        try:
            blob = self._pack(value)
        except Exception as error:
            blob = self._pack_wide(value, error)
        if len(blob) > self._limit:
            raise _too_large(len(blob), self._limit)
        return blob

    def decode(self, blob: bytes) -> Any:
        """The value of stored bytes.

        Raises:
            PayloadError: they do not fit the annotation (it changed since they were written).
        """
        try:
            return self._decoder.decode(blob)
        except Exception:
            pass  # typed decoding does not know all: see below
        try:
            return self._unpack(blob)
        except Exception as error:
            raise PayloadError(
                f"the stored value does not fit {describe(self.annotation)}: {error}; if the type changed, "
                "give new fields a default, and keep the type of old ones"
            ) from error

    def round_trip(self, value: object) -> tuple[bytes, Any]:
        """The stored bytes, and the value as every replay will see it: equal to the given one, never the same object.

        (Immutable atoms such as `int` and `str` are handed back as they are.)

        Raises:
            PayloadError: something would be altered or lost, or the value takes more than the limit.
        """
        blob = self.encode(value)
        try:
            decoded = self._unpack(blob)
        except Exception as error:
            raise self._misfit(value, error) from error
        if not self._is_same(value, decoded, blob):
            self._check(value, decoded)
        return blob, decoded

    def _pack(self, value: object) -> bytes:
        return _ENCODER.encode(to_storable(value) if self._offsets else value)

    def _pack_wide(self, value: object, error: Exception) -> bytes:
        if isinstance(error, OverflowError):
            try:
                return _ENCODER.encode(widen(to_storable(value)))
            except Exception as second:
                error = second
        raise _unstorable(error) from error

    def _unpack(self, blob: bytes) -> Any:
        try:
            return self._decoder.decode(blob)
        except msgspec.ValidationError as error:
            # Typed decoding knows no extensions, and wide integers are one: once more by way of plain data.
            try:
                return msgspec.convert(_UNTYPED.decode(blob), self.annotation, dec_hook=from_plain)
            except Exception:
                raise error from None

    def _is_same(self, value: object, decoded: object, blob: bytes) -> bool:
        """The quick check. False only says that the thorough one is needed."""
        try:
            if self._exact:
                return is_same_plain(value, decoded)
            return type(value) is type(decoded) and bool(value == decoded) and self._pack(decoded) == blob
        except Exception:
            return False

    def _check(self, value: object, decoded: object) -> None:
        try:
            found = difference(value, decoded, exact=self._exact)
        except RecursionError as error:
            raise _unstorable(error) from error
        if found is not None:
            raise PayloadError(f"the value would be altered by storing it: {found}; {self._remedy()}")

    def _misfit(self, value: object, error: Exception) -> PayloadError:
        return PayloadError(
            f"the value ({type_name(type(value))}) does not fit its annotation {describe(self.annotation)}: {error}; "
            "return what the annotation says, or correct the annotation"
        )

    def _remedy(self) -> str:
        if self._exact:
            return "annotate precisely (the function's return type or the field, without Any), or use plain data"
        return f"annotate with the value's own type instead of {describe(self.annotation)}"


class _AtomCodec(Codec):
    """`int`, `str`, `float`, `bool`, `bytes`, `None`: immutable, so the value itself may be handed back."""

    __slots__ = ()

    def round_trip(self, value: object) -> tuple[bytes, Any]:
        if type(value) is not self.annotation:
            return super().round_trip(value)
        try:
            blob = _ENCODER.encode(value)
        except Exception:
            blob = self.encode(value)  # which knows what to do, or to say
        if len(blob) > self._limit:
            raise _too_large(len(blob), self._limit)
        return blob, value


class _UntypedCodec(Codec):
    """No annotation: only what comes back exactly as it was, type by type."""

    __slots__ = ()

    def round_trip(self, value: object) -> tuple[bytes, Any]:
        if type(value) in _ATOMS:
            return self.encode(value), value
        return super().round_trip(value)

    def _unpack(self, blob: bytes) -> Any:
        return self._decoder.decode(blob)

    def _remedy(self) -> str:
        return "annotate the return type of the function (or the parameter), or use plain data"


def _make(annotation: object, limit: int) -> Codec:
    if annotation is None:
        annotation = type(None)
    if is_untyped(annotation):
        return _UntypedCodec(MISSING, limit, Traits(Any))
    try:
        traits = Traits(annotation)
    except Exception as error:
        raise PayloadError(
            f"values annotated {describe(annotation)} cannot be stored: {error}; annotate with one class whose fields "
            "are plain data; members of a union need a tag (msgspec.Struct with tag=True)"
        ) from error
    is_atom = isinstance(annotation, type) and annotation in _ATOMS
    return (_AtomCodec if is_atom else Codec)(annotation, limit, traits)


def _keep(cache: dict[Any, Any], key: object, entry: object) -> None:
    if len(cache) >= _MOST_CACHED:
        cache.clear()
    cache[key] = entry


def _too_large(size: int, limit: int) -> PayloadError:
    return PayloadError(
        f"the value takes {size} bytes, the limit is {limit}; store it elsewhere and pass a reference (a path, a key), "
        "or raise the limit with Runtime(payload_limit=...)"
    )


def _unstorable(error: Exception) -> PayloadError:
    match error:
        case UnicodeEncodeError():
            return PayloadError(
                "a text with a lone surrogate cannot be stored; clean it first, for instance with "
                "text.encode('utf-8', 'replace').decode()"
            )
        case RecursionError():
            return PayloadError(
                "the value refers to itself or is nested too deeply; make it flat, with ids as references"
            )
        case _:
            return PayloadError(f"the value cannot be stored: {error}")
