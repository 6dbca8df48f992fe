"""Processes as children of a supervisor: what they print comes out line by line under their names."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import BinaryIO

from supervisors import ChildSpec, MaxRestartsExceeded, Shutdown, Supervisor

SHORTEST_LIFE = 1.0
RESTARTS_EACH = 3
RESTART_SECONDS = 60.0
_LONGEST_LINE = 2**16
_PIPE_SECONDS = 2.0


CANNOT_BEGIN = 2
"""The status of a process that would end so however often it is started: what it was told cannot work."""


class ProcessEnded(Exception):
    """A process ended that was to live on."""


class CannotBeginError(Exception):
    """A process said in its first life that it cannot begin."""


class Processes:
    """Keeps `count` processes alive. Restarted when they end, however; too many restarts within a minute end them all, and
    so does one that says in its first life that it cannot begin.

    Their input is a pipe, whose end says that we are gone. They have sessions of their own: Ctrl-C reaches us only.

    Args:
        command: the command of each, by its number from 1.
        name: what each is called, by its number.
    """

    def __init__(self, count: int, command: Callable[[int], Sequence[str]], name: Callable[[int], str]) -> None:
        self._command = command
        self._name = name
        self._alive: dict[int, Process] = {}
        self._all_ended = asyncio.Event()
        self._is_stopping = False
        self._have_begun: set[int] = set()
        self._unable: asyncio.Future[str] | None = None
        self.statuses: dict[int, int] = {}
        """How those ended that were told to."""
        self._supervisor = Supervisor(
            name="processes",
            max_restarts=RESTARTS_EACH * count,
            max_seconds=RESTART_SECONDS,
            children=[
                ChildSpec(self._name(number), self._live, (number,), shutdown=Shutdown.INFINITY)
                for number in range(1, count + 1)
            ],
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Keep them alive until `stop` is set, then end them all together, and wait for the last.

        Raises:
            MaxRestartsExceeded: they ended too often; all have been ended.
            CannotBeginError: one said that it cannot begin; all have been ended.
        """
        self._unable = unable = asyncio.get_running_loop().create_future()
        async with self._supervisor:
            stopped = asyncio.create_task(stop.wait())
            given_up = asyncio.create_task(_until_given_up(self._supervisor))
            await asyncio.wait({stopped, given_up, unable}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            self._terminate()
            while self._alive:
                self._all_ended.clear()
                await self._all_ended.wait()
        if unable.done() and not stop.is_set():
            raise CannotBeginError(unable.result())

    def kill(self) -> None:
        """End them at once."""
        self._is_stopping = True
        for process in self._alive.values():
            process.kill()

    def _terminate(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            for process in self._alive.values():
                process.send_signal(signal.SIGTERM)

    async def _live(self, number: int) -> None:
        if self._is_stopping:
            await asyncio.Event().wait()
        began, name = time.monotonic(), self._name(number)
        process = await asyncio.create_subprocess_exec(
            *self._command(number), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        self._alive[number] = process
        if self._is_stopping:  # we were told while it was being made
            process.send_signal(signal.SIGTERM)
        printing = asyncio.gather(
            _print_lines(process.stdout, sys.stdout.buffer, name), _print_lines(process.stderr, sys.stderr.buffer, name)
        )
        try:
            status = await self._until_ended(process)
        finally:
            await asyncio.wait([printing], timeout=_PIPE_SECONDS)  # a process of its own may hold the pipe for longer
            printing.cancel()
            del self._alive[number]
            self._all_ended.set()
        if self._is_stopping:
            self.statuses[number] = status
            await asyncio.Event().wait()  # to be stopped in good order
        lived = time.monotonic() - began
        is_first = number not in self._have_begun
        self._have_begun.add(number)
        print(f"{name}, pid {process.pid}, {said(status)} after {lived:.1f} s", file=sys.stderr, flush=True)
        if status == CANNOT_BEGIN and is_first and self._unable is not None:
            if not self._unable.done():
                self._unable.set_result(name)
            await asyncio.Event().wait()  # to be stopped with the others
        await asyncio.sleep(SHORTEST_LIFE - lived)
        raise ProcessEnded(name)

    async def _until_ended(self, process: Process) -> int:
        """Cancelled, all are told to end: only that all must go stops one of them."""
        try:
            return await process.wait()
        except asyncio.CancelledError:
            self._terminate()
            await process.wait()
            raise


async def _until_given_up(supervisor: Supervisor) -> None:
    try:
        await supervisor.wait()
    except MaxRestartsExceeded:
        pass  # is raised by leaving it


async def _print_lines(stream: asyncio.StreamReader | None, to: BinaryIO, name: str) -> None:
    """Whole lines, so that those of several processes do not run into each other."""
    assert stream is not None
    rest = b""
    while chunk := await stream.read(_LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        _print([*lines, rest] if len(rest) > _LONGEST_LINE else lines, to, name)
        rest = b"" if len(rest) > _LONGEST_LINE else rest
    _print([rest] if rest else [], to, name)


def _print(lines: list[bytes], to: BinaryIO, name: str) -> None:
    prefix = f"{name} | ".encode()
    try:
        to.write(b"".join(prefix + line + b"\n" for line in lines))
        to.flush()
    except OSError:
        pass  # nobody reads us any more: that must not end what runs


def said(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
