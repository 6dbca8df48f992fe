"""Bad input: each gets an error of its own that names what was wrong and says what to do; nothing is half-done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
import pytest_asyncio
from kit import World

from rotor_actors import (
    Context,
    MemoryStore,
    RetryPolicy,
    RunStatus,
    Runtime,
    Workflow,
    cron,
    errors,
    workflow,
)
from rotor_actors.errors import (
    DurationError,
    ErrorInfo,
    NonRetriableError,
    PayloadError,
    RetryAfterError,
    RotorError,
    RunExistsError,
    RuntimeStateError,
    StoreError,
    WorkflowCancelledError,
    WorkflowDefinitionError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowTimeoutError,
)
from rotor_actors.records import RunCreated

pytestmark = pytest.mark.asyncio


@dataclass
class Order:
    item: str


@dataclass
class Unstorable:
    socket: Callable[[], None]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@workflow(id="greet")
async def greet(ctx: Context, order: Order) -> str:
    return f"hello {order.item}"


@workflow(id="part")
async def part(ctx: Context, order: Order) -> str:
    return f"goodbye {order.item}"


@workflow(id="nothing")
async def nothing(ctx: Context) -> None: ...


async def body(ctx: Context) -> None: ...


async def three(ctx: Context, one: int, two: int) -> None: ...


async def bad_annotation(ctx: Context, data: Unstorable) -> None: ...


def not_async(ctx: Context) -> None: ...


async def no_parameters() -> None: ...


# The classes


@pytest.mark.parametrize("name", errors.__all__)
async def test_every_error_has_one_base_and_says_what_it_means(name: str) -> None:
    kind = getattr(errors, name)
    assert inspect.getdoc(kind)
    if kind not in (ErrorInfo, errors.AwaitedRun):
        assert issubclass(kind, RotorError)
        assert issubclass(kind, Exception), "an ordinary exception: `except Exception` catches it"


async def test_what_was_awaited_is_never_mixed_up_with_oneself() -> None:
    for kind in (WorkflowFailedError, WorkflowTimeoutError, WorkflowCancelledError):
        assert issubclass(kind, WorkflowError)
        assert not issubclass(kind, asyncio.CancelledError)
        assert not issubclass(kind, TimeoutError)


async def test_errors_that_are_bad_values_are_value_errors_too() -> None:
    assert issubclass(DurationError, ValueError)
    assert issubclass(PayloadError, ValueError)
    assert issubclass(WorkflowDefinitionError, ValueError)
    assert issubclass(errors.RunNotFoundError, LookupError)


async def test_errors_that_user_code_raises_are_easy_to_make() -> None:
    assert str(NonRetriableError("never")) == "never"
    assert (str(RetryAfterError("busy", "90s")), RetryAfterError("busy", "90s").after) == ("busy", "90s")
    assert RetryAfterError().after == 0


async def test_two_ends_of_a_run_are_equal_when_they_say_the_same() -> None:
    def timed_out(timeout: float) -> WorkflowTimeoutError:
        return WorkflowTimeoutError(run_id="r", workflow_id="w", timeout=timeout)

    assert timed_out(1) == timed_out(1)
    assert hash(timed_out(1)) == hash(timed_out(1))
    assert timed_out(1) != timed_out(2)
    assert timed_out(1) != WorkflowCancelledError(run_id="r", workflow_id="w")


# Definitions


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (lambda: workflow(id=""), "a workflow's id must be a non-empty string, e.g. 'send-invoice'; got ''"),
        (lambda: workflow(id="  "), "non-empty string"),
        (lambda: workflow(id="order\n"), "a workflow's id must be one line, e.g. 'send-invoice'; got 'order\\n'"),
        (lambda: workflow(id="w" * 201), "a workflow's id has at most 200 characters"),
        (lambda: workflow(id="\ud800"), "non-empty string"),
        (lambda: workflow(id=cast("str", None)), "got None"),
        (lambda: workflow(id="w", on=""), "workflow 'w': on='' is no trigger; give an event name, cron"),
        (lambda: workflow(id="w", on=cast("str", 3)), "on=3 is no trigger"),
        (lambda: workflow(id="w", retries=-1), "retries=-1 must be a number of retries of at least 0"),
        (lambda: workflow(id="w", retries=True), "retries=True must be"),
        (lambda: workflow(id="w", retries=cast("int", "3")), "for example retries=3"),
    ],
)
async def test_a_definition_that_cannot_work_is_refused_where_it_stands(define: Callable[[], Any], says: str) -> None:
    with pytest.raises(WorkflowDefinitionError) as caught:
        define()(body)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (not_async, "must be an async function: 'async def fn(ctx, data)'"),
        (no_parameters, "takes the context and at most one data parameter"),
        (three, "Put several values into one dataclass"),
        (cast("Any", 3), "must be an async function"),
    ],
)
async def test_a_function_that_cannot_be_a_workflow_is_refused_with_the_right_form(fn: Any, says: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match="workflow 'w'") as caught:
        workflow(id="w")(fn)
    assert says in str(caught.value)


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * *", "a b c d !", cast("str", None)])
async def test_a_cron_expression_that_is_none_is_refused_with_a_right_one(expression: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"expected five fields, e.g. cron\('\*/5 \* \* \* \*'\)"):
        cron(expression)


async def test_an_unknown_time_zone_is_refused_with_a_right_one() -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"unknown time zone 'Berlin'.*'Europe/Berlin'"):
        cron("* * * * *", timezone="Berlin")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RetryPolicy(-1), "max_retries=-1"),
        (lambda: RetryPolicy(1, initial="2h"), "initial=2h is longer than maximum=1h"),
        (lambda: RetryPolicy(1, factor=0.5), "factor=0.5"),
        (lambda: RetryPolicy(1, jitter=cast("bool", "no")), "jitter='no'"),
    ],
)
async def test_a_policy_that_cannot_work_is_refused_by_parameter(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(WorkflowDefinitionError) as caught:
        make()
    assert says in str(caught.value)


async def test_two_workflows_of_one_id_are_refused_with_both_places(world: World) -> None:
    twin = workflow(id="nothing")(body)
    await world.execute(nothing)
    with pytest.raises(WorkflowDefinitionError) as caught:
        await world.runtime.start(twin)
    message = str(caught.value)
    assert "two workflows have the id 'nothing'" in message
    assert "nothing (" in message
    assert "body (" in message
    assert message.count("test_errors.py:") == 2
    assert message.endswith("rename one")
    assert len(world.store.committed(RunCreated)) == 1


async def test_two_workflows_of_one_id_are_refused_when_opening_and_the_store_is_given_up() -> None:
    world = World(nothing, workflow(id="nothing")(body))
    with pytest.raises(WorkflowDefinitionError, match="two workflows have the id 'nothing'"):
        await world.open()
    await world.open(nothing)
    await world.execute(nothing)
    await world.close()


async def test_a_workflow_whose_values_cannot_be_stored_is_refused_when_it_is_registered(world: World) -> None:
    with pytest.raises(PayloadError, match="workflow 'w': "):
        await world.runtime.start(workflow(id="w")(bad_annotation), cast("Unstorable", None))
    assert world.store.committed(RunCreated) == []


# The runtime


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"max_depth": 0}, ValueError, "max_depth must be a number of at least 1, or None for no limit; got 0"),
        ({"max_depth": True}, ValueError, "max_depth"),
        ({"max_active_runs": -1}, ValueError, "max_active_runs must be"),
        ({"cancel_grace": "soon"}, DurationError, "cancel_grace='soon' is not a duration; write it like"),
        ({"cancel_grace": -1}, DurationError, "cancel_grace=-1 must be at least 0s"),
        ({"drain_timeout": None}, TypeError, "drain_timeout is required and must be a duration"),
        (
            {"store": "mysql://x"},
            StoreError,
            "expected a file, 'sqlite:///file', 'postgresql://…', ':memory:' or a Store",
        ),
    ],
)
async def test_options_that_cannot_work_are_refused_by_name(
    options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    arguments: dict[str, Any] = {"store": ":memory:", **options}
    with pytest.raises(kind) as caught:
        Runtime(**arguments)
    assert says in str(caught.value)


async def test_a_runtime_that_is_not_open_says_how_to_open_it() -> None:
    runtime = Runtime(MemoryStore())
    for use in (lambda: runtime.start(nothing), lambda: runtime.run("r").result(), lambda: runtime.cancel("r")):
        with pytest.raises(RuntimeStateError, match="use it inside 'async with runtime:'"):
            await use()


# Starting


@pytest.mark.parametrize(
    ("target", "data", "options", "kind", "says"),
    [
        (body, None, {}, TypeError, "expected a function decorated with @workflow"),
        (greet, {"item": 3}, {}, PayloadError, "input of workflow 'greet': "),
        (greet, None, {}, PayloadError, "input of workflow 'greet': "),
        (greet, Order("\ud800"), {}, PayloadError, "input of workflow 'greet': "),
        (nothing, 3, {}, PayloadError, "workflow 'nothing' takes no data"),
        (nothing, None, {"run_id": ""}, ValueError, "run_id must be a string of 1 to 200 characters"),
        (nothing, None, {"run_id": "x" * 201}, ValueError, "run_id must be a string of 1 to 200 characters"),
        (nothing, None, {"run_id": 7}, ValueError, "got 7"),
        (nothing, None, {"run_id": "\ud800"}, ValueError, "run_id must be a string"),
        (nothing, None, {"headers": {"a": 1}}, TypeError, "headers are strings; got 'a': 1"),
        (nothing, None, {"headers": {"a": "\ud800"}}, PayloadError, "headers are text that UTF-8 can hold"),
    ],
)
async def test_what_cannot_be_started_is_refused_by_name_and_nothing_is_recorded(
    world: World, target: Any, data: Any, options: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        await world.runtime.start(target, data, **options)
    assert says in str(caught.value)
    await world.settle()
    assert world.store.facts == []
    assert await world.execute(greet, Order("you")) == "hello you", "and nothing is broken"


async def test_an_input_over_the_payload_limit_is_refused_by_name() -> None:
    async with World(payload_limit=1000) as world:
        with pytest.raises(PayloadError) as caught:
            await world.runtime.start(greet, Order("x" * 2000))
        assert "input of workflow 'greet'" in str(caught.value)
        assert "payload_limit" in str(caught.value)
        assert world.store.facts == []


async def test_a_result_over_the_payload_limit_fails_the_run_by_name_and_at_once() -> None:
    @workflow(id="big")
    async def big(ctx: Context) -> str:
        return "x" * 2000

    async with World(payload_limit=1000) as world:
        handle = await world.runtime.start(big)
        with pytest.raises(WorkflowFailedError, match=r"its result cannot be stored: .*payload_limit"):
            await world.result(handle)
        assert (await handle.info()).attempt == 1


async def test_a_result_that_contradicts_the_return_annotation_fails_the_run_by_name_and_at_once(world: World) -> None:
    @workflow(id="liar")
    async def liar(ctx: Context) -> int:
        return cast("int", "three")

    handle = await world.runtime.start(liar)
    with pytest.raises(WorkflowFailedError, match="of workflow 'liar': its result cannot be stored") as caught:
        await world.result(handle)
    assert caught.value.error.type == "rotor_actors.errors.PayloadError"
    assert (await handle.info()).attempt == 1


# Run ids


async def test_starting_the_same_again_gives_the_same_run(world: World) -> None:
    one = await world.runtime.start(greet, Order("tea"), run_id="mine")
    two = await world.runtime.start(greet, Order("tea"), run_id="mine")
    assert await world.result(one) == await world.result(two) == "hello tea"
    three = await world.runtime.start(greet, Order("tea"), run_id="mine")
    assert await three.result() == "hello tea", "also after its end"
    assert len(world.store.committed(RunCreated)) == 1


async def test_starting_the_same_at_once_gives_the_same_run(world: World) -> None:
    handles = await asyncio.gather(*(world.runtime.start(greet, Order("tea"), run_id="mine") for _ in range(10)))
    assert {await world.result(handle) for handle in handles} == {"hello tea"}
    assert len(world.store.committed(RunCreated)) == 1


async def test_a_run_id_in_use_by_other_content_is_refused_with_what_has_it(world: World) -> None:
    await world.runtime.start(greet, Order("tea"), run_id="mine")
    others = [(greet, Order("milk")), (part, Order("tea")), (nothing, None)]
    for workflow_, data in others:
        with pytest.raises(RunExistsError) as caught:
            await world.runtime.start(cast("Workflow[Any, Any]", workflow_), data, run_id="mine")
        assert "run id 'mine' belongs to a run of workflow 'greet' with other input" in str(caught.value)
        assert "choose another, or use runtime.run('mine')" in str(caught.value)
    assert len(world.store.committed(RunCreated)) == 1


# Text that no store could keep


async def test_a_reason_with_a_lone_surrogate_cancels_all_the_same(world: World) -> None:
    @workflow(id="sleeper")
    async def sleeper(ctx: Context) -> None:
        await ctx.step.sleep("doze", "9h")

    handle = await world.runtime.start(sleeper)
    await world.settle()
    await world.wait(handle.cancel("\ud800"))
    info = await handle.info()
    assert (info.status, info.reason) == (RunStatus.CANCELLED, "\\ud800")


async def test_an_error_message_with_a_lone_surrogate_fails_the_run_all_the_same(world: World) -> None:
    @workflow(id="failing", retries=0)
    async def failing(ctx: Context) -> None:
        raise OSError("\ud800")

    with pytest.raises(WorkflowFailedError, match="ud800"):
        await world.execute(failing)


async def test_an_error_in_one_run_stops_no_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class EvilError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    @workflow(id="evil", retries=0)
    async def evil(ctx: Context) -> None:
        raise EvilError

    @workflow(id="sleeper")
    async def sleeper(ctx: Context) -> str:
        await ctx.step.sleep("doze", "1h")
        return "rested"

    beside = await world.runtime.start(sleeper)
    with pytest.raises(WorkflowFailedError, match="EvilError"):
        await world.execute(evil)
    assert await world.result(beside) == "rested"
