"""`step.run` and `step.sleep`: what is executed, what comes back, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, cast
from uuid import UUID

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import Context, RetryPolicy, Workflow, workflow
from rotor_actors.errors import (
    DurationError,
    PayloadError,
    StepFailedError,
    StepRefusedError,
    StepTimeoutError,
    WorkflowFailedError,
)

pytestmark = pytest.mark.asyncio


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Page:
    url: str
    words: list[str] = field(default_factory=list[str])
    colour: Colour = Colour.RED
    at: datetime | None = None


class MisfitError(Exception):
    """An error of the application, with state of its own."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(code)
        self.hint = hint


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


def doing(act: Callable[[Context], Any]) -> Workflow[None, Any]:
    """A workflow whose body is `act`, tried once."""

    @workflow(id="doing", retries=0)
    async def body(ctx: Context) -> Any:
        return await act(ctx)

    return body


async def failure_of(world: World, act: Callable[[Context], Any]) -> str:
    """The message of the error that ended a run of `act`, with its type."""
    with pytest.raises(WorkflowFailedError) as caught:
        await world.execute(doing(act))
    return f"{caught.value.error.type}: {caught.value.error.message}"


# What may be a step


async def double(x: int) -> int:
    return 2 * x


def thread_name(prefix: str) -> str:
    return f"{prefix} {threading.current_thread() is threading.main_thread()}"


TWICE: Callable[[int], int] = lambda x: 2 * x  # noqa: E731
LATER: Callable[[int], Any] = lambda x: double(x)  # noqa: E731


class Doubler:
    async def __call__(self, x: int) -> int:
        return 2 * x

    async def method(self, x: int) -> int:
        return 2 * x

    @staticmethod
    async def static(x: int) -> int:
        return 2 * x


async def test_an_async_function_with_its_arguments_gives_its_result(world: World) -> None:
    assert await world.execute(doing(lambda ctx: ctx.step.run("d", double, 4))) == 8


async def test_a_sync_function_runs_in_a_worker_thread(world: World) -> None:
    assert await world.execute(doing(lambda ctx: ctx.step.run("t", thread_name, "main?"))) == "main? False"


async def test_an_async_function_runs_on_the_hosts_loop(world: World) -> None:
    host = asyncio.get_running_loop()

    async def is_host() -> bool:
        return asyncio.get_running_loop() is host

    assert await world.execute(doing(lambda ctx: ctx.step.run("h", is_host))) is True


@pytest.mark.parametrize(
    "fn",
    [
        Doubler(), Doubler().method, Doubler.static, functools.partial(double), TWICE, LATER, functools.partial(TWICE),
    ],
)  # fmt: skip
async def test_methods_callable_objects_partials_and_lambdas_are_functions(world: World, fn: Any) -> None:
    assert await world.execute(doing(lambda ctx: ctx.step.run("d", fn, 4))) == 8


async def test_a_result_that_was_called_already_is_refused_with_the_right_way_to_write_it(world: World) -> None:
    message = await failure_of(world, lambda ctx: ctx.step.run("d", cast("Any", 2 * 4)))
    assert message.startswith("TypeError")
    assert "step.run('d', fetch, url)" in message


@pytest.mark.parametrize("id", ["", None, 3, b"x", "\ud800"])
async def test_a_step_id_is_a_non_empty_string(world: World, id: Any) -> None:
    message = await failure_of(world, lambda ctx: ctx.step.run(id, double, 1))
    assert "a step's id must be a non-empty string, e.g. 'fetch-page'" in message


async def test_steps_in_flight_at_once_run_at_once(world: World) -> None:
    barrier = asyncio.Barrier(3)

    async def meet(n: int) -> int:
        await barrier.wait()
        return n

    async def act(ctx: Context) -> list[int]:
        return await asyncio.gather(*(ctx.step.run("meet", meet, n) for n in range(3)))

    assert await world.execute(doing(act)) == [0, 1, 2]


