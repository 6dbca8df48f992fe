"""One incarnation of a replica: how it comes to a shared store, and the services that it lives by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import ReplicaFencedError, StoreError
from rotor_actors.ports import Options, Ports
from rotor_actors.recovery import Recovery
from rotor_actors.replicas.claiming import Claiming, declare
from rotor_actors.replicas.database_clock import DatabaseClock, clock_for_replica
from rotor_actors.replicas.lease import Heart, Lease
from rotor_actors.replicas.parking import Parking
from rotor_actors.replicas.rounds import Rounds
from rotor_actors.replicas.taking_in import TakingIn
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import SharedStore
from supervisors import ChildSpec

# Of a lease of ten seconds: one second. Hints come at once; this is what counts when they are lost.
_POLLS_PER_LEASE = 10
# An answer that took longer is asked for again: nobody knows when in between it was true.
_QUICK_ANSWER, _MOST_LOOKS_AT_THE_CLOCK = 0.25, 5


class Replica:
    """Made before the engine, for the engine's time is the database's.

    Once its lease is lost, or may be, its journal fails: nothing is begun or recorded any more.
    """

    def __init__(self, ports: Ports, options: Options) -> None:
        self._store = cast(SharedStore, ports.store)
        self._options = options
        self._loop = asyncio.get_running_loop()
        self.ports = msgspec.structs.replace(ports, clock=clock_for_replica(ports.clock))
        self.lease = Lease(self._store.lease, self._loop.time, self._lost)
        self.heart = Heart(self._store, self.lease, self._set_time)
        self.number: int | None = None
        """Of the incarnation; known from when the store is open."""
        self.claims: Rounds | None = None
        self._sharing: Sharing | None = None
        self._fail: Callable[[StoreError], None] = lambda error: None
        self._store.listen(self._hinted)

    def _hinted(self) -> None:
        """From any thread."""
        if self._store.is_inline:
            self._wake()
        else:
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                pass  # the loop is closed

    def _wake(self) -> None:
        if self._sharing is not None:
            self._sharing.wake()

    def _lost(self, error: StoreError) -> None:
        self._fail(error)

    def _set_time(self, now: float, sent_at: float, answered_at: float) -> None:
        if isinstance(self.ports.clock, DatabaseClock):
            self.ports.clock.set(now, sent_at, answered_at)

    async def enter(self) -> None:
        """The store is open: learn its time. Raises StoreError."""
        self.number = self._store.replica
        for _ in range(_MOST_LOOKS_AT_THE_CLOCK):
            sent_at = self._loop.time()
            now = await self.ports.writer.call(self._store.beat)
            answered_at = self._loop.time()
            if now is None:
                raise ReplicaFencedError("the lease had run out before the replica could begin; give it a longer one")
            self.lease.renewed(sent_at)
            self._set_time(now, sent_at, answered_at)
            if answered_at - sent_at < _QUICK_ANSWER:
                break

    async def join(self, engine: Engine, recovery: Recovery) -> list[ChildSpec]:
        """Say what this replica can run. Gives the services that it lives by."""
        sharing = engine.sharing
        assert sharing is not None
        self._sharing, engine.lease = sharing, self.lease
        self._fail = engine.journal.fail
        self.lease.check()
        await declare(engine, sharing, self._options.label)
        poll, chance = self._store.lease / _POLLS_PER_LEASE, engine.ports.rng.random
        taking_in, parking = TakingIn(engine, sharing, recovery), Parking(engine, sharing, poll)
        claiming = Claiming(engine, sharing, taking_in, parking, self._options.label)
        self.claims = Rounds(claiming.round, poll, chance)
        assert engine.borders is not None
        mail = Rounds(engine.borders.mailroom.round, poll, chance)
        sharing.rounds += [self.claims, mail]
        sharing.wake(is_due=True)
        return [
            ChildSpec("heart", self.heart.serve),
            ChildSpec("claims", self.claims.serve),
            ChildSpec("mail", mail.serve),
        ]

    async def drain(self) -> None:
        """About to close: claim nothing more. Raises StoreError."""
        assert self._sharing is not None
        self._sharing.is_draining = True
        await self.ports.writer.call(self._store.drain)

    def time_was_moved(self) -> None:
        """By hand: what would have come round meanwhile comes now."""
        if self._store.is_inline:
            self.heart.beat()
        if self._sharing is not None:
            self._sharing.wake(is_due=True)
