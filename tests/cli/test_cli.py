"""The command line, called in processes of its own."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cli_kit import rotor, rotor_json, start_rotor

from rotor_actors.cli import doctor
from rotor_actors.cli.finding import Finding
from rotor_actors.cli.main import main, make_parser
from rotor_actors.control import ControlTimeoutError


def test_run_prints_the_result_on_stdout_and_all_else_on_stderr(tmp_path: Path) -> None:
    done = rotor("run", "cli_kit:orders", "--data", '["a", "bad", "c"]', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 6
    assert "1 failed" in done.stderr
    assert "(100 % of 4 runs)" in done.stderr


def test_run_says_by_its_exit_status_how_the_run_ended(tmp_path: Path) -> None:
    failed = rotor("run", "cli_kit:order", "--data", '{"item": "bad"}', cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no such item" in failed.stderr
    cancelled = rotor("run", "cli_kit:quitter", cwd=tmp_path)
    assert (cancelled.returncode, cancelled.stdout) == (3, "")
    assert "not today" in cancelled.stderr


def test_the_same_run_id_again_is_answered_from_the_store(tmp_path: Path) -> None:
    for _ in range(2):
        done = rotor("run", "cli_kit:order", "--data", '{"item": "a", "count": 4}', "--run-id", "mine", cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, "12")
    assert [run["run_id"] for run in rotor_json("runs", "ls", cwd=tmp_path)] == ["mine"]


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rotor-actors {version('rotor-actors')}\n"


@pytest.mark.parametrize("command", [["serve", "cli_kit:workflows"], ["dashboard"], ["demo"]])
@pytest.mark.parametrize("number", ["99999", "-1"])
def test_a_port_that_cannot_be_is_refused(command: list[str], number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command, f"--port={number}"])
    assert f"a port is 0 to 65535, got {number}" in capsys.readouterr().err


@pytest.fixture(scope="module")
def place_with_a_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For commands that change nothing."""
    place = tmp_path_factory.mktemp("used")
    assert rotor("run", "cli_kit:order", "--data", '{"item": "a"}', cwd=place).returncode == 0
    return place


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "cli_kit"], "expected MODULE:NAME"),
        (["run", "no_such_module:x"], "there is no module 'no_such_module'"),
        (["run", "cli_kit:missing"], "has no 'missing'"),
        (["run", "cli_kit:price"], "expected a function decorated with @workflow"),
        (["run", "cli_kit:order", "--data", "{"], "--data must be JSON"),
        (["run", "cli_kit:order", "--data", "@missing.json"], "No such file"),
        (["runs", "ls", "--status", "asleep"], "asleep"),
        (["runs", "ls", "--since", "yesterday"], "is no time"),
        (["serve", "cli_kit:HERE"], "expected a Runtime"),
        (["unknown"], "invalid choice"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(
    place_with_a_store: Path, arguments: list[str], said: str
) -> None:
    done = rotor(*arguments, cwd=place_with_a_store)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_data_that_does_not_fit_and_a_store_that_is_not_there_are_named_errors(tmp_path: Path) -> None:
    wrong = rotor("run", "cli_kit:order", "--data", '{"count": 1}', cwd=tmp_path)
    assert wrong.returncode == 1
    assert "PayloadError" in wrong.stderr
    missing = rotor("runs", "ls", "--store", "nowhere.db", cwd=tmp_path)
    assert missing.returncode == 1
    assert "StoreError" in missing.stderr
    assert not (tmp_path / "nowhere.db").exists()


def test_runs_are_listed_shown_drawn_and_exported(tmp_path: Path) -> None:
    assert rotor("run", "cli_kit:orders", "--data", '["a", "bad"]', "--run-id", "top", cwd=tmp_path).returncode == 0
    table = rotor("runs", "ls", cwd=tmp_path).stdout.splitlines()
    assert table[0].split() == ["RUN_ID", "WORKFLOW_ID", "STATUS", "CREATED_AT", "TOOK", "NOTE"]
    assert len(table) == 4
    lines = rotor("runs", "ls", "-o", "jsonl", "--status", "failed", cwd=tmp_path).stdout.splitlines()
    assert [json.loads(line)["error"]["type"] for line in lines] == ["ValueError"]
    shown = rotor_json("runs", "show", "top", cwd=tmp_path)
    assert {child["step_id"]: child["status"] for child in shown["children"]} == {"a": "completed", "bad": "failed"}
    assert "completed" in shown["why"]
    drawn = rotor("runs", "tree", "top", cwd=tmp_path).stdout
    assert [line.split()[:2] for line in drawn.splitlines()] == [
        ["completed", "cli-orders"], ["completed", "a:"], ["failed", "bad:"],
    ]  # fmt: skip
    assert rotor("runs", "export", "top", "--format", "svg", "--to", "tree.svg", cwd=tmp_path).returncode == 0
    assert (tmp_path / "tree.svg").read_text().startswith("<svg")
    assert "no run has the id 'nobody'" in rotor("runs", "show", "nobody", cwd=tmp_path).stderr


def test_a_live_process_is_asked_to_act_and_may_be_looked_at_meanwhile(tmp_path: Path) -> None:
    serving = start_rotor("serve", "cli_kit:workflows", cwd=tmp_path)
    try:
        assert serving.stderr is not None
        assert "serving" in serving.stderr.readline()
        started = start_rotor("run", "cli_kit:nap", "--run-id", "sleeper", cwd=tmp_path)
        assert started.stderr is not None
        assert "in the process that has rotor.db open" in started.stderr.readline()
        assert rotor_json("runs", "show", "sleeper", cwd=tmp_path)["status"] == "running"
        report = rotor_json("runs", "cancel", "sleeper", "--reason", "enough", cwd=tmp_path)
        assert report["cancelled"] == ["sleeper"]
        _, said = started.communicate(timeout=30)
        assert (started.returncode, "enough" in said) == (3, True)
        again = rotor("runs", "cancel", "sleeper", cwd=tmp_path)
        assert (again.returncode, "had ended already" in again.stderr) == (0, True)
        refused = rotor("runs", "cancel", "nobody", cwd=tmp_path)
        assert (refused.returncode, "no run has the id 'nobody'" in refused.stderr) == (1, True)
        doctor = rotor("doctor", cwd=tmp_path)
        assert f"pid {serving.pid} answers" in doctor.stdout
    finally:
        serving.send_signal(signal.SIGTERM)
        _, said = serving.communicate(timeout=30)
    assert serving.returncode == 0, said
    assert not (tmp_path / "rotor.db.sock").exists()


def test_an_event_starts_a_run_and_a_signal_lets_it_go_on(tmp_path: Path) -> None:
    serving = start_rotor("serve", "cli_kit:workflows", cwd=tmp_path)
    try:
        assert serving.stderr is not None
        serving.stderr.readline()
        event = ["send", "shop.ordered", "--data", '{"item": "a", "count": 2}', "--id", "once"]
        started = rotor_json(*event, cwd=tmp_path)
        assert len(started) == 1
        assert rotor_json(*event, cwd=tmp_path) == started, "a repeated id is delivered once"
        early = rotor("signal", "nobody-waits", cwd=tmp_path)
        assert (early.returncode, "SignalNotFoundError" in early.stderr) == (1, True)
        assert rotor("signal", "go", "--data", "40", cwd=tmp_path).returncode == 0
        watched = rotor("runs", "watch", started[0]["run_id"], cwd=tmp_path)
        assert (watched.returncode, watched.stdout.strip()) == (0, "42")
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=30)


