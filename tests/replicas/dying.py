"""A replica that dies around each of its commits: what is asked of the others holds all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fleet import Fleet

from rotor_actors import Runtime
from rotor_actors.errors import StoreError
from rotor_actors.records import Entry
from rotor_actors.stores.shared_database import SharedDatabase

Scenario = Callable[[Fleet, list[Runtime]], Awaitable[None]]


class _Death:
    """Has the store of one replica lose its database before or after its commit of this number, and its lease with it."""

    def __init__(self, fleet: Fleet, runtime: Runtime, at: int | None, *, is_after: bool) -> None:
        self.commits = 0
        self.has_come = False
        self.burial: asyncio.Task[None] | None = None
        self._fleet = fleet
        self._runtime = runtime
        self._store = fleet.store_of(runtime)
        self._database = fleet.database
        self._at = at
        self._is_after = is_after
        self._store.before_commit = self._before

    def _before(self, entries: list[Entry]) -> None:
        self.commits += 1
        if self.commits != self._at:
            return
        self.has_come = True
        number = self._store.replica
        if self._is_after:
            self._database.apply(number, entries)
        self._store.is_cut_off = True
        self._expire(self._database, number)
        self.burial = asyncio.get_running_loop().create_task(self._fleet.close(self._runtime))
        raise StoreError("the replica is gone")

    @staticmethod
    def _expire(database: SharedDatabase, number: int) -> None:
        database.replica_rows[number].lease_until = float("-inf")


async def over_each_commit(
    make: Callable[[], Fleet], scenario: Scenario, *, replicas: int = 2, dies: int = 0, most: int = 40
) -> int:
    """Play the scenario once in peace, and then with one of the replicas dying before, and after, each of its commits.

    Args:
        dies: which replica; the first one opened is the coordinator.

    Gives how many deaths there were.
    """
    deaths = 0
    commits = await _play(make, scenario, replicas, dies, None, is_after=False)
    places = range(1, commits + 1) if commits <= most else range(1, commits + 1, commits // most + 1)
    for place in places:
        for is_after in (False, True):
            deaths += await _play(make, scenario, replicas, dies, place, is_after=is_after)
    assert deaths
    return deaths


async def _play(
    make: Callable[[], Fleet], scenario: Scenario, replicas: int, dies: int, at: int | None, *, is_after: bool
) -> int:  # fmt: skip
    async with make() as fleet:
        runtimes = [await fleet.open() for _ in range(replicas)]
        death = _Death(fleet, runtimes[dies], at, is_after=is_after)
        try:
            await scenario(fleet, runtimes)
        except BaseException as error:
            error.add_note(f"the replica died {'after' if is_after else 'before'} its commit {at}")
            raise
        finally:
            if death.burial is not None:
                await death.burial
        return death.commits if at is None else int(death.has_come)
