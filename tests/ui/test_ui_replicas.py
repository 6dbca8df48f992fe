"""The dashboard's page of replicas, in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sync_api: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-ui")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: make test-ui", allow_module_level=True)

HERE = Path(__file__).resolve().parent
SHOTS = os.environ.get("ROTOR_UI_SHOTS")


def test_replicas_their_leases_and_runs_that_nobody_can_run_are_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "shown_replicas.py"), str(port)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "shown\n"
        with sync_api.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(30_000)
            for attempt in range(100):
                try:
                    page.goto(f"http://localhost:{port}/")
                    break
                except sync_api.Error:
                    assert attempt < 99
                    page.wait_for_timeout(100)
            page.get_by_role("link", name="Replicas").click()
            row = page.get_by_role("row", name="web-1")
            row.get_by_text("left").wait_for()
            assert "coordinator" in page.get_by_role("table").first.inner_text()
            page.get_by_text("no replica can run them").wait_for()
            if SHOTS:
                page.screenshot(path=f"{SHOTS}/replicas.png")
            page.get_by_role("link", name="Runs").click()
            page.get_by_role("columnheader", name="Owner").wait_for()
            page.get_by_role("cell", name="web-1", exact=False).wait_for()
            page.get_by_role("cell", name="nobody", exact=True).wait_for()
            chromium.close()
    finally:
        process.kill()
        process.communicate()
