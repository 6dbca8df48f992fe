"""`rotor runs watch`: follows a run, whoever runs it."""

from __future__ import annotations

import argparse
import asyncio

from rotor_actors.cli.live import follow
from rotor_actors.cli.running import say_end
from rotor_actors.cli.stores import stores_of
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.views import RunInfo


def watch(options: argparse.Namespace) -> int:
    """Follow a run until it ends; the exit status says how it did."""

    async def look() -> RunInfo:
        async with RuntimeView(stores_of(options.store)) as view:
            return await follow(view, options.run_id, plain=options.plain)

    return say_end(asyncio.run(look()))
