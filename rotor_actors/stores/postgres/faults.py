"""What the driver and the server raise, translated once, at the edge."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from rotor_actors.errors import StoreCorruptedError, StoreError, StoreFullError, StoreUnavailableError

_BEGIN_ANEW = frozenset({"40001", "40P01"})
"""Two statements were in each other's way and this one was undone: the same call may be made again."""

UNIQUE_VIOLATION = "23505"

_BY_STATE: dict[str, tuple[type[StoreError], str]] = {
    "53100": (StoreFullError, "the server's disk is full, and nothing was written; make room, it goes on by itself"),
    "25006": (
        StoreUnavailableError,
        "the database is read-only: a standby, or default_transaction_read_only is on. Give the URL of the primary (with "
        "several hosts: target_session_attrs=read-write)",
    ),
    "28P01": (StoreError, "the password is wrong; check the URL, or the user's password in the database"),
    "28000": (
        StoreError,
        "the server does not let this user in; check the user in the URL, and the server's pg_hba.conf",
    ),
    "3D000": (StoreError, "there is no such database; create it: CREATE DATABASE …"),
    "42501": (
        StoreError,
        "permission denied: the user must be able to create tables in the schema, once, and to read and write them: "
        "GRANT USAGE, CREATE ON SCHEMA … TO …",
    ),
    "42704": (
        StoreError,
        "something that was named is not there; if the URL names it: a URL has the options schema and pgbouncer, libpq's, "
        "and the server's own parameters",
    ),
    "53300": (StoreUnavailableError, "the server has no connection left; raise max_connections, or use PgBouncer"),
    "57P03": (StoreUnavailableError, "the server is starting up or shutting down"),
    "57P01": (StoreUnavailableError, "the server ended the connection; what was under way may be durable or not"),
    "57P02": (StoreUnavailableError, "the server crashed; what was under way may be durable or not"),
    "57014": (StoreError, "the statement was cancelled by a time limit or an administrator; nothing was written"),
    "XX001": (StoreCorruptedError, "the server found its data damaged; restore a backup"),
    "XX002": (StoreCorruptedError, "the server found an index damaged: REINDEX, or restore a backup"),
}


def state_of(error: BaseException) -> str | None:
    """The SQLSTATE, if the server has answered with an error."""
    return getattr(error, "sqlstate", None)


def may_be_made_again(error: BaseException) -> bool:
    """The server has undone it, because of what others did at the same time."""
    return state_of(error) in _BEGIN_ANEW


def taken_name(error: BaseException) -> str | None:
    """The unique index that was in the way."""
    if state_of(error) != UNIQUE_VIOLATION:
        return None
    name: Any = getattr(error, "constraint_name", None)
    return str(name or "")


def translated(doing: str, name: str, error: BaseException) -> Exception:
    """Our own error in place of the driver's: what was done, where, what happened, and what to do.

    Any exception whatever can come out of a driver whose connection breaks: all that is not known is a lost connection.
    """
    if isinstance(error, StoreError):
        return error
    state = state_of(error)
    where = f"{doing} {name}"
    if isinstance(error, (UnicodeEncodeError, OverflowError)) or (state or "").startswith("22"):  # nothing was written
        return ValueError(f"{where}: a value that the database cannot hold: {error}")
    if state in _BY_STATE:
        kind, text = _BY_STATE[state]
        return kind(f"{where}: {text} ({error})")
    if state is not None:
        if state.startswith(("08", "57")):
            return StoreUnavailableError(
                f"{where}: the connection was lost ({error}), and what was under way may be durable or not; see the "
                f"server's log"
            )
        return StoreError(f"{where} failed: {type(error).__name__} {state}: {error}")
    if isinstance(error, socket.gaierror):
        return StoreUnavailableError(f"{where}: the host is not known ({error}); check the URL and the name server")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return StoreUnavailableError(f"{where}: no answer in time; check the network, and the load of the server")
    if isinstance(error, OSError):
        return StoreUnavailableError(
            f"{where}: it cannot be reached ({error}); start the server, or check host and port; what was under way may be "
            f"durable or not"
        )
    if type(error).__name__ == "ClientConfigurationError":
        return StoreError(f"{where}: {error}; check the URL")
    return StoreUnavailableError(
        f"{where}: the connection was lost ({type(error).__name__}: {error}); what was under way may be durable or not"
    )
