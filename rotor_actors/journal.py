"""The journal: every fact is appended here and numbered; one writer commits; effects wait for their past.

The causal barrier. A run carries the number of the newest entry in its causal past. Before an effect (what the world
outside can see) that number must be durable; nothing else waits. Commit order is append order, so a crash leaves a
prefix of what was appended, and every effect that happened is explained by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from aiorwlock import RWLock

from rotor_actors.errors import StoreError, StoreFullError
from rotor_actors.executor import Executor
from rotor_actors.records import Entry, RunRested, Together
from rotor_actors.stores.base import Store

_logger = logging.getLogger("rotor_actors")

# Large enough that a commit's fixed cost is small beside it, small enough that encoding it (two milliseconds of the
# interpreter for a thousand entries) never keeps the loop waiting for long.
ENTRIES_PER_COMMIT = 1_000
ENOUGH_ENTRIES = 250
# Nobody may be kept waiting for a commit because nobody asked for one.
GATHER_SECONDS = 0.005

FULL_RETRY_SECONDS = 0.5


class _Batch:
    """What goes into one commit, and the effects that wait for it."""

    __slots__ = ("attempt", "effects", "entries", "last_seq")

    def __init__(self, last_seq: int) -> None:
        self.entries: list[Entry] = []
        self.effects: list[Callable[[], None]] = []
        self.attempt: _Attempt | None = None
        """It is a commit of its own, which the store may refuse."""
        self.last_seq = last_seq
        """Its newest entry, or while it has none, the newest before it: so that an effect that waits for an older
        entry goes to the batch that holds that entry, never to one that may stay empty."""


class _Attempt:
    """A conditional commit, and what is to be done at once if it is accepted."""

    __slots__ = ("accepted", "answer")

    def __init__(self, accepted: Callable[[], None]) -> None:
        self.accepted = accepted
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Journal:
    """Appends in memory, commits behind.

    Args:
        store: where commits go.
        executor: where the blocking commit is called.
        last_seq: the newest entry the store holds.
        start: is handed an effect whose past is durable already.
        release: is handed the effects whose past has become durable.
        on_failure: is told when a commit failed; from then on nothing is released.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        last_seq: int,
        start: Callable[[Callable[[], None]], None],
        release: Callable[[list[Callable[[], None]]], None],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._start = start
        self._release = release
        self._on_failure = on_failure
        self.last_seq = last_seq
        self.durable_seq = last_seq
        self._batches: deque[_Batch] = deque([_Batch(last_seq)])
        self._rests: dict[int, RunRested] = {}
        self._conditional: Callable[[list[Entry]], bool] | None = getattr(store, "try_commit", None)
        self._attempts: set[_Attempt] = set()
        self._wake = asyncio.Event()
        self._flushers: dict[asyncio.Future[None], int] = {}  # in the order in which they came
        self._impatient: set[asyncio.Future[None]] = set()
        self._is_direct = False
        self._is_one_act = False
        self._is_committing = False
        self.effects_waiting = 0
        self._on_committed: Callable[[list[Entry], float], None] | None = None
        self._monotonic: Callable[[], float] = lambda: 0.0
        self.failure: StoreError | None = None
        self.is_full = False
        # Commits read, backup and compaction write: they exclude commits, and nothing else ever holds it.
        self.commit_lock = RWLock()

    def watch(self, on_committed: Callable[[list[Entry], float], None], monotonic: Callable[[], float]) -> None:
        """Have each commit shown when it is durable, with how many seconds it took."""
        self._on_committed, self._monotonic = on_committed, monotonic

    @property
    def next_seq(self) -> int:
        """The number that the entry appended next will get."""
        return self.last_seq + 1

    def append(self, entry: Entry) -> int:
        """Append an entry, which a crash keeps or loses as a whole, and return its number."""
        self.last_seq = entry.seq = seq = self.last_seq + 1
        batch = self._batches[-1]
        if len(batch.entries) >= ENTRIES_PER_COMMIT and not self._is_one_act:
            batch = _Batch(seq)
            self._batches.append(batch)
        batch.entries.append(entry)
        batch.last_seq = seq
        return seq

    @contextmanager
    def one_act(self) -> Generator[None, None, None]:
        """A crash keeps or loses as a whole all that is appended within, by whomever. Nothing may be awaited in it.

        Each entry has its own number, as ever. An act within another is part of it.
        """
        if self._is_one_act:
            yield
            return
        batch = self._batches[-1]
        if len(batch.entries) >= ENTRIES_PER_COMMIT:
            batch = _Batch(self.last_seq)
            self._batches.append(batch)
        before = len(batch.entries)
        self._is_one_act = True
        try:
            yield
        finally:
            self._is_one_act = False
            act = batch.entries[before:]
            if len(act) > 1:
                batch.entries[before:] = [Together(act, batch.last_seq)]

    def witness(self, seq: int) -> None:
        """An entry of this number is in the store, by whomever: what is appended from now on has greater ones.

        To be called before anything is appended for runs of which it is the newest.
        """
        if seq > self.last_seq:
            self.last_seq = seq
            self.append(Together([]))  # when this is durable, `durable_seq` has come as far

    async def attempt(self, entries: list[Entry], accepted: Callable[[], None] = lambda: None) -> bool:
        """Commit these entries by themselves, in order with what else is appended, unless the store refuses them.

        A shared store does so when a run id among them is taken, or the `once` of a message: then nothing of them is
        recorded, and False comes back; read the store. True: they are durable. `accepted` is called at once when it
        is known, whatever has become of the caller: let it put into memory what is in the store now. On a store with
        one owner they are appended, which nothing can refuse.

        Raises:
            StoreError: a commit failed; whether this one is durable is unknown.
        """
        if self.failure is not None:
            raise self.failure
        if self._conditional is None:
            with self.one_act():
                for entry in entries:
                    self.append(entry)
                accepted()
            await self.durable(self.last_seq)
            return True
        attempt = _Attempt(accepted)
        for entry in entries:
            self.last_seq = entry.seq = self.last_seq + 1
        batch = self._batches[-1]
        if batch.entries or batch.attempt is not None:
            batch = _Batch(self.last_seq)
            self._batches.append(batch)
        together: list[Entry] = [Together(entries, self.last_seq)]
        batch.entries, batch.attempt, batch.last_seq = together, attempt, self.last_seq
        self._batches.append(_Batch(self.last_seq))
        self._attempts.add(attempt)
        self.kick()
        # Whoever asked may be cancelled: the commit is made all the same.
        return await asyncio.shield(attempt.answer)

    def note_rest(self, n: int, rest_seq: int, wake_at: float | None) -> None:
        """Run `n` is at rest: write so with a commit that holds `rest_seq`, and recovery need not replay it.

        A hint, not a fact: it has no number, and a stale one only costs a replay.
        """
        self._rests[n] = RunRested(n, rest_seq, wake_at)

    def forget_rest(self, n: int) -> None:
        self._rests.pop(n, None)

    def when_durable(self, seq: int, effect: Callable[[], None]) -> None:
        """Have `effect` begun once entry `seq` is durable; never, when a commit fails before."""
        if self.failure is not None:
            return
        if seq <= self.durable_seq:
            self._start(effect)
            return
        chosen = self._batches[-1]
        for batch in reversed(self._batches):
            if batch.last_seq < seq:
                break
            chosen = batch
        chosen.effects.append(effect)
        self.effects_waiting += 1

    async def durable(self, seq: int, *, unless_full: bool = False) -> None:
        """Wait until entry `seq` is durable; with `unless_full`, no longer than there is room on the disk.

        Raises:
            StoreError: a commit failed; whether this one is durable is unknown.
        """
        if self.failure is not None:
            raise self.failure
        if seq <= self.durable_seq or (unless_full and self.is_full):
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushers[waiter] = seq
        if unless_full:
            self._impatient.add(waiter)
        self.when_durable(seq, partial(_resolve, waiter))
        self.kick()
        try:
            await waiter
        finally:
            self._flushers.pop(waiter)
            self._impatient.discard(waiter)

    @property
    def is_idle(self) -> bool:
        """All that was appended is durable."""
        return self.durable_seq >= self.last_seq and not self._rests

    @property
    def has_enough(self) -> bool:
        """So much was appended that a commit's fixed cost is small beside it."""
        waiting = len(self._batches) - self._is_committing
        return waiting > 1 or len(self._batches[-1].entries) >= ENOUGH_ENTRIES

    def kick(self) -> None:
        """Commit what was appended, as soon as the commit under way is done."""
        if self._batches[0].entries or self._rests:
            self._wake.set()

    def tell_directly(self) -> None:
        """Nobody begins released effects any more: whoever awaits `durable` is told by the commit itself."""
        self._is_direct = True
        self._tell()

    def _tell(self) -> None:
        for waiter, seq in self._flushers.items():
            if seq <= self.durable_seq and not waiter.done():
                waiter.set_result(None)

    async def serve(self) -> None:
        """The writer: commit batch after batch, for as long as the runtime is open."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.failure is None and (self._batches[0].entries or self._rests):
                await self._commit_next()
            if self.failure is None:
                self._go_on()

    def _go_on(self) -> None:
        """What was appended while the last commit was under way is the next: at once where there is enough of it."""
        if self.has_enough:
            self._wake.set()
        elif self._batches[0].entries:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wake.set)

    async def _commit_next(self) -> None:
        batch = self._batches[0]  # stays there, to be found by when_durable while it is being committed
        if len(self._batches) == 1:
            self._batches.append(_Batch(batch.last_seq))
        attempt = batch.attempt
        entries = batch.entries if attempt is not None else batch.entries + self._take_rests(batch.last_seq)
        self._is_committing = True
        began = self._monotonic()
        try:
            is_written = await (self._write(entries) if attempt is None else self._write(entries, is_attempt=True))
        except StoreError as error:
            self.fail(error)
            return
        finally:
            self._is_committing = False
        self._batches.popleft()
        self.durable_seq = max(self.durable_seq, batch.last_seq)
        if attempt is not None:
            self._answer(attempt, is_written)
        self.effects_waiting -= len(batch.effects)
        self._release(batch.effects)
        if self._is_direct:
            self._tell()
        if self._on_committed is not None and is_written:
            self._on_committed(entries, self._monotonic() - began)

    def _answer(self, attempt: _Attempt, is_written: bool) -> None:
        self._attempts.discard(attempt)
        if is_written:
            attempt.accepted()
        if not attempt.answer.done():
            attempt.answer.set_result(is_written)

    def _commit(self, entries: list[Entry], is_attempt: bool) -> bool:
        if is_attempt and self._conditional is not None:
            return self._conditional(entries)
        self._store.commit(entries)
        return True

    async def _write(self, entries: list[Entry], *, is_attempt: bool = False) -> bool:
        """Says whether they are durable; False of an attempt that was refused."""
        while True:
            try:
                async with self.commit_lock.reader_lock:
                    is_written = await self._executor.call(lambda: self._commit(entries, is_attempt))
            except StoreFullError as error:
                # Refused as a whole: nothing is lost as long as we hold it. Nothing new is let in meanwhile.
                if not self.is_full:
                    _logger.error("%s (retrying; no run is accepted meanwhile)", error)
                self.is_full = True
                for waiter in self._impatient:
                    _resolve(waiter)
                await asyncio.sleep(FULL_RETRY_SECONDS)
            except StoreError:
                raise
            except Exception as error:
                raise StoreError(f"commit failed: {type(error).__name__}: {error}") from error
            else:
                if self.is_full:
                    _logger.warning("there is room on the disk again")
                self.is_full = False
                return is_written

    def _take_rests(self, upto_seq: int) -> list[Entry]:
        taken: list[Entry] = [rest for rest in self._rests.values() if rest.rest_seq <= upto_seq]
        if len(taken) == len(self._rests):
            self._rests.clear()
        else:
            self._rests = {n: rest for n, rest in self._rests.items() if rest.rest_seq > upto_seq}
        return taken

    def fail(self, error: StoreError) -> None:
        """The store cannot be relied on: nothing more is committed, and nobody is left waiting. Once is enough."""
        if self.failure is not None:
            return
        self.failure = error
        self.leave_nobody_waiting(error)
        self._on_failure(error)

    def leave_nobody_waiting(self, error: Exception) -> None:
        """Nothing more is committed: tell those who wait for it."""
        self._tell()  # what an earlier commit made durable is known to be so
        for waiter in self._flushers:
            if not waiter.done():
                waiter.set_exception(error)
        for attempt in self._attempts:
            if not attempt.answer.done():
                attempt.answer.set_exception(error)
                attempt.answer.exception()  # its caller may be gone


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
