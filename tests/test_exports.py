"""A run tree as one file that opens without a server."""

from __future__ import annotations

import asyncio
import json
import re
from xml.etree import ElementTree

import pytest

from rotor_actors import Context, Runtime, RunTree, workflow


@workflow(id='leaf "<&>"', retries=0)
async def leaf(ctx: Context, text: str) -> str:
    if text == "bad":
        raise ValueError("<script>alert(1)</script>")
    return text


@workflow(id="top")
async def top(ctx: Context, texts: list[str]) -> int:
    ends = await asyncio.gather(*(ctx.invoke(text, workflow=leaf, body=text, retries=0) for text in texts))
    return sum(end.is_failed for end in ends)


async def grow() -> RunTree:
    async with Runtime(":memory:") as runtime:
        handle = await runtime.start(top, ["good", "bad"])
        assert await handle.result() == 1
        return await handle.tree()


@pytest.fixture(scope="module")
def tree() -> RunTree:
    return asyncio.run(grow())


def test_json_holds_each_run_parents_first(tree: RunTree) -> None:
    runs = json.loads(tree.export("json"))["runs"]
    assert [(run["below"], run["status"]) for run in runs] == [(0, "completed"), (1, "completed"), (1, "failed")]
    assert runs[2]["error"]["type"] == "ValueError"
    assert runs[1]["parent_run_id"] == runs[0]["run_id"]


def test_svg_is_well_formed_with_a_row_for_each_run(tree: RunTree) -> None:
    picture = ElementTree.fromstring(tree.export("svg"))
    assert len(picture.findall("{http://www.w3.org/2000/svg}g")) == 3


def test_mermaid_links_each_child_to_its_parent_by_its_step(tree: RunTree) -> None:
    text = tree.export("mermaid")
    assert text.startswith("flowchart TD\n")
    assert re.findall(r'r0 -->\|"(\w+)"\| r(\d)', text) == [("good", "1"), ("bad", "2")]
    assert '"<&>"' not in text


def test_html_asks_nobody_for_anything_and_shows_payloads_as_text(tree: RunTree) -> None:
    text = tree.export("html")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r"(src|href)=", text)


def test_notebooks_show_trees_and_runs(tree: RunTree) -> None:
    assert getattr(tree, "_repr_html_")().startswith("<svg")  # noqa: B009 - as a notebook does
    assert tree.run.run_id in getattr(tree.run, "_repr_html_")()  # noqa: B009


def test_an_unknown_format_is_refused_by_name(tree: RunTree) -> None:
    with pytest.raises(ValueError, match="unknown format 'docx': one of html, svg, mermaid, json"):
        tree.export("docx")
