"""Inside a universe the real world is out of reach: an error at the call site that says what to do instead."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from time import monotonic as imported_by_name

import pytest
from loop_kit import run

from rotor_actors import Context, workflow
from rotor_actors.errors import WorkflowFailedError
from rotor_actors.simulation import RealWorldError, Simulation, simulate

IN_EVERY_UNIVERSE: dict[str, Callable[[], object]] = {
    "time.time": lambda: time.time(),
    "time.monotonic": lambda: time.monotonic(),
    "time.perf_counter": lambda: time.perf_counter(),
    "time.sleep": lambda: time.sleep(1),
    "a socket": lambda: socket.socket(),
    "a thread": lambda: threading.Thread(target=print).start(),
    "a subprocess": lambda: subprocess.run([sys.executable, "--version"], check=False),
    "os.system": lambda: os.system("true"),  # pyright: ignore[reportDeprecated]
    "os.fork": lambda: os.fork(),
}
IN_THE_FIRST: dict[str, Callable[[], object]] = {
    "datetime.now": lambda: datetime.now(),
    "date.today": lambda: date.today(),
    "time.monotonic": lambda: imported_by_name(),
}


@pytest.mark.parametrize("what", IN_EVERY_UNIVERSE)
def test_the_real_world_is_an_error_at_the_call_site(what: str) -> None:
    async def main() -> None:
        IN_EVERY_UNIVERSE[what]()

    with pytest.raises(RealWorldError, match=f"{what} was used inside a simulation") as caught:
        run(main)
    assert any(entry.name == "<lambda>" for entry in caught.traceback), "raised where it was called"


@pytest.mark.parametrize("what", IN_THE_FIRST)
def test_what_was_imported_by_name_is_found_in_the_first_universe(what: str) -> None:
    async def main() -> None:
        for _ in range(2):  # the hook is there again after it has raised
            with pytest.raises(RealWorldError, match=f"{what} was used"):
                IN_THE_FIRST[what]()
            await asyncio.sleep(0)

    run(main, is_thorough=True)


@pytest.mark.parametrize("call", ["open_connection", "start_server", "create_subprocess_exec"])
def test_the_loop_has_no_network_and_no_processes(call: str) -> None:
    async def main() -> None:
        if call == "open_connection":
            await asyncio.open_connection("localhost", 80)
        elif call == "start_server":
            await asyncio.start_server(lambda reader, writer: None, port=0)
        else:
            await asyncio.create_subprocess_exec("true")

    with pytest.raises(RealWorldError, match=r"sim\.stub"):
        run(main)


def test_outside_and_in_other_threads_nothing_changes() -> None:
    times: list[float] = []
    reads, goes = threading.Event(), threading.Event()

    def elsewhere() -> None:
        reads.wait(10)
        times.append(time.time())
        goes.set()

    other = threading.Thread(target=elsewhere)
    other.start()

    async def main() -> None:
        reads.set()
        assert goes.wait(10)
        logging.getLogger("test").warning("log records have real times")

    real = time.time
    run(main)
    other.join()
    assert times
    assert time.time is real
    socket.socket().close()


def test_chance_without_a_seed_has_the_seed_of_the_universe() -> None:
    async def main() -> tuple[float, str]:
        return random.random(), str(uuid.uuid4())

    state = random.getstate()
    assert run(main) == run(main)
    assert random.getstate() == state


@simulate(seeds=1)
async def test_a_step_that_sleeps_for_real_fails_by_name(sim: Simulation) -> None:
    def wait() -> None:
        time.sleep(1)

    @workflow(id="sleepy", retries=0)
    async def sleepy(ctx: Context) -> None:
        await ctx.step.run("wait", wait)

    with pytest.raises(WorkflowFailedError, match=r"time.sleep was used inside a simulation.*asyncio.sleep"):
        await sim.runtime.execute(sleepy)
    sim.universe.note("and the universe went on")


@simulate(seeds=1, allow=["test_fence"])
async def test_a_module_that_may_use_the_clock_may(sim: Simulation) -> None:
    assert time.time() > 0
