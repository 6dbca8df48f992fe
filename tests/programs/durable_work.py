"""A workload for tests that kill it: each step writes its name to a file, durably, before it returns.

    python durable_work.py STORE EFFECTS [--uvloop] [--most N]

It goes on where the last one was killed, prints the result and ends. With `--most` it stands still when so many side
effects have happened, over all its lives: it waits to be killed, however late somebody looks.
"""

from __future__ import annotations

import asyncio
import os
import sys

from rotor_actors import Context, Runtime, workflow

CHILDREN = 24
STEPS_OF_CHILD = 3
STEPS_OF_PARENT = 8

effects = -1
left = 10**9


def write_down(name: str) -> None:
    global left
    left -= 1
    os.write(effects, f"{name}\n".encode())
    os.fsync(effects)


async def effect(run_id: str, name: str, value: int) -> int:
    if left <= 0:
        await asyncio.Event().wait()
    write_down(f"{run_id} {name}")
    await asyncio.sleep(0.001)  # so that a kill finds some of them half done
    return value


@workflow(id="child", retries=0)
async def child(ctx: Context, i: int) -> int:
    total = 0
    for step in range(STEPS_OF_CHILD):
        total += await ctx.step.run(f"step {step}", effect, ctx.run_id, f"child {i} step {step}", i)
        await ctx.step.sleep(f"pause {step}", 0.001 * (i % 4 + 1))
    return total


@workflow(id="parent", retries=0)
async def parent(ctx: Context) -> list[int]:
    before = [await ctx.step.run(f"before {i}", effect, ctx.run_id, f"before {i}", i) for i in range(STEPS_OF_PARENT)]
    ends = [ctx.step.invoke(f"child {i}", workflow=child, data=i, timeout="1h") for i in range(CHILDREN)]
    totals = [result for result, _ in await asyncio.gather(*ends)]
    await asyncio.sleep(0.005)
    after = [await ctx.step.run(f"after {i}", effect, ctx.run_id, f"after {i}", i) for i in range(STEPS_OF_PARENT)]
    return [sum(before), sum(totals), sum(after)]


async def main(store: str) -> None:
    async with Runtime(store, workflows=[parent, child]) as runtime:
        result = await runtime.execute(parent, run_id="parent")
        print(result, flush=True)


if __name__ == "__main__":
    effects = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if "--most" in sys.argv:
        with open(sys.argv[2], "rb") as before:
            left = int(sys.argv[sys.argv.index("--most") + 1]) - len(before.readlines())
    if "--uvloop" in sys.argv:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
