"""Workflows for the command line, and a way to call it in a process of its own, as people do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotor_actors import Context, Runtime, workflow
from rotor_actors.runners import InProcessRunner

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass
class Order:
    item: str
    count: int = 1


async def price(order: Order) -> int:
    if order.item == "bad":
        raise ValueError("no such item")
    return 3 * order.count


@workflow(id="cli-order", retries=0)
async def order(ctx: Context, order: Order) -> int:
    return await ctx.step.run("price", price, order)


@workflow(id="cli-orders", retries=0)
async def orders(ctx: Context, items: list[str]) -> int:
    ends = await asyncio.gather(*(ctx.invoke(item, workflow=order, body=Order(item), retries=0) for item in items))
    return sum(end.body or 0 for end in ends)


@workflow(id="cli-nap")
async def nap(ctx: Context) -> None:
    await ctx.step.sleep("nap", "1h")


@workflow(id="cli-quitter")
async def quitter(ctx: Context) -> None:
    await ctx.cancel("not today")


@workflow(id="cli-on-event", on="shop.ordered")
async def on_event(ctx: Context, order: Order) -> int:
    return order.count + await ctx.step.wait_for_signal("go", signal="go", timeout="1h", returns=int)


@workflow(id="cli-heavy", retries=0)
async def heavy(ctx: Context, number: int) -> int:
    return await ctx.step.run("work", abs, number, runner="cpu")


def heavy_app() -> Runtime:
    return Runtime("never-opened.db", workflows=[heavy], step_runners={"cpu": InProcessRunner()})


workflows = [order, orders, nap, quitter, on_event]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "NO_COLOR": "1", "COLUMNS": "120"}


def start_rotor(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rotor_actors", *arguments],
        cwd=cwd, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def rotor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    process = start_rotor(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rotor_json(*arguments: str, cwd: Path) -> Any:
    done = rotor(*arguments, "-o", "json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
