"""Many replicas: the lines as they stand in the store, for whoever looks and is not the coordinator."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from rotor_actors.flow.gate import PAUSE_SPACE
from rotor_actors.flow.line import Line
from rotor_actors.flow.passes import PLACE_SPACE, RATE_SPACE, Begun
from rotor_actors.flow.ticket import SPACE, Ticket
from rotor_actors.flow.views import FlowKey, WaitingRun, flow_key
from rotor_actors.records import RunRow
from rotor_actors.stores.base import ItemQuery, StoreReader


class Snapshot:
    """Read once. Places that are lent count as places of their own: who lends to whom only the coordinator knows."""

    def __init__(self, store: StoreReader, now: float) -> None:
        items = {space: store.items(ItemQuery(space)) for space in (SPACE, PLACE_SPACE, RATE_SPACE, PAUSE_SPACE)}
        self._now = now
        self._tickets = {int(item.key): msgspec.msgpack.decode(item.body or b"", type=Ticket) for item in items[SPACE]}
        rows = store.rows(sorted(self._tickets))
        self._rows = {row.n: row for row in rows if row.ended_at is None}
        self._lines: dict[str, Line] = {}
        for begun in (msgspec.msgpack.decode(item.body or b"", type=Begun) for item in items[RATE_SPACE]):
            line = self._line(begun.name)
            line.limits = begun.limits
            line.window.count(min(begun.at, now))
        places = {int(item.key) for item in items[PLACE_SPACE]}
        for row in sorted(self._rows.values(), key=lambda row: self._tickets[row.n].arrival):
            self._stand(row, has_place=row.n in places)
        for item in items[PAUSE_SPACE]:
            self._line(item.key).is_paused = True

    def _line(self, name: str) -> Line:
        return self._lines.setdefault(name, Line(name))

    def _stand(self, row: RunRow, *, has_place: bool) -> None:
        ticket = self._tickets[row.n]
        line = self._line(ticket.name or "")
        if ticket.name is not None:
            line.limits = ticket.limits
        if has_place:
            line.runs(row.n)
        else:
            line.arrive((-ticket.priority, ticket.arrival or row.n, row.n), is_root=row.parent_n is None)

    def keys(self) -> list[FlowKey]:
        return [flow_key(self._lines[name], self._now) for name in sorted(self._lines) if name]

    def waiting(self, key: str | None, limit: int) -> list[WaitingRun]:
        lines = [line for name, line in self._lines.items() if key in (None, name)]
        return [
            self._waiting_run(self._rows[n], line, position)
            for line in lines
            for position, n in enumerate(line.in_order()[:limit], 1)
        ]

    def _waiting_run(self, row: RunRow, line: Line, position: int) -> WaitingRun:
        return WaitingRun(
            row.run_id, row.workflow_id, line.name or None, position, self._tickets[row.n].priority,
            datetime.fromtimestamp(row.created_at, UTC), line.why(self._now),
        )  # fmt: skip
