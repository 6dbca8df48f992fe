"""Events: they start runs and resume those that wait, once each, durable when sent; who is meant is found by value."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from crash_kit import Play, survives_every_crash
from kit import STRIDE, FragileStore, World, until

from rotor_actors import Context, Event, RetryPolicy, RunStatus, workflow
from rotor_actors.errors import (
    ExpressionError,
    NonDeterminismError,
    PayloadError,
    StoreError,
    WorkflowFailedError,
)
from rotor_actors.events.waiting import WaiterNote
from rotor_actors.records import Entry, ItemDropped, ItemPut, RunCreated, StepRecorded, Together, flatten
from rotor_actors.stores.base import ItemQuery

pytestmark = pytest.mark.asyncio


@dataclass
class Contact:
    name: str
    size: int = 0


@workflow(id="greet", on="contact.created", retries=0)
async def greet(ctx: Context, contact: Contact) -> str:
    return f"hello {contact.name}"


@workflow(id="count", on="contact.created", retries=0)
async def count(ctx: Context) -> str:
    event = ctx.event
    return f"{event.name} {event.id} {event.data} {event.timestamp}"


@workflow(id="other", on="contact.deleted", retries=0)
async def other(ctx: Context) -> None: ...


@workflow(id="paid", on="order.created", retries=0)
async def paid(ctx: Context) -> object:
    event = await ctx.step.wait_for_event("payment", event="payment", timeout="1h", match="data.order")
    return None if event is None else [event.name, event.id, event.data]


# Starting


async def test_an_event_starts_every_workflow_that_is_on_it_and_send_gives_their_ids() -> None:
    async with World(greet, count, other) as world:
        when = datetime(2024, 2, 3, tzinfo=UTC)
        ids = await world.runtime.send(Event("contact.created", Contact("Ada"), id="e1", timestamp=when))
        assert [(await world.runtime.info(id)).workflow_id for id in ids] == ["greet", "count"]
        assert await world.result(ids[0]) == "hello Ada"
        assert await world.result(ids[1]) == f"contact.created e1 {{'name': 'Ada', 'size': 0}} {when}"
        assert await world.runtime.send(Event("unheard.of")) == []


async def test_an_event_without_id_and_time_gets_them() -> None:
    @workflow(id="look", on="e", retries=0)
    async def look(ctx: Context) -> tuple[str | None, datetime | None]:
        return ctx.event.id, ctx.event.timestamp

    async with World(look) as world:
        event_id, timestamp = await world.result((await world.runtime.send(Event("e")))[0])
        assert event_id
        assert timestamp == datetime.fromtimestamp(world.clock.now(), UTC)


async def test_data_that_does_not_fit_a_workflow_fails_its_run_by_name_and_no_other() -> None:
    handled: list[object] = []

    async def on_failure(ctx: Context, ended: Any) -> None:
        handled.append(ended.data)

    @workflow(id="strict", on="contact.created", on_failure=on_failure)
    async def strict(ctx: Context, number: int) -> int:
        return number

    async with World(strict, greet) as world:
        ids = await world.runtime.send(Event("contact.created", {"name": "Ada"}))
        with pytest.raises(WorkflowFailedError, match=r"PayloadError.*event 'contact.created' does not fit"):
            await world.result(ids[0])
        assert await world.result(ids[1]) == "hello Ada"
        assert (await world.runtime.info(ids[0])).attempt == 1, "the same data would not fit again"
        await world.settle()
        assert handled == [{"name": "Ada"}]


async def test_a_text_is_parsed_once_for_all_runs() -> None:
    async with World(paid) as world:
        waits = world.runtime._engine.waits  # pyright: ignore[reportPrivateUsage]
        await world.runtime.send([Event("order.created", {"order": n}) for n in range(3)])
        await world.settle()
        assert waits.parse("data.order", None) is waits.parse("data.order", None)
        assert len(waits._parsed) == 1  # pyright: ignore[reportPrivateUsage]


async def test_what_was_sent_is_there_after_a_crash() -> None:
    async with World(greet) as world:
        ids = await world.runtime.send(Event("contact.created", Contact("Ada")))
        await world.reopen()
        assert await world.result(ids[0]) == "hello Ada"


async def test_several_events_are_sent_in_their_order_or_none() -> None:
    async with World(greet, paid) as world:
        ids = await world.runtime.send([Event("contact.created", Contact(name)) for name in "ab"])
        assert [await world.result(id) for id in ids] == ["hello a", "hello b"]
        with pytest.raises(PayloadError, match=r"data of event 'contact.created'"):
            await world.runtime.send([Event("contact.created", Contact("c")), Event("contact.created", object())])
        assert len(await world.runtime.runs()) == 2
        assert await world.runtime.send([]) == []


async def test_event_started_runs_are_queued_like_others() -> None:
    @workflow(id="slow", on="e", retries=0)
    async def slow(ctx: Context) -> None:
        await ctx.step.sleep("s", 10)

    async with World(slow, max_active_runs=2) as world:
        ids = await world.runtime.send([Event("e")] * 4)
        await world.settle()
        statuses = [(await world.runtime.info(id)).status for id in ids]
        assert statuses == [RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.QUEUED]
        await world.clock.advance(30)
        assert {(await world.runtime.info(id)).status for id in ids} == {RunStatus.COMPLETED}


# Once


async def test_a_repeated_id_is_delivered_once_and_gives_the_same_runs() -> None:
    async with World(greet, paid) as world:
        first = await world.runtime.send(Event("contact.created", Contact("Ada"), id="e1"))
        assert await world.runtime.send(Event("contact.created", Contact("Ada"), id="e1")) == first
        assert await world.runtime.send([Event("contact.created", Contact("Ada"), id="e1")] * 2) == first * 2
        await world.reopen()
        assert await world.runtime.send(Event("contact.created", Contact("Ada"), id="e1")) == first
        assert len(await world.runtime.runs()) == 1


async def test_of_two_senders_of_one_id_at_once_one_delivers() -> None:
    async with World(greet) as world:
        event = Event("contact.created", Contact("Ada"), id="e1")
        sent = await asyncio.gather(*(world.runtime.send(event) for _ in range(5)))
        assert all(ids == sent[0] for ids in sent)
        assert len(await world.runtime.runs()) == 1


class SlowStore(FragileStore):
    """Commits in a thread, when it is let."""

    is_inline = False

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def commit(self, entries: list[Entry]) -> None:
        assert self.gate.wait(10)
        super().commit(entries)


async def test_an_event_whose_sender_did_not_wait_is_not_delivered_again() -> None:
    store = SlowStore()
    async with World(greet, store=store) as world:
        store.gate.clear()
        event, journal = Event("contact.created", Contact("Ada"), id="e1"), world.runtime._engine.journal  # pyright: ignore[reportPrivateUsage]
        before = journal.last_seq
        hasty = asyncio.ensure_future(world.runtime.send(event))
        await until(lambda: journal.last_seq > before)
        hasty.cancel()
        again = asyncio.ensure_future(world.runtime.send(event))
        await asyncio.wait([again], timeout=0.05)
        assert journal.durable_seq == before, "it is not in the store yet"
        store.gate.set()
        ids = await again
        assert [run.run_id for run in await world.runtime.runs()] == ids


async def test_an_id_is_remembered_for_the_stated_period_and_then_given_up() -> None:
    event = Event("contact.created", Contact("Ada"), id="e1")
    async with World(greet, remember_event_ids="1h") as world:
        first = await world.runtime.send(event)
        await world.clock.advance("59m")
        assert await world.runtime.send(event) == first
        await world.clock.advance("2m")
        second = await world.runtime.send(event)
        assert second != first
        await world.clock.advance("2h")
        await world.runtime.send(Event("contact.created", Contact("Bob"), id="e2"))
        await world.settle()
        assert [space for space, items in world.store._items.items() for _ in items] == ["event-ids"]  # pyright: ignore[reportPrivateUsage]


# Waiting


async def test_an_event_resumes_the_run_that_waits_for_it_and_not_the_others() -> None:
    async with World(paid) as world:
        ids = [(await world.runtime.send(Event("order.created", {"order": n})))[0] for n in range(3)]
        await world.settle()
        assert await world.runtime.send(Event("payment", {"order": 1, "amount": 5}, id="p")) == []
        assert await world.result(ids[1]) == ["payment", "p", {"order": 1, "amount": 5}]
        for id in (ids[0], ids[2]):
            assert (await world.runtime.info(id)).status is RunStatus.RUNNING
        await world.clock.advance("2h")
        assert await world.result(ids[0]) is None


async def test_an_event_is_given_to_every_step_that_waits_for_it() -> None:
    @workflow(id="both", retries=0)
    async def both(ctx: Context) -> list[object]:
        events = await asyncio.gather(
            ctx.step.wait_for_event("one", event="e", timeout="1h"),
            ctx.step.wait_for_event("two", event="e", timeout="1h", where="data.x > 1"),
            ctx.step.wait_for_event("none", event="e", timeout="1h", where="data.x > 5"),
        )
        return [None if event is None else event.data for event in events]

    async with World(both) as world:
        handle = await world.runtime.start(both)
        other = await world.runtime.start(both)
        await world.settle()
        await world.runtime.send([Event("e", {"x": 1}), Event("e", {"x": 2}), Event("e", {"x": 3})])
        assert await world.result(handle) == [{"x": 1}, {"x": 2}, None]
        assert await world.result(other) == [{"x": 1}, {"x": 2}, None]


async def test_an_event_that_came_before_is_not_kept() -> None:
    async with World(paid) as world:
        await world.runtime.send(Event("payment", {"order": 1}))
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        assert await world.result(id) is None


async def test_who_asks_before_it_acts_misses_nothing() -> None:
    @workflow(id="request", retries=0)
    async def request(ctx: Context) -> Any:
        answer, _ = await asyncio.gather(
            ctx.step.wait_for_event("answer", event="answer", timeout="1h"),
            ctx.step.send_event("ask", Event("question", {"x": 5})),
        )
        return None if answer is None else answer.data

    @workflow(id="answerer", on="question", retries=0)
    async def answerer(ctx: Context) -> None:
        await ctx.step.send_event("answer", Event("answer", {"y": ctx.event.data["x"] + 1}))

    async with World(request, answerer) as world:
        assert await world.execute(request) == {"y": 6}


async def test_match_and_where_see_the_event_that_started_the_run_as_it_was_sent() -> None:
    @workflow(id="partial", on="order", retries=0)
    async def partial(ctx: Context, contact: Contact) -> Any:
        event = await ctx.step.wait_for_event(
            "w",
            event="e",
            timeout="1h",
            match="data.extra.id",
            where="data.amount >= own.data.size and own.id == data.ref",
        )
        return None if event is None else event.data

    async with World(partial) as world:
        [id] = await world.runtime.send(Event("order", {"name": "a", "size": 3, "extra": {"id": 7}}, id="ref"))
        await world.settle()
        await world.reopen()  # the values of the own event are kept with the waiter
        wrong = [{"extra": {"id": 8}, "amount": 5, "ref": "ref"}, {"extra": {"id": 7}, "amount": 2, "ref": "ref"},
                 {"extra": {"id": 7}, "amount": 5, "ref": "x"}, {"extra": {"id": True}}, None]  # fmt: skip
        right = {"extra": {"id": 7.0}, "amount": 3, "ref": "ref"}
        await world.runtime.send([Event("e", data) for data in [*wrong, right]])
        assert await world.result(id) == right


async def test_a_match_that_could_never_match_fails_at_once_by_name() -> None:
    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"no": "order"}))
        with pytest.raises(
            WorkflowFailedError, match=r"ExpressionError.*match='data.order'.*an object with the keys 'no'"
        ):
            await world.result(id)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"where": "data.x =! 1"}, ExpressionError, "at position 7: write '=='"),
        ({"match": "order"}, ExpressionError, "'order' is unknown"),
        ({"match": "own.data.x"}, ExpressionError, "expected a path in the event"),
        ({"where": ["data.x"]}, ExpressionError, "expected a text"),
        ({"match": 5}, ExpressionError, "expected a text"),
        ({"event": ""}, ValueError, "an event is named by a text"),
        ({"timeout": "soon"}, ValueError, "soon"),
        ({"timeout": None}, Exception, "timeout"),
    ],
)
async def test_what_cannot_work_is_refused_at_the_call(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> str:
        try:
            await ctx.step.wait_for_event("w", **{"event": "e", "timeout": "1h", **arguments})
        except error as raised:
            return str(raised)
        return "no error"

    async with World(bad) as world:
        assert text in await world.execute(bad)


async def test_the_timeout_is_required_by_name() -> None:
    @workflow(id="bad", retries=0)
    async def bad(ctx: Context) -> None:
        await ctx.step.wait_for_event("w", event="e")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

    async with World(bad) as world:
        with pytest.raises(WorkflowFailedError, match=r"TypeError.*timeout"):
            await world.execute(bad)


@pytest.mark.parametrize(
    "event", [None, "name", Event(""), Event("e", id=""), Event("e", timestamp=datetime(2024, 1, 1))]
)
async def test_what_is_no_event_is_refused_when_it_is_sent(event: Any) -> None:
    async with World() as world:
        with pytest.raises((TypeError, ValueError)):
            await world.runtime.send(event)


# Sending from a run


async def test_a_run_sends_events_exactly_once() -> None:
    @workflow(id="sender", retries=RetryPolicy(3, initial="1s"))
    async def sender(ctx: Context) -> list[str]:
        ids = await ctx.step.send_event("send", [Event("contact.created", Contact("x")), Event("nobody")])
        if ctx.attempt < 3:
            raise RuntimeError("again")
        return ids

    async with World(sender, greet) as world:
        ids = await world.execute(sender)
        assert await world.result(ids[0]) == "hello x"
        runs = [run for run in await world.runtime.runs() if run.workflow_id == "greet"]
        assert [run.run_id for run in runs] == ids
        assert runs[0].parent_run_id is None


async def test_a_run_that_sends_a_known_id_is_given_the_runs_of_the_first_time() -> None:
    @workflow(id="sender", retries=0)
    async def sender(ctx: Context) -> list[str]:
        first = await ctx.step.send_event("a", Event("contact.created", Contact("x"), id="e1"))
        return first + await ctx.step.send_event("b", Event("contact.created", Contact("x"), id="e1"))

    async with World(sender, greet) as world:
        sent = await world.runtime.send(Event("contact.created", Contact("x"), id="e1"))
        assert await world.execute(sender) == sent * 2


async def test_events_sent_by_a_run_are_not_cancelled_with_it() -> None:
    @workflow(id="slow", on="e", retries=0)
    async def slow(ctx: Context) -> str:
        await ctx.step.sleep("s", 10)
        return "done"

    @workflow(id="sender", retries=0)
    async def sender(ctx: Context) -> None:
        await ctx.step.send_event("send", Event("e"))
        await ctx.step.sleep("s", 100)

    async with World(sender, slow) as world:
        handle = await world.runtime.start(sender)
        await world.settle()
        await handle.cancel()
        [started] = await world.runtime.runs(workflow="slow")
        assert await world.result(started.run_id) == "done"


async def test_why_names_the_event_or_signal_in_memory_and_at_rest() -> None:
    @workflow(id="waits", retries=0)
    async def waits(ctx: Context) -> None:
        await asyncio.gather(
            ctx.step.wait_for_event("w", event="e", timeout="1h"),
            ctx.step.wait_for_signal("s", signal="x", timeout="2h"),
        )

    async with World(waits) as world:
        handle = await world.runtime.start(waits)
        await world.settle()
        live = await world.runtime.why(handle.run_id)
        await world.reopen()
        stored = await world.runtime.why(handle.run_id)
        for text in (live, stored):
            assert "waits for event 'e' (step 'w')" in text
            assert "waits for signal 'x' (step 's')" in text
            assert "(in 1h) at most" in text
            assert "(in 2h) at most" in text
            assert "timer" not in text
        assert "since" in live


async def test_a_run_that_is_restarted_or_resumed_has_the_event_that_started_it() -> None:
    fails = [True]

    @workflow(id="frail", on="e", retries=0)
    async def frail(ctx: Context) -> Any:
        event = await ctx.step.wait_for_event("w", event="next", timeout="1h", match="data.n")
        if fails:
            raise RuntimeError("frail")
        return [ctx.event.name, ctx.event.id, ctx.event.data, None if event is None else event.data]

    async with World(frail) as world:
        [id] = await world.runtime.send(Event("e", {"n": 1}, id="one"))
        await world.settle()
        await world.runtime.send(Event("next", {"n": 1}))
        with pytest.raises(WorkflowFailedError):
            await world.result(id)
        fails.clear()
        restarted = await world.runtime.restart(id)
        await world.runtime.resume(id)
        assert await world.result(id) == ["e", "one", {"n": 1}, {"n": 1}]
        await world.runtime.send(Event("next", {"n": 1, "again": True}))
        assert await world.result(restarted) == ["e", "one", {"n": 1}, {"n": 1, "again": True}]


# What holds over attempts, restarts, crashes


async def test_an_event_reaches_a_run_at_rest_and_one_that_waits_for_its_next_attempt() -> None:
    @workflow(id="resting", retries=RetryPolicy(2, initial="10m", jitter=False))
    async def resting(ctx: Context) -> Any:
        waiting = asyncio.ensure_future(ctx.step.wait_for_event("w", event="e", timeout="2h"))
        if ctx.attempt == 1:
            await ctx.step.sleep("a moment", 1)
            raise RuntimeError("first")
        event = await waiting
        return None if event is None else event.data

    async with World(resting) as world:
        first = await world.runtime.start(resting)
        await world.clock.advance("5m")
        await world.reopen()
        await world.runtime.send(Event("e", 1))
        second = await world.runtime.start(resting)
        await world.clock.advance("15m")
        await world.reopen()
        await world.runtime.send(Event("e", 2))
        await world.reopen()
        assert await world.result(first.run_id) == 1
        assert await world.result(second.run_id) == 2


async def test_the_wait_times_out_with_what_was_left_of_it_after_a_restart() -> None:
    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        began = world.clock.now()
        await world.clock.advance("50m")
        await world.reopen()
        assert await world.result(id) is None
        assert round(world.clock.now() - began) == 3600


async def test_an_event_that_comes_when_the_wait_is_over_is_not_for_it() -> None:
    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        await world.settle()
        world.store.entries_left = None
        await world.close()
        world.clock._now += 2 * 3600  # pyright: ignore[reportPrivateUsage]
        await world.open()
        await world.runtime.send(Event("payment", {"order": 1}))
        assert await world.result(id) is None


async def test_an_expression_that_this_program_does_not_know_waits_for_its_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        await world.settle()
        [item] = world.store.items(ItemQuery("event-waiters"))
        note = msgspec.msgpack.decode(item.body or b"", type=WaiterNote)
        await world.close()
        body = msgspec.msgpack.encode(msgspec.structs.replace(note, where="data.x like 'a%'"))
        world.store.commit([ItemPut(msgspec.structs.replace(item, body=body))])
        await world.open()
        assert "waits for no event any more, only for its timeout: where=" in caplog.text
        await world.runtime.send(Event("payment", {"order": 1}))
        assert await world.result(id) is None


async def test_a_withdrawn_wait_gets_nothing() -> None:
    @workflow(id="scoped", retries=0)
    async def scoped(ctx: Context) -> Any:
        try:
            async with asyncio.timeout(60):
                await ctx.step.wait_for_event("w", event="e", timeout="1h")
        except TimeoutError:
            pass
        await ctx.step.sleep("s", 600)
        event = await ctx.step.wait_for_event("w", event="e", timeout="1h")
        return None if event is None else event.data

    async with World(scoped) as world:
        handle = await world.runtime.start(scoped)
        await world.clock.advance("2m")
        await world.runtime.send(Event("e", "nobody waits"))
        assert len(world.store.committed(ItemDropped)) == 1
        await world.clock.advance("20m")
        await world.runtime.send(Event("e", "second"))
        assert await world.result(handle) == "second"


async def test_a_cancelled_run_leaves_no_waiter() -> None:
    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        await world.settle()
        await world.runtime.cancel(id)
        await world.runtime.send(Event("payment", {"order": 1}))
        assert len(world.runtime._engine.waits.waiters) == 0  # pyright: ignore[reportPrivateUsage]
        assert not any(world.store._items.values())  # pyright: ignore[reportPrivateUsage]


async def test_a_replay_that_asks_for_another_event_under_the_same_key_is_named() -> None:
    @workflow(id="paid", on="order.created", retries=0)
    async def changed(ctx: Context) -> None:
        await ctx.step.wait_for_event("payment", event="refund", timeout="1h")

    async with World(paid) as world:
        [id] = await world.runtime.send(Event("order.created", {"order": 1}))
        await world.settle()
        await world.close()
        await world.open(changed)
        await world.runtime.send(Event("payment", {"order": 1}))
        with pytest.raises(WorkflowFailedError, match=rf"{NonDeterminismError.__name__}.*'payment'"):
            await world.result(id)


async def test_all_that_follows_from_an_event_is_one_entry() -> None:
    @workflow(id="on-payment", on="payment", retries=0)
    async def on_payment(ctx: Context) -> None: ...

    async with World(paid, on_payment) as world:
        await world.runtime.send(Event("order.created", {"order": 1}))
        await world.settle()
        acts: list[Any] = []
        world.store.before_commit = lambda entries: acts.extend(entries)
        await world.runtime.send(Event("payment", {"order": 1}, id="p"))
        together = [{type(fact) for fact in flatten([act])} for act in acts if isinstance(act, Together)]
        assert any({RunCreated, StepRecorded, ItemDropped, ItemPut} <= kinds for kinds in together)


async def test_sending_crashed_at_every_entry_and_sent_again_is_delivered_once() -> None:
    position = 0
    while True:
        world = World(greet, paid)
        await world.open()
        [order] = await world.runtime.send(Event("order.created", {"order": 1}, id="o"))
        await world.settle()
        world.store.entries_left = position
        events = [Event("payment", {"order": 1}, id="p"), Event("contact.created", Contact("Ada"), id="c")]
        try:
            acknowledged = await world.runtime.send(events)
        except StoreError:
            acknowledged = None
        was_crashed = acknowledged is None
        await world.reopen()
        ids = await world.runtime.send(events)
        assert acknowledged in (None, ids)
        assert await world.result(order) == ["payment", "p", {"order": 1}]
        assert [run.run_id for run in await world.runtime.runs(workflow="greet")] == ids
        assert await world.result(ids[0]) == "hello Ada"
        await world.close()
        if not was_crashed:
            break
        position += STRIDE
    assert position >= 1


async def test_waiting_timing_out_and_withdrawing_survive_a_crash_at_every_entry() -> None:
    async def body(play: Play) -> None:
        async def early() -> None:
            try:
                async with asyncio.timeout(2):
                    await play.step.wait_for_event("early", event="e", timeout=50)
            except TimeoutError:
                play.saw("left the scope")

        async def send() -> None:
            await play.act("before", 5.0)
            play.saw(await play.step.send_event("nobody is left", Event("e", "x")))
            await play.act("after", 1.0)

        play.saw(await play.step.wait_for_event("timed", event="e", timeout=1))
        await asyncio.gather(early(), send())
        await play.act("then")

    await survives_every_crash(body, crashes=2)


async def test_a_wait_that_another_part_of_the_body_ends_survives_a_crash_at_every_entry() -> None:
    async def body(play: Play) -> None:
        async def wait() -> None:
            event = await play.step.wait_for_event("wait", event="e", timeout=50, where="data.n > 1")
            play.saw(None if event is None else event.data)

        async def send() -> None:
            await play.act("before", 5.0)
            await play.step.send_event("first", Event("e", {"n": 1}))
            await play.step.send_event("second", Event("e", {"n": 2}, id="once"))
            await play.act("after", 1.0)

        await asyncio.gather(wait(), send())
        await play.act("then")

    await survives_every_crash(body, crashes=2)


# Finding the waiters


async def test_waiters_for_other_values_cost_a_send_nothing() -> None:
    """Counted, not timed: of 2 000 runs that wait for one name, the expression of one is evaluated."""
    async with World(paid) as world:
        ids = await world.runtime.send([Event("order.created", {"order": n}) for n in range(2_000)])
        await world.settle()
        waiters = world.runtime._engine.waits.waiters  # pyright: ignore[reportPrivateUsage]
        assert len(waiters) == 2_000
        before = waiters.evaluations
        await world.runtime.send(Event("payment", {"order": 7}))
        assert waiters.evaluations - before == 1
        assert await world.result(ids[7]) is not None
