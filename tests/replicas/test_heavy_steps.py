"""Steps with a runner over replicas: only the owner's commit makes an outcome, whoever executes the step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import StoreError
from rotor_actors.runners import StepCall
from rotor_actors.stores.shared_database import SharedDatabase
from rotor_actors.stores.shared_memory import SharedMemoryStore

pytestmark = pytest.mark.asyncio


def work(number: int) -> str:
    raise AssertionError("the runner answers in its place")


@workflow(id="heavy")
async def heavy(ctx: Context, number: int) -> list[str]:
    first = await ctx.step.run("work", work, number, runner="cluster")
    return [first, await ctx.step.run("more", work, number, runner="cluster")]


class Cluster:
    """A runner whose workers outlive whoever asked them, as those of a partitioned machine do.

    Attributes:
        asked: the steps that were handed to it. let_go: until then it answers nobody, and heeds no cancellation.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[str] = []
        self.let_go = asyncio.Event()

    async def execute(self, call: StepCall, began: Callable[[], None]) -> Any:
        self.asked.append(call.where.rsplit(" ", 1)[-1])
        began()
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return self.name

    async def close(self) -> None:
        """It has nothing."""


async def until(condition: Callable[[], object]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not come")


async def test_what_a_zombies_runner_brings_is_refused_and_the_new_owners_outcome_stays() -> None:
    database = SharedDatabase()
    stores = [SharedMemoryStore(database, lease=60.0) for _ in range(2)]
    zombie, other = Cluster("the zombie"), Cluster("the new owner")
    other.let_go.set()

    def replica(store: SharedMemoryStore, runner: Cluster) -> Runtime:
        return Runtime(store, workflows=[heavy], step_runners={"cluster": runner}, drain_timeout=0, cancel_grace="10ms")

    async with asyncio.timeout(30), replica(stores[0], zombie) as first:
        handle = await first.start(heavy, 1)
        await until(lambda: zombie.asked)
        # Its lease has run out while it was paused: it does not know, and another takes over.
        database.replica_rows[stores[0].replica].lease_until = float("-inf")
        async with replica(stores[1], other) as second:
            assert await second.run(handle.run_id).result() == ["the new owner", "the new owner"]
            zombie.let_go.set()  # what it brings now comes late
            with contextlib.suppress(StoreError):  # it has begun anew, and whoever waited for it was told
                assert await handle.result() == ["the new owner", "the new owner"]
            steps = [step.step_id for step in await second.steps(handle.run_id)]
            assert await second.run(handle.run_id).result() == ["the new owner", "the new owner"]
    assert steps == ["work", "more"]
    assert (zombie.asked, other.asked) == (["'work'"], ["'work'", "'more'"])
