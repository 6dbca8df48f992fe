"""The dashboard from its parts."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from rotor_actors.dashboard.actions import Actions
from rotor_actors.dashboard.app import Dashboard
from rotor_actors.dashboard.asgi import Request
from rotor_actors.dashboard.guard import Auth, Guard, Visitor
from rotor_actors.dashboard.reading import Reading
from rotor_actors.dashboard.running import workflows
from rotor_actors.dashboard.shapes import Redact
from rotor_actors.dashboard.window import Window


def build(window: Window, *, auth: Auth | None, read_only: bool, insecure: bool, redact: Redact | None) -> Dashboard:
    """An app that shows what the window gives to see."""
    actions = Actions(window.actions, window.record, window.now)

    async def session(_: Request, visitor: Visitor) -> dict[str, Any]:
        return {
            "user": visitor.name,
            "read_only": not visitor.may_act or not window.actions,
            "version": metadata.version("rotor-actors"),
            "workflows": sorted(workflow.id for workflow in window.workflows()),
            "actions": sorted(window.actions),
        }

    async def statistics(_: Request, __: Visitor) -> dict[str, Any]:
        return await workflows(window.read, window.workflows, window.now)

    async def services(_: Request, __: Visitor) -> dict[str, Any]:
        return {"services": window.services(), "facts": window.facts(), "audit": await window.audit()}

    return Dashboard(
        Reading(window.read, window.why, redact, window.now),
        actions,
        Guard(auth, read_only=read_only, insecure=insecure),
        window.newest,
        {"api/session": session, "api/workflows": statistics, "api/services": services},
    )
