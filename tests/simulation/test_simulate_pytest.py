"""`@simulate` as pytest sees it: a sync test in every mode, and a failure that can be seen again with one command."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rotor_actors import Context, workflow
from rotor_actors.simulation import FaultNeverFiredError, Faults, NeverHeldError, Simulation, UniverseFailed, simulate

MODES = {
    "strict": "asyncio_mode = strict\nanyio_mode = strict",
    "asyncio auto": "asyncio_mode = auto\nanyio_mode = strict",
    "anyio auto": "asyncio_mode = strict\nanyio_mode = auto",
}

SUITE = """
import pytest
from rotor_actors import Context, workflow
from rotor_actors.simulation import Simulation, simulate

def double(n: int) -> int:
    return 2 * n

@workflow(id="doubler")
async def doubler(ctx: Context, n: int) -> int:
    return await ctx.step.run("double", double, n)

@pytest.fixture
def number() -> int:
    return 20

@pytest.fixture
async def other() -> int:
    return 1

@simulate(seeds=2)
async def test_plain(sim: Simulation) -> None:
    assert await sim.runtime.execute(doubler, 1) == 2

@pytest.mark.parametrize("more", [1, 2])
@simulate(seeds=2)
async def test_with_a_fixture_and_a_parameter(sim: Simulation, number: int, more: int) -> None:
    assert await sim.runtime.execute(doubler, number + more) == 2 * (number + more)

class TestGrouped:
    @simulate(seeds=2)
    async def test_method(self, sim: Simulation, number: int) -> None:
        assert await sim.runtime.execute(doubler, number) == 40
"""

FAILING = """
from rotor_actors import Context, workflow
from rotor_actors.simulation import Simulation, simulate

charged = []

def charge() -> int:
    charged.append(1)
    return len(charged)

@workflow(id="shop")
async def shop(ctx: Context) -> int:
    return await ctx.step.run("charge", charge)

@simulate(seeds=20, crash="every-commit")
async def test_charged_once(sim: Simulation) -> None:
    charged.clear()
    await sim.runtime.execute(shop)
    assert len(charged) == 1
"""


def _pytest(where: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ROTOR"))}
    return subprocess.run(
        command, cwd=where, env={**clean, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("mode", MODES)
def test_it_is_a_sync_test_in_every_mode(tmp_path: Path, mode: str) -> None:
    scopes = "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{MODES[mode]}\n{scopes}\n")
    (tmp_path / "test_suite.py").write_text(SUITE)
    ran = _pytest(tmp_path, "-rP")
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "test_plain: 2 universes" in ran.stdout


def test_a_failure_names_everything_and_its_command_shows_it_again(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "test_shop.py").write_text(FAILING)
    ran = _pytest(tmp_path)
    assert ran.returncode == 1
    report = ran.stdout
    for expected in (
        r"test_charged_once failed in universe \d+ of \d+",
        r"seed:     \d+, crash (before|at)-commit-\d",
        r"versions: rotor-actors \S+, Python 3\.\d+\.\d+, anyio 4\.\S+, SQLite 3\.\S+",
        r"broken:   AssertionError",
        r"schedule: \d+ choices, shrunk to \d+ in \d+ runs",
        r"s  life 1 DIES: (before|at) a commit",
        r"begins step 'charge'",
        r"assert 2 == 1",
    ):
        assert re.search(expected, report), f"{expected} is not in:\n{report}"
    command = re.search(r"ROTOR_SIM_SEED='(\S+)' python -m pytest (\S+)", report)
    assert command is not None, report
    again = _pytest(tmp_path, command[2], ROTOR_SIM_SEED=command[1])
    assert again.returncode == 1
    assert "failed in universe 1 of 1 (ROTOR_SIM_SEED)" in again.stdout
    assert re.search(r"life 1 DIES", again.stdout)
    other = _pytest(tmp_path, command[2], ROTOR_SIM_SEED="0")
    assert other.returncode == 0, "without the crash this seed is all right"


def test_it_can_be_called_inside_a_running_loop() -> None:
    @simulate(seeds=2)
    async def inner(sim: Simulation) -> None:
        await sim.advance("24h")

    async def outer() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        inner()
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)
        return loop.time() - began

    assert asyncio.run(outer()) < 60


def test_what_pytest_sees_has_no_simulation_and_is_sync() -> None:
    @simulate(seeds=1)
    async def test(sim: Simulation, number: int, *, name: str = "x") -> None: ...

    assert str(inspect.signature(test)) == "(number: 'int', *, name: 'str' = 'x') -> None"
    assert not inspect.iscoroutinefunction(test)
    test(1, name="y")


@workflow(id="quiet")
async def quiet(ctx: Context) -> str:
    return "done"


def test_a_fault_that_never_fires_is_a_failure() -> None:
    @simulate(seeds=2, faults=Faults(bit_flip=1e-9))
    async def test(sim: Simulation) -> None:
        assert await sim.runtime.execute(quiet) == "done"

    with pytest.raises(FaultNeverFiredError, match=r"bit_flip was asked for and never happened in 2 universes"):
        test()


def test_what_must_hold_sometimes_has_to_hold_somewhere() -> None:
    @simulate(seeds=3)
    async def test(sim: Simulation) -> None:
        sim.sometimes("seed one", sim.seed == 1)
        sim.sometimes("seed nine", sim.seed == 9)

    with pytest.raises(NeverHeldError, match="never held in 3 universes: 'seed nine'"):
        test()


def test_an_invariant_of_the_user_is_checked_while_things_happen() -> None:
    @simulate(seeds=3)
    async def test(sim: Simulation) -> None:
        seen: list[str] = []

        def nothing_runs_twice() -> bool:
            return sim.effects("once") <= 1

        def once() -> None:
            seen.append("once")

        @workflow(id="twice")
        async def twice(ctx: Context) -> None:
            await ctx.step.run("once", once)
            await ctx.step.run("once", once)

        sim.invariant(nothing_runs_twice)
        await sim.runtime.execute(twice)

    with pytest.raises(UniverseFailed, match=r"broken:   nothing_runs_twice: .*does not hold after"):
        test()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seeds": 0}, "seeds=0"), ({"crash": "sometimes"}, "'every-commit'"), ({"policy": "any"}, "pct"),
     ({"store": "redis"}, "'sqlite' or 'memory'")],
)  # fmt: skip
def test_bad_options_are_refused_by_name_when_the_test_is_defined(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Faults\(crash=5\): a probability is a number from 0 to 1"):
        Faults(crash=5)


def test_a_test_without_a_simulation_is_refused() -> None:
    async def test() -> None: ...

    with pytest.raises(TypeError, match="takes no simulation"):
        simulate(seeds=1)(test)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
