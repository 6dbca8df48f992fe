"""Planted bugs of replicas: engines, or databases, with one thing wrong each. The simulator has to find every one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from mutants import Mutant, Plant

from rotor_actors import starting
from rotor_actors.errors import ReplicaFencedError, StoreUnavailableError, WorkflowCancelledError
from rotor_actors.events.sending import Sending
from rotor_actors.journal import Journal
from rotor_actors.records import EndSeen, MailKind, MailSent, MailTaken, RunsCancelled
from rotor_actors.replicas import elsewhere, ends, replica, sweeping
from rotor_actors.replicas.claiming import Claiming
from rotor_actors.replicas.mailroom import Mailroom
from rotor_actors.replicas.remote import RemoteRuns
from rotor_actors.roots import start_root_as
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.pool import replica_faults
from rotor_actors.simulation.replicas.database import SimDatabase
from rotor_actors.step_task import StepTask
from rotor_actors.stores.base import RunQuery
from rotor_actors.stores.shared import Claim, ReplicaRow
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.waiting import Waiting

WEATHER = replica_faults(1.0)
STANDSTILLS = Faults(pause=0.06, blocked_loop=0.04)
LOST_REPLIES = Faults(lost_reply=0.03, bad_hint=0.5)
OF_TREES = ("fan", "late")

REPLICA_MUTANTS: list[Mutant] = []


def mutant(name: str, faults: Faults = WEATHER, scenes: tuple[str, ...] = ()) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        REPLICA_MUTANTS.append(Mutant(name, plant, faults, scenes))
        return plant

    return add


# The database


@mutant("no fence")
def _(patch: pytest.MonkeyPatch) -> None:
    def check(self: SharedDatabase, number: int) -> ReplicaRow:
        return self.replica_rows.get(number) or ReplicaRow(number, "zombie", 0.0, 0.0)

    patch.setattr(SharedDatabase, "check", check)


@mutant("reaping as one statement")
def _(patch: pytest.MonkeyPatch) -> None:
    """It frees what belonged to those that it took away itself, and no more: what was cut short stays so."""
    expire, free = SimDatabase.expire_replicas, SharedDatabase.free_runs

    def expire_and_note(self: SimDatabase) -> None:
        before = set(self.replica_rows)
        expire(self)
        self.noted = before - set(self.replica_rows)  # type: ignore[attr-defined] # pyright: ignore

    def free_noted(self: SimDatabase) -> int:
        noted: set[int] = getattr(self, "noted", set())
        others = {n: each for n, each in self.standings.items() if each.owner is not None and each.owner not in noted}
        kept = {n: each for n, each in self.standings.items() if n not in others}
        everything, self.standings = self.standings, kept
        try:
            return free(self)
        finally:
            self.standings = everything

    patch.setattr(SimDatabase, "expire_replicas", expire_and_note)
    patch.setattr(SimDatabase, "free_runs", free_noted)


@mutant("mail is lost when its run changes hands")
def _(patch: pytest.MonkeyPatch) -> None:
    give = SharedDatabase._give  # pyright: ignore[reportPrivateUsage]

    def lose(self: SharedDatabase, n: int, owner: int | None) -> None:
        give(self, n, owner)
        for letter in [each.id for each in self.office.letters.values() if each.to == n]:
            self.office.take(letter)

    patch.setattr(SharedDatabase, "_give", lose)


@mutant("claims are not fenced")
def _(patch: pytest.MonkeyPatch) -> None:
    """A claim that comes late, of a replica that has no row any more, is carried out."""
    claim_for, check = SharedDatabase.claim_for, SharedDatabase.check
    declared: dict[int, list[Any]] = {}

    def claim(self: SharedDatabase, number: int, query: Any) -> Any:
        known = self.replica_rows.get(number)
        if known is not None:
            declared[number] = known.declared
            return claim_for(self, number, query)
        zombie = ReplicaRow(number, "zombie", 0.0, 0.0, declared=declared.get(number, []))
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(SharedDatabase, "check", lambda self, n: zombie if n == number else check(self, n))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
            return claim_for(self, number, query)

    patch.setattr(SharedDatabase, "claim_for", claim)


@mutant("the mark of a cancellation is lost with its mail when the run changes hands")
def _(patch: pytest.MonkeyPatch) -> None:
    give = SharedDatabase._give  # pyright: ignore[reportPrivateUsage]

    def forget(self: SharedDatabase, n: int, owner: int | None) -> None:
        give(self, n, owner)
        self.standings[n].cancel = None
        for letter in [
            each.id for each in self.office.letters.values() if each.to == n and each.kind is MailKind.CANCEL
        ]:
            self.office.take(letter)

    patch.setattr(SharedDatabase, "_give", forget)


@mutant("what is parked is claimed before it is due")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedDatabase, "_is_claimable", SharedDatabase._may_run)  # pyright: ignore[reportPrivateUsage]


# Commits and leases


@mutant("steps begin though the lease has run out", STANDSTILLS)
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(StepTask, "_check_lease", lambda self: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("a claim of unknown outcome is made again", LOST_REPLIES)
def _(patch: pytest.MonkeyPatch) -> None:
    ask = Claiming._ask  # pyright: ignore[reportPrivateUsage]

    async def again(self: Claiming, limit: int) -> Claim:
        try:
            return await ask(self, limit)
        except StoreUnavailableError:
            return await ask(self, limit)

    patch.setattr(Claiming, "_ask", again)


@mutant("a start that is refused is taken for a run that was cancelled")
def _(patch: pytest.MonkeyPatch) -> None:
    start_as = start_root_as

    async def interpret(*args: Any, **named: Any) -> bool:
        if await start_as(*args, **named):
            return True
        raise WorkflowCancelledError(run_id=args[1].run_id, workflow_id="", reason="it could not be started")

    patch.setattr(starting, "start_root_as", interpret)


@mutant("a commit that is refused is taken for a cancellation")
def _(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits on a replica that is fenced is told that his run was cancelled: he is not sent to read its row."""
    result_of = Waiting.result_of

    async def interpret(self: Waiting, run_id: str, timeout: Any) -> Any:
        service = self._service  # pyright: ignore[reportPrivateUsage]
        waiting = asyncio.ensure_future(result_of(self, run_id, timeout))
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.1)
            if service is not None and isinstance(service.failure, ReplicaFencedError) and not waiting.done():
                waiting.cancel()
                raise WorkflowCancelledError(run_id=run_id, workflow_id="", reason="its update was refused")
        return waiting.result()

    patch.setattr(Waiting, "result_of", interpret)


