"""Being told to stop: in good order by the first signal, at once by the second."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

KILLED = 130


def stop_at_end_of_input(stop: asyncio.Event) -> None:
    """The end of the input: whoever kept us alive is gone, and nobody would end us any more."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


@asynccontextmanager
async def stopping(at_once: Callable[[], None] = lambda: None) -> AsyncGenerator[asyncio.Event]:
    """An event that is set by SIGTERM or Ctrl-C. The second one ends the process at once, after a call of `at_once`: the
    store is made for that."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            at_once()
            os._exit(KILLED)
        print("stopping; once more ends at once, and nothing is lost by that either", file=sys.stderr, flush=True)
        stop.set()

    signals = [signal.SIGTERM, signal.SIGINT]
    for each in signals:
        loop.add_signal_handler(each, told)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
