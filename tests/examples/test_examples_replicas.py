"""The example for many replicas: its files fit each other, and its commands do what they say, over a real PostgreSQL."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
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


def option(name: str) -> str:
    return command()[command().index(name) + 1]


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


def read(base: str, run_id: str) -> Any:
    """What came of the order: asked again while it has not ended."""
    found = until(lambda: (each := httpx.get(f"{base}/orders/{run_id}", timeout=60)).status_code != 504 and each)
    assert found.status_code == 200, found.text
    return found.json()


def answers(address: str) -> bool:
    return httpx.get(address).status_code == 200


def test_the_files_fit_each_other() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    pre_stop = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    stopping = int(option("--timeout-graceful-shutdown")) + drain_seconds()
    assert pod["terminationGracePeriodSeconds"] > pre_stop + stopping
    services = compose()["services"]
    assert set(services) == {"postgres", "one", "two"}
    for name in ("one", "two"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > stopping
        assert services[name]["environment"]["REPLICA_LABEL"] == name
        assert services[name]["ports"][0].endswith(f":{option('--port')}")
        assert (HERE / services[name]["build"]["context"] / services[name]["build"]["dockerfile"]).is_file()
    assert str(container()["ports"][0]["containerPort"]) == option("--port")
    assert f"\nUSER {container()['securityContext']['runAsUser']}\n" in (HERE / "Dockerfile").read_text()
    waits = int(re.search(r'result\(timeout="(\d+)s"\)', (HERE / "app.py").read_text())[1])  # type: ignore[index]
    assert waits < int(option("--timeout-graceful-shutdown")), "a reader gets its answer from a server that stops"
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


def test_the_manifests_are_what_kubernetes_takes_and_a_field_it_does_not_know_is_refused() -> None:
    schemas: Any = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for version in ("1.27", "1.37"):
        for each in manifests().values():
            schemas.validate(each, version, strict=True)
    wrong = manifests()["Deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(schemas.ValidationError, match="readynessProbe"):
        schemas.validate(wrong, "1.37", strict=True)


def test_the_image_is_made_of_files_that_its_builder_lets_through() -> None:
    allowed = [each[1:] for each in (HERE / "Dockerfile.dockerignore").read_text().splitlines() if each[:1] == "!"]
    assert all((ROOT / each).exists() for each in allowed)
    project = (ROOT / "pyproject.toml").read_text()
    packages = json.loads(re.search(r"wheel\]\npackages = (\[.*\])", project)[1])  # type: ignore[index]
    copied = re.findall(r"^COPY (\S+)", (HERE / "Dockerfile").read_text(), re.MULTILINE)
    assert {"pyproject.toml", "README.md", "LICENSE", *packages, *copied} == set(allowed)
    assert (HERE / "Dockerfile.dockerignore").read_text().splitlines()[1] == "*", "nothing else"


def test_the_database_is_waited_for_over_tcp() -> None:
    """While the official image makes the database, a server answers at the socket; it is stopped before the real one."""
    check = compose()["services"]["postgres"]["healthcheck"]["test"]
    assert check[check.index("-h") + 1] == "127.0.0.1"


def an_engine() -> None:
    """Skips the test unless there is a Docker engine with Compose, and the images that the files are built on."""
    if not shutil.which("docker"):
        pytest.skip("no docker on this machine")
    images = ("python:3.12-slim", "postgres:17")
    for check in (["docker", "compose", "version"], ["docker", "image", "inspect", *images]):
        done = subprocess.run(check, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no engine, no Compose, or no images {images}: {done.stderr.strip()[:200]}")


def test_a_container_that_is_killed_is_taken_over_by_the_other(tmp_path: Path) -> None:
    an_engine()
    # pip reaches its index by the host's own network, which there is where the engine makes no routes, too.
    (tmp_path / "host.yaml").write_text("services: {one: {build: {network: host}}, two: {build: {network: host}}}\n")
    files = ["-f", str(HERE / "compose.yaml"), "-f", str(tmp_path / "host.yaml")]
    run = partial(subprocess.run, check=True, text=True, capture_output=True)
    docker = ["docker", "compose", "-p", "rotor-test", *files]
    one, two = "http://127.0.0.1:8001", "http://127.0.0.1:8002"

    def rotor(*arguments: str) -> str:
        line = f'rotor {" ".join(arguments)} --store "$DATABASE_URL"'
        return str(run([*docker, "exec", "-T", "two", "sh", "-c", line]).stdout)

    try:
        run([*docker, "up", "--build", "--wait"])
        order = {"item": "milk", "quantity": 5, "after": "15s"}
        run_id = httpx.post(f"{one}/orders", json=order).json()["run_id"]
        until(lambda: "one" in rotor("replicas") and "two" in rotor("replicas"))
        killed = json.loads(run([*docker, "ps", "--format", "json", "one"]).stdout)["Name"]
        run(["docker", "update", "--restart=no", killed])  # or it would be there again before its lease has run out
        run([*docker, "kill", "-s", "KILL", "one"])
        assert read(two, run_id) == ["reserved milk"] * 5
        until(lambda: "one" not in rotor("replicas"))
        run([*docker, "start", "one"])
        until(partial(answers, f"{one}/rotor/readyz"))
        began = time.monotonic()
        run([*docker, "stop", "one"])
        assert time.monotonic() - began < 29, "it ended by itself"
        assert "Exited (0)" in run([*docker, "ps", "-a", "--format", "{{.Status}}", "one"]).stdout
    finally:
        subprocess.run([*docker, "down", "-v"], check=False)


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
        subprocess.run([sys.executable, "-c", check[3].replace("http://127.0.0.1:8000", one)], check=True)
        labels = until(lambda: (found := httpx.get(f"{two}/replicas").json()) and len(found) == 2 and found)
        assert {each["label"] for each in labels} == {"one", "two"}
        started = httpx.post(f"{one}/orders", json={"item": "tea", "quantity": 3})
        assert started.status_code == 202, started.text
        assert read(two, started.json()["run_id"]) == ["reserved tea"] * 3
        more = httpx.post(f"{one}/orders", json={"item": "milk", "quantity": 40}).json()["run_id"]
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=drain_seconds() + 30) in (0, -signal.SIGTERM), "uvicorn says either"
        assert read(two, more) == ["reserved milk"] * 40
        assert [each["label"] for each in httpx.get(f"{two}/replicas").json()] == ["two"]
