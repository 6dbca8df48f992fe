"""SIGTERM with a dashboard tab open and 100 children running: the server stops, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served_app import CHILDREN, DRAIN_SECONDS

from rotor_actors import RunStatus, RuntimeView

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# What a loaded machine may add to `drain_timeout` + 1 s.
SLACK_SECONDS = 20.0  # for a loaded machine; a tab that keeps a server from stopping keeps it for ever

SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "served_app:app"],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "served_app:app"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "served_app:app"],
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(server: str, place: Path, port: int) -> Generator[subprocess.Popen[bytes]]:
    pytest.importorskip(server)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
        "SERVED_STORE": str(place / "served.db"),
    }
    command = [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[server])]
    log = (place / "log").open("wb")
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def until_running(base: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text()
        try:
            detail = httpx.get(f"{base}/api/run", params={"id": "parent", "steps": 1000}, timeout=5).json()
            states = [step["child"] and step["child"]["status"] for step in detail["steps"]]
            if states.count("running") == CHILDREN:
                return
        except (httpx.HTTPError, ValueError, KeyError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"its children did not begin: {log.read_text()}")


def keep_a_tab_open(base: str, closed: threading.Event) -> None:
    """As a browser does: when the stream ends it asks for the next at once."""
    while not closed.is_set():
        try:
            with httpx.stream("GET", f"{base}/api/changes", timeout=5) as stream:
                for _ in stream.iter_bytes():
                    pass
        except httpx.HTTPError:
            closed.wait(0.02)


def look(store: Path) -> dict[RunStatus, int]:
    async def count() -> dict[RunStatus, int]:
        async with RuntimeView(store) as view:
            return await view.count()

    return asyncio.run(count())


@pytest.mark.parametrize("server", SERVERS)
def test_a_tab_that_is_open_does_not_keep_the_server_from_stopping(server: str, tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/dash"
    closed = threading.Event()
    with served(server, tmp_path, port) as process:
        until_running(base, process, tmp_path / "log")
        tab = threading.Thread(target=keep_a_tab_open, args=(base, closed))
        tab.start()
        try:
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=DRAIN_SECONDS + 1 + SLACK_SECONDS)
            took = time.monotonic() - begun
        finally:
            closed.set()
            tab.join()
    assert took < DRAIN_SECONDS + 1 + SLACK_SECONDS
    print(f"{server}: stopped {took:.2f} s after SIGTERM, drain_timeout {DRAIN_SECONDS} s")
    assert look(tmp_path / "served.db") == {RunStatus.RUNNING: CHILDREN + 1}
