"""The store of one life of the simulated process: it is watched, it is where the process dies, and it is fenced then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from rotor_actors.errors import StoreError, StoreFullError
from rotor_actors.records import Entry
from rotor_actors.simulation.crashes import Place
from rotor_actors.simulation.loop import Life
from rotor_actors.stores.base import Store
from rotor_actors.stores.transaction import TransactionCall
from rotor_actors.transactions import TransactionalStore

T = TypeVar("T")

_VERBS = ("open", "close", "last_numbers", "live_runs", "histories", "parents_of", "find", "list_runs",
          "count_by_status", "steps", "items", "item", "backup", "compact")  # fmt: skip
_CLOSING = ("close",)


class Watcher(Protocol):
    """Who is told, and decides."""

    def commit_begins(self, entries: list[Entry]) -> Place | None: ...

    def cut_power_soon(self) -> None: ...

    def committed(self, entries: list[Entry]) -> None: ...

    def commit_failed(self, entries: list[Entry], error: StoreError) -> None: ...

    def store_called(self, verb: str) -> None: ...

    def die(self, life: Life, place: str) -> None: ...

    def refused(self, life: Life, verb: str) -> None: ...


class WatchedStore:
    """See the module. Verbs that do not commit are passed on as they are."""

    def __init__(self, store: Store, life: Life, watcher: Watcher) -> None:
        self._store = store
        self._life = life
        self._watcher = watcher
        self.is_inline = store.is_inline

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        verb = getattr(self._store, name)
        return partial(self._call, name, verb) if callable(verb) else verb

    def _call(self, name: str, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._check(name)
        if name not in _CLOSING:
            self._watcher.store_called(name)
            if self._life.is_dead:
                raise StoreError("the process has died")
        return verb(*args, **kwargs)

    def _check(self, verb: str) -> None:
        if self._life.is_dead:
            self._watcher.refused(self._life, verb)
            raise StoreError("the process that this store belongs to has died")

    def commit(self, entries: list[Entry]) -> None:
        self._check("commit")
        self._commit(entries, partial(self._store.commit, entries))

    def transact(self, n: int, key: bytes, call: TransactionCall) -> bytes:
        """A commit of the store, without entries."""
        self._check("transact")
        return self._commit([], partial(cast(TransactionalStore, self._store).transact, n, key, call))

    def _commit(self, entries: list[Entry], act: Callable[[], T]) -> T:
        place = self._watcher.commit_begins(entries)
        if place == "before":
            self._die("before", entries)
        if place == "at":
            self._watcher.cut_power_soon()
        try:
            result = act()
        except StoreError as error:
            if place == "at":
                self._die("at", entries)
            self._watcher.commit_failed(entries, error)
            raise
        self._watcher.committed(entries)
        if place is not None:
            self._die(place, entries)
        return result

    def _die(self, place: Place, entries: list[Entry]) -> None:
        self._watcher.die(self._life, f"{place} a commit of {len(entries)}")
        raise StoreError("the process has died")


def watched(store: Store, life: Life, watcher: Watcher) -> Store:
    """The store of one life."""
    return cast(Store, WatchedStore(store, life, watcher))


def is_refusal(error: StoreError) -> bool:
    """Nothing was written, and the same call may be made again."""
    return isinstance(error, StoreFullError)
