"""One process of a replicated service, and how it makes its calls of the database."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from rotor_actors.engine import Engine
from rotor_actors.simulation.loop import SimulationLoop
from rotor_actors.simulation.ports import UniverseClock, UniverseExecutor
from rotor_actors.simulation.process import Process
from rotor_actors.simulation.tape import Tape

T = TypeVar("T")


class ReplicaProcess(Process):
    """Opens the store as one replica after the other.

    Attributes:
        place: which of the processes that are kept alive it is, from 0.
        number: counts processes.
        replica: the number of the replica that it is, or was last.
        is_frozen: it stands still, its threads included.
    """

    def __init__(self, number: int, place: int) -> None:
        super().__init__(number)
        self.place = place
        self.replica = 0
        self.engines: list[Engine] = []
        """One for each replica that it was."""
        self.is_open = False
        self.is_frozen = False
        self.is_stopped = False
        self.unreachable_until = 0.0
        self.arrivals: list[Callable[[], None]] = []
        """Statements that are sent when it goes on."""

    def __repr__(self) -> str:
        return f"<process {self.number}, replica {self.replica}{' (dead)' if self.is_dead else ''}>"


class Caller(Protocol):
    """Decides what goes wrong in the moment of a call."""

    def about_to_call(self, process: ReplicaProcess) -> None: ...

    def reply_takes(self, process: ReplicaProcess) -> float: ...


class ReplicaExecutor(UniverseExecutor):
    """Threads of a process: they go on while its event loop is blocked, and not while it is stopped."""

    def __init__(self, loop: SimulationLoop, tape: Tape, process: ReplicaProcess, caller: Caller) -> None:
        super().__init__(loop, tape, process)
        self._process = process
        self._caller = caller

    async def call(self, function: Callable[[], T]) -> T:
        self._caller.about_to_call(self._process)
        future = self._loop.create_future()
        context = contextvars.copy_context()
        self._free_at = self._after(self._free_at)
        arrive = (self._free_at, self._arrive, function, future, context)
        self._loop.call_at(*arrive, context=contextvars.Context())
        result: T = await future
        return result

    def _arrive(self, function: Callable[[], Any], future: Any, context: contextvars.Context) -> None:
        if self._process.is_frozen:
            self._process.arrivals.append(lambda: self._arrive(function, future, context))
            return
        takes = self._caller.reply_takes(self._process)
        if takes:
            self._answered_at = max(self._answered_at, self._loop.time()) + takes
        context.run(self._perform, function, future)


class ReplicaClock(UniverseClock):
    """A machine's own clock: it may be hours wrong."""

    is_of_this_machine = True

    def __init__(self, loop: SimulationLoop, tape: Tape, skew: float) -> None:
        super().__init__(loop, tape)
        self._origin += skew
