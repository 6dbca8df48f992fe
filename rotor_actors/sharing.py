"""What an engine knows of the replicas that it shares its store with: the mail's handlers, and who coordinates."""

from __future__ import annotations

from typing import Protocol

from rotor_actors.journal import Journal
from rotor_actors.records import MailKind, MailSent
from rotor_actors.run import Run
from rotor_actors.stores.shared import Mail, SharedStore


class MailHandler(Protocol):
    """Acts on one message, at once: it is called within `Journal.one_act`, together with the entry that takes the
    message away. `run` is the one that it was addressed to, which this replica owns; None for other addresses."""

    def __call__(self, mail: Mail, run: Run | None) -> None: ...


class Coordinating(Protocol):
    """What belongs to all replicas together and is in the coordinator's hands."""

    def begin_coordinating(self) -> None:
        """This replica has become the coordinator. Called once; it stays it until its incarnation ends."""
        ...


class Sharing:
    """The engine's side of a `SharedStore`. An engine whose store nobody shares has none (`Kernel.sharing` is None)."""

    def __init__(self, store: SharedStore, journal: Journal) -> None:
        self.store = store
        self._journal = journal
        self.handlers: dict[MailKind, MailHandler] = {}
        self.coordinating: list[Coordinating] = []
        self.is_coordinator = False

    @property
    def replica(self) -> int:
        return self.store.replica

    def send(self, to: int, kind: MailKind, body: bytes | None = None) -> int:
        """Append a message. Gives the number of its entry."""
        return self._journal.append(MailSent(to, kind, body))
