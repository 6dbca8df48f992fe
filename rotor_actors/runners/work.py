"""What goes to a worker and what comes back: pickled calls, and how they ended. Both sides use it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import Any, NoReturn

import msgspec

from rotor_actors.error_texts import message_of, traceback_of
from rotor_actors.errors import ErrorInfo, PayloadError, StepFailedError, StepRunnerError
from rotor_actors.step_runner import StepCall

__all__ = ["Answer", "opened", "packed", "perform"]


class Answer(msgspec.Struct):
    """How a call has ended, as it travels: what is pickled is kept apart, for it may not come out again."""

    kind: str
    """`returned`, `raised`, `unloadable` (the call could not be unpickled) or `unreturnable` (its result not pickled)."""
    payload: bytes = b""
    error: ErrorInfo | None = None


def packed(call: StepCall) -> bytes:
    """The call, pickled: the function by its name. Raises StepRunnerError where it cannot be."""
    try:
        return pickle.dumps((call.fn, call.args), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise StepRunnerError(
            f"{call.where}: what {call.fn!r} is called with cannot be pickled, and so not be handed to another process: "
            f"{type(error).__name__}: {message_of(error)}; give it plain data, or the address of what it works on"
        ) from error


def perform(request: bytes) -> bytes:
    """Called in the worker: the call, executed. Never raises."""
    try:
        fn, args = pickle.loads(request)
    except BaseException as error:
        return _encoded("unloadable", error)
    try:
        result = fn(*args)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
    except BaseException as error:
        return _encoded("raised", error, _pickled(error))
    try:
        return msgspec.msgpack.encode(Answer("returned", pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)))
    except BaseException as error:
        return _encoded("unreturnable", error)


def _encoded(kind: str, error: BaseException, payload: bytes = b"") -> bytes:
    info = ErrorInfo(type(error).__qualname__, message_of(error), traceback_of(error))
    return msgspec.msgpack.encode(Answer(kind, payload, info))


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return b""  # its texts must do


def opened(answer: bytes, call: StepCall) -> Any:
    """What the call returned; or what it raised is raised."""
    got = msgspec.msgpack.decode(answer, type=Answer)
    if got.kind == "returned":
        try:
            return pickle.loads(got.payload)
        except Exception as error:
            raise PayloadError(f"{call.where}: its result cannot be unpickled: {error!r}") from error
    assert got.error is not None
    said = f"{got.error.type}: {got.error.message}"
    if got.kind == "unloadable":
        raise StepRunnerError(
            f"{call.where}: the worker could not import {call.fn!r} or unpickle its arguments: {said}; is the module "
            f"there, and does importing it succeed?"
        )
    if got.kind == "unreturnable":
        raise PayloadError(f"{call.where}: its result cannot be pickled: {said}; return plain data")
    _raise(got, call)


def _raise(got: Answer, call: StepCall) -> NoReturn:
    info = got.error
    assert info is not None
    try:
        error = pickle.loads(got.payload)
    except Exception:
        error = None
    if not isinstance(error, Exception | SystemExit):  # KeyboardInterrupt and the like are not meant for this process
        error = StepFailedError(f"{info.type}: {info.message}", error=info)
    error.add_note(f"in the worker:\n{info.traceback}")
    raise error
