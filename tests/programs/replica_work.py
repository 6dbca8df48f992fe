"""The workflows of `replica.py`, and what the world sees of their steps."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rotor_actors import Batch, Context, Debounce, FlowControl, Idempotency, Transaction, Workflow, workflow


class World:
    """Each execution of a step's body appends a line to the ledger, in one write: `run_id key label`."""

    def __init__(self) -> None:
        self.path = ""
        self.label = ""
        self.hold = 0.0
        """How long each step takes."""
        self._ledger = -1

    def open(self, path: str, label: str, hold: float = 0.0) -> None:
        self.path, self.label, self.hold = path, label, hold
        self._ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, run_id: str, key: str) -> None:
        os.write(self._ledger, f"{run_id} {key} {self.label}\n".encode())


world = World()


async def work(run_id: str, number: int) -> int:
    world.note(run_id, "work")
    if world.hold:
        await asyncio.sleep(world.hold)
    return number


@workflow(id="leaf")
async def leaf(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", work, ctx.run_id, number)


@workflow(id="fan-out", retries=0)
async def fan_out(ctx: Context, count: int) -> int:
    invoked = [ctx.step.invoke(f"leaf {n}", workflow=leaf, data=n, timeout="1h", placement="any") for n in range(count)]
    outcomes = await asyncio.gather(*invoked)
    return sum(outcome.result for outcome in outcomes)


@workflow(id="local-fan-out", retries=0)
async def local_fan_out(ctx: Context, count: int) -> int:
    invoked = [ctx.step.invoke(f"leaf {n}", workflow=leaf, data=n, timeout="1h") for n in range(count)]
    return sum(each.result for each in await asyncio.gather(*invoked))


@workflow(id="deep", retries=0)
async def deep(ctx: Context, shape: list[int]) -> int:
    """A tree: so many children at each level, each wherever there is room."""
    if not shape:
        await ctx.step.run("work", work, ctx.run_id, 1)
        await ctx.step.sleep("stay", "1h")
        return 1
    below = [
        ctx.step.invoke(f"child {n}", workflow=deep, data=shape[1:], timeout="2h", placement="any")
        for n in range(shape[0])
    ]
    return sum(each.result for each in await asyncio.gather(*below))


@workflow(id="sleeper", retries=0)
async def sleeper(ctx: Context, seconds: float) -> int:
    await ctx.step.run("before", work, ctx.run_id, 1)
    await ctx.step.sleep("rest", seconds)
    return await ctx.step.run("after", work, ctx.run_id, 2)


# Transactions

Paying = tuple[int, float]
"""A number, and how long it takes between the statement and the commit."""


@workflow(id="payer", retries=0)
async def payer(ctx: Context, asked: Paying) -> int:
    """Its row in `payments` and the memo of the step are committed together."""
    await ctx.step.transaction("pay", pay, ctx.run_id, *asked)
    return await ctx.step.run("work", work, ctx.run_id, asked[0])


def pay(tx: Transaction, run_id: str, number: int, seconds: float) -> None:
    tx.execute("INSERT INTO payments VALUES (?, ?)", (run_id, number))
    world.note(run_id, "pay")
    time.sleep(seconds)


@workflow(id="payments", retries=0)
async def payments(ctx: Context, count: int) -> int:
    invoked = [
        ctx.step.invoke(f"payer {n}", workflow=payer, data=(n, 0.005), timeout="1h", placement="any")
        for n in range(count)
    ]
    return sum(each.result for each in await asyncio.gather(*invoked))


# Steps that take long, here and in another process

TICK_SECONDS = 0.02


@workflow(id="ticker", retries=0)
async def ticker(ctx: Context, count: int) -> int:
    """Each of its lines has the time at which it was written, by the clock that all processes share."""
    return await ctx.step.run("tick", tick, ctx.run_id, count)


async def tick(run_id: str, count: int) -> int:
    for _ in range(count):
        world.note(run_id, f"tick@{time.monotonic()}")
        await asyncio.sleep(TICK_SECONDS)
    return count


@workflow(id="ticker-elsewhere", retries=0)
async def ticker_elsewhere(ctx: Context, count: int) -> int:
    """The same in a process of a pool: the replica must end that."""
    return await ctx.step.run("tick", tick_in_process, world.path, world.label, ctx.run_id, count, runner="cpu")


def tick_in_process(path: str, label: str, run_id: str, count: int) -> int:
    there = World()
    there.open(path, label)
    for _ in range(count):
        there.note(run_id, f"tick@{time.monotonic()}")
        time.sleep(TICK_SECONDS)
    return count


@workflow(id="heavy", retries=0)
async def heavy(ctx: Context, asked: tuple[int, float]) -> int:
    return await ctx.step.run("crunch", crunch, world.path, ctx.run_id, *asked, runner="cpu")


def crunch(path: str, run_id: str, number: int, seconds: float) -> int:
    """The ledger's label is the number of the process."""
    there = World()
    there.open(path, str(os.getpid()))
    there.note(run_id, "begun")
    time.sleep(seconds)
    there.note(run_id, "done")
    return number


# What all replicas share, and the coordinator decides on


@dataclass
class Edit:
    """Of a document."""

    document: str
    number: int


@workflow(id="in-line", flow_control=FlowControl("line", parallelism=4), retries=0)
async def in_line(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", work, ctx.run_id, number)


@workflow(id="once", idempotency=Idempotency("data", period="1h"), retries=0)
async def once(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", work, ctx.run_id, number)


@workflow(id="reindex", debounce=Debounce("500ms", key="data.document", max_wait="3s"), retries=0)
async def reindex(ctx: Context, edit: Edit) -> int:
    await ctx.step.run("work", work, ctx.run_id, edit.number)
    return edit.number


@workflow(id="import", batch=Batch(5, timeout="1s"), retries=0)
async def import_rows(ctx: Context, rows: list[int]) -> list[int]:
    await ctx.step.run("work", work, ctx.run_id, len(rows))
    return rows


def versioned(version: str, takes_over: tuple[str, ...]) -> Workflow[Any, Any]:
    @workflow(id="versioned", version=version, takes_over=takes_over, retries=0)
    async def body(ctx: Context, seconds: float) -> str:
        await ctx.step.sleep("rest", seconds)
        return await ctx.step.run("say", say_version, version)

    return body


async def say_version(version: str) -> str:
    return version


ALL: tuple[Workflow[Any, Any], ...] = (
    leaf, fan_out, local_fan_out, deep, sleeper, payer, payments, ticker, ticker_elsewhere, heavy, in_line, once, reindex,
    import_rows,
)  # fmt: skip
DECODED: dict[str, Callable[[Any], Any]] = {"reindex": lambda data: Edit(**data), "payer": tuple, "heavy": tuple}
"""What a command's JSON must be made of before it is the data of these."""
