"""The process that measures: its event loop, its collector, its memory and its watch."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What a host would choose that holds 100 000 live runs and does not want each collection to visit all of them.
FROZEN_THRESHOLDS = (100_000, 50, 100)


@dataclass(frozen=True)
class Setup:
    """How the host is set up in one measurement."""

    loop: str = "asyncio"
    gc: str = "default"
    store: str = "sqlite"
    directory: str | None = None
    repeat: int = 3

    def fields(self) -> dict[str, object]:
        return {"loop": self.loop, "gc": self.gc, "store": self.store}


def has_loop(name: str) -> bool:
    return name == "asyncio" or importlib.util.find_spec(name) is not None


def in_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in a new interpreter and give its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *args, **kwargs).result()


def run(setup: Setup, main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the loop and with the collector that the setup names."""
    set_up_gc(setup)
    with asyncio.Runner(loop_factory=_loop_factory(setup.loop)) as runner:
        return runner.run(main)


def set_up_gc(setup: Setup) -> None:
    gc.collect()
    if setup.gc == "off":
        gc.disable()
    elif setup.gc == "freeze":
        gc.freeze()
        gc.set_threshold(*FROZEN_THRESHOLDS)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._began


def resident_bytes() -> int:
    """What of this process is in memory now; where that cannot be told, the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
