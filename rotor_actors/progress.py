"""What runs report of themselves: the newest value of each key is a durable item, and readers are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from rotor_actors.kernel import Kernel
from rotor_actors.records import ItemPut, ItemRow, RunFlag
from rotor_actors.run import Run
from rotor_actors.stores.base import ItemQuery, StoreReader
from rotor_actors.stores.schema import PROGRESS_SPACE

MOST_KEYS = 1_000
_BEHIND = "\U0010ffff"


class Report(msgspec.Struct, frozen=True, array_like=True):
    """One report, as stored: `number` counts the reports of an attempt."""

    attempt: int
    number: int
    at: float
    value: bytes

    @property
    def place(self) -> tuple[int, int]:
        return self.attempt, self.number


class Subscription:
    """One reader's: it holds the newest report of each key that the reader has not taken yet."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[Report, int]] = {}
        """With each, how many before it the reader has missed."""
        self.wake = asyncio.Event()

    def tell(self, key: str, report: Report) -> None:
        earlier = self.waiting.pop(key, None)
        self.waiting[key] = (report, 0 if earlier is None else earlier[1] + 1)
        self.wake.set()


class Progress:
    """All reports of one engine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._subscriptions: dict[int, set[Subscription]] = {}
        self._recorded: dict[int, tuple[int, int]] = {}
        """Of runs that were loaded: the newest of what earlier processes recorded, as attempt and number."""

    def report(self, run: Run, key: str, number: int, value: bytes) -> None:
        """Append the report, unless it was recorded before: a replay comes to it again.

        It goes with the next commit, and no step waits for it: what a crash loses of it is reported again.
        """
        kernel, n = self._kernel, run.row.n
        report = Report(run.row.attempt, number, kernel.now(), value)
        if run.is_doomed or report.place <= self._recorded.get(n, (0, 0)):
            return
        self._recorded.pop(n, None)
        if not run.row.flags & RunFlag.REPORTS:
            run.row.flags |= RunFlag.REPORTS
            kernel.append_change(run)
        body = msgspec.msgpack.encode(report)
        seq = kernel.journal.append(ItemPut(ItemRow(PROGRESS_SPACE, f"{n}:{key}", body, ord=n)))
        if n in self._subscriptions:
            kernel.journal.when_durable(seq, partial(self._tell, n, key, report))

    def _tell(self, n: int, key: str, report: Report) -> None:
        for subscription in self._subscriptions.get(n, ()):
            subscription.tell(key, report)

    def recorded(self, n: int, reports: dict[str, Report]) -> None:
        """What the store holds of a run that is about to be replayed."""
        if reports:
            self._recorded[n] = max(report.place for report in reports.values())

    def subscribe(self, n: int) -> tuple[Subscription, Callable[[], None]]:
        """A subscription to a run, and how to end it."""
        subscription = Subscription()
        self._subscriptions.setdefault(n, set()).add(subscription)
        return subscription, partial(self._unsubscribe, n, subscription)

    def _unsubscribe(self, n: int, subscription: Subscription) -> None:
        subscriptions = self._subscriptions.get(n)
        if subscriptions is not None:
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[n]


def reports_of(store: StoreReader, n: int) -> dict[str, Report]:
    """The newest report of each key of a run."""
    items = store.items(ItemQuery(PROGRESS_SPACE, MOST_KEYS, after=(n - 1, _BEHIND)))
    mine = [item for item in items if item.ord == n and item.body is not None]
    return {item.key.partition(":")[2]: msgspec.msgpack.decode(item.body or b"", type=Report) for item in mine}
