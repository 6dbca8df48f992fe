"""A night of failed imports is taken up in the morning, one of them from a step of choice, and the old ones go.

python examples/after_the_end.py [STORE]
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field

from rotor_actors import Context, Retention, Runtime, workflow
from rotor_actors.errors import WorkflowFailedError


@dataclass
class Outside:
    """The world: a partner that is down at night, and what was fetched from it."""

    is_up: bool = False
    fetched: list[str] = field(default_factory=lambda: list[str]())


outside = Outside()


def fetch(shop: str) -> int:
    """Ask the partner."""
    if not outside.is_up:
        raise ConnectionError("the partner is down for the night")
    outside.fetched.append(shop)
    return 10 * len(shop)


def prepare(shop: str) -> str:
    """What need not be done twice."""
    return f"prices of {shop}"


@workflow(id="import-shop", retries=0, version="1")
async def import_shop(ctx: Context, shop: str) -> str:
    """Prepare, fetch, say how many."""
    what = await ctx.step.run("prepare", prepare, shop)
    count = await ctx.step.run("fetch", fetch, shop)
    return f"{count} {what}"


async def main(store: str | os.PathLike[str] = ":memory:") -> list[str]:
    """Night, morning, tidying up."""
    outside.is_up, outside.fetched = False, []
    async with Runtime(store, workflows=[import_shop], retention=Retention(completed="30d")) as runtime:
        handles = [await runtime.start(import_shop, shop, run_id=shop) for shop in ("north", "south", "west")]
        for handle in handles:
            try:
                await handle.result()
            except WorkflowFailedError as error:
                print(error)
        outside.is_up = True
        would = await runtime.resume_all(error="down for the night", dry_run=True)
        print(f"would resume {len(would.run_ids)} runs")
        await runtime.resume_all(error="down for the night")
        results = [await handle.result() for handle in handles]
        fork = await runtime.fork("north", from_step="fetch")
        results.append(await fork.result())
        report = await runtime.prune(older_than=0, status="completed")
        print(f"deleted {report.runs} runs")
        return results


if __name__ == "__main__":
    print(asyncio.run(main(*sys.argv[1:2])))