async def test_a_step_called_inside_a_step_is_refused(world: World) -> None:
    async def act(ctx: Context) -> None:
        async def outer() -> int:
            return await ctx.step.run("inner", double, 1)

        with pytest.raises(StepRefusedError, match="'inner' was called from outside the workflow's body"):
            await ctx.step.run("outer", outer)

    await world.execute(doing(act))


async def test_a_step_called_in_a_worker_thread_or_by_a_stranger_is_refused(world: World) -> None:
    stolen: list[Context] = []

    async def act(ctx: Context) -> None:
        stolen.append(ctx)
        await ctx.step.sleep("stay", "1h")

    handle = await world.runtime.start(doing(act))
    await world.settle()
    with pytest.raises(StepRefusedError):
        await stolen[0].step.run("d", double, 1)
    await world.result(handle)
    with pytest.raises(StepRefusedError):
        await stolen[0].step.run("d", double, 1)


# What comes back


async def test_a_value_comes_back_as_its_annotation_says(world: World) -> None:
    async def fetch() -> Page:
        return Page("https://x", ["a"], Colour.BLUE, datetime(2024, 1, 2, tzinfo=UTC))

    async def act(ctx: Context) -> bool:
        page = await ctx.step.run("fetch", fetch)
        assert page == await fetch()
        assert type(page) is Page
        assert page.colour is Colour.BLUE
        return True

    assert await world.execute(doing(act))


async def test_the_first_execution_gives_the_value_after_its_round_trip_not_the_object_itself(world: World) -> None:
    made: list[Page] = []

    async def fetch() -> Page:
        made.append(Page("https://x", ["a"]))
        return made[0]

    async def act(ctx: Context) -> list[str]:
        page = await ctx.step.run("fetch", fetch)
        assert page == made[0]
        assert page is not made[0]
        made[0].words.append("changed behind its back")
        page.words.append("b")
        return page.words

    assert await world.execute(doing(act)) == ["a", "b"]
    assert made[0].words == ["a", "changed behind its back"]


async def test_the_first_value_equals_the_replayed_one_and_mutations_of_it_do_not_last(world: World) -> None:
    seen: list[str] = []

    async def fetch() -> Page:
        return Page("https://x", ["a"])

    @workflow(id="twice", retries=1)
    async def twice(ctx: Context) -> None:
        page = await ctx.step.run("fetch", fetch)
        seen.append(repr(page))
        page.words.append("mine")
        if ctx.attempt == 1:
            raise RuntimeError("again")

    await world.execute(twice)
    assert len(seen) == 2
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**63, 2**80, -(2**70), 1.5, float("inf"), "", "ü\n", b"\x00\xff", [1, [2]], {"a": {"b": 1}},
    ],
)  # fmt: skip
async def test_plain_values_come_back_equal_without_an_annotation(world: World, value: Any) -> None:
    async def act(ctx: Context) -> None:
        found = await ctx.step.run("v", lambda: value)
        assert found == value
        assert type(found) is type(value)

    await world.execute(doing(act))


async def test_typed_values_come_back_equal_in_type_and_value(world: World) -> None:
    async def many() -> tuple[UUID, timedelta, set[int], dict[int, Page], Colour, bytes]:
        return UUID(int=7), timedelta(hours=1), {1, 2}, {3: Page("u")}, Colour.RED, b"x"

    async def act(ctx: Context) -> None:
        assert await ctx.step.run("m", many) == await many()

    await world.execute(doing(act))


@pytest.mark.parametrize("value", [object(), "\ud800", threading.Lock(), {1, 2}, (1, 2), Page("x")])
async def test_what_an_untyped_step_cannot_give_back_unaltered_is_a_payload_error_at_the_step(
    world: World, value: Any
) -> None:
    async def act(ctx: Context) -> str:
        with pytest.raises(PayloadError, match="step 'bad': its result cannot be stored") as caught:
            await ctx.step.run("bad", lambda: value)
        return str(caught.value)

    assert await world.execute(doing(act))


