"""What the README shows is run, exactly as it is printed there."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rotor_actors import RetryPolicy, Runtime, durations, errors, invoke_request, step_run
from rotor_actors import threads as worker_threads
from rotor_actors.ports import Options
from rotor_actors.workflows import DEFAULT_RETRIES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [code for found, code in _BLOCK.findall(README) if found == language]


def _quick_start() -> str:
    section = README.split("\n## Quick start\n")[1].split("\n## ")[0]
    ((language, code),) = _BLOCK.findall(section)
    assert language == "python"
    return str(code)


def _run(program: str, home: Path) -> str:
    file = home / "program.py"
    file.write_text(program, encoding="utf-8")
    # -W error: a warning in what we show would be a bad start.
    command = [sys.executable, "-W", "error", file.name]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_quick_start_is_short_and_runs_as_printed(tmp_path: Path) -> None:
    code = _quick_start()
    assert len(code.splitlines()) <= 20
    first = _run(code, tmp_path)
    assert sorted(first.splitlines()) == ["13", "fetching a.test", "fetching bb.test"]
    assert first.endswith("13\n")


def test_quick_start_run_again_takes_everything_from_the_journal(tmp_path: Path) -> None:
    _run(_quick_start(), tmp_path)
    assert _run(_quick_start(), tmp_path) == "13\n"


@pytest.mark.parametrize("number", range(len(_blocks("python"))))
def test_every_python_block_is_a_program_that_runs(number: int, tmp_path: Path) -> None:
    _run(_blocks("python")[number], tmp_path)


def test_there_are_only_blocks_that_are_tested() -> None:
    assert {language for language, _ in _BLOCK.findall(README)} == {"python", "sh"}
    assert README.count("```") == 2 * len(_BLOCK.findall(README))


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_survey_killed_in_the_middle_goes_on_as_printed(tmp_path: Path) -> None:
    (block,) = [code for code in _blocks("sh") if "kill -9" in code]
    assert len(block.splitlines()) == 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    done = subprocess.run(["sh", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^all +600 ", done.stdout, re.MULTILINE), done.stdout
    assert not list(tmp_path.glob("code_survey.db*"))


def test_make_knows_the_commands_that_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make (\w+)$", README, re.MULTILINE))
    assert named == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:docs|examples|benchmarks|tests)/[\w./]*)`", README))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_errors_that_are_named_exist() -> None:
    named = set(re.findall(r"`(\w+Error)\b", README)) - {"TypeError", "CancelledError"}
    assert {"WorkflowFailedError", "StoreLockedError"} <= named
    assert [name for name in named if name not in errors.__all__] == []


def test_limits_are_those_of_the_code() -> None:
    """Each number of the table beside the place that it comes from."""
    options = Options()  # of a runtime that was told nothing: see the next test
    limits = README.split("\n## Limits\n")[1].split("\n## ")[0]
    for row, value in [
        ("| `timeout` of an invoke | at most 24 h |", invoke_request.LONGEST_INVOKE == 24 * 3600),
        ("| `timeout` of a step | 5 min unless given", durations.seconds(step_run.STEP_TIMEOUT, name="timeout") == 300),
        ("| input, result, step result | 4 MiB each", options.payload_limit == 4 * 2**20),
        ("| depth of invokes | 100;", options.max_depth == 100),
        ("| sync steps at a time | 40 worker threads |", worker_threads.WORKER_THREADS == 40),
        ("| retries | 3 for a run, none for a step", DEFAULT_RETRIES == 3),
        ("| cleanup after a cancellation | 5 s;", options.cancel_grace == 5),
        ("| draining when the runtime is left | 10 s;", options.drain_timeout == 10),
        ("| started runs under way | no limit;", options.max_active_runs is None),
        ("| recoveries in a row without progress | 10,", options.max_recoveries == 10),
    ]:
        assert row in limits, row
        assert value, row
    policy = RetryPolicy(3)
    assert (policy.initial, policy.factor, policy.maximum, policy.jitter) == (1, 2, 3600, True)
    assert "after 1 s, 2 s, 4 s… (at most 1 h), less up to half of that by chance" in " ".join(README.split())


def test_a_runtime_that_is_told_nothing_has_those_limits() -> None:
    defaults = {name: each.default for name, each in inspect.signature(Runtime).parameters.items()}
    options = Options()
    for name in ("max_depth", "max_active_runs", "strict_replay", "payload_limit", "max_recoveries"):
        assert defaults[name] == getattr(options, name), name
    for name in ("cancel_grace", "drain_timeout"):
        assert durations.seconds(defaults[name], name=name) == getattr(options, name), name
