"""The dashboard in a real browser. `make test-ui` installs what this needs; without it these tests are skipped by name."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-ui")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: make test-ui", allow_module_level=True)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS = os.environ.get("ROTOR_UI_SHOTS")


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "shown_app.py"), str(port)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "shown\n"
    address = f"http://localhost:{port}/"
    _wait_for(port)
    yield address
    process.kill()
    process.communicate()


def _wait_for(port: int) -> None:
    import time

    for _ in range(500):
        try:
            socket.create_connection(("localhost", port)).close()
            return
        except OSError:
            time.sleep(0.02)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, base: str) -> Iterator[Any]:
    """A page that complains of whatever goes wrong in it, and of each request to somebody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=base)
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    wrong: list[str] = []

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith((base, "data:")):
            wrong.append(request.url)

    def broke(error: Any) -> None:
        wrong.append(str(error))

    opened.on("console", said)
    opened.on("request", asked)
    opened.on("pageerror", broke)
    yield opened
    context.close()
    assert not wrong


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(300)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def expect(thing: Any) -> Any:
    return sync_api.expect(thing)


def test_one_click_leads_from_an_invoke_to_its_child_and_from_a_child_to_its_invoker(page: Any) -> None:
    page.goto("#/run?id=family")
    shoot(page, "run")
    for step, status in (("leaf good", "completed"), ("leaf bad", "failed"), ("impatient", "running")):
        page.get_by_role("row", name=step).locator("a.child").click()
        expect(page.locator("header.run")).to_contain_text(status)
        expect(page.locator(".facts")).to_contain_text(f"step “{step}” of family")
        page.locator("a.invoker").click()
        expect(page.locator("h1")).to_have_text("family")
    page.get_by_role("row", name="leaf bad").locator("a.child").click()
    expect(page.locator(".error")).to_contain_text("ValueError: cannot parse <b>bad</b>")
    shoot(page, "failed")
    page.locator(".breadcrumb a").first.click()
    expect(page.locator("h1")).to_have_text("family")


def test_the_list_filters_by_status_workflow_id_and_text_in_the_error(page: Any) -> None:
    page.goto("")
    expect(page.get_by_role("row")).to_have_count(51)
    shoot(page, "runs")
    page.get_by_role("link", name="failed").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="all").click()
    page.get_by_label("Text in error").fill("cannot parse")
    page.keyboard.press("Enter")
    page.get_by_label("Text in error").blur()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Text in error").fill("")
    page.get_by_label("Text in error").blur()
    page.get_by_label("Run id starts with").fill("fam")
    page.get_by_label("Run id starts with").blur()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto("#/runs?workflow=nothing")
    expect(page.locator("tbody tr")).to_have_count(50)
    first = page.locator("tbody tr .mono").first.inner_text()
    page.get_by_role("button", name="More").click()
    expect(page.locator("tbody tr .mono").first).not_to_have_text(first)
    page.get_by_role("button", name="Back").click()
    expect(page.locator("tbody tr .mono").first).to_have_text(first)


def test_what_is_being_typed_outlives_the_updates_of_the_page(page: Any) -> None:
    page.goto("#/runs")
    expect(page.get_by_role("row")).to_have_count(51)
    page.get_by_label("Run id starts with").press_sequentially("fam")
    for _ in range(3):
        page.evaluate("dispatchEvent(new HashChangeEvent('hashchange'))")  # renders anew, as each update does
        page.wait_for_timeout(50)
    assert page.get_by_label("Run id starts with").input_value() == "fam"


def test_a_tree_of_ten_thousand_runs_opens_collapses_and_shows_counts(page: Any) -> None:
    page.goto("#/run?id=large&tab=tree")
    tree = page.get_by_role("tree")
    expect(tree.get_by_role("treeitem").first).to_contain_text("10000 below: 10001 completed")
    assert tree.get_by_role("treeitem").count() < 100, "only what is in sight is in the page"
    tree.evaluate("element => element.scrollTop = element.scrollHeight")
    expect(tree.get_by_role("treeitem").last).to_contain_text("9999: nothing")
    tree.evaluate("element => element.scrollTop = 0")
    page.get_by_role("button", name="collapse wide").click()
    expect(tree.get_by_role("treeitem")).to_have_count(1)
    page.goto("#/run?id=family&tab=tree")
    expect(page.get_by_role("treeitem")).to_have_count(5)
    shoot(page, "tree")
    page.get_by_role("button", name="Show as picture").click()
    expect(page.locator(".icicle .cell")).to_have_count(5)