async def test_a_value_that_contradicts_its_annotation_is_a_payload_error_at_the_step(world: World) -> None:
    async def count() -> int:
        return cast("int", "three")

    message = await failure_of(world, lambda ctx: ctx.step.run("count", count))
    assert message.startswith("rotor_actors.errors.PayloadError")
    assert "step 'count'" in message
    assert "return what the annotation says" in message


async def test_a_result_over_the_payload_limit_is_refused_by_name_and_the_run_does_not_stick() -> None:
    async def act(ctx: Context) -> str:
        with pytest.raises(PayloadError) as caught:
            await ctx.step.run("big", lambda: "x" * 2000)
        return str(caught.value)

    async with World(payload_limit=1000) as world:
        message = await world.execute(doing(act))
        assert "step 'big'" in message
        assert "1000" in message.replace(" ", "").replace(",", "") or "payload_limit" in message


async def test_an_unstorable_result_is_not_tried_again(world: World) -> None:
    calls: list[int] = []

    def make() -> Any:
        calls.append(1)
        return object()

    @workflow(id="parent", retries=3)
    async def parent(ctx: Context) -> None:
        await ctx.step.run("bad", make, retries=3)

    with pytest.raises(WorkflowFailedError, match="PayloadError"):
        await world.execute(parent)
    assert calls == [1]


# What is raised


async def test_a_step_raises_its_original_exception_rebuilt_from_the_record(world: World) -> None:
    raised: list[Exception] = []

    async def misfit() -> None:
        raised.append(MisfitError(7, hint="try eight"))
        raise raised[0]

    async def act(ctx: Context) -> None:
        with pytest.raises(MisfitError) as caught:
            await ctx.step.run("m", misfit)
        assert caught.value.args == (7,)
        assert caught.value.hint == "try eight"
        assert caught.value is not raised[0]
        assert "original traceback:" in caught.value.__notes__[0]
        assert "raise raised[0]" in caught.value.__notes__[0]

    await world.execute(doing(act))


async def test_an_exception_that_cannot_be_rebuilt_is_a_step_failed_error_with_its_texts(world: World) -> None:
    class LocalError(Exception):
        pass

    async def fail() -> None:
        raise LocalError("of this function only")

    async def act(ctx: Context) -> None:
        with pytest.raises(StepFailedError, match="LocalError: of this function only") as caught:
            await ctx.step.run("m", fail)
        assert "LocalError" in caught.value.error.type
        assert caught.value.error.message == "of this function only"
        assert "raise LocalError" in caught.value.error.traceback

    await world.execute(doing(act))


async def test_an_exception_group_comes_back_as_a_group(world: World) -> None:
    async def fail() -> None:
        raise ExceptionGroup("both", [KeyError("a"), ValueError("b")])

    async def act(ctx: Context) -> list[str]:
        seen: list[str] = []
        try:
            await ctx.step.run("g", fail)
        except* KeyError as group:
            seen.append(repr(group.exceptions))
        except* ValueError as group:
            seen.append(repr(group.exceptions))
        return seen

    assert await world.execute(doing(act)) == ["(KeyError('a'),)", "(ValueError('b'),)"]


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError(), StopIteration(1)])
async def test_exceptions_that_steer_the_interpreter_are_ordinary_failures_of_the_step(
    world: World, error: BaseException
) -> None:
    async def fail() -> None:
        raise error

    async def act(ctx: Context) -> str:
        with pytest.raises(Exception, match=r".") as caught:
            await ctx.step.run("x", fail)
        return type(caught.value).__name__

    assert await world.execute(doing(act)) in ("StepFailedError", "RuntimeError")


# Timeouts


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_body_is_capped_at_five_minutes_by_default(world: World) -> None:
    async def act(ctx: Context) -> float:
        with pytest.raises(StepTimeoutError, match="step 'hang': its body took longer than 5m") as caught:
            await ctx.step.run("hang", for_ever)
        assert caught.value.step_id == "hang"
        assert caught.value.timeout == 300
        return ctx.now().timestamp()

    began = world.clock.now()
    assert await world.execute(doing(act)) == began + 300


