"""A row or an item that is damaged in the shared database: it is passed over, and ends no replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from fleet import Fleet

from rotor_actors import Context, FlowControl, Idempotency, workflow
from rotor_actors.errors import StoreCorruptedError, WorkflowTimeoutError
from rotor_actors.records import ItemRow, RunRow
from rotor_actors.stores.base import ItemQuery

pytestmark = pytest.mark.asyncio


@workflow(id="slow", flow_control=FlowControl("scarce", parallelism=1), idempotency=Idempotency("data", period="1d"))
async def slow(ctx: Context, name: str) -> str:
    await ctx.step.sleep("hold", "10s")
    return name


@workflow(id="left")
async def left(ctx: Context) -> str:
    await ctx.step.sleep("long", "30s")
    return "left"


@workflow(id="leaving")
async def leaving(ctx: Context) -> None:
    with pytest.raises(WorkflowTimeoutError):
        await ctx.step.invoke("leave", workflow=left, data=None, run_id="left", timeout="5s")


def spoil_rows(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, is_damaged: Callable[[RunRow], bool]) -> None:
    read = fleet.database.rows

    def rows(ns: list[int]) -> list[RunRow]:
        found = read(ns)
        for row in found:
            if is_damaged(row):
                raise StoreCorruptedError(f"run {row.run_id}: its row does not match its checksum")
        return found

    monkeypatch.setattr(fleet.database, "rows", rows)


async def test_a_coordinator_passes_over_a_damaged_run_and_a_damaged_item(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Fleet(slow) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        handles = [await second.start(slow, name) for name in ("one", "two", "three")]
        number = fleet.service_of(second).replica
        spoil_rows(fleet, monkeypatch, lambda row: row.run_id == handles[2].run_id)
        read = fleet.database.items

        def items(query: ItemQuery) -> list[ItemRow]:
            found = read(query)
            if query.space == "flow.once":
                found[0] = msgspec.structs.replace(found[0], body=None, is_damaged=True)
            return found

        monkeypatch.setattr(fleet.database, "items", items)
        await fleet.kill(first)
        assert [await fleet.clock.until(handle.result()) for handle in handles[:2]] == ["one", "two"]
        assert fleet.service_of(second).replica == number
        assert caplog.text.count("is passed over") == 2


async def test_a_run_whose_ended_parent_is_damaged_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fleet(left, leaving) as fleet:
        first, second = [await fleet.open() for _ in range(2)]
        await fleet.clock.until((await first.start(leaving, run_id="gone")).result())
        number = fleet.service_of(second).replica
        spoil_rows(fleet, monkeypatch, lambda row: row.run_id == "gone")
        await fleet.kill(first)
        assert await asyncio.wait_for(fleet.clock.until(second.run("left").result()), 60) == "left"
        assert fleet.service_of(second).replica == number
