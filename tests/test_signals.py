"""Signals: one receiver by name, over attempts, restarts and crashes; what cannot work is refused by name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from crash_kit import Play, survives_every_crash
from kit import STRIDE, World

from rotor_actors import Context, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import (
    NonDeterminismError,
    PayloadError,
    SignalNotFoundError,
    SignalTimeoutError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from rotor_actors.records import ItemDropped, ItemPut, StepRecorded

pytestmark = pytest.mark.asyncio


@dataclass
class Answer:
    by: str
    yes: bool


@workflow(id="approval", retries=0)
async def approval(ctx: Context, name: str) -> str:
    answer = await ctx.step.wait_for_signal("answer", signal=f"approve-{name}", timeout="1h", returns=Answer)
    return f"{answer.by}: {answer.yes}"


async def test_a_signal_resumes_the_step_that_waits_for_it() -> None:
    async with World(approval) as world:
        handle = await world.runtime.start(approval, "a")
        await world.settle()
        await world.runtime.signal("approve-a", Answer("boss", True))
        assert await world.result(handle) == "boss: True"
        assert [(step.step_id, step.kind) for step in await world.runtime.steps(handle.run_id)] == [
            ("answer", "wait-for-signal")
        ]


async def test_a_signal_that_nobody_waits_for_is_refused_and_not_kept() -> None:
    async with World(approval) as world:
        with pytest.raises(SignalNotFoundError, match="no run waits for a signal 'approve-a' now"):
            await world.runtime.signal("approve-a", Answer("boss", True))
        handle = await world.runtime.start(approval, "a")
        await world.settle()
        assert await handle.status() is RunStatus.RUNNING
        await world.runtime.signal("approve-a", Answer("boss", False))
        with pytest.raises(SignalNotFoundError):
            await world.runtime.signal("approve-a", Answer("boss", False))
        assert await world.result(handle) == "boss: False"


async def test_the_wait_times_out_by_name_and_after_a_restart_only_what_is_left_is_waited() -> None:
    @workflow(id="impatient", retries=0)
    async def impatient(ctx: Context) -> str:
        try:
            await ctx.step.wait_for_signal("s", signal="never", timeout="1h")
        except SignalTimeoutError as error:
            return f"{error.signal} after {error.timeout}: {error}"
        return "came"

    async with World(impatient) as world:
        handle = await world.runtime.start(impatient)
        await world.clock.advance("50m")
        await world.reopen()
        await world.clock.advance("9m")
        assert await world.runtime.run(handle.run_id).status() is RunStatus.RUNNING
        await world.clock.advance("2m")
        result = await world.result(handle.run_id)
        assert result.startswith("never after 3600.0: ")
        assert "no signal 'never' came within 1h" in result
        assert "runtime.signal('never', data)" in result


async def test_a_timeout_is_not_forgotten_by_the_next_attempt() -> None:
    tries: list[float] = []

    @workflow(id="again", retries=RetryPolicy(2, initial="1s", jitter=False))
    async def again(ctx: Context) -> None:
        tries.append(ctx.now().timestamp())
        await ctx.step.wait_for_signal("s", signal="never", timeout="1h")

    async with World(again) as world:
        handle = await world.runtime.start(again)
        with pytest.raises(WorkflowFailedError, match="SignalTimeoutError"):
            await world.result(handle)
        assert [round(at - tries[0]) for at in tries] == [0, 3601, 3603]


async def test_a_run_that_failed_by_it_waits_again_when_it_is_resumed() -> None:
    async with World(approval) as world:
        handle = await world.runtime.start(approval, "a")
        with pytest.raises(WorkflowFailedError, match="SignalTimeoutError"):
            await world.result(handle)
        await world.runtime.resume(handle.run_id)
        await world.clock.advance("30m")
        await world.runtime.signal("approve-a", Answer("boss", True))
        assert await world.result(handle.run_id) == "boss: True"


async def test_a_second_waiter_of_a_name_is_refused_until_the_first_is_gone() -> None:
    async with World(approval) as world:
        first = await world.runtime.start(approval, "a")
        await world.settle()
        second = await world.runtime.start(approval, "a")
        with pytest.raises(WorkflowFailedError, match=rf"SignalInUseError.*step 'answer' of run {first.run_id}"):
            await world.result(second)
        await first.cancel()
        third = await world.runtime.start(approval, "a")
        await world.settle()
        await world.runtime.signal("approve-a", Answer("boss", True))
        assert await world.result(third) == "boss: True"


async def test_a_name_in_use_is_tried_again_by_the_next_attempt() -> None:
    @workflow(id="stubborn", retries=RetryPolicy(5, initial="1m", jitter=False))
    async def stubborn(ctx: Context) -> str:
        return await ctx.step.wait_for_signal("s", signal="approve-a", timeout="1h", returns=str)

    async with World(approval, stubborn) as world:
        first = await world.runtime.start(approval, "a")
        await world.settle()
        handle = await world.runtime.start(stubborn)
        await world.settle()
        await world.runtime.signal("approve-a", Answer("boss", True))
        await world.result(first)
        await world.clock.advance("2m")
        await world.runtime.signal("approve-a", "hello")
        assert await world.result(handle) == "hello"


async def test_data_of_another_type_fails_the_step_by_name() -> None:
    @workflow(id="careful", retries=0)
    async def careful(ctx: Context) -> str:
        try:
            await ctx.step.wait_for_signal("s", signal="x", timeout="1h", returns=Answer)
        except PayloadError as error:
            return str(error)
        return "fits"

    async with World(careful) as world:
        handle = await world.runtime.start(careful)
        await world.settle()
        await world.runtime.signal("x", 5)
        assert "the data of signal 'x' is not what `returns` says" in await world.result(handle)


async def test_a_signal_reaches_a_run_at_rest_in_the_store() -> None:
    async with World(approval) as world:
        handle = await world.runtime.start(approval, "a")
        await world.settle()
        await world.reopen()
        await world.settle()
        await world.runtime.signal("approve-a", Answer("boss", True))
        await world.reopen()  # what was acknowledged stays
        assert await world.result(handle.run_id) == "boss: True"


async def test_a_signal_reaches_a_run_that_waits_for_its_next_attempt() -> None:
    attempts: list[int] = []

    @workflow(id="twice", retries=RetryPolicy(3, initial="10m", jitter=False))
    async def twice(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        async with asyncio.TaskGroup() as group:
            waiting: asyncio.Task[str] = group.create_task(
                ctx.step.wait_for_signal("s", signal="x", timeout="1h", returns=str)
            )
            if ctx.attempt == 1:
                await ctx.step.sleep("a while", "1m")
                # The task group withdraws the wait; the bare one of the next line stays.
                raise RuntimeError("first")
        return waiting.result()

    @workflow(id="kept", retries=RetryPolicy(3, initial="10m", jitter=False))
    async def kept(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        waiting = asyncio.ensure_future(ctx.step.wait_for_signal("s", signal="y", timeout="1h", returns=str))
        if ctx.attempt == 1:
            await ctx.step.sleep("a while", "1m")
            raise RuntimeError("first")
        await ctx.step.sleep("later", "1m")
        return await waiting

    async with World(twice, kept) as world:
        first = await world.runtime.start(twice)
        second = await world.runtime.start(kept)
        await world.clock.advance("2m")
        with pytest.raises(SignalNotFoundError):  # its scope was left: it waits no longer
            await world.runtime.signal("x", "early")
        await world.runtime.signal("y", "between attempts")
        await world.reopen()
        await world.clock.advance("15m")
        await world.runtime.signal("x", "late")
        assert await world.result(first.run_id) == "late"
        assert await world.result(second.run_id) == "between attempts"


async def test_a_wait_goes_on_with_its_deadline_in_the_next_attempt() -> None:
    @workflow(id="deadline", retries=RetryPolicy(3, initial="10m", jitter=False))
    async def deadline(ctx: Context) -> str:
        waiting = asyncio.ensure_future(ctx.step.wait_for_signal("s", signal="x", timeout="1h"))
        if ctx.attempt == 1:
            await ctx.step.sleep("a while", "30m")
            raise RuntimeError("first")
        try:
            await waiting
        except SignalTimeoutError:
            return ctx.now().isoformat()
        return "came"

    async with World(deadline) as world:
        began = world.clock.now()
        handle = await world.runtime.start(deadline)
        await world.result(handle)
        assert round(world.clock.now() - began) == 3600


async def test_a_withdrawn_wait_is_over_and_frees_the_name() -> None:
    @workflow(id="scoped", retries=0)
    async def scoped(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                await ctx.step.wait_for_signal("first", signal="x", timeout="1h")
        except TimeoutError:
            pass
        return await ctx.step.wait_for_signal("second", signal="x", timeout="1h", returns=str)

    async with World(scoped) as world:
        handle = await world.runtime.start(scoped)
        await world.clock.advance("2m")
        await world.runtime.signal("x", "to the second")
        assert await world.result(handle) == "to the second"


async def test_an_ended_run_leaves_no_waiter_behind() -> None:
    @workflow(id="leaves", retries=0)
    async def leaves(ctx: Context) -> str:
        asyncio.ensure_future(ctx.step.wait_for_signal("s", signal="x", timeout="1h"))  # noqa: RUF006
        await ctx.step.sleep("a moment", 1)
        return "done"

    async with World(leaves, approval) as world:
        await world.execute(leaves)
        handle = await world.runtime.start(approval, "b")
        await world.settle()
        await handle.cancel()
        for name in ("x", "approve-b"):
            with pytest.raises(SignalNotFoundError):
                await world.runtime.signal(name, None)
        assert world.store.committed(ItemPut)
        await world.reopen()
        with pytest.raises(SignalNotFoundError):
            await world.runtime.signal("x", None)


async def test_code_that_asks_for_something_else_under_the_key_of_a_wait_is_named() -> None:
    @workflow(id="changing", retries=0)
    async def old(ctx: Context) -> None:
        await ctx.step.wait_for_signal("s", signal="x", timeout="1h")

    @workflow(id="changing", retries=0)
    async def new(ctx: Context) -> None:
        await ctx.step.wait_for_signal("s", signal="y", timeout="1h")

    async with World() as world:
        await world.crash()
        await world.open(old)
        handle = await world.runtime.start(old)
        await world.settle()
        world.store.entries_left = None
        await world.close()
        await world.open(new)
        await world.runtime.signal("x", 1)  # reaches the run, which is loaded for it
        with pytest.raises(WorkflowFailedError, match=NonDeterminismError.__name__):
            await world.result(handle.run_id)


async def test_a_signal_and_the_waiter_that_it_ends_are_one_entry() -> None:
    async with World(approval) as world:
        handle = await world.runtime.start(approval, "a")
        await world.settle()
        commits: list[list[object]] = []
        world.store.before_commit = lambda entries: commits.append(list(entries))
        await world.runtime.signal("approve-a", Answer("boss", True))
        together = [entry for commit in commits for entry in commit if getattr(entry, "entries", None)]
        kinds = [type(each) for each in together[0].entries]  # type: ignore[attr-defined]
        assert kinds == [StepRecorded, ItemDropped]
        await world.result(handle)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"signal": "x"}, TypeError),
        ({"signal": "x", "timeout": None}, Exception),
        ({"signal": "x", "timeout": "soon"}, ValueError),
        ({"signal": "x", "timeout": 0}, ValueError),
        ({"signal": "", "timeout": "1h"}, ValueError),
        ({"signal": 5, "timeout": "1h"}, ValueError),
        ({"signal": "x" * 201, "timeout": "1h"}, ValueError),
    ],
)
async def test_what_cannot_work_is_refused_at_the_call(arguments: dict[str, object], error: type[Exception]) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> str:
        try:
            await ctx.step.wait_for_signal("s", **arguments)  # type: ignore[arg-type]
        except error as raised:
            return str(raised)
        return "no error"

    async with World(bad) as world:
        assert await world.execute(bad) != "no error"


async def test_a_cancelled_run_is_told_no_signal() -> None:
    async with World(approval) as world:
        handle = await world.runtime.start(approval, "a")
        await world.settle()
        await handle.cancel()
        with pytest.raises(SignalNotFoundError):
            await world.runtime.signal("approve-a", Answer("boss", True))
        with pytest.raises(WorkflowCancelledError):
            await handle.result()


async def test_waiting_and_withdrawing_survive_a_crash_at_every_entry() -> None:
    async def body(play: Play) -> None:
        try:
            async with asyncio.timeout(5):
                await play.step.wait_for_signal("first", signal="x", timeout=20)
        except TimeoutError:
            play.saw("left the scope")
        try:
            await play.step.wait_for_signal("second", signal="x", timeout=20)
        except SignalTimeoutError as error:
            play.saw(error)
        await play.act("then")

    await survives_every_crash(body, crashes=2)


async def test_a_signal_sent_by_another_run_survives_a_crash_at_every_entry() -> None:
    """What is acknowledged to a step that sends a signal has happened; a step that is repeated finds nobody."""

    async def crash_at(position: int | None) -> tuple[object, int | None]:
        world = World(approval)
        await world.open()
        world.store.entries_left = position
        try:
            await world.runtime.start(approval, "a", run_id="the-run")
            await world.settle()
            await world.runtime.signal("approve-a", Answer("boss", True))
            was_sent = True
            await world.settle()
        except Exception:
            was_sent = False
        left = world.store.entries_left
        await world.reopen()
        handle = await world.runtime.start(approval, "a", run_id="the-run")
        await world.settle()
        try:
            await world.runtime.signal("approve-a", Answer("boss", True))
            assert not was_sent, "an acknowledged signal was lost"
        except SignalNotFoundError:
            pass
        result = await world.result(handle)
        await world.close()
        return result, left

    position = 0
    while True:
        result, left = await crash_at(position)
        assert result == "boss: True"
        if left:
            break
        position += STRIDE
    assert position >= 4


async def test_a_signal_for_a_run_that_was_cancelled_just_now_is_refused_and_its_name_is_free() -> None:
    heard: list[str] = []

    @workflow(id="hears", retries=0)
    async def hears(ctx: Context, who: str) -> None:
        heard.append(await ctx.step.wait_for_signal("s", signal="one", timeout="1h", returns=str))

    @workflow(id="replaces", retries=0)
    async def replaces(ctx: Context) -> None:
        await ctx.step.wait_for_signal("s", signal="one", timeout="1h", returns=str)

    async with World(hears, replaces) as world:
        await world.runtime.start(hears, "old", run_id="old")
        await world.settle()
        engine = world.runtime._engine  # pyright: ignore[reportPrivateUsage]
        run = engine.tree.find("old")
        assert run is not None
        engine.cancel_from_inside(run, "in this moment")  # its tasks are interrupted in the next slice
        with pytest.raises(SignalNotFoundError):
            await world.runtime.signal("one", "lost")
        handle = await world.runtime.start(replaces)
        await world.settle()
        await world.runtime.signal("one", "found")
        await world.result(handle)
        assert heard == []
