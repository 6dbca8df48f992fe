"""Showing an open runtime: what its dashboard and its probes say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from rotor_actors.control import Verb
from rotor_actors.ownership import LOOK_AROUND_SECONDS
from rotor_actors.records import ItemPut, ItemRow, ItemsExpired, Together
from rotor_actors.showing import AUDIT, Showing
from rotor_actors.steering import Steering
from rotor_actors.workflows import Workflow
from supervisors import ChildInfo

if TYPE_CHECKING:
    from rotor_actors.dashboard.window import ServiceJson

_AUDIT_SECONDS = 90 * 86_400.0


class Serving(Steering, Showing):
    """The methods of `Runtime` that show it to others."""

    _is_stopping = False

    def announce_stop(self) -> None:
        """The program has been told to stop and soon leaves the runtime: `readyz` says no from now on, so that whoever
        spreads requests sends no more of them here. Runs go on, and starting them is still possible."""
        self._is_stopping = True

    async def _newest(self) -> int:
        engine = self._open()
        others = 0 if engine.sharing is None else int(engine.now() / LOOK_AROUND_SECONDS)
        return engine.journal.durable_seq + others

    def _known_workflows(self) -> Iterable[Workflow[Any, Any]]:
        return self._open().registry.all()

    def _services(self) -> list[ServiceJson]:
        self._open()
        assert self._service is not None
        return services_json(self._service.services())

    async def _facts(self) -> list[tuple[str, str]]:
        engine = self._open()
        journal = engine.journal
        return [
            ("Store", str(getattr(engine.ports.store, "path", "memory"))),
            ("Runs that have not ended", str(len(engine.tree))),
            ("Steps in flight", str(engine.steps.count)),
            ("Newest entry", f"{journal.last_seq}, durable up to {journal.durable_seq}"),
            ("Disk", "full: nothing new is accepted" if journal.is_full else "has room"),
            ("Unfinished runs of unknown workflows", str(len(engine.tree.orphans))),
        ]

    def _not_ready(self) -> str:
        if self._is_stopping:
            return "the program is stopping"
        try:
            self._accepting()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _can(self) -> Iterable[str]:
        return self._verbs()

    def _verbs(self) -> Mapping[str, Verb]:
        return {**super()._verbs(), "audit": self._record_audit}

    async def _record_audit(self, arguments: Mapping[str, Any]) -> None:
        """Durable when it returns."""
        from rotor_actors.dashboard.actions import AuditEntry

        entry = msgspec.convert(arguments.get("entry"), AuditEntry)
        journal = self._open().journal
        seq = journal.next_seq
        due = self._open().now() + _AUDIT_SECONDS
        item = ItemRow(AUDIT, str(seq), msgspec.msgpack.encode(entry), ord=-seq, due=due)  # the newest is read first
        journal.append(Together([ItemPut(item), ItemsExpired(AUDIT, self._open().now())]))
        await journal.durable(journal.last_seq)


def services_json(services: Iterable[ChildInfo]) -> list[ServiceJson]:
    """Supervised services, as they are shown."""
    from rotor_actors.dashboard.window import ServiceJson

    return [ServiceJson(str(each.id), each.state.value, each.restart.value, each.restarts) for each in services]
