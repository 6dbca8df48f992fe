"""A replica is gone after any entry that it commits: others finish what it had a part in, with the same outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import pytest
from crossing import Crossing

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import RotorError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.records import RunFlag

T = TypeVar("T")

pytestmark = pytest.mark.asyncio


@workflow(id="leaf")
async def leaf(ctx: Context, name: str) -> str:
    async def act() -> str:
        return name

    await ctx.step.sleep("a moment", "10s" if name == "quick" else "1m")
    if name == "bad":
        raise ValueError("bad luck")
    return await ctx.step.run("act", act)


@workflow(id="top", retries=0)
async def top(ctx: Context, _: str) -> list[str]:
    """Awaits children of another replica in all ways there are, and says in which order it saw what."""
    seen: list[str] = []

    async def call(name: str, timeout: str = "1h") -> None:
        try:
            ended = await ctx.step.invoke(name, workflow=leaf, data=name, timeout=timeout)
        except WorkflowFailedError as error:
            seen.append(f"{name}: {error.error.message}")
        except WorkflowTimeoutError:
            seen.append(f"{name}: timed out")
        else:
            seen.append(f"{name}: {ended.result}")

    async def note(what: str) -> str:
        return what

    await asyncio.gather(call("quick"), call("bad"), call("slow"), ctx.step.sleep("meanwhile", "30s"))
    seen.append(await ctx.step.run("note", note, "noted"))
    await call("late", "20s")
    try:
        async with asyncio.timeout(5):
            await call("withdrawn")
    except TimeoutError:
        seen.append("withdrawn: by its scope")
    async for outcome in ctx.step.map(
        "all", workflow=leaf, items=["quick", "bad", "slow"], timeout="1h", on_error="collect"
    ):
        seen.append(f"map {outcome.index}: {outcome.body or outcome.error}")
    return [*seen, *[each for each in await asyncio.gather(ctx.step.run("last", note, "done"))]]


class Trial:
    """Three replicas: the first owns `top`, the second the leaves, and the third stands by."""

    def __init__(self, fleet: Crossing) -> None:
        self.fleet = fleet
        self.doomed: Runtime | None = None
        self.failures = 0

    async def begin(self, *, dies: int, after: int | None) -> None:
        fleet = self.fleet
        a, b, c = await fleet.open(), await fleet.open(), await fleet.open()
        fleet.spill(a, "leaf")
        fleet.claims(b, "leaf")
        fleet.claims(c, "top")
        await a.start(top, "", run_id="top")
        if after is not None:
            self.doomed = (a, b, c)[dies]
            fleet.crash_after(self.doomed, after)

    async def finish(self) -> None:
        """Time goes on until nothing lives, whoever dies meanwhile; then those who stand by are asked to settle."""
        fleet = self.fleet
        for _ in range(300):
            await fleet.settle()
            await self.bury()
            if not fleet.living and not fleet.database.office.letters:
                return
            due = fleet.clock.next_due()
            await fleet.clock.advance(2.0 if due is None else min(60.0, max(due - fleet.clock.now(), 0.5)))
        raise AssertionError(f"living: {fleet.living}, mail: {fleet.database.office.letters}")

    async def bury(self) -> None:
        doomed = self.doomed
        if doomed is not None and self.fleet.store_of(doomed).is_cut_off:
            self.doomed = None
            self.failures += 1
            await self.fleet.kill(doomed)
            await self.fleet.open()


def problems(fleet: Crossing) -> list[str]:
    rows = fleet.rows()
    places = Counter((row.parent_n, row.parent_key, row.generation) for row in rows if row.parent_n is not None)
    found = [f"{count} children at {place}" for place, count in places.items() if count > 1]
    for row in rows:
        if not row.status.is_terminal:
            found.append(f"{row.run_id} has not ended")
        if row.flags & RunFlag.UNSEEN and not row.flags & (RunFlag.WITHDRAWN | RunFlag.RELEASED):
            parent = next(each for each in rows if each.n == row.parent_n)
            if parent.status == "completed":
                found.append(f"the end of {row.run_id} was not seen by its parent, which has ended")
    return found


async def once(dies: int, after: int | None) -> tuple[list[str], int, int]:
    """Gives how `top` ended, how many entries the replica committed, and how often it died."""
    async with Crossing(top, leaf, strict_replay=True) as fleet:
        trial = Trial(fleet)
        await trial.begin(dies=dies, after=after)
        observed = fleet.store_of(fleet.runtimes[dies])
        before = observed.entries_committed
        await trial.finish()
        assert not problems(fleet), problems(fleet)
        return fleet.outcome("top"), observed.entries_committed - before, trial.failures


@pytest.mark.parametrize("dies", [0, 1], ids=["parents-owner", "childrens-owner"])
async def test_the_outcome_is_the_same_wherever_an_owner_is_lost(dies: int) -> None:
    reference, entries, _ = await once(dies, None)
    assert reference[0] == "quick: quick"
    assert entries > 20
    positions = range(0, entries, 1 + dies)  # that of the children has twice as many
    found = await at_once(once(dies, after) for after in positions)
    for after, (outcome, _, failures) in zip(positions, found, strict=True):
        assert failures == 1
        assert sorted(map(str, outcome)) == sorted(map(str, reference)), f"crashed after {after} of {entries}"


async def at_once(trials: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """They wait more than they work: a few at a time."""
    most = asyncio.Semaphore(8)

    async def one(trial: Coroutine[Any, Any, T]) -> T:
        async with most:
            return await trial

    return list(await asyncio.gather(*map(one, trials)))


async def cancelling(dies: int, after: int) -> bool:
    """Cancel `top` with the first replica, in the middle, while one of them is lost. Says whether it lived on."""
    async with Crossing(top, leaf, strict_replay=True) as fleet:
        trial = Trial(fleet)
        await trial.begin(dies=0, after=None)
        await fleet.clock.advance("20s")
        assert fleet.living == {"top ", "leaf bad", "leaf slow"}
        trial.doomed = doomed = fleet.runtimes[dies]
        fleet.crash_after(doomed, after)
        asked = asyncio.ensure_future(fleet.runtimes[0].cancel("top", "enough"))
        await fleet.settle()
        await trial.bury()
        if after == 0 and dies == 0:
            assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], RotorError)
            await trial.finish()
            assert isinstance(fleet.outcome("top"), list), "nothing was cancelled, and nobody said so"
            return False
        for _ in range(5):
            await fleet.clock.advance("2s")
        assert fleet.living == set(), f"lost after {after}"
        cancelled = sorted(row.run_id for row in fleet.rows() if row.status == "cancelled")
        assert len(cancelled) == 3
        if not trial.failures or dies != 0:
            assert sorted((await asked).cancelled) == cancelled
        await asyncio.gather(asked, return_exceptions=True)
        return not trial.failures


@pytest.mark.parametrize("dies", [0, 1], ids=["canceller", "childrens-owner"])
async def test_whoever_is_lost_all_is_cancelled_or_nothing(dies: int) -> None:
    lived_on = await at_once(cancelling(dies, after) for after in range(8))
    assert lived_on == sorted(lived_on)
    assert lived_on[-1]
    assert not lived_on[0]
