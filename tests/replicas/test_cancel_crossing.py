"""Cancelling trees of which several replicas own a part."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crossing import Crossing

from rotor_actors import CancelReport, Context, Runtime, workflow
from rotor_actors.errors import NonRetriableError, WorkflowCancelledError, WorkflowTimeoutError
from rotor_actors.records import RunFlag

pytestmark = pytest.mark.asyncio


@workflow(id="leaf")
async def leaf(ctx: Context, name: str) -> str:
    await ctx.step.sleep("long", "1h")
    return name


@workflow(id="middle")
async def middle(ctx: Context, name: str) -> str:
    return (await ctx.step.invoke("down", workflow=leaf, data=name, timeout="3h")).result


@workflow(id="leaver")
async def leaver(ctx: Context, name: str) -> str:
    """Ends, and leaves its child behind."""
    try:
        await ctx.step.invoke("down", workflow=leaf, data=name, timeout="10s")
    except WorkflowTimeoutError:
        pass
    return "left"


@workflow(id="top")
async def top(ctx: Context, names: list[str]) -> list[str]:
    called = [ctx.step.invoke(f"call {name}", workflow=middle, data=name, timeout="5h") for name in names]
    return [each.result for each in await asyncio.gather(*called)]


@workflow(id="over-leavers")
async def over_leavers(ctx: Context, names: list[str]) -> None:
    called = [ctx.step.invoke(f"call {name}", workflow=leaver, data=name, timeout="5h") for name in names]
    await asyncio.gather(*called)
    await ctx.step.sleep("long", "3h")


@workflow(id="canceller")
async def canceller(ctx: Context, run_id: str) -> bool:
    return await ctx.step.cancel("stop it", run_id=run_id, reason="by a run")


ALL = (leaf, middle, leaver, top, over_leavers, canceller)


async def cancelled(fleet: Crossing, runtime: Runtime, run_id: str, reason: str = "enough") -> CancelReport:
    return await fleet.clock.until(runtime.cancel(run_id, reason))


async def three_levels(fleet: Crossing) -> tuple[Runtime, Runtime, Runtime]:
    """`top` with the first replica, two of `middle` with the second, their leaves with the third."""
    a, b, c = await fleet.open(), await fleet.open(), await fleet.open()
    fleet.spill(a, "middle")
    fleet.spill(b, "leaf")
    fleet.claims(b, "middle")
    fleet.claims(c, "leaf")
    await a.start(top, ["x", "y"], run_id="top")
    await fleet.clock.advance("10s")
    assert [fleet.owner_of(row.run_id) for row in sorted(fleet.rows(), key=lambda row: row.depth)] == [1, 2, 2, 3, 3]
    return a, b, c


async def test_a_tree_that_three_replicas_own_is_cancelled_as_a_whole() -> None:
    async with Crossing(*ALL) as fleet:
        a, _, _ = await three_levels(fleet)
        report = await cancelled(fleet, a, "top")
        assert set(fleet.statuses().values()) == {"cancelled"}
        assert sorted(report.cancelled) == sorted(row.run_id for row in fleet.rows())
        assert report.cancelled[0] == "top"
        assert report.already_ended == []
        await fleet.clock.advance("10s")
        assert fleet.database.office.letters == {}
        assert [len(fleet.engine_of(each).tree) for each in fleet.runtimes] == [0, 0, 0]


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_any_replica_can_cancel_it(number: int) -> None:
    async with Crossing(*ALL) as fleet:
        report = await cancelled(fleet, (await three_levels(fleet))[number], "top", "why not")
        assert set(fleet.statuses().values()) == {"cancelled"}
        assert len(report.cancelled) == 5
        assert fleet.outcome("top") == "cancelled: why not"


async def test_cancelling_a_child_elsewhere_ends_its_parents_invoke() -> None:
    async with Crossing(*ALL) as fleet:
        a, b, _ = await three_levels(fleet)
        child = fleet.child("top", "call x").run_id
        report = await cancelled(fleet, b, child)
        assert report.cancelled == [child, fleet.child(child, "down").run_id]
        await fleet.settle()
        with pytest.raises(Exception, match="enough"):
            await fleet.clock.until(a.run("top").result())
        assert fleet.row("top").status == "failed"
        assert fleet.living == set()


async def test_a_run_that_nobody_owns_or_can_run_is_claimed_to_be_cancelled() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await fleet.open(), await fleet.open()
        fleet.spill(a, "middle")
        fleet.claims(b)
        await a.start(top, ["x"], run_id="top")
        await fleet.settle()
        assert fleet.owner_of(fleet.child("top", "call x").run_id) is None
        report = await cancelled(fleet, a, "top")
        assert len(report.cancelled) == 2
        assert fleet.living == set()


async def test_cancelling_what_has_ended_elsewhere_changes_nothing() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await fleet.open(), await fleet.open()
        handle = await a.start(leaf, "x")
        await fleet.clock.until(handle.result())
        assert await cancelled(fleet, b, handle.run_id) == CancelReport(already_ended=[handle.run_id])


async def test_who_comes_too_late_is_told_so() -> None:
    """The run ends while the request is on its way."""
    async with Crossing(*ALL) as fleet:
        a, b = await fleet.open(), await fleet.open()
        handle = await a.start(leaf, "x")
        fleet.hold_mail(a)
        cancelling = asyncio.ensure_future(b.cancel(handle.run_id))
        assert await fleet.clock.until(handle.result()) == "x"
        report = await fleet.clock.until(cancelling)
        assert (report.cancelled, report.already_ended) == ([], [handle.run_id])


async def leavers(fleet: Crossing) -> tuple[Runtime, Runtime, Runtime]:
    """Two `leaver` with the second replica have ended; their leaves, with the third, have outlived them."""
    a, b, c = await fleet.open(), await fleet.open(), await fleet.open()
    fleet.spill(a, "leaver")
    fleet.spill(b, "leaf")
    fleet.claims(b, "leaver")
    fleet.claims(c, "leaf")
    await a.start(over_leavers, ["x", "y"], run_id="top")
    await fleet.clock.advance("1m")
    assert fleet.statuses()["leaver x"] == "completed"
    assert fleet.living == {"over-leavers", "leaf x", "leaf y"}
    return a, b, c


async def test_a_run_that_has_outlived_its_parent_elsewhere_is_cancelled_with_its_grandparent() -> None:
    async with Crossing(*ALL) as fleet:
        a, _, _ = await leavers(fleet)
        report = await cancelled(fleet, a, "top")
        assert fleet.living == set()
        assert fleet.statuses()["leaf x"] == "cancelled"
        assert len(report.cancelled) == 3


async def test_it_lives_on_when_its_grandparent_ends_by_itself() -> None:
    async with Crossing(*ALL) as fleet:
        a, _, _ = await leavers(fleet)
        fleet.row("top")
        await fleet.clock.advance("59m")
        assert {fleet.statuses()[each] for each in ("leaf x", "leaf y")} == {"completed"}
        await fleet.clock.until(a.run("top").result())
        assert fleet.living == set()


async def test_the_coordinator_sees_through_what_a_canceller_did_not_live_to_see() -> None:
    """It commits the cancellation, and is gone before it looks for runs that have outlived their parents."""
    async with Crossing(*ALL) as fleet:
        a, b, c = await fleet.open(), await fleet.open(), await fleet.open()
        del b, c
        await fleet.kill(a)  # the first is the coordinator; now it is none of those below
        a, b, c = fleet.runtimes[0], fleet.runtimes[1], await fleet.open()
        fleet.spill(c, "leaver")
        fleet.spill(a, "leaf")
        fleet.claims(a, "leaver")
        fleet.claims(b, "leaf")
        await c.start(over_leavers, ["x"], run_id="top")
        await fleet.clock.advance("1m")
        assert fleet.living == {"over-leavers", "leaf x"}
        cancelling = asyncio.ensure_future(c.cancel("top"))
        fleet.crash_after(c, 1)
        await fleet.settle()
        assert fleet.living == {"leaf x"}
        await fleet.kill(c)
        await asyncio.gather(cancelling, return_exceptions=True)
        for _ in range(4):  # looks
            await fleet.clock.advance("2s")
        assert fleet.living == set()
        assert fleet.statuses()["leaf x"] == "cancelled"
        assert fleet.database.office.letters == {}


async def test_what_nobody_awaits_any_more_lives_on_when_its_parent_ends() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await fleet.open(), await fleet.open()
        fleet.spill(a, "leaf")
        handle = await a.start(leaver, "x")
        assert await fleet.clock.until(handle.result()) == "left"
        row = fleet.child(handle.run_id, "down")
        assert row.flags & RunFlag.RELEASED
        assert await fleet.clock.until(b.run(row.run_id).result()) == "x"
        await fleet.settle()
        assert not fleet.row(row.run_id).flags & RunFlag.UNSEEN
        assert fleet.database.office.letters == {}
        assert [len(fleet.engine_of(each).tree) for each in fleet.runtimes] == [0, 0]


@workflow(id="failing")
async def failing(ctx: Context, names: list[str]) -> None:
    async def fail() -> None:
        await ctx.step.sleep("a moment", "1m")
        raise NonRetriableError("broken")

    called = [ctx.step.invoke(f"call {name}", workflow=leaf, data=name, timeout="5h") for name in names]
    await asyncio.gather(fail(), *called)


async def test_children_elsewhere_of_a_run_that_fails_are_cancelled() -> None:
    async with Crossing(*ALL, failing) as fleet:
        a, _ = await fleet.open(), await fleet.open()
        fleet.spill(a, "leaf")
        handle = await a.start(failing, ["x", "y"])
        with pytest.raises(Exception, match="broken"):
            await fleet.clock.until(handle.result())
        await fleet.clock.advance("5s")
        assert {fleet.statuses()[each] for each in ("leaf x", "leaf y")} == {"cancelled"}
        assert fleet.database.office.letters == {}


@workflow(id="racer")
async def racer(ctx: Context, names: list[str]) -> Any:
    seen: list[str] = []
    for turn in range(2):
        try:
            async with asyncio.timeout(60):
                await ctx.step.invoke("again", workflow=leaf, data=f"{names[turn]}", timeout="5h")
        except TimeoutError:
            seen.append("late")
    seen.append((await ctx.step.invoke("again", workflow=leaf, data="last", timeout="5h")).result)
    return seen


async def test_a_scope_that_is_cancelled_withdraws_its_child_elsewhere() -> None:
    async with Crossing(*ALL, racer) as fleet:
        a, _ = await fleet.open(), await fleet.open()
        fleet.spill(a, "leaf")
        handle = await a.start(racer, ["x", "y"])
        assert await fleet.clock.until(handle.result()) == ["late", "late", "last"]
        assert {each: fleet.statuses()[f"leaf {each}"] for each in ("x", "y", "last")} == {
            "x": "cancelled", "y": "cancelled", "last": "completed",
        }  # fmt: skip
        rows = sorted(fleet.rows(parent_n=fleet.row(handle.run_id).n), key=lambda row: row.n)
        assert [row.flags for row in rows] == [RunFlag.WITHDRAWN, RunFlag.WITHDRAWN, 0]
        await fleet.settle()
        assert fleet.database.office.letters == {}


async def test_waiting_for_a_run_of_another_replica_and_cancelling_it_meanwhile() -> None:
    async with Crossing(*ALL) as fleet:
        a, b, c = await fleet.open(), await fleet.open(), await fleet.open()
        handle = await a.start(leaf, "x")
        waiting = [asyncio.ensure_future(each.run(handle.run_id).result()) for each in (a, b, c)]
        await cancelled(fleet, c, handle.run_id)
        await fleet.settle()
        assert all(isinstance(each.exception(), WorkflowCancelledError) for each in waiting)
