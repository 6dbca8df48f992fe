"""The parts of the code survey that need no runtime: measuring, finding packages, progress, tables."""

import io
from pathlib import Path

import pytest

from rotor_actors import RunStatus
from survey.metrics import Metrics, NotPythonError, Unparsed, add_up, measure
from survey.packages import find_packages
from survey.progress import PLAIN_EVERY, Progress
from survey.table import format_survey

SOURCE = """
# a comment
class Box:
    def put(self, items, limit=3):
        for item in items:
            if item and limit or not item:
                yield [x for x in item if x]

def plain():
    def inner(a):
        return 1 if a else 2
    return inner
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_measure_counts_lines_functions_classes_and_branches(tmp_path: Path) -> None:
    path = tmp_path / "box.py"
    path.write_text(SOURCE)
    metrics = measure(str(path))
    assert (metrics.files, metrics.lines, metrics.code_lines) == (1, 12, 9)
    assert (metrics.functions, metrics.classes) == (3, 1)
    # put: itself, for, if, and, or, comprehension and its if; plain: itself; inner: itself and its condition
    assert (metrics.max_complexity, metrics.total_complexity) == (7, 10)
    assert metrics.seconds >= 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"def broken(:\n", "line 1: invalid syntax"),
        (b"x = 1\x00\n", "null bytes"),
        (b"# coding: no-such-codec\n", "unknown encoding"),
        (b"x = '\xff'\n", "unicode error"),
        (b"x = " + b"(" * 500, "too many nested parentheses"),
    ],
)
def test_what_does_not_parse_is_said_so(tmp_path: Path, source: bytes, reason: str) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(source)
    with pytest.raises(NotPythonError, match=reason):
        measure(str(path))


def test_a_source_nested_deeper_than_the_interpreter_recurses_does_not_crash(tmp_path: Path) -> None:
    path = tmp_path / "deep.py"
    path.write_text("x = " + "-" * 50_000 + "1\n")
    with pytest.raises(NotPythonError):
        measure(str(path))


def test_packages_are_directories_with_sources_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ["b/two.py", "b/one.py", "a/three.py", "a/notes.txt", "site-packages/x.py", ".hidden/y.py", "top.py"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    packages = find_packages(str(tmp_path))
    assert [(package.path, package.files) for package in packages] == [
        (".", ["top.py"]),
        ("a", ["three.py"]),
        ("b", ["one.py", "two.py"]),
    ]
    assert [package.files for package in find_packages(str(tmp_path), limit=3)] == [
        ["top.py"],
        ["three.py"],
        ["one.py"],
    ]


def test_parts_add_up_and_what_does_not_parse_counts_as_a_file() -> None:
    part = Metrics(
        path="a",
        files=2,
        lines=10,
        code_lines=8,
        functions=3,
        classes=1,
        max_complexity=4,
        total_complexity=6,
        seconds=0.5,
        unparsed=[Unparsed(path="a/x.py", error="line 1: invalid syntax")],
    )
    whole = add_up("all", [part, part], [Unparsed(path="y.py", error="line 2: invalid syntax")])
    assert (whole.files, whole.lines, whole.max_complexity, whole.total_complexity) == (5, 20, 4, 12)
    assert [file.path for file in whole.unparsed] == ["y.py", "a/x.py", "a/x.py"]
    text = format_survey([part], whole)
    assert "Largest packages" in text
    assert "y.py: line 2: invalid syntax" in text


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, ended_before=10, clock=clock)
    clock.now += 2
    progress.update({RunStatus.COMPLETED: 29, RunStatus.FAILED: 1, RunStatus.RUNNING: 4, RunStatus.QUEUED: 6})
    assert stream.getvalue().startswith("\r\x1b[K30 of 40 runs done, 10 running, \x1b[31m1 failed\x1b[0m")
    assert ", 10/s" in stream.getvalue()
    assert "\n" not in stream.getvalue()


def test_progress_has_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Progress(stream, clock=Clock()).update({RunStatus.FAILED: 1})
    assert stream.getvalue() == "\r\x1b[K1 of 1 runs done, 0 running, 1 failed, 1000/s"


def test_progress_is_a_plain_line_now_and_then_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    progress.update({RunStatus.RUNNING: 1})
    assert not stream.getvalue()
    clock.now += PLAIN_EVERY
    progress.update({RunStatus.COMPLETED: 4, RunStatus.RUNNING: 1})
    progress.update({RunStatus.COMPLETED: 5})
    progress.finish({RunStatus.COMPLETED: 5})
    assert stream.getvalue() == "4 of 5 runs done, 1 running, 2/s\n5 of 5 runs done, 0 running, 2/s\n"
