"""Exceptions as records and back, without pickle.

What a failed step raises is rebuilt from its record, in the first execution as on replay, so both see the same. What
is rebuilt depends on the record and on the classes that are loaded, never on the live exception.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import msgspec

from rotor_actors.error_texts import bounded, message_of, traceback_of
from rotor_actors.error_values import pack_value, unpack_value
from rotor_actors.errors import ErrorInfo, StepFailedError
from rotor_actors.payload import Codecs
from rotor_actors.payload_hooks import type_name
from rotor_actors.retry import is_retriable

__all__ = ["RecordedError", "rebuild", "record"]


class RecordedError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception that has left its process.

    Attributes:
        info: type name, message and traceback, for people.
        module: where its class lives. qualname: the class in there.
        args: what its builtin base class is built from; `None` if it cannot be built again.
        attributes: what the instance holds besides, or `None` for nothing.
        members: of an exception group.
        retriable: False if it, or a member of it, is a `NonRetriableError`.
    """

    info: ErrorInfo
    module: str
    qualname: str
    args: bytes | None = None
    attributes: bytes | None = None
    members: tuple[RecordedError, ...] = ()
    retriable: bool = True


_DEEPEST = 50
"""How far down a group's groups are kept as they are; each level is built once more for each one above it."""


def record(error: BaseException, codecs: Codecs, *, depth: int = 0) -> RecordedError:
    """What is kept of an exception. Never raises an ordinary exception, whatever the given one does.

    An exception whose arguments or attributes cannot be stored exactly keeps its texts only, and will be rebuilt as a
    `StepFailedError`; so will one whose class is local to a function, or is no `Exception`, or that stands in more
    groups, one within the other, than anybody looks through (`depth` says in how many).
    """
    kind = type(error)
    info = ErrorInfo(bounded(type_name(kind)), message_of(error), traceback_of(error))
    texts_only = RecordedError(info, bounded(kind.__module__), bounded(kind.__qualname__), retriable=_retriable(error))
    try:
        return _with_content(error, texts_only, codecs, depth) if depth <= _DEEPEST else texts_only
    except Exception:  # PayloadError for what cannot be stored; anything at all from a class that misbehaves
        return texts_only


def rebuild(recorded: RecordedError) -> Exception:
    """The recorded exception again, with its original traceback as a note. A new object on each call.

    Its class is looked up among the loaded modules, nothing is imported. So call this when the outcome is handed to
    the workflow: code that names the class in an `except` has imported it by then. The class's own `__init__` and
    `__new__` are not called. If anything is missing, a `StepFailedError` stands in.
    """
    try:
        error = _build(recorded)
    except Exception:
        error = None
    if error is None:
        error = _stand_in(recorded)
    if recorded.info.traceback:
        error.add_note(f"original traceback:\n{recorded.info.traceback}")
    return error


def _with_content(error: BaseException, texts_only: RecordedError, codecs: Codecs, depth: int) -> RecordedError:
    kind = type(error)
    if _find_class(kind.__module__, kind.__qualname__) is not kind or _has_hidden_state(kind):
        return texts_only
    args, attributes = _content(error)
    members: tuple[RecordedError, ...] = ()
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        members = tuple(record(each, codecs, depth=depth + 1) for each in group.exceptions)
        args = (group.message,)
    full = msgspec.structs.replace(
        texts_only,
        args=pack_value(args, codecs),
        attributes=pack_value(attributes, codecs) if attributes else None,
        members=members,
    )
    # Tried now, so that a replay need not decide. Classes written in C may hold more than args and attributes: then
    # the text gives them away. (Only now: a text may depend on the process, on its hash seed for instance.)
    built = _build(full)
    return full if built is not None and message_of(built) == texts_only.info.message else texts_only


def _build(recorded: RecordedError) -> Exception | None:
    kind = _find_class(recorded.module, recorded.qualname)
    if kind is None or recorded.args is None:
        return None
    stored = unpack_value(recorded.args)
    if not isinstance(stored, tuple):
        return None
    args: list[Any] = [*stored]
    if recorded.members:
        args.append([rebuild(each) for each in recorded.members])
    error = _construct(kind, args)
    if recorded.attributes is not None:
        for name, value in unpack_value(recorded.attributes).items():
            object.__setattr__(error, name, value)
    return error


def _construct(kind: type[Exception], args: list[Any]) -> Exception:
    """An instance made by the builtin base alone: it knows its own fields (`errno`, `start`, `name` ...)."""
    base = _builtin_base(kind)
    error: Exception = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def _content(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the builtin base says is needed to make it again, and the attributes. Notes are part of the traceback."""
    _, args, *rest = cast("tuple[Any, ...]", _builtin_base(type(error)).__reduce__(error))
    state: dict[str, Any] = dict(rest[0]) if rest and rest[0] else {}
    state.pop("__notes__", None)
    return args, state


def _find_class(module: str, qualname: str) -> type[Exception] | None:
    """The class of that name among the loaded modules, if it is one that may be built.

    By way of `__dict__`, for a module's `__getattr__` may import things. `StopIteration` is left out: no future
    and no coroutine can raise it.
    """
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        if found is None:
            return None
        found = cast("dict[str, object]", vars(found)).get(part)
    if not isinstance(found, type) or not issubclass(found, Exception) or issubclass(found, StopIteration):
        return None
    return found


def _builtin_base(kind: type) -> Any:
    return next(each for each in kind.__mro__ if each.__module__ == "builtins")


def _has_hidden_state(kind: type) -> bool:
    """Does a class written in Python keep fields in slots, where `__reduce__` does not see them?"""
    return any(vars(each).get("__slots__") for each in kind.__mro__ if each.__module__ != "builtins")


def _retriable(error: BaseException) -> bool:
    try:
        return is_retriable(error)
    except Exception:
        return True


def _stand_in(recorded: RecordedError) -> StepFailedError:
    info = recorded.info
    text = f"{info.type}: {info.message}" if info.message else info.type
    return StepFailedError(text, error=info, retriable=recorded.retriable)
