"""Asking another replica for something, by mail: what is asked is durable, and done once, whoever dies meanwhile.

Who asks is a caller of this replica, who waits for a while, or a step of a run, which waits over crashes, attempts and
owners: that it has asked is an item of its run. The answer comes in the act that did what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from rotor_actors.errors import AnswerTimeoutError, NoReplicaError, RuntimeStateError
from rotor_actors.features import Feature
from rotor_actors.kernel import Kernel
from rotor_actors.messages import Known, Pending
from rotor_actors.records import (
    COORDINATOR,
    Entry,
    ItemDropped,
    ItemRow,
    Kind,
    MailKind,
    MailSent,
    Outcome,
    OutcomeStatus,
    RunRow,
    RunWatched,
    StepRow,
    Together,
)
from rotor_actors.remote_errors import RecordedError, rebuild
from rotor_actors.replicas.remote import RemoteRuns
from rotor_actors.run import Run
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import Mail, ReplicaRow

SPACE = "asked"

# Longer than it takes until a replica that is gone is noticed, and another is the coordinator.
ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.2


class Asker(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is to be answered: the question `ask` of a replica (`to` is negative), or the step `key` of run `to`."""

    to: int = 0
    ask: int = 0
    key: bytes = b""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of it: a value, or an error, both encoded."""

    ask: int = 0
    key: bytes = b""
    value: bytes | None = None
    error: bytes | None = None

    def result(self) -> bytes:
        """The value. Raises the error."""
        if self.error is not None:
            raise rebuild(msgspec.msgpack.decode(self.error, type=RecordedError))
        return self.value or b"\xc0"


class _Asked(msgspec.Struct, frozen=True):
    """The body of an item: this step waits for an answer."""

    key: bytes
    step_id: str
    kind: Kind
    target: str


class Asking(Feature):
    """The questions of one replica, and of the runs that it owns."""

    spaces = (SPACE,)

    def __init__(self, kernel: Kernel, sharing: Sharing, remote: RemoteRuns) -> None:
        self._kernel = kernel
        self._remote = remote
        self._sharing = sharing
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Answer | None]] = {}
        self._of_run: dict[int, dict[bytes, _Asked]] = {}
        sharing.handlers[MailKind.REPLY] = self._answered

    def answer(self, asker: Asker, value: object = None, error: BaseException | None = None) -> None:
        """Append the answer, in the act that does what was asked."""
        if asker.to:
            encoded = None if error is None else self._kernel.encode_error(error)
            answer = Answer(asker.ask, asker.key, msgspec.msgpack.encode(value), encoded)
            self._sharing.send(asker.to, MailKind.REPLY, msgspec.msgpack.encode(answer))

    # Callers

    async def ask(
        self, what: str, kind: MailKind, make: Callable[[Asker], msgspec.Struct], to: int = COORDINATOR
    ) -> Answer | None:
        """Ask, and wait for the answer, which is durable.

        Args:
            what: names it, for the error. make: the question's body. to: the coordinator, or a run.

        Returns:
            None if it was put to a run, and that has ended and not answered.

        Raises:
            AnswerTimeoutError: none has come yet. What was asked is in the store, and will be done.
            NoReplicaError: this one only visits, and there is no other: none to begin with, and nothing was recorded; or
                none any more.

        Cancelling the caller does not take the question back.
        """
        kernel = self._kernel
        if kernel.options.is_visitor:
            await self._look_for_others(what)
        self._last += 1
        number = self._last
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        body = msgspec.msgpack.encode(make(Asker(-self._sharing.replica, number)))
        entries: list[Entry] = [MailSent(to, kind, body)]

        def unanswered(_: RunRow) -> None:
            _resolve(future, None)

        if to != COORDINATOR:
            entries.append(RunWatched(to, -self._sharing.replica))
            self._remote.when_ended(to, unanswered)
        seq = kernel.journal.append(Together(entries))
        clock = kernel.ports.clock
        alarm = clock.call_at(clock.now() + ANSWER_SECONDS, partial(_give_up, future, what))
        watch = asyncio.ensure_future(self._watch_others(future, what)) if kernel.options.is_visitor else None
        try:
            await kernel.journal.durable(seq)
            return await future
        finally:
            alarm.cancel()
            if watch is not None:
                watch.cancel()
            self._waiting.pop(number, None)
            self._remote.no_longer(to, unanswered)
            if future.done() and not future.cancelled():
                future.exception()  # the caller may be told of something else first

    async def _look_for_others(self, what: str) -> None:
        """Nobody would answer, for a minute: who only visits does nothing itself."""
        kernel, store = self._kernel, self._sharing.store
        if not are_served(await kernel.ports.reader.call(store.replicas), self._sharing.replica, kernel.now()):
            raise NoReplicaError(
                f"{what}: no replica is alive that could do it, and nothing was recorded: start one (rotor serve), then ask "
                f"again; rotor replicas shows them"
            )

    async def _watch_others(self, future: asyncio.Future[Answer | None], what: str) -> None:
        while not future.done():
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._sharing.is_served and not future.done():
                future.set_exception(
                    NoReplicaError(
                        f"{what}: the last replica that could do it is gone; it is recorded, and will be done once, by the "
                        f"next that comes: start one (rotor serve), and do not ask again"
                    )
                )

    def _answered(self, mail: Mail, run: Run | None) -> None:
        answer = msgspec.msgpack.decode(mail.body or b"", type=Answer)
        if run is not None:
            self._step_answered(run, answer)
            return
        future = self._waiting.get(answer.ask)
        if future is not None:
            _resolve(future, answer)

    async def ask_coordinator(self, what: str, kind: MailKind, make: Callable[[Asker], msgspec.Struct]) -> bytes:
        """`ask`, and give the value that is answered. Raises the error that is, too."""
        answer = await self.ask(what, kind, make)
        assert answer is not None
        return answer.result()

    def close(self) -> None:
        failure = self._kernel.journal.failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure or RuntimeStateError("the runtime was closed before it was answered"))

    # Steps

    def begin(self, run: Run, pending: Pending, kind: MailKind, make: Callable[[Asker], msgspec.Struct]) -> None:
        """A step asks; or, after a recovery or in a later attempt, goes on waiting."""
        if pending.key in self._of_run.get(run.row.n, {}):
            return
        asked = _Asked(pending.key, pending.step_id, pending.kind, pending.target)
        item = ItemRow(SPACE, _item_key(run, pending.key), msgspec.msgpack.encode(asked))
        body = msgspec.msgpack.encode(make(Asker(run.row.n, 0, pending.key)))
        put = self._kernel.put_item(item, run)
        self._kernel.append(run, Together([MailSent(COORDINATOR, kind, body), put]))
        self._of_run.setdefault(run.row.n, {})[pending.key] = asked

    def withdraw(self, run: Run, pending: Pending) -> None:
        """Nobody waits for the answer any more; what was asked is done all the same."""
        if self._forget(run, pending.key):
            self._kernel.append(run, ItemDropped(SPACE, _item_key(run, pending.key)))

    def waiting(self, run: Run, kind: Kind) -> Mapping[bytes, Known]:
        """The steps of this kind that wait for an answer."""
        asked = self._of_run.get(run.row.n, {}).values()
        return {each.key: Known(kind, each.target, step_id=each.step_id) for each in asked if each.kind is kind}

    def _step_answered(self, run: Run, answer: Answer) -> None:
        asked = self._of_run.get(run.row.n, {}).get(answer.key)
        if asked is None or run.is_doomed:
            return
        self._forget(run, answer.key)
        is_failed = answer.error is not None
        payload = answer.error if is_failed else answer.value
        status = OutcomeStatus.FAILED if is_failed else OutcomeStatus.COMPLETED
        now = self._kernel.now()
        row = StepRow(run.row.n, now, asked.kind, asked.key, asked.step_id, asked.target, status, payload)
        dropped = ItemDropped(SPACE, _item_key(run, asked.key))
        self._kernel.record_outcome(run, row, Outcome(status, payload), dropped)

    def _forget(self, run: Run, key: bytes) -> bool:
        of_run = self._of_run.get(run.row.n, {})
        is_known = of_run.pop(key, None) is not None
        if not of_run:
            self._of_run.pop(run.row.n, None)
        return is_known

    # As a feature

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for item in items[SPACE]:
            run = self._kernel.tree.get(item.n or 0)
            if run is not None:
                asked = msgspec.msgpack.decode(item.body or b"", type=_Asked)
                run.owns_items = True
                self._of_run.setdefault(run.row.n, {})[asked.key] = asked

    def released(self, runs: list[Run]) -> None:
        for run in runs:
            self._of_run.pop(run.row.n, None)

    @property
    def concerned(self) -> dict[int, dict[bytes, _Asked]]:
        return self._of_run

    def run_ended(self, run: Run) -> None:
        self._of_run.pop(run.row.n, None)


def are_served(replicas: list[ReplicaRow], me: int, now: float) -> bool:
    """Is there another that runs or coordinates something? One that only visits declares nothing."""
    return any(
        each.number != me and not each.is_draining and each.lease_until > now and (each.declared or each.is_coordinator)
        for each in replicas
    )


def _item_key(run: Run, key: bytes) -> str:
    return f"{run.row.n}:{key.hex()}"


def _resolve(future: asyncio.Future[Answer | None], answer: Answer | None) -> None:
    if not future.done():
        future.set_result(answer)


def _give_up(future: asyncio.Future[Answer | None], what: str) -> None:
    if not future.done():
        future.set_exception(
            AnswerTimeoutError(
                f"{what}: no other replica has answered within {ANSWER_SECONDS:g} s; it is recorded, and will be done "
                f"once, when one can do it: look whether a replica coordinates (rotor replicas), and knows the workflow"
            )
        )
