"""What a replica believes of its lease, and the heart that renews it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from rotor_actors.errors import ReplicaFencedError, StoreError
from rotor_actors.stores.shared import SharedStore

_logger = logging.getLogger("rotor_actors")

_BEATS_PER_LEASE = 3
# So much of the lease is kept back: for what was begun in its last moment, and for clocks that do not run alike.
_MARGIN = 0.1


class Lease:
    """Held, as far as this replica can know: it is counted from when the last beat that was answered was *sent*.

    Args:
        seconds: how long it is. monotonic: the loop's clock, which threads may read.
        on_lost: told once, when it is lost or may be: nothing may be begun any more.
    """

    def __init__(self, seconds: float, monotonic: Callable[[], float], on_lost: Callable[[StoreError], None]) -> None:
        self.seconds = seconds
        self._monotonic = monotonic
        self._on_lost = on_lost
        self._until = monotonic() + seconds * (1 - _MARGIN)
        self._is_told = False

    def renewed(self, sent_at: float) -> None:
        self._until = max(self._until, sent_at + self.seconds * (1 - _MARGIN))

    @property
    def is_lost(self) -> bool:
        """Others may own our runs, or will in a moment."""
        return self._is_told or self._monotonic() >= self._until

    @property
    def left(self) -> float:
        """Seconds until it is lost, as things stand."""
        return self._until - self._monotonic()

    def check(self) -> bool:
        """Is it held? If not, the incarnation ends here and now: to be asked in the moment before an effect begins."""
        if self.is_lost:
            self.lose(
                ReplicaFencedError(
                    f"this replica could not renew its lease of {self.seconds:g} s in time (the database was away, or the "
                    f"event loop was blocked): its runs may have been given to others; it begins anew "
                    f"as another one"
                )
            )
            return False
        return True

    def lose(self, error: StoreError) -> None:
        if not self._is_told:
            self._is_told = True
            self._on_lost(error)


class Heart:
    """Beats three times a lease. While the event loop does not move it stops: a replica that hangs must be replaced.

    Args:
        on_time: told the database's time with each beat, and when that was sent and answered.
    """

    def __init__(self, store: SharedStore, lease: Lease, on_time: Callable[[float, float, float], None]) -> None:
        self._store = store
        self._lease = lease
        self._on_time = on_time
        self._every = lease.seconds / _BEATS_PER_LEASE
        self._loop = asyncio.get_running_loop()
        self._ticked_at = self._loop.time()
        self._stopped = threading.Event()
        self.is_stopped = False
        """For tests: it does not beat any more."""

    async def serve(self) -> None:
        """Beat for as long as the incarnation lives: a store that may block does so in a thread of its own."""
        if self._store.is_inline:
            while True:
                await asyncio.sleep(self._every)
                self.beat()
        self._stopped.clear()
        threading.Thread(target=self._beat_in_thread, name="rotor-heart", daemon=True).start()
        try:
            while True:
                self._ticked_at = self._loop.time()
                tick = self._every / 2
                if self._lease.check():  # what is under way is interrupted when it is over, not at the tick behind that
                    tick = max(0.0, min(tick, self._lease.left))
                await asyncio.sleep(tick)
        finally:
            self._stopped.set()

    def beat(self) -> None:
        """Once, here. Where it fails, time decides: the lease is held for as long as it was."""
        if self.is_stopped:
            return
        sent_at = self._loop.time()
        try:
            now = self._store.beat()
        except StoreError as error:
            _logger.warning("the lease could not be renewed: %s", error)
            self._lease.check()
            return
        self._answered(now, sent_at, self._loop.time())
        if now is not None:
            self._lease.check()

    def _answered(self, now: float | None, sent_at: float, answered_at: float) -> None:
        if now is None:
            self._lease.lose(
                ReplicaFencedError(
                    "this replica's lease had run out: its runs were given to others; it begins anew as another one"
                )
            )
            return
        self._lease.renewed(sent_at)
        self._on_time(now, sent_at, answered_at)

    def _beat_in_thread(self) -> None:
        while not self._stopped.wait(self._every):
            sent_at = self._loop.time()
            if self.is_stopped or sent_at - self._ticked_at > self._every * 2:
                continue  # the loop hangs: whoever can move shall have our runs
            try:
                now = self._store.beat()
            except Exception as error:
                if not self._stopped.is_set():
                    _logger.warning("the lease could not be renewed: %s", error)
                continue
            try:
                self._loop.call_soon_threadsafe(self._answered_if_alive, now, sent_at, self._loop.time())
            except RuntimeError:
                return  # the loop is closed

    def _answered_if_alive(self, now: float | None, sent_at: float, answered_at: float) -> None:
        if not self._stopped.is_set():
            self._answered(now, sent_at, answered_at)