@pytest.mark.parametrize(("timeout", "expected"), [("90s", 90), (7, 7), (timedelta(hours=2), 7200)])
async def test_the_cap_is_the_callers_to_choose(world: World, timeout: Any, expected: float) -> None:
    async def act(ctx: Context) -> float:
        with pytest.raises(StepTimeoutError):
            await ctx.step.run("hang", for_ever, timeout=timeout)
        return ctx.now().timestamp()

    began = world.clock.now()
    assert await world.execute(doing(act)) == began + expected


@pytest.mark.parametrize("timeout", [0, -1, "0s", True, float("nan"), "10 parsecs"])
async def test_a_cap_that_is_none_is_a_duration_error_that_names_it(world: World, timeout: Any) -> None:
    async def act(ctx: Context) -> None:
        with pytest.raises(DurationError, match=r'^timeout=.*timeout="5m"'):
            await ctx.step.run("hang", for_ever, timeout=timeout)

    await world.execute(doing(act))


async def test_a_timed_out_body_is_interrupted_and_may_clean_up(world: World) -> None:
    cleaned: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    async def act(ctx: Context) -> None:
        with pytest.raises(StepTimeoutError):
            await ctx.step.run("hang", hang)

    await world.execute(doing(act))
    assert cleaned == ["yes"]


async def test_a_timeout_error_of_the_bodys_own_is_its_own(world: World) -> None:
    async def fail() -> None:
        raise TimeoutError("the server's")

    async def act(ctx: Context) -> None:
        with pytest.raises(TimeoutError, match="the server's"):
            await ctx.step.run("t", fail)

    await world.execute(doing(act))


# Sync steps


async def test_sync_steps_share_a_limited_number_of_threads(world: World) -> None:
    running, most, lock, enough = 0, 0, threading.Lock(), threading.Event()

    def busy() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running >= 40:
                enough.set()
        enough.wait(5)
        with lock:
            running -= 1

    async def act(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step.run(f"b{n}", busy) for n in range(60)))

    await world.execute(doing(act))
    assert most == 40


async def test_a_sync_function_that_raises_fails_the_step(world: World) -> None:
    def fail() -> int:
        return int("x")

    async def act(ctx: Context) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await ctx.step.run("t", fail)

    await world.execute(doing(act))


# Sleeps


async def test_a_sleep_lasts_as_long_as_it_says(world: World) -> None:
    async def act(ctx: Context) -> list[float]:
        began = ctx.now().timestamp()
        await ctx.step.sleep("a", "1h30m")
        await ctx.step.sleep("b", timedelta(days=20))
        await ctx.step.sleep("c", 0)
        return [began, ctx.now().timestamp()]

    began = world.clock.now()
    assert await world.execute(doing(act)) == [began, began + 5400 + 20 * 86_400]


async def test_sleep_until_ends_at_its_moment_and_one_that_has_passed_is_none(world: World) -> None:
    async def act(ctx: Context) -> list[float]:
        await ctx.step.sleep_until("past", ctx.now() - timedelta(days=1))
        first = ctx.now().timestamp()
        await ctx.step.sleep_until("next", ctx.now() + timedelta(hours=1))
        return [first, ctx.now().timestamp()]

    began = world.clock.now()
    assert await world.execute(doing(act)) == [began, began + 3600]


async def test_a_moment_without_a_time_zone_is_refused_with_the_right_way_to_write_it(world: World) -> None:
    async def act(ctx: Context) -> None:
        with pytest.raises(ValueError, match=r"'s': sleep_until needs a datetime with a time zone.*timezone\.utc"):
            await ctx.step.sleep_until("s", datetime(2030, 1, 1))

    await world.execute(doing(act))


@pytest.mark.parametrize("duration", ["-1s", -1, True, "soon", float("inf")])
async def test_a_sleep_of_no_duration_is_refused_by_name(world: World, duration: Any) -> None:
    async def act(ctx: Context) -> None:
        with pytest.raises(DurationError, match=r"^duration="):
            await ctx.step.sleep("s", duration)

    await world.execute(doing(act))