@mutant("a commit of unknown outcome is taken for one that was made")
def _(patch: pytest.MonkeyPatch) -> None:
    write = Journal._write  # pyright: ignore[reportPrivateUsage]

    async def guess(self: Journal, *args: Any, **named: Any) -> bool:
        try:
            return await write(self, *args, **named)
        except StoreUnavailableError:
            return True

    patch.setattr(Journal, "_write", guess)


@mutant("a commit of unknown outcome is made again")
def _(patch: pytest.MonkeyPatch) -> None:
    write = Journal._write  # pyright: ignore[reportPrivateUsage]

    async def again(self: Journal, *args: Any, **named: Any) -> bool:
        try:
            return await write(self, *args, **named)
        except StoreUnavailableError:
            return await write(self, *args, **named)

    patch.setattr(Journal, "_write", again)


@mutant("each replica goes by its own clock")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replica, "clock_for_replica", lambda own: own)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("entries of a new owner are older than those before")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "witness", lambda self, seq: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


# What crosses


@mutant("the end of a child has the place that its own replica gave it")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ends, "EndSeen", lambda n, end_seq: EndSeen(n, 1))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("an end elsewhere is there before the parent has seen it")
def _(patch: pytest.MonkeyPatch) -> None:
    def end_entries(self: RemoteRuns, run: Any) -> list[Any]:
        row = run.row
        if run.parent is not None or row.parent_n is None or row.parent_key is None:
            return []
        return [MailSent(row.parent_n, MailKind.ENDED, msgspec.msgpack.encode(row.n))]

    patch.setattr(RemoteRuns, "end_entries", end_entries)


@mutant("nobody elsewhere is told of an end")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RemoteRuns, "end_entries", lambda self, run: [])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("a cancellation stops at the border")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RemoteRuns, "cancel_entries", lambda self, ns, reason, withdrawn=None: [])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("a cancellation is one recursive statement")
def _(patch: pytest.MonkeyPatch) -> None:
    """All that is below as it stands then, whoever owns it; nobody is asked, and nobody looks again."""

    def cancel_all_below(self: RemoteRuns, ns: list[int], reason: str, withdrawn: int | None = None) -> list[Any]:
        kernel = self._kernel  # pyright: ignore[reportPrivateUsage]
        store: Any = kernel.ports.store
        below, rows = set(ns), store.list_runs(RunQuery(limit=10_000))
        for row in sorted(rows, key=lambda row: row.depth):
            if row.parent_n in below:
                below.add(row.n)
        live = [row.n for row in rows if row.n in below and not row.status.is_terminal]
        return [RunsCancelled(live, kernel.now(), None, withdrawn)]

    patch.setattr(RemoteRuns, "cancel_entries", cancel_all_below)


@mutant("what was said of a run is lost when its owner writes it down", scenes=OF_TREES)
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedDatabase, "_with_sticky_flags", lambda self, run: run)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("nobody looks for what escapes a cancellation", scenes=OF_TREES)
def _(patch: pytest.MonkeyPatch) -> None:
    for module in (elsewhere, sweeping):
        patch.setattr(module, "survivors", lambda store, root_n, tops, at: [])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("an event that was sent before is sent again")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sending, "_remember", lambda self, id, runs: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


@mutant("mail is taken away before anybody has acted on it")
def _(patch: pytest.MonkeyPatch) -> None:
    deliver = Mailroom._deliver  # pyright: ignore[reportPrivateUsage]

    def lose(self: Mailroom, mail: Any) -> bool:
        if mail.kind is MailKind.ENDED and mail.id % 2:
            self._kernel.journal.append(MailTaken([mail.id]))  # pyright: ignore[reportPrivateUsage]
            return False
        return deliver(self, mail)

    patch.setattr(Mailroom, "_deliver", lose)
