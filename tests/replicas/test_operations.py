"""Many replicas, as whoever runs them sees and steers them: from any of them, or from beside."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fleet import Fleet

from rotor_actors import Context, RunStatus, RuntimeView, workflow
from rotor_actors.errors import NoReplicaError, StoreError
from rotor_actors.stores.shared_memory import SharedMemoryView
from rotor_actors.telemetry import Metrics

pytestmark = pytest.mark.asyncio


@workflow(id="nap")
async def nap(ctx: Context) -> str:
    await ctx.step.sleep("nap", "1h")
    return "rested"


@workflow(id="other")
async def other(ctx: Context) -> str:
    return "other"


async def ask(app: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://elsewhere") as client:
        return await client.get(path)


async def test_all_are_seen_and_steered_from_any_of_them() -> None:
    async with Fleet(nap) as fleet:
        first, second = await fleet.open(label="web-1"), await fleet.open(label="web-2")
        handle = await first.start(nap, run_id="one")
        await fleet.settle()
        for runtime in (first, second):
            replicas = await runtime.replicas()
            assert [(each.label, each.owned) for each in replicas] == [("web-1", 1), ("web-2", 0)]
            assert (await runtime.info("one")).owner == replicas[0].number
            assert "replica web-1" in await runtime.why("one")
        report = await second.cancel("one", "from elsewhere")
        assert report.cancelled == ["one"]
        assert await handle.status() is RunStatus.CANCELLED


async def test_who_only_looks_becomes_a_replica_that_runs_nothing_to_tell_runs_something() -> None:
    async with Fleet(nap) as fleet:
        only = await fleet.open(label="web-1")
        await only.start(nap, run_id="one")
        async with RuntimeView(SharedMemoryView(fleet.database, lease=1e9), clock=fleet.clock) as view:
            before = {each.number for each in await view.replicas()}
            report = await fleet.clock.until(view.perform("cancel", {"run_id": "one", "reason": "enough"}))
            assert report["cancelled"] == ["one"]
            assert {each.number for each in await view.replicas()} == before, "it has left"
        assert fleet.replica_of(only) is not None


async def test_a_visitor_claims_nothing_and_coordinates_nothing() -> None:
    async with Fleet(nap) as fleet:
        first = await fleet.open()
        await first.start(nap, run_id="one")
        await fleet.close(first)
        async with RuntimeView(SharedMemoryView(fleet.database, lease=1e9), workflows=[nap], clock=fleet.clock) as view:
            assert [each.runs for each in await view.unowned()] == [1]
            await fleet.clock.until(view.perform("ping", {}))
            assert [each.runs for each in await view.unowned()] == [1]
            assert fleet.database.coordinator is None


async def test_readiness_says_no_while_the_database_is_away_and_liveness_does_not() -> None:
    async with Fleet(nap) as fleet:
        only = await fleet.open()
        app = only.dashboard()
        number = fleet.store_of(only).replica
        assert [(await ask(app, path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        fleet.cut_off(only)
        starting = asyncio.ensure_future(only.start(nap))  # is answered when it is back
        for _ in range(300):
            if (await ask(app, "/readyz")).status_code != 200:
                break
            await asyncio.sleep(0.01)
        assert (await ask(app, "/healthz")).status_code == 200, "a restart would not bring the database back"
        not_ready = await ask(app, "/readyz")
        assert (not_ready.status_code, "away" in not_ready.json()["reason"]) == (503, True)
        fleet.come_back(only)
        await fleet.until_anew(only, number)
        await fleet.expire(number)
        assert (await ask(app, "/readyz")).status_code == 200
        with pytest.raises(StoreError, match="was not started"):
            await starting


async def test_metrics_tell_of_replicas_and_of_runs_that_nobody_can_run() -> None:
    async with Fleet(nap) as fleet:
        leaving = await fleet.open()
        for number in range(3):
            await leaving.start(nap, run_id=f"run-{number}")
        await fleet.close(leaving)
        metrics = Metrics()
        await fleet.open(other, observers=[metrics])
        for _ in range(6):
            await fleet.clock.advance("2s")
        told = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line[0] != "#")
        assert {name: told[f"rotor_{name}"] for name in ("replicas", "coordinator", "unowned_runs", "stuck_runs")} == {
            "replicas": "1.0", "coordinator": "1.0", "unowned_runs": "3.0", "stuck_runs": "3.0",
        }  # fmt: skip


SENT = {"name": "order", "data": 1}
PAUSED = {"key": "other"}


@pytest.mark.parametrize(("verb", "arguments"), [("send", SENT), ("pause_key", PAUSED)])
async def test_who_asks_where_no_replica_is_alive_is_told_so_at_once_and_nothing_is_recorded(
    verb: str, arguments: dict[str, Any]
) -> None:
    async with Fleet(nap) as fleet:
        only = await fleet.open()
        await fleet.close(only)
        async with RuntimeView(SharedMemoryView(fleet.database, lease=1e9), clock=fleet.clock) as view:
            with pytest.raises(NoReplicaError, match="nothing was recorded: start one"):
                await view.perform(verb, arguments)
        assert not fleet.database.office.letters


async def test_who_asks_the_last_replica_and_that_is_gone_is_told_that_it_is_recorded() -> None:
    async with Fleet(nap, other) as fleet:
        only = await fleet.open()
        number = fleet.store_of(only).replica
        fleet.cut_off(only)
        async with RuntimeView(SharedMemoryView(fleet.database, lease=2.0), clock=fleet.clock) as view:
            asked = asyncio.ensure_future(view.perform("send", SENT))
            while not fleet.database.office.letters:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            fleet.database.replica_rows[number].lease_until = float("-inf")
            with pytest.raises(NoReplicaError, match="it is recorded, and will be done once"):
                await asked
        assert len(fleet.database.office.letters) == 1


async def test_whoever_does_not_own_a_run_says_what_event_and_what_signal_it_waits_for() -> None:
    @workflow(id="both")
    async def both(ctx: Context) -> None:
        paid = ctx.step.wait_for_event("paid", event="order.paid", timeout="1h")
        await asyncio.gather(paid, ctx.step.wait_for_signal("go", signal="the signal", timeout="1h"))

    async with Fleet(both, nap) as fleet:
        first, second = await fleet.open(), await fleet.open()
        await first.start(both, run_id="one")
        await first.start(nap, run_id="asleep")
        await fleet.settle()
        async with RuntimeView(SharedMemoryView(fleet.database, lease=1e9), clock=fleet.clock) as view:
            for each in (second, view):
                said = await each.why("one")
                assert "waits for event 'order.paid' (step 'paid'), until" in said
                assert "waits for signal 'the signal' (step 'go'), until" in said
                assert "; replica replica-" in said
                said = await each.why("asleep")
                assert "is known only to the process that owns it; it is due next" in said
