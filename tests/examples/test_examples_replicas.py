"""The example for many replicas: its files fit each other, and its commands do what they say, over a real PostgreSQL."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = ROOT / "examples" / "replicas"
yaml: Any = importlib.import_module("yaml")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text())
    return found


def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((HERE / "kubernetes.yaml").read_text())}


def container() -> dict[str, Any]:
    (found,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def command() -> list[str]:
    """What the image runs."""
    text = (HERE / "Dockerfile").read_text()
    return list(json.loads(re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)[1]))  # type: ignore[index]


def drain_seconds() -> int:
    return int(re.search(r"^DRAIN_SECONDS = (\d+)$", (HERE / "app.py").read_text(), re.MULTILINE)[1])  # type: ignore[index]


@contextmanager
def replica(url: str, label: str) -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """The image's command with the environment that the manifests give it, at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    arguments = [port if each == "8000" else "127.0.0.1" if each == "0.0.0.0" else each for each in command()]
    environment = {**os.environ, "DATABASE_URL": url, "REPLICA_LABEL": label, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=HERE, env=environment)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def until(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 90
    while True:
        try:
            if found := condition():
                return found
        except httpx.HTTPError:
            pass
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(0.1)


def answers(address: str) -> bool:
    return httpx.get(address).status_code == 200


def test_the_files_fit_each_other() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    pre_stop = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pre_stop + drain_seconds()
    services = compose()["services"]
    assert set(services) == {"postgres", "one", "two"}
    for name in ("one", "two"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > drain_seconds()
        assert services[name]["environment"]["REPLICA_LABEL"] == name
        assert services[name]["ports"][0].endswith(f":{command()[-1]}")
        assert (HERE / services[name]["build"]["context"] / services[name]["build"]["dockerfile"]).is_file()
    assert str(container()["ports"][0]["containerPort"]) == command()[-1]
    names = {each["name"] for each in container()["env"]}
    assert names == {"DATABASE_URL", "REPLICA_LABEL"}
    assert names == set(re.findall(r'os\.environ\.get\("(\w+)"', (HERE / "app.py").read_text()))
    secret = next(each for each in container()["env"] if each["name"] == "DATABASE_URL")["valueFrom"]["secretKeyRef"]
    assert secret["name"] == manifests()["Secret"]["metadata"]["name"]
    assert secret["key"] in manifests()["Secret"]["stringData"]
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifests()["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests()["Service"]["spec"]["selector"],
        manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    assert manifests()["PodDisruptionBudget"]["spec"]["minAvailable"] < manifests()["Deployment"]["spec"]["replicas"]


def test_two_replicas_of_the_image_share_a_database_and_one_that_stops_loses_nothing() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        kit = pytest.importorskip("postgres_kit")
    finally:
        sys.path.remove(str(ROOT / "tests"))
    url = f"{kit.a_url()}?schema={kit.new_schema()}"
    with ExitStack() as stack:
        first, one = stack.enter_context(replica(url, "one"))
        _, two = stack.enter_context(replica(url, "two"))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container()[probe]["httpGet"]["path"]
            for base in (one, two):
                until(partial(answers, base + path))
                assert httpx.get(base + path).json() == {"status": "ok"}, "the probe's answer, not the page"
        check = compose()["services"]["one"]["healthcheck"]["test"]
        assert check[:3] == ["CMD", "python", "-c"]
        subprocess.run([sys.executable, "-c", check[3].replace("http://localhost:8000", one)], check=True)
        labels = until(lambda: (found := httpx.get(f"{two}/replicas").json()) and len(found) == 2 and found)
        assert {each["label"] for each in labels} == {"one", "two"}
        started = httpx.post(f"{one}/orders", json={"item": "tea", "quantity": 3})
        assert started.status_code == 202, started.text
        read = httpx.get(f"{two}/orders/{started.json()['run_id']}", timeout=60)
        assert (read.status_code, read.json()) == (200, ["reserved tea"] * 3)
        more = httpx.post(f"{one}/orders", json={"item": "milk", "quantity": 40}).json()["run_id"]
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=drain_seconds() + 30) in (0, -signal.SIGTERM), "uvicorn says either"
        assert httpx.get(f"{two}/orders/{more}", timeout=60).json() == ["reserved milk"] * 40
        assert [each["label"] for each in httpx.get(f"{two}/replicas").json()] == ["two"]
