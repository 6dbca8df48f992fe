"""Real processes, killed with SIGKILL at many points and started again, until the work is done."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from rotor_actors import SQLiteStore
from rotor_actors.records import Kind
from rotor_actors.stores.base import RunQuery

PROGRAM = Path(__file__).parent / "programs" / "durable_work.py"
ROOT = PROGRAM.parent.parent.parent
CHILDREN, STEPS_OF_CHILD, STEPS_OF_PARENT = 24, 3, 8
EFFECTS = CHILDREN * STEPS_OF_CHILD + 2 * STEPS_OF_PARENT
SLACK = 4
RESULT = [28, 3 * sum(range(24)), 28]


class Work:
    """The program's store and its side effects, over any number of processes."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.store = directory / "rotor.db"
        self.effects = directory / "effects"
        self.effects.touch()
        self._directory = directory
        self._options = options
        self.kills = 0

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), str(self.store), str(self.effects), *self._options, *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def lines(self) -> list[str]:
        return self.effects.read_text().splitlines()

    def run_until(self, effects: int) -> bool:
        """Run until so many side effects have happened, then kill it; False if it came to its end before.

        It does not run away from a machine that is slow to look: some effects later it stands still.
        """
        with self.start("--most", str(effects + SLACK)) as process:
            while process.poll() is None and len(self.lines()) < effects:
                time.sleep(0.001)
            was_running = process.poll() is None
            process.kill()
            _, errors = process.communicate()
        if was_running:
            self.kills += 1
        else:
            assert process.returncode == 0, errors
        return was_running

    def run_to_the_end(self) -> str:
        with self.start() as process:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output

    def recorded(self) -> set[str]:
        """The side effects of steps whose outcome is in the journal; looked up in a copy of what the crash has left."""
        if not self.store.exists():
            return set()
        copy = self._directory / "copy.db"
        for end in ("", "-wal"):
            source = self.store.with_name(self.store.name + end)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + end))
        store = SQLiteStore(copy)
        store.open()
        found: set[str] = set()
        for run in store.list_runs(RunQuery(limit=1_000)):
            for step in store.steps(run.n):
                if step.kind is Kind.RUN:
                    number = (run.parent_step_id or "").removeprefix("child ")
                    where = f"child {number} " if run.workflow_id == "child" else ""
                    found.add(f"{run.run_id} {where}{step.step_id}")
        store.close()
        for file in self._directory.glob("copy.db*"):
            file.unlink()
        return found


def check_the_end(work: Work, output: str) -> None:
    assert output.strip() == str(RESULT)
    times = Counter(work.lines())
    assert len(times) == EFFECTS
    # A step may be repeated only when it was in flight at a kill; at most all children are at once.
    assert times.total() - EFFECTS <= work.kills * CHILDREN
    store = SQLiteStore(work.store)
    store.open()
    runs = store.list_runs(RunQuery(limit=1_000))
    assert sorted(run.parent_step_id or "" for run in runs) == sorted(["", *(f"child {i}" for i in range(CHILDREN))])
    assert {line.split()[0] for line in times} == {run.run_id for run in runs}
    store.close()


def kill_at(work: Work, points: list[int]) -> None:
    """Kill it when so many effects have happened, one after the other, then let it come to its end."""
    recorded: set[str] = set()
    for point in points:
        before = len(work.lines())
        if not work.run_until(max(point, before + 1)):
            break  # what was repeated counts, too: the last of them may find it done
        assert not recorded & set(work.lines()[before:])  # what was recorded before this process began
        recorded = work.recorded()
        assert recorded <= set(work.lines())  # no outcome without its effect
    before = len(work.lines())
    output = work.run_to_the_end()
    assert not recorded & set(work.lines()[before:])
    check_the_end(work, output)
    assert work.kills >= len(points) - 2


@pytest.mark.parametrize(("seed", "kills"), [(1, 11), (2, 11)])
def test_killed_at_many_points_no_recorded_step_is_repeated_and_no_child_spawned_twice(
    tmp_path: Path, seed: int, kills: int
) -> None:
    kill_at(Work(tmp_path), sorted(random.Random(seed).sample(range(1, EFFECTS - 4), kills)))


def test_killed_on_uvloop(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    kill_at(Work(tmp_path, "--uvloop"), [5, 40, 80])