def test_the_waterfall_keeps_waiting_and_working_apart_and_shows_retries(page: Any) -> None:
    page.goto("#/run?id=family")
    page.get_by_role("row", name="leaf bad").locator("a.child").click()
    page.get_by_role("link", name="waterfall").click()
    bars = page.get_by_role("listitem")
    expect(bars).to_have_count(3)
    expect(bars.nth(2)).to_contain_text("try 2")
    assert bars.nth(2).locator("i.wait").count() == 1
    page.get_by_label("Zoom").fill("2")
    page.goto("#/run?id=family&tab=waterfall")
    expect(page.get_by_role("listitem")).to_have_count(5)
    shoot(page, "waterfall")


def test_cancel_asks_says_how_many_and_the_page_follows_without_a_reload(page: Any, browser: Any, base: str) -> None:
    watching = browser.new_page(base_url=base)
    watching.goto("#/run?id=held-up")
    expect(watching.locator("header.run")).to_contain_text("running")
    page.goto("#/run?id=held-up")
    expect(page.locator(".why")).to_contain_text("held")
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 run below it")
    shoot(page, "cancel")
    page.get_by_role("button", name="Keep as it is").click()
    expect(page.locator("header.run")).to_contain_text("running")
    page.get_by_role("button", name="Cancel…").click()
    page.get_by_label("Reason").fill("enough")
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cancelled 2 runs")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("header.run")).to_contain_text("cancelled")
    expect(watching.locator("header.run")).to_contain_text("cancelled", timeout=5_000)
    watching.close()
    page.goto("#/services")
    expect(page.get_by_role("row", name="held-up")).to_contain_text("Cancelled 2 runs")
    expect(page.get_by_role("row", name="journal")).to_contain_text("running")
    shoot(page, "services")


def test_an_ended_run_is_run_again_from_a_step(page: Any) -> None:
    page.goto("#/run?id=family")
    page.get_by_role("button", name="run again from impatient").click()
    expect(page.get_by_role("dialog")).to_contain_text("Run again from “impatient”?")
    page.get_by_role("button", name="Run again", exact=True).click()
    expect(page).not_to_have_url(re.compile("id=family$"))
    expect(page.locator("header.run")).to_contain_text("completed")
    expect(page.get_by_role("row", name="leaf good")).to_have_count(1)


def test_workflows_show_counts_and_latencies(page: Any) -> None:
    page.goto("#/workflows")
    expect(page.get_by_role("row", name="leaf").first).to_contain_text("a call")
    expect(page.locator(".uplot").first).to_be_visible()
    shoot(page, "workflows")


def test_it_works_by_keyboard_and_focus_is_visible(page: Any) -> None:
    page.goto("#/runs?status=failed")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("leaf")
    page.goto("#/run?id=family")
    page.get_by_role("row", name="leaf good").locator("a.child").focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("leaf")


@pytest.mark.parametrize("view", ["#/runs", "#/run?id=family", "#/run?id=family&tab=waterfall", "#/workflows"])
def test_a_narrow_screen_needs_no_sideways_scrolling(page: Any, view: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(view)
    expect(page.locator("h1")).to_be_visible()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(page, f"narrow-{view.strip('#/').split('?')[0]}")


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("svg, :disabled, .skip")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["#/runs", "#/run?id=family", "#/services"])
def test_text_has_contrast_in_both_schemes(page: Any, scheme: str, view: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(view)
    expect(page.locator("h1")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate(CONTRAST) == []
    if scheme == "dark":
        shoot(page, f"dark-{view.strip('#/').split('?')[0]}")


def test_it_pauses_while_hidden_and_says_when_it_is_disconnected(page: Any) -> None:
    page.goto("#/runs")
    connection = page.locator(".connection")
    expect(connection).to_contain_text("live")
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    expect(connection).to_contain_text("paused")
    page.evaluate(hide, False)
    expect(connection).to_contain_text("live")


def test_it_says_so_when_the_server_is_gone(browser: Any, base: str) -> None:
    page = browser.new_page(base_url=base)
    page.goto("#/runs")
    expect(page.locator(".connection")).to_contain_text("live")

    def cut(route: Any) -> None:
        route.abort()

    page.route("**/api/changes", cut)
    expect(page.locator(".connection")).to_contain_text("disconnected")
    page.unroute("**/api/changes")
    expect(page.locator(".connection")).to_contain_text("live")
    page.close()
