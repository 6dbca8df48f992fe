"""`python -m rotor_actors.simulation`: random work, judged, counted, and a failure that can be seen again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rotor_actors.journal import Journal
from rotor_actors.simulation.__main__ import main


def test_it_counts_what_it_did(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    assert main(["--universes", "30", "--runs", "2x3", "--faults", "5", "--json", str(file)]) == 0
    printed = capsys.readouterr()
    assert "30 universes of 2 x 3 runs on sqlite, seeds from 0: 0 violations" in printed.out
    assert re.search(r"universes/s with 1 process\n", printed.out)
    numbers = json.loads(file.read_text())
    assert numbers["universes"] == 30
    assert numbers["violations"] == 0
    assert numbers["crashes"] == numbers["faults_fired"]["crash"] > 0
    assert sum(numbers["invariants_checked"].values()) > 1_000
    assert "\r" not in printed.err, "a progress bar is for terminals"
    assert all(re.match(r"\s*\d+% \d+ universes, ", line) for line in printed.err.splitlines()), (
        "where it took ten seconds it says so"
    )


def test_several_processes_run_as_many_universes() -> None:
    command = [sys.executable, "-m", "rotor_actors.simulation", "--universes", "25", "--runs", "2x2", "--jobs", "2",
               "--store", "memory"]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "25 universes of 2 x 2 runs on memory" in ran.stdout


def _released_at_once(journal: Journal, seq: int, effect: Callable[[], None]) -> None:
    journal._release([effect])  # pyright: ignore[reportPrivateUsage]


def test_a_violation_is_reported_smaller_and_can_be_seen_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "when_durable", _released_at_once)
    arguments = ["--universes", "2", "--runs", "2x2", "--store", "memory", "--work", "trial"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert re.search(r"\d+ choices, shrunk to \d+ in \d+ runs", printed)
    assert "InvariantError: 2 no effect before its past is durable" in printed
    replay = re.search(r"replay: python -m rotor_actors.simulation (.*) --replay '(.*)'", printed)
    assert replay is not None, printed
    again = [argument.strip("'") for argument in replay[1].split()]
    assert main([*again, "--replay", replay[2]]) == 1
    assert "InvariantError: 2 no effect before its past is durable" in capsys.readouterr().out
    monkeypatch.undo()
    assert main([*again, "--replay", replay[2]]) == 0
    assert "this universe does not fail" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--runs", "many"], ["--replay", "one/two"], ["--store", "disk"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:
        main(arguments)
    assert arguments[1] in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("policy", ["sound", "chaos", "pct(3)"])
def test_random_work_ends_well_under_every_policy(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--universes", "30", "--runs", "3x4", "--faults", "3", "--policy", policy, "--seed", "10000"]
    assert main(arguments) == 0, capsys.readouterr().out


def test_wide_fan_outs_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--universes", "6", "--runs", "10x10", "--work", "fan-out", "--cancels", "0.4"]
    assert main(arguments) == 0, capsys.readouterr().out
