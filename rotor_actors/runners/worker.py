"""One worker process, and the end of its pipe. Everything here blocks, save for `kill`: it is called in threads.

Each worker has a pipe of its own: one that is killed in the middle of a message spoils nobody else's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rotor_actors.errors import WorkerLostError
from rotor_actors.runners.work import opened, packed, perform
from rotor_actors.step_runner import StepCall

__all__ = ["NotBegunError", "Reply", "Worker"]

_READY, _BEGUN = b"ready", b"begun"
# Importing the program's modules comes first: some take long.
_START_SECONDS = 120.0
_END_SECONDS = 2.0

Reply = Callable[[], Any]
"""Gives what the call returned, or raises what it raised."""


class NotBegunError(OSError):
    """The process died, and the call had certainly not begun: another may have it."""


class Worker:
    """A process that executes one call after the other.

    Attributes:
        calls: how many it has executed.
    """

    def __init__(self) -> None:
        # Spawned: a fork of a process with threads has their locks, and not them.
        context = multiprocessing.get_context("spawn")
        self._pipe, self._other_end = context.Pipe()
        self._process = context.Process(target=serve, args=(self._other_end,), name="rotor-step-worker")
        self._is_ready = False
        self._is_unwanted = False
        self.calls = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def make_ready(self) -> None:
        """Start it, if it has not been, and wait until it takes calls. Raises OSError, EOFError."""
        if self._is_ready:
            return
        self._process.start()
        self._other_end.close()  # so that its death is seen here
        if self._is_unwanted:  # killed before there was anything to kill
            self.kill()
        if not self._pipe.poll(_START_SECONDS):
            raise TimeoutError(f"it was not ready within {_START_SECONDS:g} s")
        if self._pipe.recv_bytes() != _READY:
            raise OSError("it spoke another protocol")
        self._is_ready = True

    def execute(self, call: StepCall) -> Reply:
        """Raises OSError, EOFError if it dies, NotBegunError if it had not begun; what the call itself raises is in the
        reply."""
        try:
            request = packed(call)
        except Exception as error:
            return _raising(error)
        try:
            self._pipe.send_bytes(request)
            # What it says before it begins is there to be read even when it has died since.
            begun = self._pipe.recv_bytes()
        except (OSError, EOFError) as error:
            raise NotBegunError(*error.args) from error
        if begun != _BEGUN:
            raise OSError("it spoke another protocol")
        answer = self._pipe.recv_bytes()
        self.calls += 1
        try:
            result = opened(answer, call)
        except BaseException as error:
            return _raising(error)
        return lambda: result

    def kill(self) -> None:
        """End it at once, with all that it has started itself; does not block."""
        self._is_unwanted = True
        pid = self._process.pid
        if pid is None or self._process.exitcode is not None:
            return
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._process.kill()

    def dismiss(self) -> None:
        """Have it end by itself; it must be idle (what is read in a thread must not be closed beside it)."""
        self._pipe.close()

    def join(self) -> None:
        """Wait for its end; if that takes long, kill it."""
        if self._process.pid is not None:
            self._process.join(_END_SECONDS)
            self.kill()
            self._process.join(_END_SECONDS)

    def lost(self, call: StepCall, error: BaseException) -> WorkerLostError:
        """What became of it, as an error; called when it has been joined."""
        code = None if isinstance(error, TimeoutError) else self._process.exitcode
        how = f"failed ({error})" if code is None else _exit_in_words(code)
        if isinstance(error, NotBegunError):
            what = "before it began the step"
            advice = "nothing of it was done; it may be executed again (step.run(…, retries=…))"
        elif self._is_ready:
            what = "while it executed the step"
            advice = "whether the step had its effect is not known; it may be executed again (step.run(…, retries=…))"
        else:
            what = "before it was ready"
            advice = "see what it printed; a script that opens a runtime must do so under if __name__ == '__main__'"
        return WorkerLostError(f"{call.where}: worker process {self.pid} {how} {what}; {advice}", exit_code=code)


def _raising(error: BaseException) -> Reply:
    def reply() -> Any:
        raise error

    return reply


def _exit_in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (is there enough memory?)" if name == "SIGKILL" else "")


# In the worker


def serve(pipe: Connection) -> None:
    """The worker's whole life."""
    _stand_apart()
    threading.Thread(target=_end_with_the_parent, name="rotor-parent-watch", daemon=True).start()
    try:
        pipe.send_bytes(_READY)
        while True:
            request = pipe.recv_bytes()
            pipe.send_bytes(_BEGUN)
            pipe.send_bytes(perform(request))
    except (EOFError, OSError):
        pass  # it is not wanted any more


def _stand_apart() -> None:
    """A process group of its own: Ctrl-C is for the program alone, and killing the worker kills what its steps started.

    No input either: who reads a terminal from another group is stopped.
    """
    if hasattr(os, "setpgid"):
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
    with open(os.devnull) as nothing, contextlib.suppress(OSError):
        os.dup2(nothing.fileno(), 0)


def _end_with_the_parent() -> None:
    """A step is not to go on when the program is gone: it is executed again by the next one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
