"""Two replicas on one database in memory, and the dashboard of one of them: for test_ui_replicas.py."""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from rotor_actors import Context, Runtime, workflow
from rotor_actors.stores.shared_memory import SharedDatabase, SharedMemoryStore


@workflow(id="nap")
async def nap(ctx: Context) -> None:
    await ctx.step.run("nap", asyncio.sleep, 3_600, timeout="2h")


@workflow(id="retired")
async def retired(ctx: Context) -> None:
    await ctx.step.sleep("nap", "1h")


async def main(port: int) -> None:
    database = SharedDatabase()
    async with Runtime(SharedMemoryStore(database), workflows=[retired], drain_timeout=0) as leaving:
        await leaving.start(retired, run_id="left")
    async with (
        Runtime(SharedMemoryStore(database), workflows=[nap], drain_timeout=0, label="web-1") as one,
        Runtime(SharedMemoryStore(database), workflows=[nap], drain_timeout=0, label="web-2"),
    ):
        await one.start(nap, run_id="asleep")
        print("shown", flush=True)
        await uvicorn.Server(uvicorn.Config(one.dashboard(), port=port, log_level="warning", lifespan="off")).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
