"""The mail between replicas: what is there for this one is read, and acted on, each message in one act with its removal."""

from __future__ import annotations

import asyncio
import logging

from rotor_actors.errors import StoreError
from rotor_actors.kernel import Kernel
from rotor_actors.records import COORDINATOR, MailKind, MailTaken
from rotor_actors.run import Phase, Run
from rotor_actors.sharing import Sharing
from rotor_actors.stores.shared import Mail

_logger = logging.getLogger("rotor_actors")

MAILS_PER_READ = 500


class Mailroom:
    """Reads the mail on each hint, and each second or so: hints may be lost, and the store is the truth.

    A message is acted on once: the entry that follows from it takes it away, and until that is durable its number is
    remembered. What cannot be acted on yet (its run is not taken in, nobody knows its kind) stays where it is, is read
    again, and keeps nothing else waiting. So each round reads from the beginning: numbers are given before commits, and
    a smaller one may come to light after a larger.
    """

    def __init__(self, kernel: Kernel, sharing: Sharing) -> None:
        self._kernel = kernel
        self._sharing = sharing
        self._taken: dict[int, int] = {}
        """Messages that were acted on, each with the entry that takes it away."""
        self._broken: set[int] = set()
        self._round = asyncio.Lock()

    async def round(self, is_due: bool) -> None:
        """What is done on a hint, and in any case after a while. A store that cannot be read ends the incarnation."""
        try:
            await self.collect()
        except StoreError as error:
            self._kernel.journal.fail(error)

    async def collect(self) -> int:
        """Read all that is there, and act on it. Gives how many messages were acted on."""
        async with self._round:
            return await self._collect()

    async def _collect(self) -> int:
        durable = self._kernel.journal.durable_seq
        self._taken = {number: seq for number, seq in self._taken.items() if seq > durable}
        after, acted_on = 0, 0
        while True:
            mails = await self._read(after)
            wanted = [mail for mail in mails if mail.id not in self._taken]
            for kind in {mail.kind: None for mail in wanted}:
                await self._prepare(
                    kind, [each for each in wanted if each.kind is kind and each.id not in self._broken]
                )
            acted_on += sum([self._deliver(mail) for mail in wanted])
            if len(mails) < MAILS_PER_READ:
                break
            after = mails[-1].id
        self._kernel.queue_of_runs.poke()
        self._kernel.journal.kick()
        return acted_on

    async def _read(self, after: int) -> list[Mail]:
        store = self._sharing.store
        return await self._kernel.ports.reader.call(lambda: store.mail(after, MAILS_PER_READ))

    async def _prepare(self, kind: MailKind, mails: list[Mail]) -> None:
        prepare = self._sharing.preparers.get(kind)
        if prepare is None or not mails:
            return
        try:
            await prepare(mails)
        except StoreError:
            raise
        except Exception:
            if len(mails) == 1:
                self._set_aside(mails[0])
                return
            for mail in mails:  # one of them is to blame: the others are as good as ever
                await self._prepare(kind, [mail])
            rest = [mail for mail in mails if mail.id not in self._broken]
            if len(rest) == len(mails):
                raise
            await self._prepare(kind, rest)  # together once more: each look-up takes the place of the one before

    def _deliver(self, mail: Mail) -> bool:
        handler = self._sharing.handlers.get(mail.kind)
        if handler is None or mail.id in self._broken or self._kernel.journal.failure is not None:
            return False
        run: Run | None = None
        if mail.to > COORDINATOR:
            run = self._kernel.tree.get(mail.to)
            if run is None or run.phase is Phase.REMOTE:  # not taken in yet, perhaps
                return False
        elif mail.to == COORDINATOR and not self._sharing.is_coordinator:
            return False
        journal = self._kernel.journal
        try:
            with journal.one_act():
                if handler(mail, run) is False:
                    return False
                self._taken[mail.id] = journal.append(MailTaken([mail.id]))
        except Exception:
            self._set_aside(mail)
            return False
        return True

    def _set_aside(self, mail: Mail) -> None:
        """An error of ours. It must not keep the others waiting; another replica, or this one opened again, tries anew."""
        self._broken.add(mail.id)
        _logger.critical("mail %d, %s to %d, could not be acted on", mail.id, mail.kind, mail.to, exc_info=True)