def test_without_an_owner_the_store_is_opened_for_a_moment(tmp_path: Path) -> None:
    interrupted = start_rotor("run", "cli_kit:nap", "--run-id", "left", cwd=tmp_path)
    assert interrupted.stderr is not None
    assert "run left" in interrupted.stderr.readline()
    interrupted.kill()
    interrupted.communicate(timeout=30)
    assert rotor_json("runs", "cancel", "left", cwd=tmp_path)["cancelled"] == ["left"]
    assert rotor_json("runs", "ls", "--status", "cancelled", cwd=tmp_path)[0]["run_id"] == "left"


def test_ended_runs_are_restarted_resumed_deleted_and_pruned(tmp_path: Path) -> None:
    failed = rotor("run", "cli_kit:order", "--data", '{"item": "bad"}', "--run-id", "one", cwd=tmp_path)
    assert failed.returncode == 1
    serving = start_rotor("serve", "cli_kit:workflows", cwd=tmp_path)
    try:
        assert serving.stderr is not None
        serving.stderr.readline()
        assert rotor_json("runs", "resume", "one", cwd=tmp_path) == {"run_id": "one"}
        assert rotor("runs", "watch", "one", "--plain", cwd=tmp_path).returncode == 1
        again = rotor_json("runs", "restart", "one", cwd=tmp_path)["run_id"]
        assert rotor("runs", "watch", again, cwd=tmp_path).returncode == 1
        assert "deleted 1 run\n" in rotor("runs", "delete", again, cwd=tmp_path).stderr
        assert [run["run_id"] for run in rotor_json("runs", "ls", cwd=tmp_path)] == ["one"]
        assert rotor_json("runs", "prune", "--older-than", "30d", "--dry-run", cwd=tmp_path)["runs"] == 0
        forked = rotor_json("runs", "fork", "one", "--from", "price", cwd=tmp_path)["run_id"]
        assert rotor("runs", "watch", forked, cwd=tmp_path).returncode == 1
        assert rotor("pause", "a-key", cwd=tmp_path).returncode == 0
        assert rotor("unpause", "a-key", cwd=tmp_path).returncode == 0
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=30)


