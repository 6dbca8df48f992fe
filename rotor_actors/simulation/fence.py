"""Keeps a universe apart from the real world: what reaches for it gets a named error, at the call site.

Two nets. In every universe the functions of the modules (`time.sleep`, `socket.socket`, …) are replaced while its loop
runs, for its thread only. That misses `from time import time` and `datetime.now()`, which are found by a profile hook:
too slow for each universe, so that it is for the first one of a test.
"""

from __future__ import annotations

import datetime
import inspect
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, cast

from rotor_actors.simulation.errors import RealWorldError

# These read clocks for messages of their own, which nothing depends on.
ALWAYS_ALLOWED = ("logging", "warnings", "_pytest", "pytest", "tracemalloc", "rotor_actors.simulation", "coverage",
                  "hypothesis")  # which measures the collector, wherever it comes round  # fmt: skip

_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
           "thread_time")  # fmt: skip
_USE_CLOCK = "in a workflow use ctx.now(); elsewhere asyncio.get_running_loop().time()"
_USE_STUB = "replace the function that needs it with sim.stub(function, returns=…)"

_FORBIDDEN: tuple[tuple[Any, str, str, str], ...] = (
    *((time, name, f"time.{name}", _USE_CLOCK) for name in _CLOCKS),
    (time, "sleep", "time.sleep", "use await asyncio.sleep, or ctx.step.sleep"),
    (socket.socket, "__init__", "a socket", _USE_STUB),
    (threading.Thread, "start", "a thread", "use asyncio.to_thread or anyio.to_thread, which the simulation runs inline"),
    (subprocess.Popen, "__init__", "a subprocess", _USE_STUB),
    (BaseProcess, "start", "a process", "give the step a runner (step.run(…, runner=…)), which the simulation replaces"),
    (os, "system", "os.system", _USE_STUB),
    *((os, name, f"os.{name}", _USE_STUB) for name in ("fork", "posix_spawn") if hasattr(os, name)),
)  # fmt: skip

_BUILTINS: dict[Any, tuple[str, str]] = {
    getattr(time, name): (f"time.{name}", _USE_CLOCK) for name in _CLOCKS
} | {time.sleep: ("time.sleep", "use await asyncio.sleep, or ctx.step.sleep")}  # fmt: skip
_TODAY = frozenset({"now", "utcnow", "today"})


@contextmanager
def fenced(
    seed: str, allow: tuple[str, ...] = (), *, is_thorough: bool = False
) -> Generator[Callable[[], None] | None, None, None]:
    """Fence this thread, and give the process's own `random` and `os.urandom` a seed, for as long as it is entered.

    Args:
        seed: of the chance that user code draws without a seed of its own.
        allow: names of modules that may use the real world.
        is_thorough: with the profile hook, too. It gives a function that sets the hook, to be called often: Python
            drops a hook that has raised.
    """
    thread = threading.get_ident()
    allowed = ALWAYS_ALLOWED + allow
    state, urandom = random.getstate(), os.urandom
    rng = random.Random(seed)
    replaced = [(owner, name, getattr(owner, name)) for owner, name, _, _ in _FORBIDDEN]
    for (owner, name, what, instead), (_, _, real) in zip(_FORBIDDEN, replaced, strict=True):
        setattr(owner, name, _guarded(real, what, instead, thread, allowed))
    os.urandom = lambda size: rng.randbytes(size) if threading.get_ident() == thread else urandom(size)
    random.seed(seed)
    profile = sys.getprofile()
    arm = partial(sys.setprofile, _profile(allowed)) if is_thorough and profile is None else None
    if arm is not None:
        arm()
    try:
        yield arm
    finally:
        if arm is not None:
            sys.setprofile(None)
        for owner, name, real in replaced:
            setattr(owner, name, real)
        os.urandom = urandom
        random.setstate(state)


def _guarded(
    real: Callable[..., Any], what: str, instead: str, thread: int, allowed: tuple[str, ...]
) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread and not _calls(inspect.currentframe(), allowed):
            raise _error(what, instead)
        return real(*args, **kwargs)

    return guarded


def _profile(allowed: tuple[str, ...]) -> Callable[[FrameType, str, Any], None]:
    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event != "c_call":
            return
        owner = getattr(arg, "__self__", None)
        if owner is datetime.datetime or owner is datetime.date:
            if arg.__name__ in _TODAY and not _may(frame, allowed):
                raise _error(f"{owner.__name__}.{arg.__name__}", _USE_CLOCK)
        elif owner is time and (found := _BUILTINS.get(arg)) is not None and not _may(frame, allowed):
            raise _error(*found)

    return profile


def _calls(guard: FrameType | None, allowed: tuple[str, ...]) -> bool:
    """Whether the caller of this frame may."""
    return guard is None or guard.f_back is None or _may(guard.f_back, allowed)


def _may(frame: FrameType, allowed: tuple[str, ...]) -> bool:
    module = cast(str, frame.f_globals.get("__name__", ""))
    return any(module == each or module.startswith(f"{each}.") for each in allowed)


def _error(what: str, instead: str) -> RealWorldError:
    return RealWorldError(
        f"{what} was used inside a simulation, where it would be another one each time: {instead} "
        f"(a module that may: @simulate(allow=['its.name']))"
    )
