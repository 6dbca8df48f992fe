"""What a run reports of itself is followed from any replica, whoever owns it and whenever that changes."""

from __future__ import annotations

import asyncio

import pytest
from fleet import Fleet

from rotor_actors import Context, RunHandle, workflow
from rotor_actors.errors import StoreUnavailableError
from rotor_actors.records import RunRow

pytestmark = pytest.mark.asyncio


@workflow(id="reporter")
async def reporter(ctx: Context, count: int) -> str:
    for number in range(count):
        ctx.report(number, key="at")
        await ctx.step.sleep(f"sleep {number}", "10s")
    return "done"


async def _follow(handle: RunHandle[str]) -> list[object]:
    return [update.value async for update in handle.updates()]


async def test_reports_are_followed_from_another_replica() -> None:
    async with Fleet(reporter) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handle = await first.start(reporter, 3)
        followed = asyncio.ensure_future(_follow(second.run(handle.run_id)))
        assert await fleet.clock.until(followed) == [0, 1, 2]


async def test_reports_are_followed_over_a_change_of_owner() -> None:
    async with Fleet(reporter) as fleet:
        first, second, third = [await fleet.open() for _ in range(3)]
        handle = await first.start(reporter, 4)
        followed = asyncio.ensure_future(_follow(third.run(handle.run_id)))
        await fleet.clock.advance("12s")
        await fleet.kill(first)
        assert await fleet.clock.until(followed) == [0, 1, 2, 3]
        assert (await second.run(handle.run_id).progress())["at"].value == 3


async def test_a_follower_leaves_nothing_behind_with_each_look() -> None:
    async with Fleet(reporter) as fleet:
        owner, other = [await fleet.open() for _ in range(2)]
        handle = await owner.start(reporter, 30)
        followed = [asyncio.ensure_future(_follow(each.run(handle.run_id))) for each in (owner, other)]
        for _ in range(20):
            await fleet.clock.advance("10s")
        for each in (owner, other):
            (ended,) = fleet.service_of(each)._waiters  # pyright: ignore[reportPrivateUsage]
            assert len(ended._callbacks or ()) < 5  # pyright: ignore
        for task in followed:
            task.cancel()
        await asyncio.wait(followed)


async def test_a_follower_whose_look_fails_leaves_no_subscription_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fleet(reporter) as fleet:
        owner, other = [await fleet.open() for _ in range(2)]
        handle = await owner.start(reporter, 3)
        store, looks = fleet.store_of(other), list[str]()
        find = store.find

        def find_now_and_then(run_id: str) -> RunRow | None:
            looks.append(run_id)
            if len(looks) % 2 == 0:
                raise StoreUnavailableError("the database is away")
            return find(run_id)

        monkeypatch.setattr(store, "find", find_now_and_then)
        late = asyncio.ensure_future(_follow(other.run(handle.run_id)))
        while len(looks) < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        late.cancel()
        await asyncio.wait([late])
        for each in (owner, other):
            assert not fleet.service_of(each).engine.progress._subscriptions  # pyright: ignore[reportPrivateUsage]


async def test_reports_are_followed_through_an_outage_of_the_database_and_none_is_given_twice() -> None:
    async with Fleet(reporter) as fleet:
        only = await fleet.open()
        handle = await only.start(reporter, 4)
        followed = asyncio.ensure_future(_follow(handle))
        await fleet.clock.advance("12s")
        number = fleet.store_of(only).replica
        fleet.cut_off(only)
        fleet.service_of(only).engine.journal.fail(StoreUnavailableError("the database is away"))
        late = asyncio.ensure_future(_follow(handle))
        await asyncio.sleep(0.05)
        assert not followed.done()
        assert not late.done()
        fleet.come_back(only)
        await fleet.until_anew(only, number)
        await fleet.expire(number)
        assert await fleet.clock.until(followed) == [0, 1, 2, 3]
        assert (await fleet.clock.until(late))[-1] == 3