def test_check_names_unfinished_runs_that_todays_code_would_break(tmp_path: Path) -> None:
    started = start_rotor("run", "cli_kit:nap", "--run-id", "sleeper", cwd=tmp_path)
    assert started.stderr is not None
    started.stderr.readline()
    started.kill()
    started.communicate(timeout=30)
    checked = rotor("check", "cli_kit", cwd=tmp_path)
    assert (checked.returncode, "1 unfinished runs checked, 0 would break" in checked.stdout) == (0, True)


def test_a_second_interrupt_ends_at_once_and_the_store_is_whole(tmp_path: Path) -> None:
    serving = start_rotor("serve", "cli_kit:workflows", cwd=tmp_path)
    assert serving.stderr is not None
    serving.stderr.readline()
    started = start_rotor("run", "cli_kit:nap", "--run-id", "sleeper", cwd=tmp_path)
    assert started.stderr is not None
    started.stderr.readline()
    serving.send_signal(signal.SIGINT)
    assert "once more" in serving.stderr.readline()
    serving.send_signal(signal.SIGINT)
    serving.communicate(timeout=30)
    started.kill()
    started.communicate(timeout=30)
    assert rotor_json("runs", "show", "sleeper", cwd=tmp_path)["status"] == "running"


def test_the_doctor_finds_a_healthy_machine_healthy_and_a_damaged_store_damaged(tmp_path: Path) -> None:
    healthy = rotor_json("doctor", cwd=tmp_path)
    assert {each["state"] for each in healthy} <= {"ok", "warning"}
    assert {"python", "WAL mode", "file lock", "store", "sqlite"} <= {each["check"] for each in healthy}
    (tmp_path / "rotor.db").write_bytes(b"this is no database, but long enough to be looked at" * 20)
    ill = rotor("doctor", cwd=tmp_path)
    assert ill.returncode == 1
    assert "problem" in ill.stdout


