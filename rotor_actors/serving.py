"""Showing a runtime: the dashboard, as an ASGI app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from rotor_actors.records import ItemPut, ItemRow, ItemsExpired, Together
from rotor_actors.starting import Starting
from rotor_actors.stores.base import ItemQuery

if TYPE_CHECKING:
    from rotor_actors.dashboard import Auth, Dashboard, Redact
    from rotor_actors.dashboard.actions import Action, AuditEntry, Done
    from rotor_actors.dashboard.window import Window

_AUDIT = "audit"
_AUDIT_SHOWN = 200
_AUDIT_SECONDS = 90 * 86_400.0


class Serving(Starting):
    """The methods of `Runtime` that show it to others."""

    def dashboard(
        self,
        *,
        auth: Auth | None = None,
        read_only: bool = False,
        insecure: bool = False,
        redact: Redact | None = None,
    ) -> Dashboard:
        """The dashboard of this runtime: an ASGI app, to be mounted at any prefix of any framework.

        Args:
            auth: who is looking? Is given the request's headers (names in lower case) and answers a `Visitor`, or None
                to refuse; may be async. Without it only requests from this machine itself are answered.
            read_only: show everything, change nothing.
            insecure: answer everybody without `auth`: only behind something that asks who they are.
            redact: is given a workflow's id, what it is (`"input"`, `"result"`, `"headers"`, `"error"`) and the
                JSON-like value, and answers what may be shown of it.

        It needs no lifespan of its own, reads beside the event loop, and an open tab does not keep a server from
        stopping. The runtime must be open when a request comes.

        Example:
            >>> from rotor_actors import Runtime
            >>> app = Runtime(":memory:").dashboard(read_only=True)
            >>> type(app).__name__
            'Dashboard'
        """
        from rotor_actors.dashboard.build import build  # who shows nothing need not load it

        return build(self._window(), auth=auth, read_only=read_only, insecure=insecure, redact=redact)

    def _window(self) -> Window:
        from rotor_actors.dashboard.window import ServiceJson, Window

        async def newest() -> int:
            return self._open().journal.durable_seq

        def services() -> list[ServiceJson]:
            assert self._service is not None
            return [
                ServiceJson(str(child.id), child.state.value, child.restart.value, child.restarts)
                for child in self._service.services()
            ]

        return Window(
            read=self._read,
            newest=newest,
            now=lambda: self._open().now(),
            why=self.why,
            workflows=lambda: self._open().registry.all(),
            services=services,
            facts=self._facts,
            actions=self._actions(),
            audit=self._audit,
            record=self._record_audit,
        )

    def _facts(self) -> list[tuple[str, str]]:
        engine = self._open()
        journal = engine.journal
        return [
            ("Store", str(getattr(engine.ports.store, "path", "memory"))),
            ("Runs that have not ended", str(len(engine.tree))),
            ("Steps in flight", str(engine.steps.count)),
            ("Newest entry", f"{journal.last_seq}, durable up to {journal.durable_seq}"),
            ("Disk", "full: nothing new is accepted" if journal.is_full else "has room"),
            ("Unfinished runs of unknown workflows", str(sum(1 for _ in engine.tree.orphans))),
        ]

    def _actions(self) -> Mapping[str, Action]:
        from rotor_actors.dashboard.actions import Done, text_of

        async def cancel(body: Mapping[str, Any]) -> Done:
            report = await self.cancel(text_of(body, "run_id"), str(body.get("reason") or ""))
            if not report.cancelled:
                return Done("It had ended already; nothing was changed.")
            stuck = f" {len(report.stuck)} would not end and were abandoned." if report.stuck else ""
            return Done(f"Cancelled {len(report.cancelled)} runs in {report.seconds:.2f} s.{stuck}")

        return {"cancel": cancel}

    async def _audit(self) -> list[AuditEntry]:
        from rotor_actors.dashboard.actions import AuditEntry

        query = ItemQuery(_AUDIT, limit=_AUDIT_SHOWN)
        items = await self._read(lambda store: store.items(query))
        return [msgspec.msgpack.decode(item.body, type=AuditEntry) for item in items if item.body]

    async def _record_audit(self, entry: AuditEntry) -> None:
        """Durable when it returns."""
        journal = self._open().journal
        seq = journal.next_seq
        body = msgspec.msgpack.encode(entry)
        item = ItemRow(_AUDIT, str(seq), body, ord=-seq, due=entry.at + _AUDIT_SECONDS)  # the newest is read first
        await journal.durable(journal.append(Together([ItemPut(item), ItemsExpired(_AUDIT, entry.at)])))
