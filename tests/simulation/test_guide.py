"""The guide's code runs as it stands there, and fails where it says so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rotor_actors.simulation import UniverseFailed

GUIDE = Path(__file__).resolve().parent.parent.parent / "docs" / "testing-workflows.md"
BLOCK = re.compile(r"(?:<!-- fails with: (?P<failure>.*?) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)


class Block(NamedTuple):
    code: str
    line: int
    failure: str | None


def _blocks() -> list[Block]:
    text = GUIDE.read_text(encoding="utf-8")
    return [
        Block(found["code"], text[: found.start("code")].count("\n"), found["failure"])
        for found in BLOCK.finditer(text)
    ]


def test_the_code_of_the_guide_runs_and_fails_where_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "test_guide"}
    ran: list[str] = []
    for block in _blocks():
        before = dict(namespace)
        exec(compile("\n" * block.line + block.code, str(GUIDE), "exec"), namespace)
        for name, value in namespace.items():
            is_test = name.startswith("test_") and not inspect.iscoroutinefunction(value)
            if is_test and value is not before.get(name):
                ran.append(name)
                _run(value, block.failure)
    assert ran.count("test_a_customer_is_charged_once") == 2, "once with the bug, once without"
    assert len(ran) == 4


def _run(test: Any, failure: str | None) -> None:
    if failure is None:
        test()
        return
    with pytest.raises(UniverseFailed, match=failure) as caught:
        test()
    assert "life 1 DIES: before a commit" in str(caught.value)
    assert re.search(r"at: .*testing-workflows.md:\d+: assert bank.charged ==", str(caught.value)), str(caught.value)
    assert "/dull' python -m pytest" in str(caught.value), "nothing but the crash is needed, as the guide says"


def test_the_report_in_the_guide_is_what_is_printed() -> None:
    blocks = _blocks()
    at = next(place for place, block in enumerate(blocks) if block.failure is not None)
    namespace: dict[str, Any] = {"__name__": "test_guide"}
    for block in blocks[: at + 1]:
        exec(compile("\n" * block.line + block.code, str(GUIDE), "exec"), namespace)
    with pytest.raises(UniverseFailed) as caught:
        namespace["test_a_customer_is_charged_once"]()
    shown = re.search(r"```text\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        told = re.sub(r"[\d.]+ s  |universe \d+ of \d+|\d+ choices|in \d+ runs", "", line.strip())
        if line.startswith(("versions", "at: ", "  ROTOR")) or line.strip() == "…":
            continue  # another machine, another path
        printed = re.sub(r"[\d.]+ s  |universe \d+ of \d+|\d+ choices|in \d+ runs", "", str(caught.value))
        assert told in printed, f"{line!r} is not in\n{caught.value}"
