"""What the owner task is told: calls, each with a future for its answer, and news of children."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, TypeAlias

from supervisors.child import Child
from supervisors.errors import SupervisorError
from supervisors.exits import Exit
from supervisors.info import Slot
from supervisors.spec import ChildId, ChildSpec

__all__ = [
    "Call",
    "DeleteChild",
    "Ended",
    "Message",
    "RestartChild",
    "StartChild",
    "TerminateChild",
    "TryAgain",
    "answer",
    "refuse",
]


class StartChild(NamedTuple):
    """Add a child and start it."""

    spec: ChildSpec
    reply: asyncio.Future[Child]


class TerminateChild(NamedTuple):
    """Stop a child."""

    child_id: ChildId
    reply: asyncio.Future[Exit | None]


class RestartChild(NamedTuple):
    """Start a child that has ended."""

    child_id: ChildId
    reply: asyncio.Future[Child]


class DeleteChild(NamedTuple):
    """Forget a child that has ended."""

    child_id: ChildId
    reply: asyncio.Future[None]


class Ended(NamedTuple):
    """A life of a child has ended."""

    slot: Slot
    child: Child


class TryAgain(NamedTuple):
    """A restart failed for this child and is due once more."""

    slot: Slot
    exit: Exit


Call: TypeAlias = StartChild | TerminateChild | RestartChild | DeleteChild
Message: TypeAlias = Call | Ended | TryAgain


def answer(reply: asyncio.Future[Any], value: object) -> None:
    """Answer a call, unless its caller has gone."""
    if not reply.done():
        reply.set_result(value)


def refuse(reply: asyncio.Future[Any], error: SupervisorError) -> bool:
    """Answer a call with an error; False if its caller has gone."""
    if reply.done():
        return False
    reply.set_exception(error)
    return True
