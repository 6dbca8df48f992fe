"""A door beside the store's file: another process of the same user asks the one that owns the store to act.

Reading needs no door (see `RuntimeView`); cancelling, sending and the like do, for the store has one owner. It is a
Unix socket with the owner's rights only; a request is one line of JSON, and so is its answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from rotor_actors.durations import Duration, humanize, seconds
from rotor_actors.errors import RotorError
from rotor_actors.stores.urls import is_other_url, without_password

_logger = logging.getLogger("rotor_actors")

LONGEST_LINE = 16 * 2**20
_LONGEST_ADDRESS = 100  # the system allows 104 to 108 bytes

Verb: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[object]]


class Answer(msgspec.Struct, omit_defaults=True):
    """What came of a request: a value, or the error by the name of its class."""

    value: Any = None
    error: str = ""
    message: str = ""


class ControlError(RotorError):
    """The process that owns the store refused a request, or does not answer.

    Attributes:
        error: the name of the error's class there; "" when nobody answered.
    """

    def __init__(self, message: str, *, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class ControlTimeoutError(ControlError):
    """The process that owns the store took the request and did not answer in time. What was asked for may have been
    done, or be done yet."""


def address_of(store: str | os.PathLike[str]) -> str:
    """Where the owner of a store's file listens: beside the file, or, where that is too long for a socket's address,
    in the directory for temporary files under a name made of it."""
    beside = f"{Path(store).resolve()}.sock"
    if len(os.fsencode(beside)) <= _LONGEST_ADDRESS:
        return beside
    import hashlib  # seldom needed, and felt on import
    import tempfile

    name = hashlib.sha256(os.fsencode(beside)).hexdigest()[:24]
    return os.path.join(tempfile.gettempdir(), f"rotor-{name}.sock")


def is_possible() -> bool:
    """Does this system have such sockets?"""
    return hasattr(socket, "AF_UNIX") and hasattr(asyncio.AbstractEventLoop, "create_unix_server")


async def serve(address: str, verbs: Mapping[str, Verb]) -> None:
    """Answer requests until cancelled. Only the owner of the store may call this: it takes the address for itself."""
    try:
        listener = _listener(address)
    except OSError as error:
        _logger.warning("no control socket at %s: %s; the command line cannot ask this process to act", address, error)
        return
    silent: set[asyncio.StreamWriter] = set()
    try:
        server = await asyncio.start_unix_server(
            lambda reader, writer: _answer(reader, writer, verbs, silent), sock=listener, limit=LONGEST_LINE
        )
        try:
            await asyncio.get_running_loop().create_future()  # until cancelled
        finally:
            # Not `wait_closed`: newer Pythons wait there for each connection, and somebody may have come and say nothing.
            server.close()
            for writer in tuple(silent):
                writer.transport.abort()
    finally:
        listener.close()
        _remove(address)


def _remove(address: str) -> None:
    Path(address).unlink(missing_ok=True)


def _listener(address: str) -> socket.socket:
    _remove(address)  # of an owner that was killed: the store's lock says that it is gone
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address)
        os.chmod(address, 0o600)  # before it listens: nobody can have come in
        listener.listen(64)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verbs: Mapping[str, Verb],
    silent: set[asyncio.StreamWriter],
) -> None:  # fmt: skip
    try:
        silent.add(writer)
        try:
            line = await reader.readline()
        finally:
            silent.discard(writer)
        if line:
            writer.write(msgspec.json.encode(await _perform(line, verbs), enc_hook=str) + b"\n")
            await writer.drain()
    except (OSError, ValueError) as error:
        _logger.debug("a request at the control socket was cut off: %s", error)
    finally:
        writer.close()


async def _perform(line: bytes, verbs: Mapping[str, Verb]) -> Answer:
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
        verb = verbs.get(str(request.get("verb")))
        if verb is None:
            return Answer(error="ControlError", message=f"unknown verb {request.get('verb')!r}: one of {sorted(verbs)}")
        return Answer(value=await verb(request))
    except Exception as error:
        return Answer(error=type(error).__name__, message=str(error))


def _check_owner(address: str, store: str | os.PathLike[str]) -> None:
    """Raise OSError when somebody else listens there: in a directory for temporary files anybody can."""
    owner = os.stat(address).st_uid
    if owner not in (0, os.getuid(), os.stat(store).st_uid):
        raise PermissionError(f"{address} belongs to another user (uid {owner}): nothing was sent to it")


def ask(store: str | os.PathLike[str], verb: str, *, within: Duration = "60s", **arguments: object) -> Any:
    """Ask the owner of a store to do something, and wait for what comes of it. Blocks.

    Args:
        within: how long it may take: a process whose event loop is blocked never answers. Cancelling lasts as long as
            what is cancelled cleans up, deleting as long as there is something to delete.

    Raises:
        ControlTimeoutError: no answer within that time; it may have been done.
        ControlError: it refused, by the name of its error; or nobody answers, or the store is none with one owner, and
            then nothing was done.
        DurationError: `within` is no duration above zero.
    """
    limit = seconds(within, name="within", exclusive=True)
    if isinstance(store, str) and is_other_url(store):
        raise ControlError(
            f"{without_password(store)} is no file with one owner, so there is no process to ask: use Runtime(url), "
            f"RuntimeView(url), or the command line with --store, which become a replica for a moment; nothing was done"
        )
    try:
        return _asked(store, verb, arguments, limit)
    except TimeoutError as error:
        raise ControlTimeoutError(
            f"the process that owns {store} did not answer {verb!r} within {humanize(limit)}; look whether it was done, and "
            f"whether that process hangs; allow more time with ask(…, within=…)"
        ) from error


def _asked(store: str | os.PathLike[str], verb: str, arguments: Mapping[str, object], limit: float) -> Any:
    address = address_of(store)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(limit)
        try:
            _check_owner(address, store)
            connection.connect(address)
        except TimeoutError:
            raise
        except OSError as error:
            raise ControlError(f"no running process answers for {store}: {error}") from error
        connection.sendall(msgspec.json.encode({"verb": verb, **arguments}) + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    if not line:
        raise ControlError(f"the process that owns {store} ended before it answered; look whether {verb} was done")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error:
        raise ControlError(answer.message, error=answer.error)
    return answer.value
