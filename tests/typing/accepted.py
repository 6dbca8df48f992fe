"""What the types say without a single annotation at the call: checked by mypy and pyright, never executed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

from rotor_actors import (
    Batch,
    Budget,
    CancelOn,
    CheckReport,
    Context,
    Debounce,
    EndedRun,
    Event,
    FlowControl,
    FlowKey,
    Idempotency,
    Invocation,
    InvokeOutcome,
    RetryPolicy,
    RunHandle,
    RunInfo,
    Runtime,
    RuntimeView,
    Singleton,
    Transaction,
    Update,
    WaitingRun,
    Workflow,
    check_runs,
    cron,
    workflow,
)
from rotor_actors.errors import WorkflowTimeoutError


@dataclass
class Contact:
    email: str


@dataclass
class Company:
    name: str


async def fetch(url: str) -> bytes:
    return url.encode()


async def fetch_page(url: str, page: int) -> list[str]:
    return [url] * page


def count(text: str) -> int:
    return len(text)


async def nothing() -> None: ...


@workflow(id="enrich", on="contact.created", retries=2)
async def enrich(ctx: Context, contact: Contact) -> Company:
    return Company(contact.email)


@workflow(id="tick", on=cron("*/5 * * * *"), retries=RetryPolicy(1, initial="5s"))
async def tick(ctx: Context) -> int:
    return ctx.attempt


async def clean_up(ctx: Context, ended: EndedRun[Contact]) -> None:
    assert_type(ended.data, Contact)


@workflow(id="with-handlers", on_cancel=clean_up, on_failure=clean_up)
async def with_handlers(ctx: Context, contact: Contact) -> None: ...


assert_type(enrich, Workflow[Contact, Company])
assert_type(tick, Workflow[None, int])
assert_type(with_handlers, Workflow[Contact, None])


@workflow(id="steps")
async def steps(ctx: Context, url: str) -> None:
    assert_type(await ctx.step.run("async", fetch, url), bytes)
    assert_type(await ctx.step.run("two arguments", fetch_page, url, 3, timeout="90s", retries=2), list[str])
    assert_type(await ctx.step.run("sync", count, url), int)
    assert_type(await ctx.step.run("none", nothing), None)
    assert_type(await ctx.step.run("sync lambda", lambda: 1), int)
    assert_type(await ctx.step.run("async lambda", lambda: fetch(url)), bytes)
    assert_type(await ctx.step.sleep("sleep", "1h"), None)


@workflow(id="invokes")
async def invokes(ctx: Context, contact: Contact) -> Company:
    invocation = await ctx.step.invoke("one", workflow=enrich, data=contact, timeout="10m")
    assert_type(invocation, Invocation[Company])
    assert_type(invocation.result, Company)
    result, run_id = invocation
    assert_type(result, Company)
    assert_type(run_id, str)
    assert_type(
        await ctx.step.invoke("no data", workflow=tick, data=None, timeout=60, on_parent_close="abandon"),
        Invocation[int],
    )
    assert_type(
        await ctx.step.invoke_by_id("by id", workflow="enrich", returns=Company, data=contact, timeout="1h"),
        Invocation[Company],
    )
    return result


@workflow(id="gathers")
async def gathers(ctx: Context, contacts: list[Contact]) -> list[Company]:
    two = await asyncio.gather(
        ctx.step.invoke("a", workflow=enrich, data=contacts[0], timeout="10m"),
        ctx.step.invoke("b", workflow=tick, data=None, timeout="10m"),
    )
    assert_type(two, tuple[Invocation[Company], Invocation[int]])
    many = await asyncio.gather(
        *(ctx.step.invoke("each", workflow=enrich, data=contact, timeout="10m") for contact in contacts)
    )
    assert_type(many, list[Invocation[Company]])
    return [invocation.result for invocation in many]


@workflow(id="groups")
async def groups(ctx: Context, contact: Contact) -> None:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(ctx.step.invoke("child", workflow=enrich, data=contact, timeout="10m"))
        step = group.create_task(ctx.step.run("step", fetch, "url"))
    assert_type(child.result(), Invocation[Company])
    assert_type(step.result(), bytes)


@workflow(id="outcomes")
async def outcomes(ctx: Context, contact: Contact) -> None:
    outcome = await ctx.invoke("child", workflow=enrich, body=contact, retries=0, workflow_run_id="mine")
    assert_type(outcome, InvokeOutcome[Company])
    assert_type(outcome.body, Company | None)
    assert_type(outcome.is_canceled, bool)
    assert_type(await ctx.invoke("no body", workflow=tick), InvokeOutcome[int])


@workflow(id="itself")
async def itself(ctx: Context, depth: int) -> int:
    """A workflow may invoke itself, and its type is known."""
    if depth == 0:
        return 0
    below = await ctx.step.invoke("below", workflow=itself, data=depth - 1, timeout="1h")
    assert_type(below, Invocation[int])
    return below.result + 1


@workflow(id="maps")
async def maps(ctx: Context, contacts: list[Contact]) -> list[str]:
    """The outcomes of a map have the type of the target's result."""

    async def pages() -> AsyncIterator[Contact]:
        for contact in contacts:
            yield contact

    async for outcome in ctx.step.map("each", workflow=enrich, items=contacts, timeout="1h"):
        assert_type(outcome, InvokeOutcome[Company])
    async for paged in ctx.step.map(
        "pages", workflow=enrich, items=pages(), timeout="1h", concurrency=5, on_error="collect"
    ):
        assert_type(paged.body, Company | None)
        assert_type(paged.index, int | None)
    won = await ctx.step.first("first", workflow=enrich, items=contacts, timeout="1m")
    assert_type(won, InvokeOutcome[Company])
    assert_type(await ctx.step.quorum("two", workflow=tick, items=[None, None, None], needed=2, timeout="1m"),
                list[InvokeOutcome[int]])  # fmt: skip
    return []


