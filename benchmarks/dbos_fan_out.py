"""The fan-out of `workloads` on DBOS, whatever database it has."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from host import Stopwatch
from workloads import FanOut, trivial


async def fan_out_on_dbos(url: str, n: int) -> float:
    """Seconds for N durable children of one step each. Needs the extra `bench`."""
    dbos: Any = importlib.import_module("dbos").DBOS
    dbos(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})

    # Called as coroutines under gather: of the ways to start children, the fastest there.
    @dbos.step()  # type: ignore[untyped-decorator]
    async def work(number: int) -> int:
        return await trivial(number)

    @dbos.workflow()  # type: ignore[untyped-decorator]
    async def dbos_child(number: int) -> int:
        return int(await work(number))

    @dbos.workflow()  # type: ignore[untyped-decorator]
    async def dbos_parent(children: int) -> int:
        return sum(await asyncio.gather(*(dbos_child(number) for number in range(children))))

    dbos.launch()
    try:
        watch = Stopwatch()
        handle = await dbos.start_workflow_async(dbos_parent, n)
        assert await handle.get_result() == FanOut(n).expected
        return watch()
    finally:
        dbos.destroy()