async def test_a_sleep_is_not_slept_again_after_a_crash_only_what_is_left() -> None:
    @workflow(id="sleeper")
    async def sleeper(ctx: Context) -> float:
        await ctx.step.sleep("long", "10h")
        return ctx.now().timestamp()

    async with World(sleeper) as world:
        began = world.clock.now()
        handle = await world.runtime.start(sleeper)
        await world.clock.advance("5h")
        await world.reopen()
        assert await world.result(handle.run_id) == began + 10 * 3600


async def test_a_sleep_that_an_attempt_left_goes_on_in_the_next_one(world: World) -> None:
    @workflow(id="sleeper", retries=1)
    async def sleeper(ctx: Context) -> float:
        async def fail() -> None:
            await ctx.step.sleep("short", "1h")
            if ctx.attempt == 1:
                raise RuntimeError("first attempt")

        await asyncio.gather(ctx.step.sleep("long", "10h"), fail())
        return ctx.now().timestamp()

    began = world.clock.now()
    assert await world.execute(sleeper) == began + 10 * 3600


@pytest.mark.parametrize("is_crashing", [False, True])
async def test_a_sleep_that_an_attempt_left_waits_for_the_attempt_that_comes_to_it(is_crashing: bool) -> None:
    """The second attempt fails before it comes to the sleep that the first one left."""

    @workflow(id="sleeper", retries=RetryPolicy(5, initial="1m", factor=1, jitter=False))
    async def sleeper(ctx: Context) -> float:
        async def fail() -> None:
            await asyncio.sleep(60)
            raise RuntimeError("first attempt")

        if ctx.attempt in (2, 3):
            await asyncio.sleep(60)
            raise RuntimeError("before the sleep")
        if ctx.attempt == 1:
            await asyncio.gather(ctx.step.sleep("long", "10h"), fail())
        await ctx.step.sleep("long", "10h")
        return ctx.now().timestamp()

    async with World(sleeper) as world:
        began = world.clock.now()
        handle = await world.runtime.start(sleeper)
        for _ in range(8):
            await world.clock.advance("1m")
            if is_crashing:
                await world.reopen()
        assert await world.result(handle.run_id) == began + 10 * 3600


async def test_a_sleep_that_was_given_up_is_slept_anew_in_a_later_attempt() -> None:
    @workflow(id="sleeper", retries=RetryPolicy(2, initial="1m", factor=1, jitter=False))
    async def sleeper(ctx: Context) -> float:
        if ctx.attempt == 1:
            left = asyncio.ensure_future(ctx.step.sleep("long", "10h"))
            await asyncio.sleep(1)
            raise RuntimeError(f"leaves it under way: {left}")
        if ctx.attempt == 2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await ctx.step.sleep("long", "10h")
            await ctx.step.sleep("crash here", "1h")
            raise RuntimeError("gave it up")
        await ctx.step.sleep("long", "10h")
        return ctx.now().timestamp()

    ends: list[float] = []
    for is_crashing in (False, True):
        async with World(sleeper) as world:
            began = world.clock.now()
            handle = await world.runtime.start(sleeper)
            await world.clock.advance("30m")
            if is_crashing:
                await world.reopen()
            ends.append(await world.result(handle.run_id) - began)
    assert ends == pytest.approx([1 + 60 + 60 + 3600 + 60 + 10 * 3600] * 2)


# A scope that is cancelled


async def test_a_step_whose_scope_is_cancelled_is_interrupted_and_nothing_of_it_is_recorded(world: World) -> None:
    events: list[str] = []

    async def hang() -> None:
        events.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("interrupted")

    async def act(ctx: Context) -> str:
        try:
            async with asyncio.timeout(60):
                await ctx.step.run("hang", hang)
        except TimeoutError:
            return "let go"
        return ""

    handle = await world.runtime.start(doing(act))
    assert await world.result(handle) == "let go"
    await world.settle()
    assert events == ["began", "interrupted"]
    assert await world.runtime.steps(handle.run_id) == []
