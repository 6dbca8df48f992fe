"""The dashboard from its parts."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any, Final, Protocol

import msgspec

from rotor_actors.dashboard.actions import Actions
from rotor_actors.dashboard.app import Dashboard
from rotor_actors.dashboard.asgi import HttpError, Request, Response
from rotor_actors.dashboard.guard import Auth, Guard, Visitor
from rotor_actors.dashboard.reading import Reading
from rotor_actors.dashboard.running import workflows
from rotor_actors.dashboard.shapes import Redact
from rotor_actors.dashboard.window import Window
from rotor_actors.exports import export_tree
from rotor_actors.ownership import Ownership, has_owners, read_ownership, without_undoing
from rotor_actors.stores.shared import ReplicaRow

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
    "mermaid": "text/markdown; charset=utf-8",
    "json": "application/json",
}


class Exposition(Protocol):
    """Metrics as a scraper reads them: `telemetry.Metrics`."""

    content_type: str

    def text(self) -> bytes: ...


def build(
    window: Window,
    *,
    auth: Auth | None,
    read_only: bool,
    insecure: bool,
    redact: Redact | None,
    metrics: Exposition | None,
) -> Dashboard:
    """An app that shows what the window gives to see."""
    actions = Actions(window.actions, window.record, window.now)

    async def session(_: Request, visitor: Visitor) -> dict[str, Any]:
        return {
            "user": visitor.name,
            "read_only": not visitor.may_act or not window.actions,
            "version": metadata.version("rotor-actors"),
            "workflows": sorted(workflow.id for workflow in window.workflows()),
            "actions": sorted(window.actions),
            "is_shared": await window.read(has_owners),
        }

    async def statistics(_: Request, __: Visitor) -> dict[str, Any]:
        return await workflows(window.read, window.workflows, window.now)

    async def services(_: Request, __: Visitor) -> dict[str, Any]:
        return {"services": window.services(), "facts": await window.facts(), "audit": await window.audit()}

    async def replicas(_: Request, __: Visitor) -> Ownership:
        known: Ownership = await window.read(lambda store: read_ownership(store, window.now()))
        known.replicas = [_as_shown(each) for each in known.replicas]
        return known

    async def export(request: Request, _: Visitor) -> Response:
        run_id, format = request.text("id"), request.query.get("format", "html")
        if format not in _TYPES:
            raise HttpError(400, f"unknown format {format!r}: one of {', '.join(_TYPES)}")
        if redact is not None:
            raise HttpError(403, "payloads are redacted here, and an export would hold them")
        text = export_tree(await window.tree(run_id), format)
        name = f"{re.sub('[^A-Za-z0-9._-]', '_', run_id)}.{'md' if format == 'mermaid' else format}"
        return Response(
            text.encode(), _TYPES[format], headers={"content-disposition": f'attachment; filename="{name}"'}
        )

    return Dashboard(
        Reading(window.read, window.why, redact, window.now),
        actions,
        Guard(auth, read_only=read_only, insecure=insecure),
        window.newest,
        {
            "api/session": session,
            "api/workflows": statistics,
            "api/services": services,
            "api/replicas": replicas,
            "api/export": export,
        },
        window.not_ready,
        (lambda: Response(metrics.text(), metrics.content_type)) if metrics is not None else None,
    )


def _as_shown(replica: ReplicaRow) -> ReplicaRow:
    names = without_undoing([each.workflow_id for each in replica.declared])
    return msgspec.structs.replace(replica, declared=[each for each in replica.declared if each.workflow_id in names])
