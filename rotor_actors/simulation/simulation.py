"""What a simulated test is given: a runtime, virtual time, crashes, stubs, and what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from rotor_actors.durations import Duration, seconds
from rotor_actors.runtime import Runtime
from rotor_actors.simulation.client import UniverseRuntime
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.stubs import Raised, Stub
from rotor_actors.simulation.trace import Noted, TraceEvent
from rotor_actors.simulation.universe import Universe
from rotor_actors.workflows import Workflow

_SETTLE_SECONDS = 0.001
_MOST_LOOKS = 5_000
_LOOKS_AT_REST = 2


class Simulation:
    """One universe, as the test in it sees it. See `simulate`.

    Attributes:
        runtime: a `Runtime` that is open. After a crash it stands for the next life; calls under way are made again
            there, and handles go on.
        seed: of this universe.
    """

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.runtime: Runtime = UniverseRuntime(universe)
        self.seed = universe.seed
        self.held: set[str] = set()
        self.labels: set[str] = set()
        self._tape = universe.tapes.tape("user")

    # Time and crashes

    def now(self) -> float:
        """Virtual seconds since this universe began."""
        return self.universe.now()

    async def advance(self, duration: Duration) -> None:
        """Let virtual time pass, then let what this has set off come to rest; that takes no real time.

        Args:
            duration: such as `"9m"`, or seconds.
        """
        await asyncio.sleep(seconds(duration, name="duration"))
        looks_at_rest = 0
        for _ in range(_MOST_LOOKS):
            looks_at_rest = looks_at_rest + 1 if self._is_at_rest() else 0
            if looks_at_rest == _LOOKS_AT_REST:
                return
            await asyncio.sleep(_SETTLE_SECONDS)

    def _is_at_rest(self) -> bool:
        """But for steps that wait for something else than a worker thread: that is up to time, or to the test."""
        engines = self.universe.engines()
        return bool(engines) and all(engine.is_idle and not engine.threads.are_running for engine in engines)

    async def crash(self) -> None:
        """The process dies now, by `kill -9` or a power cut; come back when another has opened the store again."""
        self.universe.crash("asked for by the test")
        await self.universe.ready()

    # Stubs

    def stub(
        self,
        target: Callable[..., Any] | Workflow[Any, Any] | str,
        *,
        returns: object = None,
        raises: Raised | Sequence[Raised] | None = None,
        takes: Duration = 0,
    ) -> Stub:
        """Put something else in the place of a step's function, or of a child workflow.

        Args:
            target: the function, the workflow, or a workflow's id.
            returns: the result; if callable, it is called with the arguments.
            raises: an exception for each call; of a sequence one for each call, and then `returns`.
            takes: how much virtual time it takes.
        """
        stub = self.universe.stubs.add(target, returns, raises, takes)
        for engine in self.universe.engines():
            if isinstance(target, str) and engine.find_workflow(target) is None:
                engine.register(self.universe.stubs.unknown[target])
        return stub

    def effects(self, what: Callable[..., Any] | str, *, run_id: str | None = None) -> int:
        """How often a step's body was executed.

        Args:
            what: the step's function (also when it is stubbed), or the step's id.
            run_id: in this run only.
        """
        return sum(
            1
            for effect in self.universe.stubs.effects
            if (effect.step_id == what if isinstance(what, str) else effect.fn == what)
            and run_id in (None, effect.run_id)
        )

    # Chance

    def choose(self, n: int) -> int:
        """A number from 0 to n - 1, another one in each universe; when a failure is made smaller, 0 is tried first."""
        return self._tape.choose(n)

    def chance(self, probability: float) -> bool:
        """True so often; when a failure is made smaller, False is tried first."""
        return self._tape.chance(probability)

    # What must hold

    def sometimes(self, label: str, condition: object = True) -> None:
        """This must hold in at least one universe of the test: else the test does not reach what it is about."""
        self.labels.add(label)
        if condition:
            self.held.add(label)

    def invariant(self, holds: Callable[[], object]) -> None:
        """Have `holds` called after everything that happens; when it raises, or returns False, the test has failed."""
        name = getattr(holds, "__name__", repr(holds))

        def check(event: TraceEvent) -> None:
            if not isinstance(event, Noted) and holds() is False:
                raise InvariantError(name, f"does not hold after {type(event).__name__} at {event.at:.3f} s")

        self.universe.observe(check)

    def note(self, text: str) -> None:
        """A line for the timeline of a failure."""
        self.universe.note(text)
