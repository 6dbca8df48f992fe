"""Schedules: a nightly job in a time zone, over a change of the clocks and over a weekend in which nothing ran.

A clock that is moved by hand makes a week pass at once.

python examples/nightly.py
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from rotor_actors import Context, ManualClock, Runtime, cron, workflow

BERLIN = ZoneInfo("Europe/Berlin")


def back_up(day: str) -> str:
    """Stand-in for the work."""
    return f"backup of {day}"


@workflow(id="nightly", on=cron("30 2 * * *", timezone="Europe/Berlin", missed="latest"))
async def nightly(ctx: Context) -> str:
    scheduled = ctx.event.timestamp
    assert scheduled is not None
    return await ctx.step.run("back up", back_up, f"{scheduled.astimezone(BERLIN):%a %d %b, %H:%M}")


async def main(store: str | os.PathLike[str] = ":memory:") -> list[str]:
    clock = ManualClock(start=datetime(2024, 3, 28, 12, tzinfo=UTC).timestamp())
    if store != ":memory:":
        async with Runtime(store, workflows=[nightly], clock=clock):
            await clock.advance("1d")
        clock = ManualClock(start=datetime(2024, 4, 1, 12, tzinfo=UTC).timestamp())  # back after a long weekend
    async with Runtime(store, workflows=[nightly], clock=clock) as runtime:
        await clock.advance("3d")
        return [run.result for run in reversed(await runtime.runs(workflow=nightly))]


if __name__ == "__main__":
    print("\n".join(asyncio.run(main())))
