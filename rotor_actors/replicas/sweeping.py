"""The coordinator's part in cancellations over borders: it sees through what the canceller may not live to see."""

from __future__ import annotations

from functools import partial

import msgspec

from rotor_actors.kernel import Kernel
from rotor_actors.records import CancelNote, CancelRequested
from rotor_actors.replicas.elsewhere import SweepNote, survivors
from rotor_actors.replicas.legible import legible_rows
from rotor_actors.stores.base import StoreReader
from rotor_actors.stores.shared import Mail

# Most cancellations are over before anybody need look.
_LOOK_AFTER_SECONDS = 1.0


class Sweeps:
    """Handles mail of kind CANCEL that is for the coordinator. It stays until nothing is left of what it names."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._look_at: dict[int, float] = {}
        self._found: dict[int, tuple[list[int], bool]] = {}
        self._asked: dict[int, set[int]] = {}

    async def prepare(self, mails: list[Mail]) -> None:
        """Look at the trees of those that are due: what escaped, and whether all who were asked have ended."""
        now, ports = self._kernel.now(), self._kernel.ports
        self._found.clear()
        for mail in mails:
            if now >= self._look_at.setdefault(mail.id, now + _LOOK_AFTER_SECONDS):
                self._look_at[mail.id] = now + _LOOK_AFTER_SECONDS
                note = msgspec.msgpack.decode(mail.body or b"", type=SweepNote)
                self._found[mail.id] = await ports.reader.call(partial(_look, note, ports.store))

    def handle(self, mail: Mail) -> bool | None:
        """Have cancelled what escaped; over, if nothing has and all who were asked have ended."""
        if mail.id not in self._found:
            return False
        found, is_over = self._found[mail.id]
        asked = self._asked.setdefault(mail.id, set())
        new = [n for n in found if n not in asked]
        if new:
            asked.update(new)
            note = msgspec.msgpack.decode(mail.body or b"", type=SweepNote)
            body = msgspec.msgpack.encode(CancelNote(note.reason))
            self._kernel.journal.append(CancelRequested(new, body))
        if found or not is_over:
            return False
        self._look_at.pop(mail.id, None)
        self._asked.pop(mail.id, None)
        return None


def _look(note: SweepNote, store: StoreReader) -> tuple[list[int], bool]:
    rows = legible_rows(store, note.asked)
    return survivors(store, note.root_n, frozenset(note.tops), note.at), all(row.status.is_terminal for row in rows)
