"""A runtime with something to look at: every kind of end, a large tree, something that still runs. For browser tests.

python tests/ui/shown_app.py PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from rotor_actors import Context, RetryPolicy, Runtime, workflow
from rotor_actors.errors import WorkflowTimeoutError

LARGE = 10_000


async def parse(text: str) -> int:
    await asyncio.sleep(0.05)
    if text == "bad":
        raise ValueError("cannot parse <b>bad</b>")
    return len(text)


@workflow(id="leaf", retries=0)
async def leaf(ctx: Context, text: str) -> int:
    return await ctx.step.run("parse", parse, text, retries=RetryPolicy(1, initial="100ms", jitter=False))


@workflow(id="sleeper")
async def sleeper(ctx: Context) -> None:
    await ctx.step.sleep("long", "10h")


@workflow(id="family", retries=0)
async def family(ctx: Context, texts: list[str]) -> int:
    ends = await asyncio.gather(*(ctx.invoke(f"leaf {text}", workflow=leaf, body=text, retries=0) for text in texts))
    try:
        await ctx.step.invoke("impatient", workflow=sleeper, data=None, timeout="200ms")
    except WorkflowTimeoutError:
        pass
    return sum(end.body or 0 for end in ends)


@workflow(id="holder")
async def holder(ctx: Context) -> None:
    await ctx.step.invoke("held", workflow=sleeper, data=None, timeout="10h")


@workflow(id="nothing")
async def nothing(ctx: Context) -> None: ...


@workflow(id="wide")
async def wide(ctx: Context, n: int) -> None:
    await asyncio.gather(*(ctx.step.invoke(str(i), workflow=nothing, data=None, timeout="1h") for i in range(n)))


async def main(port: int) -> None:
    async with Runtime(
        ":memory:", workflows=[family, leaf, sleeper, holder, wide, nothing], drain_timeout=0
    ) as runtime:
        large = await runtime.start(wide, LARGE, run_id="large")
        await large.result()
        await (await runtime.start(family, ["good", "bad", "fine"], run_id="family")).result()
        await runtime.start(holder, run_id="held-up")
        cancelled = await runtime.start(holder, run_id="given-up")
        await cancelled.cancel("no longer needed")
        server = uvicorn.Server(uvicorn.Config(runtime.dashboard(), port=port, log_level="warning", lifespan="off"))
        print("shown", flush=True)
        await server.serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
