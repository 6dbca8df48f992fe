"""What an engine knows of the replicas that it shares its store with: the mail's handlers, and who coordinates."""

from __future__ import annotations

from typing import Protocol

from rotor_actors.journal import Journal
from rotor_actors.records import MailKind, MailSent
from rotor_actors.replicas.room import Placement, Room
from rotor_actors.replicas.rounds import Rounds
from rotor_actors.run import Run
from rotor_actors.stores.shared import Mail, SharedStore


class MailHandler(Protocol):
    """Acts on one message, at once: it is called within `Journal.one_act`, together with the entry that takes the
    message away. `run` is the one that it was addressed to, which this replica owns; None for other addresses.

    False says: not yet. The message stays, and is offered again with the next round."""

    def __call__(self, mail: Mail, run: Run | None) -> bool | None: ...


class MailPreparer(Protocol):
    """Reads what the handler of this kind needs to know, for many messages at once."""

    async def __call__(self, mails: list[Mail]) -> None: ...


class Coordinating(Protocol):
    """What belongs to all replicas together and is in the coordinator's hands."""

    def begin_coordinating(self) -> None:
        """This replica has become the coordinator. Called once; it stays it until its incarnation ends."""
        ...


class Sharing:
    """The engine's side of a `SharedStore`. An engine whose store nobody shares has none (`Kernel.sharing` is None)."""

    def __init__(self, store: SharedStore, journal: Journal, room: Room) -> None:
        self.store = store
        self._journal = journal
        self.room = room
        self.handlers: dict[MailKind, MailHandler] = {}
        self.preparers: dict[MailKind, MailPreparer] = {}
        self.coordinating: list[Coordinating] = []
        self.is_coordinator = False
        self.rounds: list[Rounds] = []
        """What is done when there is a hint, and each second or so."""
        self.others = 0
        """How many other replicas there were when they were counted last, about a second ago."""
        self.is_served = True
        """When they were counted, there was another that runs or coordinates something."""
        self.is_draining = False
        """It is about to close: nothing is claimed or left to others any more."""
        self.wants_more = False
        """There was more to claim than there was room for."""
        self.at_rest: dict[int, Run] = {}
        """Runs of ours that came to rest for a long time: they may be parked."""
        self.park_after = float("inf")
        """Seconds."""
        self.is_undeclared = False
        """A workflow was registered of which the database does not know that we can run it."""

    def leaves_to_others(self, placement: Placement | None) -> bool:
        """Is a new run for whoever claims it? Without a word of its own only where there is more than enough to do
        here; never where there is nobody else."""
        if placement == "local" or not self.others or self.is_draining:
            return False
        return placement == "any" or self.room.is_full

    def look_for_more(self) -> None:
        """Called now and then: if there is room again for what was left, it is claimed now, not with the next look."""
        if self.wants_more and self.room.is_half_empty:
            self.wants_more = False
            self.wake()

    def wake(self, *, is_due: bool = False) -> None:
        """There may be mail, or runs to claim. `is_due`: take the time until the next look as over."""
        for each in self.rounds:
            each.wake(is_due=is_due)

    @property
    def is_idle(self) -> bool:
        """All hints were followed."""
        return all(each.is_idle for each in self.rounds)

    @property
    def replica(self) -> int:
        return self.store.replica

    def send(self, to: int, kind: MailKind, body: bytes | None = None) -> int:
        """Append a message. Gives the number of its entry."""
        return self._journal.append(MailSent(to, kind, body))
