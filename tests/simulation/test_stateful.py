"""Hypothesis at the controls of a universe: it starts, cancels, crashes, cuts the power, fills the disk, and lets time
pass, in any order; the judge watches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from mutants import MUTANTS

from rotor_actors import set_order
from rotor_actors.errors import RunNotFoundError, WorkflowCancelledError, WorkflowFailedError
from rotor_actors.simulation.client import UniverseRuntime
from rotor_actors.simulation.disk import SimDisk
from rotor_actors.simulation.judge import Judge
from rotor_actors.simulation.plan import RootPlan, Size, draw_plan
from rotor_actors.simulation.tape import Tape
from rotor_actors.simulation.trial import Trial
from rotor_actors.simulation.universe import Settings, Universe

EXPECTED = (WorkflowFailedError, WorkflowCancelledError, RunNotFoundError)
ROOTS = 6


def roots_of(seed: int) -> list[RootPlan]:
    """So many roots, each with an id of its own."""
    found: list[RootPlan] = []
    for number in range(ROOTS):
        tape = Tape(f"{seed}:{number}")
        (root,) = draw_plan(tape, Size(roots=1, ops=3, children=3))
        _rename(root, f"root{number}")
        found.append(root)
    return found


def _rename(root: RootPlan, name: str) -> None:
    text = msgspec.json.encode(root).replace(b'"r0', f'"{name}'.encode())
    renamed = msgspec.json.decode(text, type=RootPlan)
    root.run = renamed.run


class Callers(RuleBasedStateMachine):
    """The public API, and what befalls a process, in virtual time."""

    @initialize(seed=st.integers(0, 1_000))
    def begin(self, seed: int) -> None:
        set_order.install()
        self.universe = Universe(seed, Settings())
        self.roots = roots_of(seed)
        self.trial = Trial(self.universe, self.roots)
        self.judge = Judge(self.trial)
        self.runtime = UniverseRuntime(self.universe)
        self.tasks: list[asyncio.Task[Any]] = []
        self.started: set[str] = set()
        self.universe.start_process()
        self._run(self.universe.ready())
        self.judge.attach(self.universe)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.universe.loop.run_until_complete(coroutine)

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """A caller asks, and the world does not wait for his answer."""
        self.tasks.append(self.universe.loop.create_task(coroutine))
        self._run(asyncio.sleep(0))

    @property
    def disk(self) -> SimDisk:
        assert isinstance(self.universe.disk, SimDisk)
        return self.universe.disk

    # Callers

    @rule(number=st.integers(0, ROOTS - 1))
    def start(self, number: int) -> None:
        """For the first time, or again: the same run."""
        plan = self.roots[number].run
        self.started.add(plan.name)
        workflow = self.trial.workflows[plan.workflow]
        self._call(self._start_and_await(workflow, plan.name))

    async def _start_and_await(self, workflow: Any, name: str) -> None:
        handle = await self.runtime.start(workflow, name, run_id=name)
        await handle.result()

    @rule(number=st.integers(0, 30))
    def cancel(self, number: int) -> None:
        """Any run that there has been, or one that is not there."""
        known = [*self.trial.ids, "nobody"]
        self._call(self.runtime.cancel(known[number % len(known)], "enough"))

    # The world

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 0.3, 3.0, 60.0]))
    def advance(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    @rule()
    def crash(self) -> None:
        """By `kill -9`, or by a power cut, as the universe's tape chooses."""
        self.universe.crash("asked for by the test")
        self._run(asyncio.sleep(0))

    @precondition(lambda self: not self.disk.is_full)  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    @rule()
    def fill_the_disk(self) -> None:
        self.disk.is_full = True

    @precondition(lambda self: self.disk.is_full)  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
    @rule()
    def make_room(self) -> None:
        self.disk.is_full = False

    @rule(operation=st.sampled_from(["write", "sync"]))
    def fail(self, operation: Any) -> None:
        self.disk.fail_next(operation)

    # The end

    def teardown(self) -> None:
        """Nothing fails any more: all who asked are answered, all runs end, and end as they must."""
        if not hasattr(self, "universe"):
            return
        try:
            self._run(self._come_to_the_end())
            assert not self.universe.loop.unhandled
        finally:
            self.universe.close()

    async def _come_to_the_end(self) -> None:
        self.universe.heal()
        for answer in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, EXPECTED):
                raise answer
        await asyncio.sleep(200)
        self.judge.at_end()
        assert self.started <= {account.plan for account in self.judge.ledger.accounts.values()}
        await self.universe.close_process()


TestCallers = Callers.TestCase
TestCallers.settings = settings(
    max_examples=50,
    stateful_step_count=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def test_it_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bug planted, hypothesis finds it."""
    (planted,) = [each for each in MUTANTS if each.name == "start acknowledged before it is durable"]
    planted.plant(monkeypatch)
    with pytest.raises(AssertionError, match="is said to have started, and is not durable"):
        run_state_machine_as_test(Callers, settings=settings(TestCallers.settings, phases=[Phase.generate]))
