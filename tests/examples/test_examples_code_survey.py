"""The main job, as a user runs it: a process of its own, killed in the middle, started again."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import code_survey
import pytest

from rotor_actors import Runtime

PACKAGES, FILES = 6, 15
SOURCES = PACKAGES * FILES
# Heavy enough that a kill finds some files parsed and others not.
SOURCE = "\n".join(
    f"def f{n}(a, b):\n    return [x for x in a if x and b] if a else {{b: [1, 2, 3]}}\n" for n in range(400)
)
BROKEN = "pkg3/bad.py"
LAST = f"pkg{PACKAGES - 1}/m9.py"  # in the order in which they are begun


class Survey:
    """One directory of sources, the store beside it, and the processes that survey it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "sources"
        self.store = home / "survey.db"
        self.trace = home / "trace.txt"

    def write_sources(self) -> None:
        for package in range(PACKAGES):
            folder = self.directory / f"pkg{package}"
            folder.mkdir(parents=True)
            for file in range(FILES):
                (folder / f"m{file}.py").write_text(SOURCE)
        (self.directory / BROKEN).write_text("def broken(:\n")

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, code_survey.__file__, str(self.directory), "--store", str(self.store), *options]
        environment = os.environ | {"CODE_SURVEY_TRACE": str(self.trace)}
        return subprocess.Popen(
            command,
            env=environment,
            cwd=self.home,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, *options: str) -> tuple[dict[str, Any], str]:
        """Run to the end. Returns the report and what was said on the way."""
        process = self.start("--json", *options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return json.loads(out), err

    def parsed(self) -> list[str]:
        return self.trace.read_text().splitlines() if self.trace.exists() else []

    def journaled(self) -> set[str]:
        """The files whose runs have ended. No workflow is named here, so that opening the store starts none."""

        async def read() -> set[str]:
            async with Runtime(self.store) as runtime:
                runs = await runtime.runs(workflow="survey-file", limit=10_000)
                return {str(run.input) for run in runs if run.ended_at is not None}

        return asyncio.run(read())


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    survey = Survey(tmp_path)
    survey.write_sources()
    return survey


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_survey_reports_every_file_and_the_failed_run_of_the_one_that_does_not_parse(survey: Survey) -> None:
    report, said = survey.finish()
    assert report["total"]["files"] == SOURCES + 1
    assert report["total"]["functions"] == SOURCES * 400
    [unparsed] = report["total"]["unparsed"]
    assert unparsed["path"].endswith(BROKEN)
    assert unparsed["error"] == "line 1: invalid syntax"
    assert f"surveying {survey.directory}" in said
    assert f"{1 + PACKAGES + SOURCES + 1} of {1 + PACKAGES + SOURCES + 1} runs done, 0 running, 1 failed" in said
    assert "\x1b" not in said  # it is no terminal
    assert len(survey.parsed()) == SOURCES + 1


def test_second_run_is_answered_from_the_journal(survey: Survey) -> None:
    first, _ = survey.finish("--limit", "10")
    again, said = survey.finish("--limit", "10")
    assert again == first
    assert "all 12 runs taken from the journal" in said
    assert len(survey.parsed()) == 10
    survey.finish("--limit", "10", "--fresh")
    assert len(survey.parsed()) == 20


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_survey_goes_on_and_parses_no_journaled_file_again(survey: Survey, how: signal.Signals) -> None:
    last = survey.directory / LAST
    last.unlink()
    os.mkfifo(last)  # to read it takes until somebody writes: however fast the machine is, the survey does not end
    process = survey.start()
    wait_until(lambda: str(last) in survey.parsed(), process)
    process.send_signal(how)
    if how is signal.SIGINT:
        assert process.stderr is not None
        assert any(line.startswith("interrupted: start it again") for line in process.stderr)
        last.write_text("")  # the interpreter ends when its threads do
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130), said
    last.unlink()
    last.write_text(SOURCE)
    journaled = survey.journaled()
    assert 0 < len(journaled) < SOURCES + 1
    assert str(last) not in journaled
    parsed_before = len(survey.parsed())

    report, said = survey.finish()
    taken = int(said.partition(" runs taken from the journal")[0].rpartition(" ")[2])
    parsed_after = survey.parsed()[parsed_before:]
    assert len(journaled) <= taken <= len(journaled) + PACKAGES
    assert set(parsed_after).isdisjoint(journaled)
    assert len(parsed_after) == SOURCES + 1 - len(journaled)
    assert report["total"]["files"] == SOURCES + 1


def test_table_goes_to_stdout_and_everything_else_to_stderr(survey: Survey) -> None:
    process = survey.start("--limit", "20")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("Largest packages")
    assert "runs done" in err
    assert "runs done" not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [(["nowhere"], "nowhere is not a directory"), ([".", "--limit", "0"], "--limit takes a number of files")],
)
def test_wrong_arguments_are_refused_by_name(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        code_survey.main(options)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err
