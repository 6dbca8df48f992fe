"""Retries of steps and of runs: who tries again, after which delay, and what an exception says about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import (
    DurationError,
    EffectOutsideStepError,
    InvokeDepthError,
    InvokeTargetError,
    NonDeterminismError,
    NonRetriableError,
    PayloadError,
    RetryAfterError,
    StepRefusedError,
    StepTimeoutError,
    WorkflowDefinitionError,
    WorkflowFailedError,
)

pytestmark = pytest.mark.asyncio

STEADY = RetryPolicy(3, initial="10s", factor=2.0, jitter=False)


class ForbiddenError(NonRetriableError):
    """An application's own."""


class Flaky:
    """A step body that fails so many times, and notes when it was executed."""

    def __init__(self, world: World, failures: int, make: Callable[[], Exception] = lambda: OSError("flaky")) -> None:
        self._clock = world.clock
        self._began = world.clock.now()
        self._failures = failures
        self._make = make
        self.at: list[float] = []

    async def __call__(self) -> int:
        self.at.append(self._clock.now() - self._began)
        if len(self.at) <= self._failures:
            raise self._make()
        return len(self.at)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


async def outcome_of(world: World, flaky: Flaky, retries: Any, *, run_retries: Any = 0) -> object:
    @workflow(id="one-step", retries=run_retries)
    async def body(ctx: Context) -> int:
        return await ctx.step.run("flaky", flaky, retries=retries)

    try:
        return await world.execute(body)
    except WorkflowFailedError as error:
        return error.error.type


# Steps


async def test_a_step_is_retried_by_its_own_policy_with_growing_delays(world: World) -> None:
    flaky = Flaky(world, 3)
    assert await outcome_of(world, flaky, STEADY) == 4
    assert flaky.at == [0, 10, 30, 70]


async def test_a_step_whose_retries_are_used_up_raises_in_the_workflow(world: World) -> None:
    flaky = Flaky(world, 9)
    assert await outcome_of(world, flaky, STEADY) == "OSError"
    assert len(flaky.at) == 4


async def test_a_number_of_retries_is_a_policy_with_jittered_delays_from_one_second(world: World) -> None:
    flaky = Flaky(world, 2)
    assert await outcome_of(world, flaky, 2) == 3
    assert 0.5 <= flaky.at[1] <= 1
    assert 1 <= flaky.at[2] - flaky.at[1] <= 2


async def test_a_step_is_not_retried_by_itself_unless_told_to(world: World) -> None:
    flaky = Flaky(world, 1)
    assert await outcome_of(world, flaky, None) == "OSError"
    assert len(flaky.at) == 1


async def test_no_delay_grows_beyond_the_maximum(world: World) -> None:
    flaky = Flaky(world, 5)
    policy = RetryPolicy(5, initial="10s", factor=10, maximum="1m", jitter=False)
    assert await outcome_of(world, flaky, policy) == 6
    assert flaky.at == [0, 10, 70, 130, 190, 250]


@pytest.mark.parametrize("kind", [NonRetriableError, ForbiddenError])
async def test_a_non_retriable_error_is_retried_by_neither_step_nor_run(world: World, kind: type[Exception]) -> None:
    flaky = Flaky(world, 9, lambda: kind("never"))
    assert await outcome_of(world, flaky, STEADY, run_retries=3) == f"{kind.__module__}.{kind.__qualname__}"
    assert len(flaky.at) == 1


async def test_a_non_retriable_error_that_cannot_be_rebuilt_is_non_retriable_still(world: World) -> None:
    class LocalError(NonRetriableError):
        pass

    flaky = Flaky(world, 9, lambda: LocalError("never"))
    assert await outcome_of(world, flaky, STEADY, run_retries=3) == "rotor_actors.errors.StepFailedError"
    assert len(flaky.at) == 1


async def test_a_group_with_a_non_retriable_member_is_not_retried(world: World) -> None:
    flaky = Flaky(world, 9, lambda: ExceptionGroup("both", [OSError(), NonRetriableError("never")]))
    assert await outcome_of(world, flaky, STEADY, run_retries=3) == "ExceptionGroup"
    assert len(flaky.at) == 1


@pytest.mark.parametrize("after", ["5m", 300, 300.0])
async def test_retry_after_holds_in_place_of_the_policys_delay(world: World, after: Any) -> None:
    flaky = Flaky(world, 2, lambda: RetryAfterError("busy", after))
    assert await outcome_of(world, flaky, STEADY) == 3
    assert flaky.at == [0, 300, 600]


async def test_retry_after_gives_no_further_retry(world: World) -> None:
    flaky = Flaky(world, 9, lambda: RetryAfterError("busy", "5m"))
    assert await outcome_of(world, flaky, RetryPolicy(1)) == "rotor_actors.errors.RetryAfterError"
    assert len(flaky.at) == 2


