"""Workflows that the clock starts: in their time zone, each time once, and what was missed by the stated policy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from kit import STRIDE, FragileStore, World

from rotor_actors import CancelOn, Context, Cron, Event, ManualClock, RunStatus, Runtime, cron, workflow
from rotor_actors.cron_times import MOST_MISSED, due_times, next_time
from rotor_actors.errors import WorkflowDefinitionError
from rotor_actors.records import ItemPut, RunCreated, Together, flatten

pytestmark = pytest.mark.asyncio

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: Any = UTC) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def a_world(*workflows: Any, start: str = "2024-05-01 00:00:30", **options: Any) -> World:
    return World(*workflows, clock=ManualClock(at(start)), **options)


def scheduled(expression: str = "*/10 * * * *", **options: Any) -> Any:
    @workflow(id="tick", on=cron(expression, **options), retries=0)
    async def tick(ctx: Context) -> str:
        assert ctx.event.timestamp is not None
        return ctx.event.timestamp.isoformat(sep=" ")[:16]

    return tick


async def started(world: World) -> list[str]:
    """The scheduled times of all runs, in their order."""
    runs = await world.runtime.runs(workflow="tick", limit=5_000)
    assert all(run.status is RunStatus.COMPLETED for run in runs)
    return [run.result for run in reversed(runs)]


async def test_a_run_is_started_at_each_scheduled_time() -> None:
    async with a_world(scheduled()) as world:
        await world.clock.advance("9m")
        assert await started(world) == []
        await world.clock.advance("25m")
        assert await started(world) == ["2024-05-01 00:10", "2024-05-01 00:20", "2024-05-01 00:30"]
        first = (await world.runtime.runs(workflow="tick"))[-1]
        assert first.created_at == datetime(2024, 5, 1, 0, 10, tzinfo=UTC)


async def test_each_time_has_its_own_run_id_whatever_runtime_starts_it() -> None:
    ids: list[list[str]] = []
    for _ in range(2):
        async with a_world(scheduled()) as world:
            await world.clock.advance("30m")
            ids.append([run.run_id for run in await world.runtime.runs()])
    assert len(set(ids[0])) == 3
    assert ids[0] == ids[1]


async def test_a_workflow_that_is_registered_later_is_scheduled_from_then() -> None:
    async with a_world() as world:
        await world.clock.advance("30m")
        await world.runtime.start(scheduled())
        await world.clock.advance("10m")
        assert len(await world.runtime.runs(workflow="tick")) == 2


# Over changes of the clocks


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        ("30 2 * * *", "2024-03-30 12:00", ["2024-03-31T01:00", "2024-04-01T00:30"]),
        ("0 3 * * *", "2024-03-30 12:00", ["2024-03-31T01:00", "2024-04-01T01:00"]),
        ("*/30 * * * *", "2024-03-31 01:30", ["2024-03-31T01:00", "2024-03-31T01:30"]),
        ("30 2 * * *", "2024-10-26 12:00", ["2024-10-27T00:30", "2024-10-28T01:30"]),
        ("*/30 * * * *", "2024-10-27 02:30",
         ["2024-10-27T01:00", "2024-10-27T01:30", "2024-10-27T02:00"]),
        ("0 * * * *", "2024-10-27 01:00", ["2024-10-27T00:00", "2024-10-27T01:00", "2024-10-27T02:00"]),
    ],
)  # fmt: skip
async def test_times_in_a_zone_over_a_change_of_its_clocks(expression: str, start: str, expected: list[str]) -> None:
    schedule, time = cron(expression, timezone="Europe/Berlin"), at(start, BERLIN)
    found: list[str] = []
    for _ in expected:
        time = next_time(schedule, time)
        found.append(datetime.fromtimestamp(time, UTC).isoformat()[:16])
    assert found == expected


OVER_CHANGES: dict[str, tuple[str, str, str, list[str]]] = {
    # Skipped: right after the gap, and once, however many times fall into it.
    "New York, skipped": (
        "30 2 * * *", "America/New_York", "2024-03-09 12:00", ["03-10T03:00-04:00", "03-11T02:30-04:00"]),
    "Berlin, two times in one gap": (
        "0,30 2 * * *", "Europe/Berlin", "2024-03-30 12:00", ["03-31T03:00+02:00", "04-01T02:00+02:00"]),
    "Berlin, skipped on its only day": (
        "30 2 31 3 *", "Europe/Berlin", "2024-03-30 12:00", ["03-31T03:00+02:00", "03-31T02:30+02:00"]),
    "Lord Howe, skipped by half an hour": (
        "15 2 * * *", "Australia/Lord_Howe", "2024-10-05 03:00", ["10-06T02:30+11:00", "10-07T02:15+11:00"]),
    "Lord Howe, beside the gap": (
        "30 2 * * *", "Australia/Lord_Howe", "2024-10-05 03:00", ["10-06T02:30+11:00", "10-07T02:30+11:00"]),
    "Sao Paulo, midnight was skipped": (
        "0 0 * * *", "America/Sao_Paulo", "2018-11-03 12:00", ["11-04T01:00-02:00", "11-05T00:00-02:00"]),
    "Sao Paulo, a Sunday without midnight": (
        "0 0 * * 0", "America/Sao_Paulo", "2018-11-01 12:00", ["11-04T01:00-02:00", "11-11T00:00-02:00"]),
    "Apia, a whole day was skipped": (
        "0 12 * * *", "Pacific/Apia", "2011-12-29 06:00", ["12-29T12:00-10:00", "12-31T00:00+14:00", "12-31T12:00+14:00"]),
    # Twice: at the first turn.
    "New York, twice": (
        "30 1 * * *", "America/New_York", "2024-11-02 12:00", ["11-03T01:30-04:00", "11-04T01:30-05:00"]),
    "Lord Howe, twice within half an hour": (
        "45 1 * * *", "Australia/Lord_Howe", "2024-04-06 12:00", ["04-07T01:45+11:00", "04-08T01:45+10:30"]),
    "Sao Paulo, twice before midnight": (
        "30 23 * * *", "America/Sao_Paulo", "2019-02-16 12:00", ["02-16T23:30-02:00", "02-17T23:30-03:00"]),
    # Every so many minutes or hours: at each turn.
    "New York, half-hourly, back": (
        "*/30 * * * *", "America/New_York", "2024-11-03 00:30",
        ["11-03T01:00-04:00", "11-03T01:30-04:00", "11-03T01:00-05:00", "11-03T01:30-05:00", "11-03T02:00-05:00"]),
    "Lord Howe, quarterly, on": (
        "*/15 * * * *", "Australia/Lord_Howe", "2024-10-06 01:30",
        ["10-06T01:45+10:30", "10-06T02:30+11:00", "10-06T02:45+11:00", "10-06T03:00+11:00"]),
    "Lord Howe, quarterly, back": (
        "*/15 * * * *", "Australia/Lord_Howe", "2024-04-07 01:15",
        ["04-07T01:30+11:00", "04-07T01:45+11:00", "04-07T01:30+10:30", "04-07T01:45+10:30", "04-07T02:00+10:30"]),
    "Lord Howe, hourly, back": (
        "0 * * * *", "Australia/Lord_Howe", "2024-04-07 00:30", ["04-07T01:00+11:00", "04-07T02:00+10:30"]),
    "Sao Paulo, hourly, back": (
        "30 * * * *", "America/Sao_Paulo", "2019-02-16 23:00",
        ["02-16T23:30-02:00", "02-16T23:30-03:00", "02-17T00:30-03:00"]),
    "UTC": ("30 2 * * *", "UTC", "2024-03-30 12:00", ["03-31T02:30+00:00", "04-01T02:30+00:00"]),
}  # fmt: skip


@pytest.mark.parametrize("name", OVER_CHANGES)
async def test_changes_of_the_clocks_all_over_the_world(name: str) -> None:
    expression, zone, start, expected = OVER_CHANGES[name]
    schedule, time = cron(expression, timezone=zone), at(start, ZoneInfo(zone))
    found: list[str] = []
    for _ in expected:
        time = next_time(schedule, time)
        text = datetime.fromtimestamp(time, ZoneInfo(zone)).isoformat()
        found.append(text[5:16] + text[19:])
    assert found == expected


async def test_runs_are_started_over_a_change_that_is_half_an_hour_each_time_once() -> None:
    tick = scheduled("*/15 1 * * *", timezone="Australia/Lord_Howe")
    async with a_world(tick, start="2024-04-06 13:00") as world:
        await world.clock.advance("90m")  # into the half hour that comes twice
        await world.reopen()
        await world.clock.advance("23h")
        times = await started(world)
    assert times == sorted(set(times))
    assert times[:6] == [f"2024-04-06 {time}" for time in ("14:00", "14:15", "14:30", "14:45", "15:00", "15:15")]


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * *", "0 * * * *", "0 2 * * *", "15 1-3 * * *"])
@pytest.mark.parametrize(
    ("day", "zone"),
    [
        ("2024-03-31", "Europe/Berlin"),
        ("2024-10-27", "Europe/Berlin"),
        ("2024-03-10", "America/New_York"),
        ("2024-11-03", "America/New_York"),
        ("2024-04-07", "Australia/Lord_Howe"),  # half an hour back
        ("2024-10-06", "Australia/Lord_Howe"),
        ("2024-09-08", "America/Santiago"),  # at midnight
    ],
)
async def test_wherever_one_looks_from_the_next_time_is_the_same(expression: str, day: str, zone: str) -> None:
    """As after a restart in the hour that comes twice: no time is started again, none is left out."""
    schedule, begin = cron(expression, timezone=zone), at(f"{day} 00:00", ZoneInfo(zone)) - 7200
    times: list[float] = []
    time = begin
    while time < begin + 10 * 3600:
        time = next_time(schedule, time)
        times.append(time)
    assert times == sorted(set(times))
    for minute in range(0, 8 * 3600, 300):
        now = begin + minute
        assert next_time(schedule, now) == next(each for each in times if each > now)
        assert due_times(schedule, begin, now, 1) == [each for each in times if each <= now][-1:]


async def test_a_daily_run_keeps_its_local_time_over_a_year() -> None:
    async with a_world(scheduled("0 9 * * *", timezone="Europe/Berlin"), start="2024-01-01 00:00") as world:
        await world.clock.advance("366d")
        times = [datetime.fromisoformat(f"{text}+00:00").astimezone(BERLIN) for text in await started(world)]
        assert len(times) == 366
        assert {(time.hour, time.minute) for time in times} == {(9, 0)}


# Over restarts


async def closed_for(world: World, duration: float, *workflows: Any) -> None:
    await world.close()
    world.clock._now += duration  # pyright: ignore[reportPrivateUsage]
    await world.open(*workflows)
    await world.settle()


@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("latest", ["00:10", "00:50", "01:00"]),
        ("all", ["00:10", "00:20", "00:30", "00:40", "00:50", "01:00"]),
        ("skip", ["00:10", "01:00"]),
    ],
)
async def test_what_was_missed_while_nothing_ran_is_made_up_for_by_the_policy(missed: Any, expected: list[str]) -> None:
    async with a_world(scheduled(missed=missed)) as world:
        await world.clock.advance("15m")
        await closed_for(world, 40 * 60)
        await closed_for(world, 1)
        await world.clock.advance("6m")
        assert [text[11:] for text in await started(world)] == expected


async def test_a_time_that_passed_less_than_a_minute_ago_was_not_missed() -> None:
    async with a_world(scheduled(missed="skip")) as world:
        await closed_for(world, 9 * 60 + 59)
        assert [text[11:] for text in await started(world)] == ["00:10"]


async def test_a_restart_at_the_scheduled_time_starts_nothing_twice() -> None:
    async with a_world(scheduled(), start="2024-05-01 00:05") as world:
        await world.clock.advance("5m")
        for _ in range(3):
            await world.reopen()
            await world.settle()
        assert [text[11:] for text in await started(world)] == ["00:10"]


@pytest.mark.parametrize("missed", ["latest", "all"])
async def test_a_crash_at_any_entry_neither_loses_nor_doubles_a_start(missed: Any) -> None:
    position = 0
    while True:
        tick = scheduled(missed=missed)
        world = a_world(tick)
        await world.open()
        await world.settle()
        await closed_for(world, 15 * 60)
        world.store.entries_left = position
        await world.clock.advance("10m")
        is_over = world.store.entries_left > 0
        await world.reopen()
        await world.clock.advance("10m")
        assert [text[11:] for text in await started(world)] == ["00:10", "00:20", "00:30"]
        await world.close()
        if is_over:
            break
        position += STRIDE
    assert position >= 3


async def test_a_start_and_up_to_when_runs_were_started_are_one_entry() -> None:
    async with a_world(scheduled()) as world:
        acts: list[Any] = []
        await world.settle()
        world.store.before_commit = lambda entries: acts.extend(entries)
        await world.clock.advance("10m")
        kinds = [type(fact) for act in acts if isinstance(act, Together) for fact in flatten([act])]
        assert kinds[:2] == [RunCreated, ItemPut]


async def test_another_expression_begins_anew() -> None:
    async with a_world(scheduled()) as world:
        await closed_for(world, 3600, scheduled("*/15 * * * *", missed="all"))
        assert await started(world) == []
        await world.clock.advance("15m")
        assert [text[11:] for text in await started(world)] == ["01:15"]


async def test_a_schedule_that_was_missed_for_a_year_is_made_up_for_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(scheduled("* * * * *", missed="all")) as world:
        await closed_for(world, 365 * 86_400)
        assert len(await started(world)) == MOST_MISSED
        assert "only the latest 1000 times" in caplog.text
    for most in (1, 3, 50):
        found = due_times(Cron("0 0 1 * *"), at("2023-01-01 00:00"), at("2026-01-01 00:30"), most)
        assert len(found) == min(most, 36)
        assert found[-1] == at("2026-01-01 00:00")


async def test_nothing_is_started_while_the_runtime_closes() -> None:
    @workflow(id="held")
    async def held(ctx: Context) -> None:
        await ctx.step.run("wait", released.wait)

    clock, store, released = ManualClock(at("2024-05-01 00:09:59")), FragileStore(), asyncio.Event()
    async with Runtime(store, workflows=[scheduled()], clock=clock, drain_timeout=10) as runtime:
        await runtime.start(held)
        leaving = asyncio.ensure_future(runtime.__aexit__(None, None, None))
        for _ in range(5):
            await asyncio.sleep(0)
        await clock.advance("2s")
        released.set()
        await leaving
    assert [fact.run.workflow_id for fact in store.committed(RunCreated)] == ["held"]


# Together with the rest


async def test_scheduled_runs_are_queued_and_cancelled_like_others() -> None:
    @workflow(id="slow", on=cron("* * * * *"), cancel_on=[CancelOn("stop")])
    async def slow(ctx: Context) -> None:
        await ctx.step.sleep("s", "1h")

    async with a_world(slow, max_active_runs=1) as world:
        await world.clock.advance("2m")
        assert [run.status for run in await world.runtime.runs()] == [RunStatus.QUEUED, RunStatus.RUNNING]
        await world.runtime.send(Event("stop"))
        await world.settle()
        assert {run.status for run in await world.runtime.runs()} == {RunStatus.CANCELLED}


async def test_a_scheduled_run_waits_for_events_by_its_own_event() -> None:
    @workflow(id="waits", on=cron("0 * * * *"))
    async def waits(ctx: Context) -> object:
        event = await ctx.step.wait_for_event("w", event="e", timeout="5m", where="data.run == own.id")
        return None if event is None else event.data

    async with a_world(waits) as world:
        await world.clock.advance("1h")
        [run] = await world.runtime.runs()
        await world.runtime.send(Event("e", {"run": run.run_id}))
        assert await world.result(run.run_id) == {"run": run.run_id}


@pytest.mark.parametrize(
    ("expression", "options", "text"),
    [
        ("61 * * * *", {}, "Bad minute"),
        ("* 25 * * *", {}, "Bad hour"),
        ("* * 0 * *", {}, "Bad day-of-month"),
        ("* * 30 2 *", {}, "Bad day-of-month|never due"),
        ("* * * * 9", {}, "Bad day-of-week"),
        ("a * * * *", {}, "Bad minute"),
        ("* * * * *", {"missed": "never"}, "expected 'latest', 'all' or 'skip'"),
        ("* * * * *", {"timezone": "Berlin"}, "give an IANA name"),
    ],
)
async def test_a_schedule_that_cannot_work_is_refused(expression: str, options: Any, text: str) -> None:
    with pytest.raises(WorkflowDefinitionError, match=text):
        cron(expression, **options)


async def test_a_scheduled_workflow_takes_no_data() -> None:
    async def fn(ctx: Context, data: int) -> None:
        await asyncio.sleep(data)

    with pytest.raises(WorkflowDefinitionError, match=r"workflow 'w': the clock that starts it has no data to give"):
        workflow(id="w", on=cron("* * * * *"))(fn)
