"""What is refused where it is written, by name and with the fix; and who wins where options go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from flow_kit import Watch
from kit import World

from rotor_actors import (
    Batch,
    Context,
    Debounce,
    Event,
    FlowControl,
    Idempotency,
    RunStatus,
    Singleton,
    Workflow,
    cron,
    workflow,
)
from rotor_actors.errors import DurationError, PayloadError, WorkflowDefinitionError


@dataclass
class User:
    id: str


@dataclass
class Order:
    user: User
    lines: list[str]
    priority: int = 0


class Renamed(msgspec.Struct, rename="camel"):
    user_id: str


class Loose(TypedDict):
    name: str


def defined(data: Any = Order, **options: Any) -> Workflow[Any, None]:
    async def fn(ctx: Context, data: Any) -> None: ...

    async def without(ctx: Context) -> None: ...

    fn.__annotations__["data"] = data
    return workflow(id="w", **options)(without if data is None else fn)


K = FlowControl("k", parallelism=1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FlowControl("k"), "limits nothing; give parallelism="),
        (lambda: FlowControl("k", parallelism=0), "parallelism must be a whole number of at least 1; got 0"),
        (lambda: FlowControl("k", parallelism=True), "parallelism must be a whole number"),
        (lambda: FlowControl("k", rate=1.5, period="1s"), "rate must be a whole number"),  # type: ignore[arg-type]
        (lambda: FlowControl("k", parallelism=1, period="1m"), "without a rate"),
        (lambda: FlowControl("", parallelism=1), "key must be a path such as 'data.user_id'"),
        (lambda: FlowControl("k" * 201, parallelism=1), "text of 1 to 200 characters"),
        (lambda: FlowControl("data..id", parallelism=1), "empty segment"),
        (lambda: FlowControl("event.data.id", parallelism=1), "a path into the input begins with 'data', e.g. 'data.id'"),
        (lambda: Debounce("10s", max_wait="5s"), "raise max_wait"),
        (lambda: Singleton(mode="wait"), "the modes are 'skip' and 'cancel'"),  # type: ignore[arg-type]
        (lambda: Batch(0, "1s"), "max_size must be a whole number"),
        (lambda: defined(priority=101), "from -100 to 100"),
        (lambda: defined(priority=True), "from -100 to 100"),
        (lambda: defined(priority="high"), "no path into the input; write 'data.priority'"),
        (lambda: defined(flow_control="k"), "flow_control takes a FlowControl"),
        (lambda: defined(debounce=K), "debounce takes a Debounce"),
        (lambda: defined(flow_control=FlowControl("data.usr", parallelism=1)), "Order has no field 'usr'; it has user, "),
        (lambda: defined(flow_control=FlowControl("data.user.name", parallelism=1)), "User has no field 'name'; it has id"),
        (lambda: defined(Renamed, singleton=Singleton("data.user_id")), "it has userId"),
        (lambda: defined(Loose, idempotency=Idempotency("data.id")), "it has name"),
        (lambda: defined(batch=Batch(2, "1s"), data=Order), "takes a list"),
        (lambda: defined(batch=Batch(2, "1s"), data=list[Order], priority="data.priority"), "may differ within a batch"),
        (lambda: defined(batch=Batch(2, "1s"), data=list[Order], debounce=Debounce("1s")), "choose one"),
        (lambda: defined(batch=Batch(2, "1s"), data=list[Order], singleton=Singleton()), "batch and singleton do not go"),
        (lambda: defined(batch=Batch(2, "1s"), data=list[Order], idempotency=Idempotency("k")), "batch and idempotency"),
        (lambda: defined(debounce=Debounce("1s"), singleton=Singleton()), "debounce and singleton do not go together"),
        (lambda: defined(None, debounce=Debounce("1s"), on=cron("* * * * *")), "does not go with on=cron"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_where_it_is_written(make: Callable[[], object], says: str) -> None:
    with pytest.raises(WorkflowDefinitionError) as raised:
        make()
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlowControl("k", rate=1, period="soon"),
        lambda: Debounce(0),
        lambda: Batch(2, -1),
        lambda: Idempotency("k", period="1 fortnight"),
    ],
)
def test_durations_that_are_none_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(DurationError):
        make()


def test_a_path_needs_data_to_look_into() -> None:
    with pytest.raises(WorkflowDefinitionError, match="takes no data to look into; use a constant"):

        @workflow(id="w", flow_control=FlowControl("data.user", parallelism=1))
        async def no_data(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Order, {"flow_control": FlowControl("data.user.id", rate=5)}),
        (Order, {"flow_control": FlowControl("data.lines.0", parallelism=1), "priority": "data.priority"}),
        (Renamed, {"flow_control": FlowControl("data.userId", parallelism=1)}),
        (dict[str, Any], {"singleton": Singleton("data.whatever.comes")}),
        (Any, {"idempotency": Idempotency("data"), "debounce": Debounce("1s"), "flow_control": K, "priority": 5}),
        (
            list[Order],
            {"batch": Batch(2, "1s", key="data.user.id"), "flow_control": FlowControl("data.user.id", rate=1)},
        ),
        (Order, {"singleton": Singleton("data.user.id", "cancel"), "idempotency": Idempotency("k"), "flow_control": K}),
        (None, {"singleton": Singleton(), "on": cron("* * * * *")}),
    ],
)
def test_what_can_work_is_accepted(data: Any, options: dict[str, Any]) -> None:
    assert defined(data, **options).rules is not None


def test_a_workflow_without_rules_has_none() -> None:
    assert defined().rules is None


# Who wins: a test for each row of the guide's table


@dataclass
class Job:
    name: str
    key: str = ""
    priority: int = 0


def job(watch: Watch, **rules: Any) -> Workflow[Job, str]:
    @workflow(id="job", **rules)
    async def run(ctx: Context, data: Job) -> str:
        await ctx.step.run("enter", watch.enter, data.name)
        await ctx.step.sleep("work", 10)
        await ctx.step.run("exit", watch.exit, data.name)
        return data.name

    return run


@pytest.mark.asyncio
async def test_idempotency_is_before_debounce_a_known_key_neither_postpones_nor_changes_the_run() -> None:
    watch = Watch()
    work = job(watch, idempotency=Idempotency("data.key"), debounce=Debounce("10s"))
    async with World(work) as world:
        first = await world.runtime.start(work, Job("one", "a"))
        await world.clock.advance("6s")
        same = await world.runtime.start(work, Job("two", "a"))
        assert same.run_id == first.run_id
        await world.clock.advance("4s")
        assert watch.began == ["one"]


@pytest.mark.asyncio
async def test_idempotency_is_before_singleton_a_known_key_cancels_nothing() -> None:
    watch = Watch()
    work = job(watch, idempotency=Idempotency("data.key"), singleton=Singleton(mode="cancel"))
    async with World(work) as world:
        first = await world.runtime.start(work, Job("one", "a"))
        await world.settle()
        same = await world.runtime.start(work, Job("two", "a"))
        assert (same.run_id, await first.status()) == (first.run_id, RunStatus.RUNNING)
        other = await world.runtime.start(work, Job("three", "b"))
        assert await world.result(other) == "three"
        assert await first.status() is RunStatus.CANCELLED


@pytest.mark.asyncio
async def test_a_start_that_a_singleton_skips_is_remembered_as_the_run_that_is_there() -> None:
    watch = Watch()
    work = job(watch, idempotency=Idempotency("data.key"), singleton=Singleton())
    async with World(work) as world:
        first = await world.runtime.start(work, Job("one", "a"))
        assert (await world.runtime.start(work, Job("two", "b"))).run_id == first.run_id
        await world.result(first)
        assert (await world.runtime.start(work, Job("three", "b"))).run_id == first.run_id


@pytest.mark.asyncio
async def test_singleton_is_before_flow_control_a_queued_run_is_there_and_a_skipped_start_costs_no_rate() -> None:
    watch = Watch()
    work = job(watch, singleton=Singleton("data.key"), flow_control=FlowControl("k", rate=2, period="1h"))
    async with World(work) as world:
        first = await world.runtime.start(work, Job("one", "a"))
        for _ in range(3):
            assert (await world.runtime.start(work, Job("skipped", "a"))).run_id == first.run_id
        await world.runtime.start(work, Job("two", "b"))
        queued = await world.runtime.start(work, Job("three", "c"))
        assert (await world.runtime.start(work, Job("four", "c"))).run_id == queued.run_id
        await world.clock.advance("30m")
    assert watch.began == ["one", "two"]


@pytest.mark.asyncio
async def test_a_debounced_run_has_the_key_and_the_priority_of_its_last_data() -> None:
    watch = Watch()
    work = job(
        watch, debounce=Debounce("10s"), flow_control=FlowControl("data.key", parallelism=1), priority="data.priority"
    )
    async with World(work) as world:
        await world.runtime.start(work, Job("one", "a", 1))
        handle = await world.runtime.start(work, Job("two", "b", 7))
        await world.runtime.pause_key("job:data.key=b")
        await world.clock.advance("10s")
        (waiting,) = world.runtime.waiting()
        assert (waiting.run_id, waiting.key, waiting.priority) == (handle.run_id, "job:data.key=b", 7)


@pytest.mark.asyncio
async def test_a_full_batch_stands_in_line_as_one_run() -> None:
    watch = Watch()

    @workflow(id="batch", batch=Batch(2, "1s"), flow_control=FlowControl("k", parallelism=1), priority=3)
    async def batch(ctx: Context, data: list[Job]) -> None:
        await ctx.step.run("enter", watch.enter, "+".join(each.name for each in data))
        await ctx.step.sleep("work", 10)

    async with World(batch) as world:
        await world.runtime.start(batch, [Job(f"{n}") for n in range(4)])
        await world.settle()
        assert watch.began == ["0+1"]
        assert [(each.key, each.priority, each.position) for each in world.runtime.waiting()] == [("k", 3, 1)]
        await world.clock.advance("10s")
        assert watch.began == ["0+1", "2+3"]


@pytest.mark.asyncio
async def test_a_priority_that_is_no_number_is_refused_at_the_start_and_is_0_for_an_event() -> None:
    @workflow(id="w", on="it.happened", priority="data.priority")
    async def work(ctx: Context, data: dict[str, Any]) -> str:
        return "ran"

    async with World(work) as world:
        with pytest.raises(PayloadError, match=r"its priority is the int at .* of the input; found 'high'"):
            await world.runtime.start(work, {"priority": "high"})
        (run_id,) = await world.runtime.send(Event("it.happened", {"priority": "high"}))
        assert await world.result(run_id) == "ran"
