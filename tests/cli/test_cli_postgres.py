"""The command line on a database that replicas share: real processes, a real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from cli_kit import rotor, rotor_json, start_rotor
from postgres_kit import a_url, new_schema


@pytest.fixture
def url() -> str:
    return f"{a_url()}?schema={new_schema()}"


Serving = tuple[subprocess.Popen[str], list[int]]


@pytest.fixture
def serving(url: str, tmp_path: Path) -> Generator[Serving]:
    """Two replicas, and their pids."""
    process = start_rotor("serve", "cli_kit:workflows", "--store", url, "--replicas", "2", cwd=tmp_path)
    assert process.stderr is not None
    process.stderr.readline()
    pids = [int(process.stderr.readline().rsplit("pid ", 1)[1]) for _ in range(2)]
    yield process, pids
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def until(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(0.1)
    return found


def test_replicas_of_one_machine_share_the_work_and_what_one_leaves_another_takes_up(
    serving: Serving, url: str, tmp_path: Path
) -> None:
    process, pids = serving

    def replicas() -> Any:
        return json.loads(rotor("replicas", "--store", url, "-o", "json", cwd=tmp_path).stdout)

    found = until(lambda: (shown := replicas()) and len(shown["replicas"]) == 2 and shown)["replicas"]
    assert {int(each["label"].rpartition(":")[2]) for each in found} == set(pids), "called after machine and pid"
    assert sum(each["is_coordinator"] for each in found) == 1
    assert all(0 < each["lease_left"] <= 10 for each in found)
    assert all("cli-nap" in each["workflows"] for each in found)
    healthy = rotor("doctor", "--store", url, cwd=tmp_path)
    assert (healthy.returncode, "the shortest has" in healthy.stdout) == (0, True), healthy.stdout
    table = rotor("replicas", "--store", url, cwd=tmp_path).stdout
    assert table.split()[:7] == ["REPLICA", "NUMBER", "SINCE", "LEASE", "OWNED", "ROLE", "WORKFLOWS"]

    started = rotor_json("send", "shop.ordered", "--data", '{"item": "a", "count": 2}', "--store", url, cwd=tmp_path)
    run_id = started[0]["run_id"]
    owner = until(lambda: rotor_json("runs", "show", run_id, "--store", url, cwd=tmp_path)["owner"])
    label = next(each["label"] for each in found if each["number"] == owner)
    until(
        lambda: (
            "waits for signal 'go' (step 'go')" in rotor("runs", "show", run_id, "--store", url, cwd=tmp_path).stdout
        )
    )
    shell = start_rotor("run", "cli_kit:nap", "--run-id", "napping", "--store", url, cwd=tmp_path)
    assert shell.stderr is not None
    assert "run napping" in shell.stderr.readline()
    (shown,) = [each for each in replicas()["replicas"] if each["label"].startswith("shell ")]
    assert not {"cli-nap", "cli-order"} & set(shown["workflows"]), "what the service offers is left to it"
    shell.send_signal(signal.SIGINT)
    shell.communicate(timeout=30)
    assert rotor("runs", "cancel", "napping", "--store", url, cwd=tmp_path).returncode == 0
    os.kill(int(label.rpartition(":")[2]), signal.SIGKILL)

    def has_another_owner() -> bool:
        return rotor_json("runs", "show", run_id, "--store", url, cwd=tmp_path)["owner"] not in (None, owner)

    until(has_another_owner)
    until(lambda: rotor("signal", "go", "--data", "40", "--store", url, cwd=tmp_path).returncode == 0)
    watched = rotor("runs", "watch", run_id, "--store", url, cwd=tmp_path)
    assert (watched.returncode, watched.stdout.strip()) == (0, "42")

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert re.search(rf"replica-\d, pid {label.rpartition(':')[2]}, was ended by SIGKILL", said)
    assert replicas() == {"replicas": [], "unowned": []}


def test_runs_are_steered_without_a_process_of_ones_own(serving: Serving, url: str, tmp_path: Path) -> None:
    del serving
    at = ("--store", url)
    for name in ("one", "two"):
        started = start_rotor("run", "cli_kit:nap", "--run-id", name, *at, cwd=tmp_path)
        assert started.stderr is not None
        assert f"run {name}" in started.stderr.readline()
        started.send_signal(signal.SIGINT)  # what it owned is nobody's now
        started.communicate(timeout=30)
    report = rotor_json("runs", "cancel", "one", "--reason", "enough", *at, cwd=tmp_path)
    assert report["cancelled"] == ["one"]
    again = rotor("runs", "cancel", "one", *at, cwd=tmp_path)
    assert (again.returncode, "had ended already" in again.stderr) == (0, True)
    refused = rotor("runs", "resume", "one", *at, cwd=tmp_path)
    assert (refused.returncode, "no workflow 'cli-nap' is registered" in refused.stderr) == (1, True)
    resumed = rotor_json("runs", "resume", "one", "--app", "cli_kit:workflows", *at, cwd=tmp_path)
    assert resumed == {"run_id": "one"}
    # Whoever claims it parks it again: it sleeps, and is nobody's. What is seen of it is that it lives.
    until(lambda: rotor_json("runs", "show", "one", *at, cwd=tmp_path)["status"] == "running")
    assert rotor_json("runs", "cancel", "two", *at, cwd=tmp_path)["cancelled"] == ["two"]
    again_as = rotor_json("runs", "restart", "two", "--app", "cli_kit:workflows", *at, cwd=tmp_path)["run_id"]
    until(lambda: rotor_json("runs", "show", again_as, *at, cwd=tmp_path)["status"] == "running")
    assert rotor("pause", "a-key", *at, cwd=tmp_path).returncode == 0
    assert rotor("unpause", "a-key", *at, cwd=tmp_path).returncode == 0
    missing = rotor("signal", "nobody", *at, cwd=tmp_path)
    assert (missing.returncode, "SignalNotFoundError" in missing.stderr) == (1, True)


def test_runs_that_no_replica_can_run_are_named_and_can_be_cancelled(url: str, tmp_path: Path) -> None:
    at = ("--store", url)
    started = start_rotor("run", "cli_kit:nap", "--run-id", "left", *at, cwd=tmp_path)
    assert started.stderr is not None
    started.stderr.readline()
    started.send_signal(signal.SIGINT)  # leaves in good order: nobody owns it now
    started.communicate(timeout=30)
    done = rotor("replicas", *at, cwd=tmp_path)
    assert done.returncode == 1, "for scripts and alarms"
    assert "no replica can run them" in done.stdout
    assert "no replica has the store open" in done.stderr
    ill = rotor("doctor", *at, cwd=tmp_path)
    assert ill.returncode == 1
    assert "1 of workflow cli-nap: nobody can run them" in ill.stdout
    assert "none that is alive can run workflow 'cli-nap'" in rotor("runs", "show", "left", *at, cwd=tmp_path).stdout
    checked = rotor("check", "cli_kit", *at, cwd=tmp_path)
    assert (checked.returncode, "1 unfinished runs checked, 0 would break" in checked.stdout) == (0, True), checked
    assert rotor_json("runs", "cancel", "left", *at, cwd=tmp_path)["cancelled"] == ["left"]
    assert rotor("replicas", *at, cwd=tmp_path).returncode == 0


def test_a_database_without_a_store_and_a_file_are_told_apart(url: str, tmp_path: Path) -> None:
    empty = rotor("runs", "ls", "--store", url, cwd=tmp_path)
    assert (empty.returncode, "there is no store to look at" in empty.stderr) == (1, True)
    assert rotor("run", "cli_kit:order", "--data", '{"item": "a"}', cwd=tmp_path).returncode == 0
    done = rotor("replicas", cwd=tmp_path)
    assert (done.returncode, "has one owner" in done.stderr) == (2, True)
    away = rotor("runs", "ls", "--store", "postgresql://127.0.0.1:1/none", cwd=tmp_path)
    assert (away.returncode, "StoreUnavailableError" in away.stderr) == (1, True)


def test_two_databases_are_served_looked_at_and_steered_as_one(url: str, tmp_path: Path) -> None:
    both = f"{url} {a_url()}?schema={new_schema()}"
    serving = start_rotor("serve", "cli_kit:workflows", "--store", both, cwd=tmp_path)
    assert serving.stderr is not None
    assert "serving" in serving.stderr.readline()
    try:
        for number in range(4):
            data = f'["a{number}", "b"]'
            done = rotor("run", "cli_kit:orders", "--data", data, "--store", both, cwd=tmp_path)
            assert (done.returncode, done.stdout.strip()) == (0, "6")
        assert len(rotor_json("runs", "ls", "--store", both, cwd=tmp_path)) == 12
        counts = [len(rotor_json("runs", "ls", "--store", each, cwd=tmp_path)) for each in both.split()]
        assert sum(counts) == 12
        assert all(count % 3 == 0 for count in counts), "whole trees"
        shown = json.loads(rotor("replicas", "--store", both, "-o", "json", cwd=tmp_path).stdout)
        assert len(shown["replicas"]) == 2, "the process is a replica in each"
        event = ["send", "shop.ordered", "--data", '{"item": "a", "count": 2}', "--store", both]
        (started,) = rotor_json(*event, cwd=tmp_path)
        assert rotor_json("runs", "cancel", started["run_id"], "--store", both, cwd=tmp_path)["cancelled"]
    finally:
        serving.send_signal(signal.SIGTERM)
        _, said = serving.communicate(timeout=60)
    assert serving.returncode == 0, said
    twice = rotor("runs", "ls", "--store", f"{url} {url}", cwd=tmp_path)
    assert "two shards are called" in twice.stderr


def test_what_the_database_refuses_for_good_is_not_tried_again(url: str, tmp_path: Path) -> None:
    place, _, options = url.partition("?")
    nowhere = f"{place.rpartition('/')[0]}/no_such_database?{options}"
    done = rotor("serve", "cli_kit:workflows", "--store", nowhere, "--replicas", "1", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("there is no such database") == 1
    assert "rotor: gave up: replica-1 cannot begin" in done.stderr
