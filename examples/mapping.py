"""Maps and detached runs: pages are fetched a few at a time, an index is built beside, and asked for at the end.

python examples/mapping.py [STORE]
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

from rotor_actors import Context, Runtime, workflow
from rotor_actors.errors import NonRetriableError


def fetch(page: int) -> str:
    """Stand-in for a request."""
    if page % 10 == 7:
        raise NonRetriableError(f"page {page} is gone")
    return f"text of page {page}"


@workflow(id="page")
async def page(ctx: Context, number: int) -> int:
    return len(await ctx.step.run("fetch", fetch, number))


@workflow(id="index")
async def index(ctx: Context) -> str:
    await ctx.step.sleep("sort", "200ms")
    return "index"


@workflow(id="mirror")
async def mirror(ctx: Context, pages: int) -> str:
    """A window of ten pages is under way; one that fails does not end the others."""

    def numbers() -> Iterator[int]:  # read as the window moves: it may be longer than memory
        yield from range(pages)

    index_run = await ctx.step.start("index", workflow=index, data=None)
    fetched, gone = 0, 0
    ends = ctx.step.map("pages", workflow=page, items=numbers(), timeout="5m", concurrency=10, on_error="collect")
    async for end in ends:
        fetched += end.is_completed
        gone += end.is_failed
    first = await ctx.step.first("any", workflow=page, items=[100, 101, 102], timeout="5m")
    built = await ctx.step.join("built", run_id=index_run, timeout="1m", returns=str)
    return f"{fetched} pages, {gone} gone, one of {first.body} characters, {built.result}"


async def main(store: str | os.PathLike[str] = ":memory:") -> str:
    async with Runtime(store, workflows=[mirror, page, index]) as runtime:
        return await runtime.execute(mirror, 50)


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:2])))