async def test_a_body_that_took_too_long_is_retried(world: World) -> None:
    began: list[float] = []

    async def hang() -> None:
        began.append(world.clock.now())
        await asyncio.Event().wait()

    @workflow(id="hanging", retries=0)
    async def hanging(ctx: Context) -> None:
        with pytest.raises(StepTimeoutError):
            await ctx.step.run("hang", hang, timeout="1m", retries=STEADY)

    await world.execute(hanging)
    assert [at - began[0] for at in began] == [0, 70, 150, 250]


async def test_a_crash_between_two_executions_keeps_count_and_delay() -> None:
    executed: list[float] = []

    async def flaky() -> int:
        executed.append(world.clock.now() - began)
        raise OSError("flaky")

    @workflow(id="one-step", retries=0)
    async def body(ctx: Context) -> int:
        return await ctx.step.run("flaky", flaky, retries=RetryPolicy(3, initial="1h", factor=1, jitter=False))

    async with World(body) as world:
        began = world.clock.now()
        handle = await world.runtime.start(body)
        for _ in range(5):
            await world.clock.advance("30m")
            await world.reopen()
        with pytest.raises(WorkflowFailedError, match="flaky"):
            await world.result(handle.run_id)
        assert executed == [0, 3600, 7200, 10800]


async def test_what_a_step_did_in_vain_is_counted_in_its_record(world: World) -> None:
    flaky = Flaky(world, 2)
    await outcome_of(world, flaky, STEADY)
    (run,) = await world.runtime.runs()
    (step,) = await world.runtime.steps(run.run_id)
    assert (step.step_id, step.attempts, step.status.value) == ("flaky", 3, "completed")


async def test_a_step_that_waits_to_be_retried_holds_up_no_other(world: World) -> None:
    flaky = Flaky(world, 1)
    finished: list[float] = []

    @workflow(id="two-steps")
    async def body(ctx: Context) -> None:
        async def other() -> None:
            await ctx.step.run("other", lambda: None)
            finished.append(ctx.now().timestamp())

        await asyncio.gather(ctx.step.run("flaky", flaky, retries=RetryPolicy(1, initial="1h")), other())

    began = world.clock.now()
    await world.execute(body)
    assert finished == [began]


# Runs


