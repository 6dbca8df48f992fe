"""Events on their way: from whoever sends them to the runs that they cancel, resume and start, in one act."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec

from rotor_actors.cancellation import Cancellation
from rotor_actors.claims import Claims
from rotor_actors.errors import StoreError
from rotor_actors.events.cancelling import CancelOns
from rotor_actors.events.outbox import put_out
from rotor_actors.events.waiters_elsewhere import EventGiven, WaitersElsewhere
from rotor_actors.events.waiting import EventWaits
from rotor_actors.features import StepFeature
from rotor_actors.finishing import Finishing
from rotor_actors.ids import derived_id
from rotor_actors.kernel import Kernel, Started
from rotor_actors.messages import Known, Pending
from rotor_actors.records import (
    COORDINATOR,
    EventNote,
    ItemPut,
    ItemRow,
    ItemsExpired,
    Kind,
    MailKind,
    Outcome,
    OutcomeStatus,
    StepRow,
)
from rotor_actors.replicas.asking import Asker, Asking
from rotor_actors.roots import start_root
from rotor_actors.run import Run
from rotor_actors.run_actor import RunActor
from rotor_actors.sharing import Sharing
from rotor_actors.step_specs import EventRecord, SendEventSpec
from rotor_actors.stores.shared import Mail
from rotor_actors.workflows import Workflow

SPACE = "event-ids"
_PRUNINGS_PER_PERIOD = 24


class Sending(StepFeature):
    """Delivers events: `runtime.send` and `step.send_event`."""

    kinds = (Kind.SEND_EVENT,)

    def __init__(
        self, kernel: Kernel, finishing: Finishing, waits: EventWaits, cancels: CancelOns, asking: Asking | None = None
    ) -> None:
        self._kernel = kernel
        self._asking = asking
        self._elsewhere = WaitersElsewhere(kernel)
        self._known: dict[str, list[str]] = {}
        self._is_prepared = False
        self.can_start: Callable[[], bool] = lambda: True
        """Many replicas: starts can be decided on here."""
        self._finishing = finishing
        self._waits = waits
        self._cancels = cancels
        self._claims = Claims()
        self._triggers: dict[str, list[Workflow[Any, Any]]] = {}
        self._prune_at = 0.0
        self._recent: dict[str, list[str]] = {}
        """Ids that were sent, and are not in the store yet: whoever sent them may not have waited for that."""

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        if isinstance(workflow.on, str):
            self._triggers.setdefault(workflow.on, []).append(workflow)

    async def send(self, events: Sequence[EventRecord], check: Callable[[], object]) -> list[str]:
        """Deliver events from outside; durable when it returns. Gives the ids of the runs that they started.

        Args:
            check: called right before; it raises if nothing can be sent now.
        """
        kernel, context = self._kernel, contextvars.copy_context()
        ids = [event.id or kernel.ports.ids.new_run_id(kernel.now()) for event in events]
        if self._asking is not None:
            what = f"sending event {events[0].name!r}" if events else "sending no event"
            note = partial(_EventsSent, events=list(events), ids=ids)
            value = await self._asking.ask_coordinator(what, MailKind.EVENT, lambda asker: note(asker))
            return msgspec.msgpack.decode(value, type=list[str])
        async with self._held(events):
            known = await self._sent_before(events)
            check()
            started = self._deliver(events, ids, known, context)
            kernel.queue_of_runs.poke()
            await kernel.journal.durable(kernel.journal.last_seq)
        return started

    # As a step

    def begin(self, run: Run, pending: Pending) -> float | None:
        spec: SendEventSpec = pending.spec
        if self._asking is not None:
            ids = [event.id or derived_id(run.row.run_id, pending.key, at) for at, event in enumerate(spec.events)]
            note = partial(_EventsSent, events=list(spec.events), ids=ids)
            with self._kernel.journal.one_act():
                self._put_out(spec.events, ids)
                self._asking.begin(run, pending, MailKind.EVENT, lambda asker: note(asker))
        elif any(event.id for event in spec.events):
            actor, busy = run.actor, ExitStack()
            assert isinstance(actor, RunActor)
            busy.enter_context(actor.steps.busy())
            self._kernel.in_background(self._send_once(run, actor, busy, pending), run)
        else:
            self._send(run, pending, {})
        return None

    def withdraw(self, run: Run, pending: Pending) -> None:
        """What was sent is sent; what is being looked up is not awaited any more, and so not sent."""
        if self._asking is not None:
            self._asking.withdraw(run, pending)

    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        if self._asking is None:
            return {}  # sending takes no time that a restart could fall into
        return self._asking.waiting(run, Kind.SEND_EVENT)

    # Many replicas

    def serve(self, sharing: Sharing) -> None:
        """Take events by mail: as the coordinator, and for runs of ours that wait for them."""
        sharing.preparers[MailKind.EVENT] = self._prepare
        sharing.handlers[MailKind.EVENT] = self._came

    async def _prepare(self, mails: list[Mail]) -> None:
        self._known = dict(self._recent)
        self._is_prepared = self.can_start()
        notes = [_sent(mail) for mail in mails if mail.to == COORDINATOR]
        if notes and self._is_prepared:
            # What is durable now was recent when that was copied.
            self._known |= await self._sent_before([event for note in notes for event in note.events])
            await self._elsewhere.read(event.name for note in notes for event in note.events)

    def _came(self, mail: Mail, run: Run | None) -> bool:
        if run is not None:
            given = msgspec.msgpack.decode(mail.body or b"", type=EventGiven)
            waiting = self._waits.of(run, given.key)
            if waiting is not None and not run.is_doomed:
                self._waits.give(waiting, given.event)
            return True
        if self._asking is None or not self._is_prepared:
            return False
        note = _sent(mail)
        started = self._deliver(note.events, note.ids, self._known | self._recent, None)
        self._asking.answer(note.asker, started)
        return True

    async def _send_once(self, run: Run, actor: RunActor, busy: ExitStack, pending: Pending) -> None:
        kernel, events = self._kernel, pending.spec.events
        try:
            async with self._held(events):
                with busy:
                    known = await self._sent_before(events)
                if run.is_doomed or run.actor is not actor or not actor.steps.waits_for(pending):
                    return
                self._send(run, pending, known)
                kernel.queue(run)
                await kernel.journal.durable(kernel.journal.last_seq)
        except StoreError as error:
            kernel.journal.fail(error)  # what cannot be read cannot go on; reopening tries again

    def _send(self, run: Run, pending: Pending, known: dict[str, list[str]]) -> None:
        kernel, events = self._kernel, pending.spec.events
        ids = [event.id or derived_id(run.row.run_id, pending.key, number) for number, event in enumerate(events)]
        with kernel.journal.one_act():
            started = self._deliver(events, ids, known, None)
            self._put_out(events, ids)
            if run.is_doomed:
                return  # one of the events has cancelled it
            payload = msgspec.msgpack.encode(started)
            row = StepRow(run.row.n, kernel.now(), Kind.SEND_EVENT, pending.key, pending.step_id, pending.target,
                          payload=payload)  # fmt: skip
            kernel.record_outcome(run, row, Outcome(OutcomeStatus.COMPLETED, payload))

    def _put_out(self, events: Sequence[EventRecord], ids: Sequence[str]) -> None:
        """For other stores, as everybody is to see them."""
        now = self._kernel.now()
        sent = [(event, id, now if event.at is None else event.at) for event, id in zip(events, ids, strict=True)]
        put_out(self._kernel, [msgspec.structs.replace(event, id=id, at=at) for event, id, at in sent])

    # Once only

    @asynccontextmanager
    async def _held(self, events: Iterable[EventRecord]) -> AsyncGenerator[None, None]:
        """Of two who send one id at once, the later learns of the earlier: neither sees it in the store in between."""
        async with AsyncExitStack() as held:
            for id in sorted({event.id for event in events if event.id}):
                await held.enter_async_context(self._claims.hold(id))
            yield

    async def _sent_before(self, events: Iterable[EventRecord]) -> dict[str, list[str]]:
        """Ids that were sent within the period, each with the runs that were started then."""
        kernel = self._kernel
        recent = {event.id: self._recent[event.id] for event in events if event.id in self._recent}
        ids = [event.id for event in events if event.id and event.id not in recent]
        if not ids:
            return recent
        store = kernel.ports.store
        items = await kernel.ports.reader.call(lambda: [store.item(SPACE, item_key(id)) for id in ids])
        found = {
            id: item
            for id, item in zip(ids, items, strict=True)
            if item is not None and _is_current(item, kernel.now())
        }
        return recent | {id: msgspec.msgpack.decode(item.body or b"\x90", type=list[str]) for id, item in found.items()}

    # The act

    def _deliver(
        self, events: Sequence[EventRecord], ids: list[str], known: dict[str, list[str]],
        context: contextvars.Context | None,
    ) -> list[str]:  # fmt: skip
        started: list[str] = []
        with self._kernel.journal.one_act():
            for event, id in zip(events, ids, strict=True):
                runs = known.get(event.id) if event.id else None
                if runs is None:
                    at = self._kernel.now() if event.at is None else event.at
                    runs = self._deliver_one(msgspec.structs.replace(event, id=id, at=at), context)
                    if event.id:
                        known[id] = runs
                        self._remember(id, runs)
                started.extend(runs)
        return started

    def _deliver_one(self, event: EventRecord, context: contextvars.Context | None) -> list[str]:
        """First it cancels, then it is given to those that wait, then it starts: so none gets it twice."""
        is_shared = self._asking is not None
        if is_shared or self._waits.waiters.are_for(event.name) or self._cancels.waiters.are_for(event.name):
            data = self._kernel.registry.codecs.of(Any).decode(event.data)
            plain = {"name": event.name, "id": event.id, "data": data}
            now = self._kernel.now()
            reason = f"event {event.name!r} (id {event.id})"
            for run in [waiter.owner for waiter in self._cancels.waiters.matching(plain, now)]:
                if not run.is_doomed:  # as one below another that it cancels, too
                    Cancellation(self._kernel, self._finishing, [run], reason).begin()
            stored = msgspec.msgpack.encode(event)
            for waiter in self._waits.waiters.matching(plain, now):
                if not waiter.owner.run.is_doomed:  # cancelled, this moment or by this event: its waits go in slices
                    self._waits.give(waiter.owner, stored)
            if is_shared:
                self._elsewhere.cancel(plain, now, reason)
                self._elsewhere.give(plain, now, stored)
        is_home = self._kernel.options.is_home
        triggers = self._triggers.get(event.name, ())
        if is_home is not None:
            triggers = [workflow for workflow in triggers if is_home(workflow, event.id)]
        started = [self._start(workflow, event, context) for workflow in triggers]
        return [each.run_id for each in started if each.is_new]

    def _start(self, workflow: Workflow[Any, Any], event: EventRecord, context: contextvars.Context | None) -> Started:
        """Data that does not fit the workflow's annotation is found out by the run, which fails by name: visible, with
        its on_failure handler, and no hindrance to the other workflows."""
        kernel = self._kernel
        run_id = kernel.ports.ids.new_run_id(kernel.now())
        note = EventNote(event.name, event.id, event.at or 0.0)
        return start_root(kernel, workflow, event.data, run_id, event=note, context=context)

    def _remember(self, id: str, runs: list[str]) -> None:
        kernel, now = self._kernel, self._kernel.now()
        period = kernel.options.remember_event_ids
        if now >= self._prune_at:
            kernel.journal.append(ItemsExpired(SPACE, now))
            self._prune_at = now + period / _PRUNINGS_PER_PERIOD
        item = ItemRow(SPACE, item_key(id), msgspec.msgpack.encode(runs), due=now + period)
        self._recent[id] = runs
        kernel.journal.when_durable(kernel.journal.append(ItemPut(item)), partial(self._is_stored, id))

    def _is_stored(self, id: str) -> None:
        self._recent.pop(id, None)


class _EventsSent(msgspec.Struct, frozen=True):
    """To the coordinator: deliver these; those that name no id of theirs have one in `ids` all the same."""

    asker: Asker
    events: list[EventRecord]
    ids: list[str]


def _sent(mail: Mail) -> _EventsSent:
    return msgspec.msgpack.decode(mail.body or b"", type=_EventsSent)


def item_key(id: str) -> str:
    """Ids may be long; the index of the store need not."""
    return blake2b(id.encode(), digest_size=16).hexdigest()


def _is_current(item: ItemRow, now: float) -> bool:
    return item.due is not None and item.due > now