def test_the_demo_shows_a_fan_out_and_ends(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    for number in range(24):
        (tmp_path / "sources" / f"m{number}.py").write_text("def f():\n    pass\n")
    (tmp_path / "sources" / "broken.py").write_text("def f(:\n")
    done = rotor("demo", str(tmp_path / "sources"), "--port", "0", "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "48 lines, 24 functions, 1 files unparsed"
    assert "dashboard at http://127.0.0.1:" in done.stderr


def test_a_demo_that_cannot_listen_says_so_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "m.py").write_text("def f():\n    pass\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = rotor("demo", str(tmp_path / "sources"), "--port", port, cwd=tmp_path)
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["run"],
        ["serve"],
        ["runs", "ls"],
        ["runs", "watch"],
        ["send"],
        ["dashboard"],
        ["doctor"],
        ["demo"],
    ):
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args([*command, "--help"])
        assert ended.value.code == 0
        assert "usage: rotor" in capsys.readouterr().out


def test_the_dashboard_of_a_file_that_another_process_owns_shows_it_and_has_that_process_act(tmp_path: Path) -> None:
    import httpx

    serving = start_rotor("serve", "cli_kit:workflows", cwd=tmp_path)
    assert serving.stderr is not None
    serving.stderr.readline()
    showing = start_rotor("dashboard", "--port", "0", cwd=tmp_path)
    try:
        started = start_rotor("run", "cli_kit:nap", "--run-id", "sleeper", cwd=tmp_path)
        assert started.stderr is not None
        started.stderr.readline()
        assert showing.stderr is not None
        address = showing.stderr.readline().split()[-1]
        with httpx.Client(base_url=address, timeout=30) as browser:
            shown = browser.get("api/run", params={"id": "sleeper"}).json()
            assert shown["run"]["status"] == "running"
            body = {"action": "cancel", "run_id": "sleeper"}
            done = browser.post("api/act", json=body, headers={"x-rotor-action": "1"})
            assert done.json()["said"].startswith("Cancelled 1 runs")
            services = browser.get("api/services").json()
            assert services["audit"][0]["target"] == "sleeper"
            assert ["Owner", f"pid {serving.pid}"] in services["facts"]
            serving.send_signal(signal.SIGTERM)
            serving.communicate(timeout=30)
            refused = browser.post("api/act", json=body, headers={"x-rotor-action": "1"})
            assert refused.status_code == 409
            assert "no running process answers" in refused.json()["error"]
            assert browser.get("api/runs").json()["runs"][0]["status"] == "cancelled"
        started.communicate(timeout=30)
    finally:
        for process in (serving, showing):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=30)


def test_what_a_table_of_the_doctor_cuts_short_is_said_in_full_below(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/a_database_with_a_name_that_is_longer_than_a_column"
    ill = rotor("doctor", "--store", url, cwd=tmp_path)
    assert ill.returncode == 1
    assert "start the server, or check host and port" in ill.stdout


def test_an_owner_that_hangs_is_a_problem_for_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hangs(*_: Any, **__: Any) -> None:
        raise ControlTimeoutError("no answer within 5s")

    def unread(_: Path) -> Iterator[Finding]:
        return iter(())

    (tmp_path / "rotor.db").touch()
    monkeypatch.setattr(doctor, "_store", unread)
    monkeypatch.setattr(doctor, "ask", hangs)
    assert main(["doctor", "--store", str(tmp_path / "rotor.db")]) == 1
    assert "its event loop is blocked" in capsys.readouterr().out


def test_a_store_beside_a_runtime_that_has_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from rotor_actors import Runtime\ndef app():\n    return Runtime('own.db')\n")
    refused = rotor("serve", "own:app", "--store", "other.db", cwd=tmp_path)
    assert refused.returncode == 2
    assert "'own:app' has a store of its own, so --store would not be used" in refused.stderr


def test_an_event_that_starts_nothing_is_said_to_be_sent(tmp_path: Path) -> None:
    sent = rotor("send", "nobody.asked", cwd=tmp_path)
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "sent nobody.asked; it started no run\n")


def test_run_takes_the_step_runners_of_an_app(tmp_path: Path) -> None:
    done = rotor("run", "cli_kit:heavy", "--data", "7", "--app", "cli_kit:heavy_app", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr
    lacking = rotor("run", "cli_kit:heavy", "--data", "7", cwd=tmp_path)
    assert (lacking.returncode, "no runner is called 'cpu'" in lacking.stderr) == (1, True)
