"""What a replica owns: it claims what nobody owns, up to its room, and takes ownership from replicas that are gone."""

from __future__ import annotations

import logging
from functools import partial

from rotor_actors.engine import Engine
from rotor_actors.errors import StoreError
from rotor_actors.observing import ReplicasSeen
from rotor_actors.replicas.asking import are_served
from rotor_actors.replicas.parking import Parking
from rotor_actors.replicas.taking_in import TakingIn
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import RUNS_PER_CLAIM, SHELL_LABEL, Claim, ClaimQuery, Declared, ReplicaRow

_logger = logging.getLogger("rotor_actors")

# Of a lease of ten seconds, in which ten looks are taken: five seconds.
_LOOKS_PER_SHOWING = 5


class Claiming:
    """The rounds of one incarnation. Whatever the store refuses here ends the incarnation."""

    def __init__(self, engine: Engine, sharing: Sharing, taking_in: TakingIn, parking: Parking, label: str) -> None:
        self._engine = engine
        self._sharing = sharing
        self._taking_in = taking_in
        self._parking = parking
        self._label = label
        self._looks = 0

    async def round(self, is_due: bool) -> None:
        """Look for what is to be claimed; and, where the time for it has come, for who is gone."""
        try:
            if is_due:
                await self._look_around()
                self._parking.round()
            if not self._sharing.is_draining:
                await self._declare()
                await self._claim()
        except StoreError as error:
            self._engine.journal.fail(error)

    async def _look_around(self) -> None:
        ports, store = self._engine.ports, self._sharing.store
        freed = await ports.writer.call(store.reap)
        if freed:
            _logger.warning("runs that have no owner now, since their replicas are gone: %d", freed)
        replicas = await ports.reader.call(store.replicas)
        me = self._sharing.replica
        self._sharing.is_served = are_served(replicas, me, self._engine.now())
        self._sharing.others = sum(1 for each in replicas if each.number != me and not each.is_draining)
        if self._engine.options.is_shell:
            offered = offered_by_shell(self._engine, replicas, me)
            if any(each.number == me and set(each.declared) != set(offered) for each in replicas):
                self._sharing.is_undeclared = True
        if self._engine.observers.see_replicas and self._looks % _LOOKS_PER_SHOWING == 0:
            await self._show(len(replicas))
        self._looks += 1

    async def _show(self, replicas: int) -> None:
        unowned = await self._engine.ports.reader.call(self._sharing.store.unowned)
        seen = ReplicasSeen(
            replicas,
            self._sharing.is_coordinator,
            sum(each.unowned for each in unowned),
            sum(each.unowned for each in unowned if not each.is_declared),
        )
        self._engine.observers.replicas_seen(seen)

    async def _declare(self) -> None:
        if self._sharing.is_undeclared:
            self._sharing.is_undeclared = False
            await declare(self._engine, self._sharing, self._label)

    async def _claim(self) -> None:
        while not self._sharing.is_draining:
            # A visitor is given only what is to be cancelled and what nobody can run: that takes no room.
            is_visitor = self._engine.options.is_visitor
            limit = RUNS_PER_CLAIM if is_visitor else self._sharing.room.free(RUNS_PER_CLAIM)
            claim = await self._ask(limit)
            if claim.is_coordinator and not self._sharing.is_coordinator:
                self._begin_coordinating()
            if claim.runs:
                await self._taking_in.take_in(claim.runs)
                self._sharing.wake()  # there may be mail for them
            self._sharing.wants_more = len(claim.runs) >= limit
            if len(claim.runs) < limit or not claim.runs:
                break

    def _begin_coordinating(self) -> None:
        self._sharing.is_coordinator = True
        _logger.info("this replica coordinates now: lines, events and schedules are in its hands")
        for each in self._sharing.coordinating:
            each.begin_coordinating()

    async def _ask(self, limit: int) -> Claim:
        query = ClaimQuery(limit, coordinates=not self._engine.options.is_visitor)
        return await self._engine.ports.writer.call(partial(self._sharing.store.claim, query))


async def declare(engine: Engine, sharing: Sharing, label: str) -> None:
    """Say what this replica can run: all that is registered; a visitor nothing, a shell what no other offers."""
    if engine.options.is_shell:
        replicas = await engine.ports.reader.call(sharing.store.replicas)
        declared = offered_by_shell(engine, replicas, sharing.replica)
    else:
        declared = [] if engine.options.is_visitor else _registered(engine)
    name = label or f"replica-{sharing.replica}"
    await engine.ports.writer.call(partial(sharing.store.declare, name, declared))


def _registered(engine: Engine) -> list[Declared]:
    return [Declared(each.id, each.versions) for each in engine.registry.all()]


def offered_by_shell(engine: Engine, replicas: list[ReplicaRow], me: int) -> list[Declared]:
    """What is registered and no other replica offers to run, in all its versions. Of two shells the older one offers."""
    now = engine.now()
    theirs = [
        declared
        for each in replicas
        if each.number != me and not each.is_draining and each.lease_until > now
        if each.number < me or not each.label.startswith(SHELL_LABEL)
        for declared in each.declared
    ]
    return [each for each in _registered(engine) if not any(other.covers(each) for other in theirs)]
