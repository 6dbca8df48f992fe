"""In place of `MemoryStore`: the model of a shared database, of which each runtime is the only replica."""

from __future__ import annotations

import copy
from typing import Any, Self

from rotor_actors.records import Entry
from rotor_actors.replicas import incarnations
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

LEASE = 1e9


class OnlyReplica(SharedMemoryStore):
    """What tests look for in a store of memory they find in the database."""

    def __init__(self) -> None:
        super().__init__(SharedDatabase(), lease=LEASE)

    def __getattr__(self, name: str) -> Any:
        if name == "database":
            raise AttributeError(name)
        return getattr(self.database, name)

    def try_commit(self, entries: list[Entry]) -> bool:
        """By way of `commit`, which tests replace."""
        is_free = not self.database._conflicts(entries)  # pyright: ignore[reportPrivateUsage]
        if is_free:
            self.commit(entries)
        return is_free

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """What a crash leaves behind: nobody is there any more."""
        hints, self.database.hints = self.database.hints, {}
        left = type(self)()
        vars(left).update({**vars(self), "database": copy.deepcopy(self.database), "_number": None})
        self.database.hints = hints
        left.listen(lambda: None)
        left.database.replica_rows.clear()
        left.database.free_runs()
        return left


def end_with_the_first_life() -> None:
    """A crash is a failing store in these tests: no runtime may outlive it."""
    setattr(incarnations, "is_shared", _is_never_shared)  # noqa: B010 - type checkers know it as a function


def _is_never_shared(store: object) -> bool:
    return False