async def test_a_run_has_three_retries_by_default(world: World) -> None:
    attempts: list[int] = []

    @workflow(id="failing")
    async def failing(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError("down")

    handle = await world.runtime.start(failing)
    with pytest.raises(WorkflowFailedError, match="OSError: down"):
        await world.result(handle)
    assert attempts == [1, 2, 3, 4]
    assert (await handle.info()).attempt == 4


async def test_a_run_is_retried_with_growing_delays(world: World) -> None:
    at: list[float] = []

    @workflow(id="failing", retries=STEADY)
    async def failing(ctx: Context) -> None:
        at.append(ctx.now().timestamp())
        raise OSError("down")

    with pytest.raises(WorkflowFailedError):
        await world.execute(failing)
    assert [each - at[0] for each in at] == [0, 10, 30, 70]


async def test_between_two_attempts_a_run_says_that_it_waits_to_be_retried_and_why(world: World) -> None:
    @workflow(id="failing", retries=RetryPolicy(1, initial="1h", jitter=False))
    async def failing(ctx: Context) -> None:
        raise OSError("down")

    handle = await world.runtime.start(failing)
    await world.clock.advance("10m")
    info = await handle.info()
    assert (info.status, info.waiting_for, info.attempt) == (RunStatus.RUNNING, "retry", 2)
    assert info.error is not None
    assert info.error.message == "down"


async def test_a_run_without_retries_has_one_attempt(world: World) -> None:
    attempts: list[int] = []

    @workflow(id="failing", retries=0)
    async def failing(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise OSError("down")

    with pytest.raises(WorkflowFailedError):
        await world.execute(failing)
    assert attempts == [1]


async def test_a_run_may_say_when_it_wants_to_be_tried_again(world: World) -> None:
    at: list[float] = []

    @workflow(id="failing", retries=STEADY)
    async def failing(ctx: Context) -> None:
        at.append(ctx.now().timestamp())
        if ctx.attempt == 1:
            raise RetryAfterError("busy", "1d")

    await world.execute(failing)
    assert at[1] - at[0] == 86_400


async def test_steps_and_the_run_are_retried_each_by_their_own_policy(world: World) -> None:
    flaky = Flaky(world, 4)
    assert await outcome_of(world, flaky, 1, run_retries=2) == 5
    assert len(flaky.at) == 5


async def test_a_crash_between_two_attempts_keeps_count_and_delay() -> None:
    at: list[float] = []

    @workflow(id="failing", retries=RetryPolicy(2, initial="1h", factor=1, jitter=False))
    async def failing(ctx: Context) -> int:
        at.append(ctx.now().timestamp())
        if ctx.attempt < 3:
            raise OSError("down")
        return ctx.attempt

    async with World(failing) as world:
        handle = await world.runtime.start(failing)
        for _ in range(3):
            await world.clock.advance("30m")
            await world.reopen()
        assert await world.result(handle.run_id) == 3
        assert [each - at[0] for each in at] == [0, 3600, 7200]


async def invoke_unknown(ctx: Context) -> None:
    await ctx.step.invoke_by_id("x", workflow="nobody", returns=str, data=None, timeout="1m")


async def use_a_thread(ctx: Context) -> None:
    await asyncio.to_thread(print)


async def sleep_for_no_duration(ctx: Context) -> None:
    await ctx.step.sleep("s", "soon")


async def give_back_what_cannot_be_stored(ctx: Context) -> Any:
    return object()


async def raise_payload_error(ctx: Context) -> None:
    await ctx.step.run("bad", object)


async def call_a_step_in_a_step(ctx: Context) -> None:
    async def outer() -> None:
        await ctx.step.sleep("inner", 1)

    await ctx.step.run("outer", outer)


async def define_wrongly(ctx: Context) -> None:
    await ctx.step.run("s", lambda: None, retries=-1)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (invoke_unknown, InvokeTargetError),
        (use_a_thread, EffectOutsideStepError),
        (sleep_for_no_duration, DurationError),
        (give_back_what_cannot_be_stored, PayloadError),
        (raise_payload_error, PayloadError),
        (call_a_step_in_a_step, StepRefusedError),
        (define_wrongly, WorkflowDefinitionError),
    ],
)
async def test_errors_that_say_the_code_is_wrong_are_not_retried(
    world: World, act: Callable[[Context], Any], kind: type[Exception]
) -> None:
    attempts: list[int] = []

    @workflow(id="wrong", retries=3)
    async def wrong(ctx: Context) -> Any:
        attempts.append(ctx.attempt)
        return await act(ctx)

    with pytest.raises(WorkflowFailedError) as caught:
        await world.execute(wrong)
    assert caught.value.error.type == f"rotor_actors.errors.{kind.__name__}"
    assert attempts == [1]


@pytest.mark.parametrize("kind", [NonDeterminismError, InvokeDepthError, StepRefusedError])
async def test_such_errors_are_not_retried_wherever_they_come_from(world: World, kind: type[Exception]) -> None:
    attempts: list[int] = []

    @workflow(id="wrong", retries=3)
    async def wrong(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise kind("the code is wrong")

    with pytest.raises(WorkflowFailedError, match="the code is wrong"):
        await world.execute(wrong)
    assert attempts == [1]


async def test_a_group_of_errors_that_all_say_the_code_is_wrong_is_not_retried(world: World) -> None:
    attempts: list[int] = []

    @workflow(id="wrong", retries=3)
    async def wrong(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        async with asyncio.TaskGroup() as group:
            group.create_task(sleep_for_no_duration(ctx))

    with pytest.raises(WorkflowFailedError, match="ExceptionGroup"):
        await world.execute(wrong)
    assert attempts == [1]


async def test_a_cancelled_error_of_the_bodys_own_making_is_a_failure_and_retried(world: World) -> None:
    attempts: list[int] = []

    @workflow(id="odd", retries=1)
    async def odd(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise asyncio.CancelledError
        return "done"

    assert await world.execute(odd) == "done"
    assert attempts == [1, 2]


async def test_a_body_that_cancels_its_own_task_has_failed_and_is_not_cancelled(world: World) -> None:
    @workflow(id="odd", retries=0)
    async def odd(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await ctx.step.sleep("s", 1)

    with pytest.raises(WorkflowFailedError, match="CancelledError, though nobody had cancelled it"):
        await world.execute(odd)


@pytest.mark.parametrize("error", [SystemExit(2), GeneratorExit()])
async def test_a_body_that_tries_to_end_the_interpreter_fails_alone(world: World, error: BaseException) -> None:
    @workflow(id="odd", retries=0)
    async def odd(ctx: Context) -> None:
        await ctx.step.sleep("s", 1)
        raise error

    @workflow(id="other")
    async def other(ctx: Context) -> str:
        await ctx.step.sleep("s", 2)
        return "went on"

    beside = await world.runtime.start(other)
    with pytest.raises(WorkflowFailedError, match=type(error).__name__):
        await world.execute(odd)
    assert await world.result(beside) == "went on"
