"""Running the universes of one test: which there are, what they have to show together, and what is said of a failure."""

from __future__ import annotations

import gc
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Literal

import msgspec

from rotor_actors.simulation.crashes import PLACES, CrashPoint, every_point
from rotor_actors.simulation.errors import FaultNeverFiredError, NeverHeldError, UniverseFailed
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.reporting import report
from rotor_actors.simulation.running import Outcome, run_universe
from rotor_actors.simulation.schedule import VARIABLE, Schedule
from rotor_actors.simulation.shrinking import shrink
from rotor_actors.simulation.simulation import Simulation
from rotor_actors.simulation.universe import Settings, Universe

CrashMode = Literal["seeded", "every-commit"]
Main = Callable[[Simulation], Awaitable[None]]

# Without `faults`, crash="seeded" dies at about one in so many calls of the store.
SEEDED_CRASHES = 0.05
_COLLECT_AFTER_STEPS = 20_000
_real_time = time.perf_counter


class Plan(msgspec.Struct, frozen=True):
    """The universes of a test.

    Attributes:
        seeds: how many seeds there are, from 0.
        crash: None, by chance, or at every commit: the first seed in turn before, at and after each of its commits,
            each other seed around one of them.
        settings: of each universe.
    """

    seeds: int
    crash: CrashMode | None
    settings: Settings

    def effective(self) -> Settings:
        faults = self.settings.faults
        if self.crash == "seeded" and not faults.crash:
            faults = msgspec.structs.replace(faults, crash=SEEDED_CRASHES)
            return msgspec.structs.replace(self.settings, faults=faults)
        return self.settings


class Result(msgspec.Struct):
    """What the universes of a test have shown."""

    universes: int = 0
    commits: int = 0
    crashes: int = 0
    steps: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    fired: Counter[str] = msgspec.field(default_factory=lambda: Counter[str]())
    busy: list[tuple[str, float]] = []

    def add(self, outcome: Outcome) -> None:
        self.universes += 1
        self.commits += outcome.commits
        self.crashes += outcome.crashes
        self.steps += outcome.steps
        self.virtual_seconds += outcome.seconds
        self.fired.update(outcome.fired)
        self.busy.extend(outcome.busy)

    def __str__(self) -> str:
        fired = ", ".join(f"{kind} {times}" for kind, times in sorted(self.fired.items())) or "none"
        rate = self.universes / self.seconds if self.seconds else 0.0
        busy = "".join(f"\n  kept the loop for {took:.1f} s: {name}" for name, took in self.busy[:5])
        return (
            f"{self.universes} universes, {self.commits} commits, {self.virtual_seconds:.0f} virtual seconds in "
            f"{self.seconds:.1f} s ({rate:.0f} universes/s); faults: {fired}{busy}"
        )


class Campaign:
    """Runs them.

    Args:
        name: of the test.
        main: the test; called with the simulation of each universe.
        plan: which universes.
        command: what runs this test again.
        watch: given each universe before it begins, to observe it.
    """

    def __init__(
        self,
        name: str,
        main: Main,
        plan: Plan,
        command: Callable[[], str],
        watch: Callable[[Universe], None] = lambda universe: None,
    ) -> None:
        self._name = name
        self._main = main
        self._plan = plan
        self._command = command
        self._watch = watch
        self._settings = plan.effective()
        self._held: set[str] = set()
        self._labels: set[str] = set()
        self._steps_to_collect = _COLLECT_AFTER_STEPS
        self.result = Result()

    def run(self) -> Result:
        """Run all universes, or the one that the environment names.

        Raises:
            UniverseFailed: one has failed. FaultNeverFiredError, NeverHeldError: all went well, and showed too little.
        """
        __tracebackhide__ = True
        began = _real_time()
        wanted = os.environ.get(VARIABLE)
        if wanted:
            self._run_one(Schedule.parse(wanted))
            return self.result
        for number, (outcome, of) in enumerate(self._universes(), start=1):
            self.result.seconds = _real_time() - began
            if outcome.failure is not None:
                self._fail(outcome, number, of)
        self.result.seconds = _real_time() - began
        self._check_shown()
        return self.result

    def _universes(self) -> Iterator[tuple[Outcome, str]]:
        plan = self._plan
        first = self._universe(0, None, is_thorough=True)
        points = list(every_point(first.commits)) if plan.crash == "every-commit" else []
        of = f"{plan.seeds + len(points)}"
        yield first, of
        for point in points:
            yield self._universe(0, point), of
        for seed in range(1, plan.seeds):
            yield self._universe(seed, _point_of(seed, first.commits) if points else None), of

    def _universe(
        self,
        seed: int,
        point: CrashPoint | None,
        replay: dict[str, list[int]] | None = None,
        *,
        is_thorough: bool = False,
    ) -> Outcome:
        outcome = run_universe(
            self._live, seed=seed, settings=self._settings, point=point, replay=replay, is_thorough=is_thorough
        )
        self.result.add(outcome)
        self._steps_to_collect -= outcome.steps
        if self._steps_to_collect <= 0:
            self._steps_to_collect = _COLLECT_AFTER_STEPS
            gc.collect()
        return outcome

    async def _live(self, universe: Universe) -> None:
        self._watch(universe)
        simulation = Simulation(universe)
        try:
            await self._main(simulation)
        finally:
            self._held |= simulation.held
            self._labels |= simulation.labels

    # What has to be shown

    def _check_shown(self) -> None:
        asked = self._settings.faults.asked()
        if self._plan.crash == "every-commit" and "crash" not in asked:
            asked.append("crash")
        unfired = [kind for kind in asked if not Faults.is_fired(kind, self.result.fired)]
        if unfired:
            raise FaultNeverFiredError(
                f"{self._name}: {', '.join(unfired)} was asked for and never happened in {self.result.universes} "
                f"universes: raise its probability or the number of seeds, or do not ask for it ({self.result})"
            )
        never = sorted(self._labels - self._held)
        if never:
            raise NeverHeldError(
                f"{self._name}: never held in {self.result.universes} universes: {', '.join(map(repr, never))}; the "
                f"test does not reach what it is about ({self.result})"
            )

    # Failures

    def _fail(self, outcome: Outcome, number: int, of: str) -> None:
        __tracebackhide__ = True
        rerun = partial(self._universe, outcome.seed, outcome.point)
        smallest, runs = shrink(outcome, rerun)
        text = report(self._name, smallest, outcome, number=number, of=of, shrinking_runs=runs, command=self._command())
        raise UniverseFailed(text) from smallest.failure

    def _run_one(self, schedule: Schedule) -> None:
        outcome = self._universe(schedule.seed, schedule.point, schedule.choices)
        if outcome.failure is not None:
            text = report(
                self._name, outcome, outcome, number=1, of=f"1 ({VARIABLE})", shrinking_runs=0, command=self._command()
            )
            raise UniverseFailed(text) from outcome.failure


def _point_of(seed: int, commits: int) -> CrashPoint:
    rng = random.Random(f"{seed}:point")
    return CrashPoint(rng.randint(1, max(1, commits)), rng.choice(PLACES))
