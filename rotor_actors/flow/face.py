"""Looking at flow control from outside, and stopping keys."""

from __future__ import annotations

from datetime import UTC, datetime

from rotor_actors.access import Access
from rotor_actors.flow.line import Limits, Line
from rotor_actors.flow.notes import KeyPaused
from rotor_actors.flow.options import LONGEST_NAME
from rotor_actors.flow.passes import Pass
from rotor_actors.flow.snapshot import Snapshot
from rotor_actors.flow.views import FlowKey, WaitingRun, flow_key
from rotor_actors.ids import is_storable
from rotor_actors.records import MailKind


class FlowFace(Access):
    """The methods of `Runtime` that concern keys of flow control."""

    async def pause_key(self, key: str) -> None:
        """Let no run of this key begin, until `resume_key`, over restarts. Those that run go on.

        Args:
            key: a constant as it is; what is found at a path as `workflow:path=value`, e.g.
                `"send-mail:data.user_id=42"`: see `flow_keys`. There need be no run of it yet.

        Durable when it returns. Pausing twice is fine.
        """
        await self._set_paused(_checked(key), is_paused=True)

    async def resume_key(self, key: str) -> None:
        """Let runs of a paused key begin again; one that is not paused stays as it is."""
        await self._set_paused(_checked(key), is_paused=False)

    async def _set_paused(self, key: str, *, is_paused: bool) -> None:
        engine = self._open()
        if engine.asking is None:
            await engine.journal.durable(engine.gate.pause(key) if is_paused else engine.gate.resume(key))
            return
        what = f"{'pausing' if is_paused else 'resuming'} key {key!r}"
        await engine.asking.ask_coordinator(
            what, MailKind.LINE, lambda asker: KeyPaused(key, is_paused, asker.ask, asker.to)
        )

    def flow_keys(self) -> list[FlowKey]:
        """The keys of which runs are running or waiting, whose rate remembers some, or that are paused; by name.

        Of many replicas the coordinator knows by heart; on the others this reads the store, and waits for that.
        """
        engine = self._open()
        if not engine.gate.is_deciding:
            return Snapshot(engine.ports.store, engine.now()).keys()
        lines = {line.name: line for line in engine.gate.lines()}
        for name in engine.gate.paused - lines.keys():
            lines[name] = Line(name)
            lines[name].limits, lines[name].is_paused = Limits(), True
        return [flow_key(lines[name], engine.now()) for name in sorted(lines)]

    def waiting(self, key: str | None = None, *, limit: int = 100) -> list[WaitingRun]:
        """The runs that have not begun, of one key or of all, each key's in the order in which they will, and why.

        Args:
            key: as with `pause_key`. limit: how many of each key at most.

        It reads the store where `flow_keys` does.
        """
        engine = self._open()
        if not engine.gate.is_deciding:
            return Snapshot(engine.ports.store, engine.now()).waiting(key, limit)
        gate = engine.gate
        lines = [line for line in gate.all_lines() if key in (None, line.name)]
        found = [
            self._waiting_run(gate.passes[n], line, position)
            for line in lines
            for position, n in enumerate(line.in_order()[:limit], 1)
        ]
        if key is None:
            others = [each for each in gate.passes.values() if not each.has_begun and each.turnstile is None]
            found.extend(self._waiting_run(each, None, 0) for each in others[:limit])
        return found

    def _waiting_run(self, each: Pass, line: Line | None, position: int) -> WaitingRun:
        row = each.run.row
        return WaitingRun(
            row.run_id, row.workflow_id, None if line is None else line.name or None, position, each.ticket.priority,
            datetime.fromtimestamp(row.created_at, UTC), self._engine.gate.why(row.n),
        )  # fmt: skip


def _checked(key: str) -> str:
    if not isinstance(key, str) or not key.strip() or not is_storable(key):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"key must be the name of a key, as runtime.flow_keys() gives it, e.g. 'mail-server'; got {key!r}"
        )
    if len(key) > LONGEST_NAME:
        raise ValueError(
            f"key must be the name of a key, as runtime.flow_keys() gives it: none has more than {LONGEST_NAME} "
            f"characters; got {len(key)}: {key[:60]!r}…"
        )
    return key
