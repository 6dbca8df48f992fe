"""The same work in real processes on real files, killed and failed at exact system calls, and in the simulator: it ends
in the same state."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import same_work

from rotor_actors import Runtime
from rotor_actors.simulation.client import UniverseRuntime
from rotor_actors.simulation.faults import Faults
from rotor_actors.simulation.running import run_universe
from rotor_actors.simulation.universe import Settings, Universe

PROGRAM = Path(same_work.__file__)
ROOT = PROGRAM.parent.parent.parent
WORKFLOWS = (same_work.whole, same_work.part)
RESULT = ["100", "1", "5", "13", "never"]

State = list[tuple[Any, ...]]


async def state(runtime: Runtime) -> State:
    """All that was to be done, and what came of it; without times, and without how often it was tried."""
    runs = await runtime.runs(limit=1_000)
    found: State = []
    for run in runs:
        steps = sorted((step.step_id, step.kind, step.status.value) for step in await runtime.steps(run.run_id))
        steps = [step for step in steps if step[1] != "timer"]
        ended = run.error.message if run.error is not None else run.result
        found.append((run.run_id, run.workflow_id, run.status.value, run.parent_step_id, repr(ended), tuple(steps)))
    return sorted(found)


def simulated(seed: int, faults: Faults) -> State:
    """The state that a universe ends in."""
    found: list[State] = []

    async def main(universe: Universe) -> None:
        runtime = UniverseRuntime(universe)
        handle = await runtime.start(same_work.whole, run_id="whole")
        await handle.result()
        universe.heal()
        found.append(await state(runtime))

    outcome = run_universe(main, seed=seed, settings=Settings(workflows=WORKFLOWS, faults=faults))
    assert outcome.failure is None, f"seed {seed}: {outcome.failure}"
    return found[0]


@pytest.fixture(scope="module")
def expected() -> State:
    return simulated(0, Faults())


class Machine:
    """A directory, and the processes that work in it one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "rotor.db"
        self.effects = directory / "effects"
        self.ends: list[int] = []

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(PROGRAM), str(self.store), str(self.effects), *options]

    def run(self, *options: str, inject: str = "") -> subprocess.CompletedProcess[str]:
        """A process, killed or failed at a system call where `inject` says so, to its end."""
        command = self.command(*options)
        if inject:
            syscall = inject.partition(":")[0]
            trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={syscall}", "-e", f"inject={inject}"]
            command = trace + command
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
        self.ends.append(done.returncode)
        return done

    def check_the_end(self, expected: State) -> None:
        done = self.run()
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(RESULT)
        assert asyncio.run(self._state()) == expected
        times = Counter(self.effects.read_text().splitlines())
        assert len(times) == 2 + 2 * same_work.CHILDREN
        # Whatever was in flight at an end may have been done again, and nothing else.
        assert times.total() - len(times) <= (len(self.ends) - 1) * (same_work.CHILDREN + 1)

    async def _state(self) -> State:
        async with Runtime(self.store, workflows=WORKFLOWS, drain_timeout=0) as runtime:
            return await state(runtime)


needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None
    or subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode != 0,
    reason="there is no strace here that may trace; test_killed_at_random_moments stands in for it",
)


def test_undisturbed_it_ends_as_in_the_simulator(tmp_path: Path, expected: State) -> None:
    assert [row[2] for row in expected].count("completed") == same_work.CHILDREN
    Machine(tmp_path).check_the_end(expected)


@pytest.mark.parametrize("seed", range(20))
def test_crashed_in_the_simulator_it_ends_in_the_same_state(seed: int, expected: State) -> None:
    assert simulated(seed, Faults(crash=0.05, failed_fsync=0.02, failed_write=0.02, disk_full=0.05)) == expected


@needs_strace
@pytest.mark.parametrize(
    "inject",
    [
        *(f"fdatasync:signal=KILL:when={k}" for k in (1, 4)),
        *(f"pwrite64:signal=KILL:when={k}" for k in (1, 9, 60)),
        *(f"fsync:signal=KILL:when={k}" for k in (1, 6)),
        "fdatasync:error=EIO:when=6", "fdatasync:error=ENOSPC:when=3", "pwrite64:error=EIO:when=50",
        "pwrite64:error=ENOSPC:when=60..66",
    ],
)  # fmt: skip
def test_killed_or_failed_at_a_system_call_it_ends_in_the_same_state(
    inject: str, tmp_path: Path, expected: State
) -> None:
    machine = Machine(tmp_path)
    machine.run(inject=inject)
    if "KILL" in inject:
        assert machine.ends == [-9]
    machine.check_the_end(expected)


@needs_strace
def test_killed_again_and_again_while_it_recovers_it_ends_in_the_same_state(tmp_path: Path, expected: State) -> None:
    machine = Machine(tmp_path)
    for when in (60, 3, 2, 5, 8):
        machine.run(inject=f"pwrite64:signal=KILL:when={when}")
    assert machine.ends.count(-9) >= 4
    machine.check_the_end(expected)


def test_killed_at_random_moments_it_ends_in_the_same_state(tmp_path: Path, expected: State) -> None:
    machine = Machine(tmp_path)
    for after in (0, 1, 2):  # effects
        with subprocess.Popen(machine.command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            seen = _lines(machine.effects)
            while process.poll() is None and _lines(machine.effects) <= seen + after:
                time.sleep(0.0005)
            process.kill()
            machine.ends.append(process.wait())
    assert -9 in machine.ends
    machine.check_the_end(expected)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE on Windows")
@pytest.mark.parametrize("limit", [4_096, 150_000])
def test_with_a_limit_on_the_size_of_files_it_stops_by_name_and_then_ends_in_the_same_state(
    limit: int, tmp_path: Path, expected: State
) -> None:
    machine = Machine(tmp_path)
    done = machine.run("--limit", str(limit))
    assert done.returncode == same_work.STORE_FAILED, (done.stdout, done.stderr)
    assert "rotor.db" in done.stderr
    machine.check_the_end(expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few hundred kilobytes."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)],
                                       capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("no tmpfs can be mounted here (not allowed, or no mount)")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_on_a_full_disk_it_waits_for_room_and_then_ends_in_the_same_state(small_disk: Path, expected: State) -> None:
    machine = Machine(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(380 * 1024))
    with subprocess.Popen(
        machine.command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "disk is full" in line:
                break
        ballast.unlink(missing_ok=True)
        output, errors = process.communicate(timeout=60)
    assert "disk is full" in said, said
    machine.ends.append(process.returncode)
    assert process.returncode in (0, same_work.STORE_FAILED), said + errors
    if process.returncode == 0:
        assert output.strip() == str(RESULT)
    machine.check_the_end(expected)
