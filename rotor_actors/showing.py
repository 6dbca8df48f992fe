"""The dashboard of whatever can be looked into: a runtime, or a store's file that another process owns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from rotor_actors.introspection import Introspection
from rotor_actors.stores.base import ItemQuery
from rotor_actors.workflows import Workflow

if TYPE_CHECKING:
    from rotor_actors.dashboard import Auth, Dashboard, Exposition, Redact
    from rotor_actors.dashboard.actions import Action, AuditEntry
    from rotor_actors.dashboard.window import ServiceJson, Window

AUDIT = "audit"
_AUDIT_SHOWN = 200


class Showing(Introspection):
    """What can be looked into, and steered, by a dashboard."""

    def dashboard(
        self,
        *,
        auth: Auth | None = None,
        read_only: bool = False,
        insecure: bool = False,
        redact: Redact | None = None,
        metrics: Exposition | None = None,
    ) -> Dashboard:
        """The dashboard: an ASGI app, to be mounted at any prefix of any framework.

        Args:
            auth: who is looking? Is given the request's headers (names in lower case) and answers a `Visitor`, or None
                to refuse; may be async. Without it only requests from this machine itself are answered.
            read_only: show everything, change nothing.
            insecure: answer everybody without `auth`: only behind something that asks who they are.
            redact: is given a workflow's id, what it is (`"input"`, `"result"`, `"headers"`, `"error"`,
                `"progress"`) and the JSON-like value, and answers what may be shown of it.
            metrics: a `telemetry.Metrics`, to be scraped at `metrics` beside the page, by whoever may look.

        It needs no lifespan of its own, reads beside the event loop, and an open tab does not keep a server from
        stopping. What it shows must be open when a request comes. Beside the page it answers `healthz` and `readyz`.

        Example:
            >>> from rotor_actors import Runtime
            >>> app = Runtime(":memory:").dashboard(read_only=True)
            >>> type(app).__name__
            'Dashboard'
        """
        from rotor_actors.dashboard.build import build  # who shows nothing need not load it

        return build(self._window(), auth=auth, read_only=read_only, insecure=insecure, redact=redact, metrics=metrics)

    @abstractmethod
    async def perform(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Do what `verb` says."""

    @abstractmethod
    async def _newest(self) -> int:
        """A number that grows with whatever changes."""

    @abstractmethod
    def _known_workflows(self) -> Iterable[Workflow[Any, Any]]: ...

    @abstractmethod
    def _services(self) -> list[ServiceJson]: ...

    @abstractmethod
    async def _facts(self) -> list[tuple[str, str]]:
        """The state of the program, for people."""

    @abstractmethod
    def _not_ready(self) -> str:
        """Why nothing new should be sent here; "" when all is well."""

    @abstractmethod
    def _can(self) -> Iterable[str]:
        """The verbs that it can perform."""

    def _window(self) -> Window:
        from rotor_actors.dashboard.window import Window

        return Window(
            read=self._read,
            newest=self._newest,
            now=self._now,
            why=self.why,
            tree=self.tree,
            workflows=self._known_workflows,
            services=self._services,
            facts=self._facts,
            not_ready=self._not_ready,
            actions={verb: self._action(verb, said) for verb, said in _SAID.items() if verb in self._can()},
            audit=self._audit,
            record=self._record,
        )

    def _action(self, verb: str, said: Callable[[Any], tuple[str, str]]) -> Action:
        from rotor_actors.dashboard.actions import Done

        async def action(arguments: Mapping[str, Any]) -> Done:
            return Done(*said(await self.perform(verb, arguments)))

        return action

    async def _audit(self) -> list[AuditEntry]:
        from rotor_actors.dashboard.actions import AuditEntry

        items = await self._read(lambda store: store.items(ItemQuery(AUDIT, limit=_AUDIT_SHOWN)))
        return [msgspec.msgpack.decode(item.body, type=AuditEntry) for item in items if item.body]

    def _record(self, entry: AuditEntry) -> Awaitable[None]:
        return self.perform("audit", {"entry": msgspec.to_builtins(entry)})


def _cancelled(report: Any) -> tuple[str, str]:
    if not report["cancelled"]:
        return "It had ended already; nothing was changed.", ""
    stuck = f" {len(report['stuck'])} would not end and were abandoned." if report["stuck"] else ""
    return f"Cancelled {len(report['cancelled'])} runs in {report['seconds']:.2f} s.{stuck}", ""


def _started(run_id: Any) -> tuple[str, str]:
    return f"Started as {run_id}.", run_id


# What is said of an action when it is done, and the run to go to.
_SAID: Mapping[str, Callable[[Any], tuple[str, str]]] = {
    "cancel": _cancelled,
    "resume": lambda run_id: ("It goes on.", run_id),
    "restart": _started,
    "fork": _started,
    "send": lambda run_ids: (f"Sent; it started {len(run_ids)} runs.", run_ids[0] if len(run_ids) == 1 else ""),
    "signal": lambda _: ("Signalled.", ""),
}
