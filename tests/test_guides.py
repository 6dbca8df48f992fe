"""What the guides show is run: every Python block of a guide, in order, in one namespace, in an empty directory."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(guide: Path) -> list[tuple[int, str]]:
    """Each block with the line before its first."""
    text = guide.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in _BLOCK.finditer(text)]


@pytest.mark.parametrize("guide", sorted(GUIDES.glob("*.md")), ids=lambda guide: guide.stem)
def test_the_code_of_a_guide_runs(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"guide_{guide.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where classes of the guide are looked up
    for lines_before, code in _blocks(guide):
        exec(compile("\n" * lines_before + code, str(guide), "exec"), module.__dict__)


def test_there_are_guides_with_code() -> None:
    assert any(_blocks(guide) for guide in GUIDES.glob("*.md"))
