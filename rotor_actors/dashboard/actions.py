"""What the page can have done: each action is named, performed, and written into the audit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from rotor_actors.dashboard.asgi import HttpError

Action: TypeAlias = Callable[[Mapping[str, Any]], Awaitable["Done"]]


class Done(msgspec.Struct, omit_defaults=True):
    """What came of an action: a sentence for the visitor, and the run that it made, if it made one."""

    said: str
    run_id: str = ""


class AuditEntry(msgspec.Struct):
    """Who did what to what, and what came of it."""

    at: float
    user: str
    action: str
    target: str
    outcome: str


class Actions:
    """Performs actions by name.

    Args:
        actions: what can be done.
        record: writes an audit entry where it lasts.
        now: the runtime's time.
    """

    def __init__(
        self,
        actions: Mapping[str, Action],
        record: Callable[[AuditEntry], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self.known = actions
        self._record = record
        self._now = now

    async def act(self, body: Mapping[str, Any], user: str) -> Done:
        """Perform what the body names. Raises HttpError, RotorError; that is written into the audit, too."""
        name = body.get("action")
        action = self.known.get(name) if isinstance(name, str) else None
        if action is None:
            raise HttpError(400, f"unknown action {name!r}: one of {', '.join(self.known)}")
        target = str(body.get("run_id") or body.get("name") or "")
        try:
            done = await action(body)
        except Exception as error:
            await self._record(AuditEntry(self._now(), user, str(name), target, f"refused: {error}"))
            raise
        await self._record(AuditEntry(self._now(), user, str(name), target, done.said))
        return done


def text_of(body: Mapping[str, Any], name: str) -> str:
    """A field that must be a text. Raises HttpError."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise HttpError(400, f"the field {name!r} must be a text")
    return value