@workflow(id="starts", timeout="2h")
async def starts(ctx: Context, contact: Contact) -> None:
    """A started run is known by its id; what joining it gives is said, or not known."""
    run_id = await ctx.step.start("enrich", workflow=enrich, data=contact)
    assert_type(run_id, str)
    joined = await ctx.step.join("join", run_id=run_id, timeout="1h", returns=Company)
    assert_type(joined, Invocation[Company])
    assert_type(await ctx.step.cancel("stop", run_id=run_id), bool)
    try:
        await ctx.step.invoke("late", workflow=enrich, data=contact, timeout="1s")
    except WorkflowTimeoutError as error:
        assert_type(await error.child.cancel("stop it"), bool)


@workflow(id="waits", on="contact.created", cancel_on=[CancelOn("contact.deleted", match="data.email", within="1d")])
async def waits(ctx: Context, contact: Contact) -> str:
    """An event's data is plain; a signal has the type that is asked for, or is not known."""
    event = await ctx.step.wait_for_event("event", event="e", timeout="1h", match="data.email", where="data.x > 1")
    assert_type(event, Event | None)
    assert_type(await ctx.step.wait_for_signal("typed", signal="s", timeout="1h", returns=Company), Company)
    assert_type(await ctx.step.wait_for_signal("untyped", signal="t", timeout="1h"), Any)
    assert_type(await ctx.step.send_event("send", Event("e", contact)), list[str])
    return ctx.event.name


async def sends(runtime: Runtime) -> None:
    assert_type(await runtime.send(Event("contact.created", Contact("a"), id="1")), list[str])
    assert_type(await runtime.send([Event("a"), Event("b")]), list[str])
    await runtime.signal("s", Company("b"))


async def pay(amount: int, to: str) -> Company:
    return Company(to)


async def pay_back(amount: int, to: str, company: Company) -> None: ...


@workflow(id="spends", budget=Budget(runs=5, units={"tokens": 10}), undos=[pay_back])
async def spends(ctx: Context, contact: Contact) -> None:
    """What a charge leaves is a number, if anything limits it; an undo takes the step's arguments and its result."""
    assert_type(await ctx.charge("tokens", 5), float | None)
    assert_type(await ctx.step.run("pay", pay, 5, "a", undo=pay_back, undo_retries=9), Company)
    await ctx.step.invoke("part", workflow=enrich, data=contact, timeout="1h", budget=Budget(deadline="5m"))


async def from_outside(runtime: Runtime) -> None:
    handle = await runtime.start(enrich, Contact("a"), run_id="chosen")
    assert_type(handle, RunHandle[Company])
    assert_type(await handle.result(timeout="5m"), Company)
    assert_type(await runtime.execute(enrich, Contact("b")), Company)
    assert_type(await runtime.execute(tick), int)
    assert_type(await runtime.runs(status="running", workflow=enrich), list[RunInfo])


@workflow(
    id="limited",
    flow_control=FlowControl("data.email", parallelism=2, rate=10, period="1m"),
    priority="data.priority",
    singleton=Singleton("data.email", mode="cancel"),
    idempotency=Idempotency("data.email", period="1d"),
)
async def limited(ctx: Context, contact: dict[str, str]) -> Company:
    limit = FlowControl("shared", rate=1)
    child = await ctx.step.invoke("c", workflow=tick, data=None, timeout="1h", flow_control=limit)
    assert_type(child, Invocation[int])
    assert_type(await ctx.invoke("d", workflow=tick, flow_control=limit), InvokeOutcome[int])
    return Company("")


@workflow(id="gathered", batch=Batch(10, timeout="5s"))
async def gathered(ctx: Context, data: list[Contact]) -> int:
    return len(data)


@workflow(id="settled", debounce=Debounce("5s", key="data.email", max_wait="1m"))
async def settled(ctx: Context, contact: Contact) -> None: ...


async def limits(runtime: Runtime) -> None:
    assert_type(await runtime.start(gathered, [Contact("a")]), RunHandle[int])
    assert_type(runtime.waiting("k"), list[WaitingRun])
    assert_type(runtime.flow_keys(), list[FlowKey])
    assert_type(await runtime.pause_key("k"), None)


def booked(tx: Transaction, name: str, amount: int) -> list[int]:
    return [row[0] for row in tx.execute("SELECT 1")]


@workflow(id="kept", version="2")
async def kept(ctx: Context) -> None:
    assert_type(await ctx.step.transaction("book", booked, "alice", 1, timeout="1s"), list[int])
    assert_type(ctx.patched("new way"), bool)
    assert_type(ctx.report({"done": 1}, key="pages"), None)


async def upkeep(runtime: Runtime, handle: RunHandle[int]) -> None:
    assert_type(await runtime.resume("r"), RunHandle[Any])
    assert_type(await runtime.fork("r", from_step="s"), RunHandle[Any])
    assert_type(await runtime.why("r"), str)
    assert_type(await handle.progress(), dict[str, Update])
    async for update in handle.updates("pages"):
        assert_type(update, Update)
    assert_type(await check_runs("rotor.db", [kept]), CheckReport)
    async with RuntimeView("rotor.db") as view:
        assert_type(await view.runs(error="x"), list[RunInfo])


async def where_less_is_asked_for(runtime: Runtime) -> None:
    print(await runtime.execute(enrich, Contact("a")))
    anything: Workflow[Contact, object] = enrich
    handle: RunHandle[object] = await runtime.start(anything, Contact("a"))
    print(await handle.result())
