"""Waiting for, and cancelling, runs of other replicas from within runs; and what comes late."""

from __future__ import annotations

import asyncio

import pytest
from crossing import Crossing

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import RunNotFoundError, WorkflowCancelledError, WorkflowFailedError, WorkflowTimeoutError
from rotor_actors.records import MailKind, RunFlag

pytestmark = pytest.mark.asyncio


@workflow(id="leaf")
async def leaf(ctx: Context, name: str) -> str:
    await ctx.step.sleep("long", "1h")
    return name


@workflow(id="joiner")
async def joiner(ctx: Context, run_id: str) -> str:
    try:
        return (await ctx.step.join("wait", run_id=run_id, timeout="5h", returns=str)).result
    except WorkflowCancelledError as error:
        return f"cancelled: {error.reason}"
    except WorkflowFailedError as error:
        return f"failed: {error.error.message}"
    except RunNotFoundError:
        return "there is none"


@workflow(id="canceller")
async def canceller(ctx: Context, run_id: str) -> bool:
    return await ctx.step.cancel("stop it", run_id=run_id, reason="by a run")


@workflow(id="patient")
async def patient(ctx: Context, name: str) -> list[str]:
    """Times out on its child, and then waits for it all the same."""
    seen: list[str] = []
    try:
        await ctx.step.invoke("down", workflow=leaf, data=name, timeout="10m")
    except WorkflowTimeoutError as error:
        seen.append("timed out")
        seen.append((await error.child.join("late", timeout="3h")).result)
    return seen


ALL = (leaf, joiner, canceller, patient)


async def two(fleet: Crossing) -> tuple[Runtime, Runtime]:
    return await fleet.open(), await fleet.open()


async def test_a_run_waits_for_a_run_of_another_replica() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        assert await fleet.clock.until(b.execute(joiner, "target")) == "x"
        await fleet.settle()
        assert fleet.database.office.letters == {}
        assert fleet.database.office.watches == {}


async def test_it_waits_for_one_that_has_ended_or_never_was() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        await fleet.clock.until(a.run("target").result())
        assert await fleet.clock.until(b.execute(joiner, "target")) == "x"
        assert await fleet.clock.until(b.execute(joiner, "nobody")) == "there is none"


async def test_whoever_takes_the_joiner_in_goes_on_waiting() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        await b.start(joiner, "target", run_id="joiner")
        await fleet.settle()
        fleet.claims(a)
        c = await fleet.open()
        await fleet.kill(b)
        assert fleet.owner_of("joiner") == 3
        assert await fleet.clock.until(c.run("joiner").result()) == "x"


async def test_whoever_takes_the_target_in_tells_the_joiner() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        await a.start(joiner, "target", run_id="local")
        await b.start(joiner, "target", run_id="joiner")
        await fleet.settle()
        await fleet.kill(a)
        assert await fleet.clock.until(b.run("joiner").result()) == "x"
        assert await fleet.clock.until(b.run("local").result()) == "x"


async def test_a_joiner_learns_that_its_target_was_cancelled_elsewhere() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        handle = await b.start(joiner, "target")
        await fleet.settle()
        await fleet.clock.until(a.cancel("target", "no more"))
        assert await fleet.clock.until(handle.result()) == "cancelled: no more"


async def test_a_run_cancels_a_run_of_another_replica() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        assert await fleet.clock.until(b.execute(canceller, "target"))
        assert fleet.outcome("target") == "cancelled: by a run"
        assert not await fleet.clock.until(b.execute(canceller, "target"))


async def test_it_is_told_when_the_other_has_ended_before() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        fleet.hold_mail(a)
        handle = await b.start(canceller, "target")
        await fleet.settle()
        assert not fleet.row(handle.run_id).status.is_terminal
        await fleet.clock.advance("2h")
        assert fleet.outcome("target") == "x"
        assert not await fleet.clock.until(handle.result())


async def test_whoever_takes_in_a_run_that_cancels_another_goes_on_waiting_for_the_answer() -> None:
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        await a.start(leaf, "x", run_id="target")
        fleet.claims(a)
        fleet.hold_mail(a)
        handle = await b.start(canceller, "target")
        await fleet.settle()
        c = await fleet.open()
        await fleet.kill(b)
        assert fleet.owner_of(handle.run_id) == 3
        fleet.hold_mail(a, False)
        await fleet.clock.advance("1s")
        assert await fleet.clock.until(c.run(handle.run_id).result())
        assert fleet.outcome("target") == "cancelled: by a run"


async def test_a_child_elsewhere_that_was_timed_out_on_is_joined_late() -> None:
    async with Crossing(*ALL) as fleet:
        a, _ = await two(fleet)
        fleet.spill(a, "leaf")
        assert await fleet.clock.until(a.execute(patient, "x")) == ["timed out", "x"]
        await fleet.settle()
        assert fleet.database.office.letters == {}


async def test_the_end_and_the_timeout_come_in_the_same_moment() -> None:
    """The child has ended elsewhere, and its parent times out before it is told: the timeout stands, on replay too."""
    async with Crossing(*ALL) as fleet:
        a, b = await two(fleet)
        fleet.spill(a, "leaf")
        fleet.hold_mail(a)

        @workflow(id="impatient")
        async def impatient(ctx: Context, name: str) -> list[str]:
            try:
                seen = [(await ctx.step.invoke("down", workflow=leaf, data=name, timeout="2h")).result]
            except WorkflowTimeoutError:
                seen = ["timed out"]
            await ctx.step.sleep("a while", "1h")
            return seen

        await a.start(impatient, "x", run_id="top")
        await fleet.clock.advance("2h1m")
        assert fleet.child("top", "down").status == "completed"
        assert {each.kind for each in fleet.database.office.letters.values()} == {MailKind.ENDED}
        fleet.hold_mail(a, False)
        await fleet.clock.advance("1m")
        c = await fleet.open(impatient, leaf)
        await fleet.kill(a)
        del b
        assert await fleet.clock.until(c.run("top").result()) == ["timed out"]
        assert fleet.database.office.letters == {}


@workflow(id="tries-again", retries=1)
async def tries_again(ctx: Context, name: str) -> str:
    try:
        async with asyncio.timeout(7200 if ctx.attempt == 1 else None):
            ended = await ctx.step.invoke("down", workflow=leaf, data=name, timeout="9h")
    except TimeoutError:
        raise ValueError("once more") from None
    return f"{ended.result} by {ended.run_id}"


async def test_a_child_that_ended_elsewhere_and_was_withdrawn_before_that_was_known_is_spawned_anew() -> None:
    async with Crossing(*ALL, tries_again) as fleet:
        a, _ = await two(fleet)
        fleet.spill(a, "leaf")
        fleet.hold_mail(a)
        await a.start(tries_again, "x", run_id="top")
        await fleet.clock.advance("1h30m")
        assert fleet.child("top", "down").status == "completed"
        await fleet.clock.advance("1h")  # its scope is cancelled, and the next attempt begins
        first = fleet.child("top", "down")
        assert first.flags == RunFlag.UNSEEN | RunFlag.WITHDRAWN
        second = fleet.child("top", "down", generation=2)
        fleet.hold_mail(a, False)
        assert await fleet.clock.until(a.run("top").result()) == f"x by {second.run_id}"
