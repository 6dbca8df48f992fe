"""What type checkers say of programs that use the library: `typing/accepted.py` and `typing/rejected.py.txt`."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "tests" / "typing"

_MARK = re.compile(r"# E(?:\[(mypy|pyright)\])?: (.+?)(?=\s+# E|$)")
_MYPY_ERROR = re.compile(r"^.+?\.py:(\d+): error: (.*)$", re.MULTILINE)


class Found(NamedTuple):
    line: int
    message: str


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), f"{arguments[0]} itself failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def _by_mypy(file: Path) -> list[Found]:
    output = _run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", str(file))
    return [Found(int(line), message) for line, message in _MYPY_ERROR.findall(output)]


def _by_pyright(file: Path) -> list[Found]:
    project = {"include": [file.name], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(project))
    output = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(file.parent))
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] == 1
    return [
        Found(each["range"]["start"]["line"] + 1, each["message"])
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]


CHECKERS = {"mypy": _by_mypy, "pyright": _by_pyright}


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]' brings it")
    return name


def _check(checker: str, sample: str, folder: Path) -> list[Found]:
    file = folder / "sample.py"
    file.write_text((SAMPLES / sample).read_text(encoding="utf-8"), encoding="utf-8")
    check: Callable[[Path], list[Found]] = CHECKERS[checker]
    return check(file)


def _expected(checker: str) -> Iterator[Found]:
    lines = (SAMPLES / "rejected.py.txt").read_text(encoding="utf-8").splitlines()
    in_code = False
    for number, line in enumerate(lines, start=1):
        in_code = in_code or line.startswith("import")  # the marks before that are the file's own explanation
        for only_for, message in _MARK.findall(line) if in_code else ():
            if only_for in ("", checker):
                yield Found(number, message)


def test_types_are_inferred_where_nothing_is_annotated(checker: str, tmp_path: Path) -> None:
    assert _check(checker, "accepted.py", tmp_path) == []


def test_mistakes_are_found_on_their_lines_and_nowhere_else(checker: str, tmp_path: Path) -> None:
    expected = list(_expected(checker))
    found = _check(checker, "rejected.py.txt", tmp_path)
    assert len(expected) > 25, "the marks were not read"
    unexpected = [each for each in found if each.line not in {mark.line for mark in expected}]
    assert not unexpected, unexpected
    for mark in expected:
        messages = [each.message for each in found if each.line == mark.line]
        assert any(mark.message in message for message in messages), f"line {mark.line}: {mark.message!r} in {messages}"


def test_the_first_programs_that_are_shown_pass_as_printed(checker: str, tmp_path: Path) -> None:
    for name in ("README.md", "docs/tutorial.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        first = re.search(r"^```python[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert first is not None
        file = tmp_path / "sample.py"
        file.write_text(first.group(1), encoding="utf-8")
        assert CHECKERS[checker](file) == [], name
