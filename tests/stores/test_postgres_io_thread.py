"""The thread that holds a store's connections, when it ends while others call into it."""

from __future__ import annotations

import asyncio
import threading

from rotor_actors.errors import StoreError
from rotor_actors.stores.postgres.io_thread import IOThread

CALLERS = 2


async def _something() -> None:
    await asyncio.sleep(0)


def test_who_calls_while_it_ends_is_answered_or_told() -> None:
    """A reader that waited for ever was waited for by the closing runtime, on its event loop."""
    for at in range(300):
        thread = IOThread(f"io-{at}")
        thread.start()
        told: list[StoreError] = []
        begun = threading.Barrier(CALLERS + 1)

        def call(thread: IOThread, begun: threading.Barrier, told: list[StoreError]) -> None:
            begun.wait()
            try:
                while True:
                    thread.call(_something())
            except StoreError as error:
                told.append(error)

        callers = [threading.Thread(target=call, args=(thread, begun, told), daemon=True) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        begun.wait()
        threading.Event().wait(at % 4 / 2_000)
        thread.stop()
        for caller in callers:
            caller.join(10)
        assert len(told) == CALLERS, f"somebody waits for ever, the {at}th time"
