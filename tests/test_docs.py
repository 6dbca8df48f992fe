"""The pages: each is in the site's list, each error has its place, the tutorial does what it says."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import rotor_actors
import rotor_actors.errors
from rotor_actors.control import ControlError, ControlTimeoutError
from rotor_actors.telemetry import Metrics

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_each_error_has_a_place_of_its_own_that_says_what_to_do() -> None:
    errors = {
        name
        for name, value in vars(rotor_actors.errors).items()
        if inspect.isclass(value) and issubclass(value, rotor_actors.errors.RotorError)
    }
    errors -= {"RotorError", "WorkflowError"}
    page = (DOCS / "errors.md").read_text("utf-8")
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == errors | {
        ControlError.__name__,
        ControlTimeoutError.__name__,
    }
    assert page.count("*What to do:*") == len(errors) + 2


def test_each_public_name_is_in_the_reference_and_the_reference_names_no_other() -> None:
    listed = re.findall(r"^::: rotor_actors\.(\w+)$", (DOCS / "reference.md").read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {*rotor_actors.__all__, "simulation"}


def test_each_page_is_in_the_list_of_the_site_and_the_list_names_no_other() -> None:
    listed = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_grafana_board_asks_for_metrics_that_there_are() -> None:
    board = json.loads((DOCS / "grafana-board.json").read_text("utf-8"))
    wanted = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"rotor_\w+", target["expr"])
    }
    known = {metric.name for metric in Metrics().registry.collect()}
    assert {re.sub("_(total|bucket)$", "", name) for name in wanted} <= known


def test_the_tutorial_kills_a_program_and_no_finished_step_is_repeated(tmp_path: Path) -> None:
    text = (DOCS / "tutorial.md").read_text("utf-8")
    found = re.search(r"^```python[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    (tmp_path / "letters.py").write_text(found[1])
    executed = tmp_path / "executed.txt"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "letters.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def said() -> list[str]:
        return executed.read_text().split() if executed.exists() else []

    killed = start()
    while len(said()) < 4:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    for _ in range(2):
        again = start()
        out, _ = again.communicate(timeout=60)
        assert out.split() == [f"WORD{number}" for number in range(10)]
    times = Counter(said())
    assert len(times) == 10
    assert sum(times.values()) <= 11, "only the step that was under way is executed again"
