"""Debounce, batch, singleton and idempotency: starts that lead to a run that is there already."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import Any

import pytest
from kit import World

from rotor_actors import (
    Batch,
    Context,
    Debounce,
    Event,
    FlowControl,
    Idempotency,
    RunHandle,
    RunStatus,
    Singleton,
    Workflow,
    workflow,
)
from rotor_actors.errors import (
    InvokeTargetError,
    PayloadError,
    RunSkippedError,
    StoreError,
    WorkflowCancelledError,
    WorkflowFailedError,
)

pytestmark = pytest.mark.asyncio


@dataclass
class Note:
    user: str
    text: str


def noting(seen: list[Any], *, takes: float = 0.0, **rules: Any) -> Workflow[Note, str]:
    @workflow(id="note", **rules)
    async def note(ctx: Context, data: Note) -> str:
        seen.append(data.text)
        if takes:
            await ctx.step.sleep("work", takes)
        return data.text

    return note


def batching(seen: list[list[str]], **rules: Any) -> Workflow[list[Note], int]:
    @workflow(id="batch", **rules)
    async def batch(ctx: Context, data: list[Note]) -> int:
        seen.append([each.text for each in data])
        return len(data)

    return batch


# Debounce


async def test_starts_that_follow_each_other_are_one_run_with_the_data_of_the_last() -> None:
    seen: list[str] = []
    note = noting(seen, debounce=Debounce("10s", key="data.user"))
    async with World(note) as world:
        handles: list[RunHandle[str]] = []
        for text in ("one", "two", "three"):
            handles.append(await world.runtime.start(note, Note("a", text), headers={"text": text}))
            await world.clock.advance("6s")
        other = await world.runtime.start(note, Note("b", "other"))
        assert len({handle.run_id for handle in handles}) == 1
        info = await world.runtime.info(handles[0].run_id)
        assert (info.status, info.input, info.headers) == (RunStatus.QUEUED, Note("a", "three"), {"text": "three"})
        assert "debounce" in info.waiting_for
        assert [await world.result(handle) for handle in handles] == ["three"] * 3
        assert await world.result(other) == "other"
        await world.clock.advance("1m")
        again = await world.runtime.start(note, Note("a", "again"))
        assert again.run_id != handles[0].run_id
        assert await world.result(again) == "again"
    assert seen == ["three", "other", "again"]


async def test_a_debounced_run_begins_at_max_wait_however_often_it_is_started() -> None:
    seen: list[str] = []
    note = noting(seen, debounce=Debounce("10s", max_wait="25s"))
    async with World(note) as world:
        for n in range(8):
            await world.runtime.start(note, Note("a", f"{n}"))
            await world.clock.advance("5s")
        await world.clock.advance("1m")
    assert seen == ["4", "7"]


async def test_a_debounced_run_outlives_a_crash_with_its_newest_data_and_its_due_time() -> None:
    seen: list[str] = []
    note = noting(seen, debounce=Debounce("10s"))
    async with World(note) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        await world.clock.advance("5s")
        await world.runtime.start(note, Note("a", "two"))
        await world.reopen()
        await world.clock.advance("9s")
        assert not seen
        second = await world.runtime.start(note, Note("a", "three"))
        assert second.run_id == first.run_id
        await world.clock.advance("9s")
        assert not seen
        assert await world.result(first.run_id) == "three"


async def test_a_debounced_run_that_is_cancelled_is_not_taken_up_again() -> None:
    seen: list[str] = []
    note = noting(seen, debounce=Debounce("10s"))
    async with World(note) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        await first.cancel()
        second = await world.runtime.start(note, Note("a", "two"))
        assert second.run_id != first.run_id
        assert await world.result(second) == "two"
        await world.clock.advance("1m")
    assert seen == ["two"]


async def test_a_debounced_run_stands_in_line_from_when_it_is_complete() -> None:
    seen: list[str] = []
    rules = {"flow_control": FlowControl("k", parallelism=1)}
    note = noting(seen, takes=20.0, debounce=Debounce("10s", key="data.user"), **rules)
    plain = _plain("plain", seen, FlowControl("k", parallelism=1))
    async with World(note, plain) as world:
        await world.runtime.start(plain, "first")
        await world.runtime.start(note, Note("a", "debounced"))
        await world.runtime.start(plain, "second")
        await world.clock.advance("10m")
    assert seen == ["first", "second", "debounced"]


def _plain(id: str, seen: list[str], flow_control: FlowControl) -> Workflow[str, None]:
    @workflow(id=id, flow_control=flow_control)
    async def plain(ctx: Context, name: str) -> None:
        seen.append(name)
        await ctx.step.sleep("work", 30)

    return plain


# Batch


async def test_a_batch_begins_when_it_is_full_or_when_its_first_element_has_waited_long_enough() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, batch=Batch(3, "10s", key="data.user"))
    async with World(batch) as world:
        handles = [await world.runtime.start(batch, [Note("a", f"{n}")]) for n in range(4)]
        assert len({handle.run_id for handle in handles[:3]}) == 1
        await world.settle()
        assert seen == [["0", "1", "2"]]
        await world.runtime.start(batch, [Note("b", "b0")])
        await world.clock.advance("10s")
        assert seen[1:] == [["3"], ["b0"]]
        assert await world.result(handles[0]) == 3


async def test_a_start_may_bring_more_than_one_batch_takes() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, batch=Batch(2, "10s"))
    async with World(batch) as world:
        last = await world.runtime.start(batch, [Note("a", f"{n}") for n in range(5)])
        assert await world.result(last) == 1
        with pytest.raises(PayloadError, match="at least one element"):
            await world.runtime.start(batch, [])
    assert seen == [["0", "1"], ["2", "3"], ["4"]]


async def test_a_batch_outlives_a_crash_with_all_its_elements_in_order() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, batch=Batch(20, "1m"))
    async with World(batch) as world:
        handle = await world.runtime.start(batch, [Note("a", "0")])
        for n in range(1, 12):
            await world.runtime.start(batch, [Note("a", f"{n}")])
        await world.reopen()
        await world.runtime.start(batch, [Note("a", "12")])
        assert await world.result(handle.run_id) == 13
    assert seen == [[f"{n}" for n in range(13)]]


async def test_a_batch_that_would_be_larger_than_a_payload_may_be_begins_before() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, batch=Batch(100, "1m"))
    async with World(batch, payload_limit=1000) as world:
        for n in range(4):
            await world.runtime.start(batch, [Note("a", f"{n}" * 300)])
        await world.settle()
        assert [len(each) for each in seen] == [3]
        await world.clock.advance("1m")
        assert [len(each) for each in seen] == [3, 1]


async def test_events_are_gathered_each_as_one_element() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, on="note.written", batch=Batch(3, "10s"))
    async with World(batch) as world:
        started = [await world.runtime.send(Event("note.written", {"user": "a", "text": f"{n}"})) for n in range(3)]
        assert [len(each) for each in started] == [1, 0, 0]
        assert await world.result(started[0][0]) == 3
    assert seen == [["0", "1", "2"]]


async def test_an_event_that_is_no_element_fails_by_itself_and_spoils_no_batch() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, on="note.written", batch=Batch(2, "10s"), retries=0)
    async with World(batch) as world:
        (first,) = await world.runtime.send(Event("note.written", {"user": "a", "text": "0"}))
        (wrong,) = await world.runtime.send(Event("note.written", "no note"))
        assert await world.runtime.send(Event("note.written", {"user": "a", "text": "1"})) == []
        assert await world.result(first) == 2
        with pytest.raises(WorkflowFailedError, match=r"the data of event 'note.written' does not fit"):
            await world.result(wrong)
    assert seen == [["0", "1"]]


async def test_an_event_whose_priority_is_no_number_is_debounced_all_the_same() -> None:
    @workflow(id="w", on="e", debounce=Debounce("1s"), priority="data.priority")
    async def work(ctx: Context, data: dict[str, Any]) -> str:
        return "ran"

    async with World(work) as world:
        (run_id,) = await world.runtime.send(Event("e", {"priority": "high"}))
        assert await world.result(run_id) == "ran"


async def test_a_batch_of_untyped_data_takes_lists_only() -> None:
    @workflow(id="untyped", batch=Batch(2, "1s"))
    async def untyped(ctx: Context, data: Any) -> int:
        return len(data)

    async with World(untyped) as world:
        with pytest.raises(PayloadError, match="brings a list of elements"):
            await world.runtime.start(untyped, 7)
        assert await world.result(await world.runtime.start(untyped, [1, "b"])) == 2


async def test_a_batch_has_the_priority_and_the_key_that_its_elements_agree_on() -> None:
    seen: list[list[str]] = []
    rules: dict[str, Any] = {"flow_control": FlowControl("data.user", parallelism=1)}
    batch = batching(seen, batch=Batch(2, "10s", key="data.user"), **rules)
    async with World(batch) as world:
        await world.runtime.start(batch, [Note("a", "0"), Note("b", "1"), Note("a", "2"), Note("b", "3")])
        await world.settle()
        assert sorted(seen) == [["0", "2"], ["1", "3"]]


# Singleton


async def test_a_singleton_that_skips_gives_the_run_that_is_there_until_that_has_ended() -> None:
    seen: list[str] = []
    note = noting(seen, takes=10.0, singleton=Singleton(key="data.user"))
    async with World(note) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        skipped = await world.runtime.start(note, Note("a", "two"))
        other = await world.runtime.start(note, Note("b", "other"))
        assert skipped.run_id == first.run_id != other.run_id
        await world.reopen()
        again = await world.runtime.start(note, Note("a", "three"))
        assert again.run_id == first.run_id
        assert await world.result(first.run_id) == "one"
        assert await world.execute(note, Note("a", "four")) == "four"
    assert "two" not in seen


async def test_a_singleton_that_cancels_begins_when_the_other_has_cleaned_up() -> None:
    events: list[str] = []

    @workflow(id="only", singleton=Singleton(mode="cancel"))
    async def only(ctx: Context, name: str) -> str:
        events.append(f"begin {name}")
        try:
            await ctx.step.sleep("work", 10)
        finally:
            await asyncio.sleep(2)
            events.append(f"end {name}")
        return name

    async with World(only) as world:
        first = await world.runtime.start(only, "one")
        await world.settle()
        second = await world.runtime.start(only, "two")
        third = await world.runtime.start(only, "three")
        await world.settle()
        assert events == ["begin one"]
        assert "cleans up" in (await world.runtime.info(third.run_id)).waiting_for
        assert await world.result(third) == "three"
        for replaced in (first, second):
            with pytest.raises(WorkflowCancelledError, match="replaced by run"):
                await world.result(replaced)
    assert events == ["begin one", "end one", "begin three", "end three"]


async def test_an_invoke_of_a_singleton_that_is_there_fails_by_name_and_spawns_nothing() -> None:
    seen: list[str] = []
    note = noting(seen, takes=10.0, singleton=Singleton())

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("c", workflow=note, data=Note("a", "two"), timeout="1m")
        except RunSkippedError as error:
            return error.run_id
        return "spawned"

    async with World(note, parent) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        handle = await world.runtime.start(parent)
        assert await world.result(handle) == first.run_id
        await world.reopen()
        assert await world.result(handle.run_id) == first.run_id
        await world.result(first.run_id)
        assert await world.execute(parent) == "spawned"


async def test_a_singleton_never_cancels_the_run_that_invokes_it() -> None:
    @workflow(id="only", singleton=Singleton(mode="cancel"), retries=0)
    async def only(ctx: Context, depth: int) -> str:
        if not depth:
            return "bottom"
        try:
            return (await ctx.step.invoke("c", workflow=only, data=depth - 1, timeout="1m")).result
        except RunSkippedError as error:
            return "refused" if error.run_id == ctx.run_id else "?"

    async with World(only) as world:
        assert await world.execute(only, 1) == "refused"


# Idempotency


async def test_a_known_key_gives_its_run_also_when_that_has_ended_until_the_period_is_over() -> None:
    seen: list[str] = []
    note = noting(seen, idempotency=Idempotency("data.user", period="1h"))
    async with World(note) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        assert await world.result(first) == "one"
        same = await world.runtime.start(note, Note("a", "two"))
        assert same.run_id == first.run_id
        await world.reopen()
        assert await world.execute(note, Note("a", "three")) == "one"
        await world.clock.advance("1h")
        assert await world.execute(note, Note("a", "four")) == "four"
    assert seen == ["one", "four"]


async def test_an_event_with_a_known_key_starts_nothing() -> None:
    seen: list[str] = []
    note = noting(seen, on="note.written", idempotency=Idempotency("data.user"))
    async with World(note) as world:
        first = await world.runtime.send(Event("note.written", {"user": "a", "text": "one"}))
        second = await world.runtime.send(Event("note.written", {"user": "a", "text": "two"}))
        assert (len(first), second) == (1, [])


async def test_the_key_of_a_deleted_run_is_free_again_and_crashes_keep_both_or_neither() -> None:
    seen: list[str] = []
    note = noting(seen, idempotency=Idempotency("data.user", period="30d"))
    async with World(note) as world:
        for text in ("one", "two"):
            handle = await world.runtime.start(note, Note("a", text))
            assert await world.result(handle) == text
            assert await world.runtime.delete(handle.run_id) == 1
        handle = await world.runtime.start(note, Note("a", "three"))
        assert await world.result(handle) == "three"
        await world.reopen()
        assert (await world.runtime.start(note, Note("a", "four"))).run_id == handle.run_id
        world.store.entries_left = 0
        with pytest.raises(StoreError):
            await world.runtime.delete(handle.run_id)
        await world.reopen()
        assert await world.execute(note, Note("a", "five")) == "three", "neither is gone"
        assert await world.runtime.delete(handle.run_id) == 1
        await world.reopen()
        assert await world.execute(note, Note("a", "six")) == "six", "both are gone"
    assert seen == ["one", "two", "three", "six"]


async def test_pruning_frees_keys_too_and_those_of_a_singleton_that_ran_below_another_run() -> None:
    @workflow(id="only", singleton=Singleton(), idempotency=Idempotency("data.user", period="30d"))
    async def only(ctx: Context, note: Note) -> str:
        await ctx.step.sleep("a while", "1m")
        return note.text

    @workflow(id="above")
    async def above(ctx: Context) -> str:
        return (await ctx.step.invoke("only", workflow=only, data=Note("a", "child"), timeout="1h")).result

    async with World(only, above) as world:
        root = await world.runtime.start(above)
        await world.clock.advance("1s")
        rival = await world.runtime.start(only, Note("b", "the child's"))
        assert await world.result(rival) == "child"
        await world.result(root)
        await world.clock.advance("1h")
        assert (await world.runtime.prune(older_than="1m")).runs == 2
        assert await world.execute(only, Note("b", "its own")) == "its own"


# After the end


@pytest.mark.parametrize("rule", [{"debounce": Debounce("10s")}, {"idempotency": Idempotency("data.user")}])
async def test_a_restart_is_a_run_of_its_own_that_stands_in_line(rule: dict[str, Any]) -> None:
    seen: list[str] = []
    note = noting(seen, takes=5.0, flow_control=FlowControl("k", parallelism=1), **rule)
    async with World(note) as world:
        first = await world.runtime.start(note, Note("a", "one"))
        await world.result(first)
        one = await world.runtime.restart(first.run_id)
        two = await world.runtime.restart(first.run_id)
        assert len({first.run_id, one.run_id, two.run_id}) == 3
        assert [await one.status(), await two.status()] == [RunStatus.RUNNING, RunStatus.QUEUED]
        assert await world.result(two) == "one"


async def test_a_batch_that_is_restarted_has_its_elements_again() -> None:
    seen: list[list[str]] = []
    batch = batching(seen, batch=Batch(2, "10s"), flow_control=FlowControl("k", parallelism=1))
    async with World(batch) as world:
        first = await world.runtime.start(batch, [Note("a", "0"), Note("a", "1")])
        await world.result(first)
        assert await world.result(await world.runtime.restart(first.run_id)) == 2
    assert seen == [["0", "1"], ["0", "1"]]


# What cannot be asked for at run time


@pytest.mark.parametrize(
    "rules",
    [{"debounce": Debounce("1s")}, {"idempotency": Idempotency("data.user")}],
)
async def test_a_run_id_of_ones_own_is_refused_where_the_start_may_lead_to_another_run(rules: dict[str, Any]) -> None:
    note = noting([], **rules)
    async with World(note) as world:
        with pytest.raises(ValueError, match="leave run_id out"):
            await world.runtime.start(note, Note("a", "one"), run_id="mine")


async def test_a_run_of_many_starts_cannot_be_invoked() -> None:
    note = noting([], debounce=Debounce("1s"))

    @workflow(id="parent")
    async def parent(ctx: Context) -> str:
        try:
            await ctx.step.invoke("c", workflow=note, data=Note("a", "b"), timeout="1m")
        except InvokeTargetError as error:
            return str(error)
        return ""

    async with World(note, parent) as world:
        assert "by its debounce several starts become one run" in await world.execute(parent)


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


@pytest.mark.one_owner("context variables stay where they are: any replica may run it")
async def test_a_debounced_run_has_the_context_of_the_start_whose_data_it_has() -> None:
    @workflow(id="whose", debounce=Debounce("10s"))
    async def whose(ctx: Context, data: str) -> str:
        return f"{data} of {TENANT.get()}"

    async with World(whose) as world:
        TENANT.set("first")
        await world.runtime.start(whose, "early")
        TENANT.set("second")
        handle = await world.runtime.start(whose, "late")
        assert await world.result(handle) == "late of second"
