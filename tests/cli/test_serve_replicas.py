"""`rotor serve --replicas`: processes that are kept alive, and end together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from cli_kit import rotor, rotor_json, start_rotor

from rotor_actors.cli.processes import CannotBeginError, Processes, said
from supervisors import MaxRestartsExceeded

# Says that it lives, then drains for a moment when it is told to end.
LIVES = """
import signal, sys, time
def told(*_):
    print("drained", flush=True)
    sys.exit({status})
signal.signal(signal.SIGTERM, told)
print("alive", flush=True)
time.sleep(60)
"""


def processes(source: str, count: int) -> Processes:
    return Processes(count, lambda number: [sys.executable, "-c", source], "replica-{}".format)


def read_pid(line: str) -> int:
    assert "serving" in line, line
    return int(line.rsplit("pid ", 1)[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replicas", "3"], "rotor.db (SQLiteStore) has one owner, so it serves one process"),
        (["--replicas", "2", "--store", ":memory:"], "the store memory (MemoryStore) has one owner"),
        (["--replicas", "0"], "--replicas must be at least 1, got 0"),
        (["--replicas", "some"], "invalid int value"),
    ],
)
def test_what_one_process_must_own_is_refused_by_name(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = rotor("serve", "cli_kit:workflows", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.asyncio
async def test_all_are_told_to_end_at_once_and_each_line_says_whose_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    kept, stop = processes(LIVES.format(status=0), 3), asyncio.Event()
    running = asyncio.create_task(kept.run(stop))
    out = ""
    while out.count("alive") < 3:
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    stop.set()
    await running
    out += capfd.readouterr().out
    lines = sorted(out.splitlines())
    assert lines == [f"replica-{number} | {word}" for number in (1, 2, 3) for word in ("alive", "drained")]
    assert kept.statuses == {1: 0, 2: 0, 3: 0}


@pytest.mark.asyncio
async def test_one_that_ends_in_bad_order_is_told_apart() -> None:
    kept, stop = processes("print('no ear for signals', flush=True); input()", 1), asyncio.Event()
    running = asyncio.create_task(kept.run(stop))
    await asyncio.sleep(0.5)
    stop.set()
    await running
    assert said(kept.statuses[1]) == "was ended by SIGTERM"


@pytest.mark.asyncio
async def test_those_that_end_again_and_again_end_them_all(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotor_actors.cli.processes.SHORTEST_LIFE", 0)
    with pytest.raises(MaxRestartsExceeded):
        await processes("raise SystemExit(7)", 1).run(asyncio.Event())
    assert capfd.readouterr().err.count("ended with status 7") == 4


@pytest.mark.asyncio
async def test_a_line_longer_than_any_buffer_comes_out_whole_or_in_pieces_but_comes_out(
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = "import sys; sys.stdout.write('x' * 300_000 + chr(10) + 'end'); sys.stdout.flush(); input()"
    kept, stop = processes(source, 1), asyncio.Event()
    running, out = asyncio.create_task(kept.run(stop)), ""
    while out.count("x") < 300_000:  # all is written: SIGTERM would end it in the middle
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    stop.set()
    await running
    out += capfd.readouterr().out
    assert out.count("x") == 300_000
    assert out.endswith("replica-1 | end\n")


def test_a_replica_that_is_killed_is_started_again_and_sigterm_ends_all_in_good_order(tmp_path: Path) -> None:
    serving = start_rotor("serve", "cli_kit:workflows", "--replicas", "1", cwd=tmp_path)
    assert serving.stderr is not None
    try:
        assert serving.stderr.readline() == f"1 replicas of cli_kit:workflows, pid {serving.pid}\n"
        first = read_pid(serving.stderr.readline())
        os.kill(first, signal.SIGKILL)
        assert serving.stderr.readline().startswith(f"replica-1, pid {first}, was ended by SIGKILL")
        second = read_pid(serving.stderr.readline())
        assert second != first
        assert rotor_json("send", "shop.nobody", cwd=tmp_path) == [], "it answers, as the owner of the store"
    finally:
        serving.send_signal(signal.SIGTERM)
        _, rest = serving.communicate(timeout=30)
    assert serving.returncode == 0, rest
    assert "replica-1 | stopping" in rest


def test_replicas_do_not_outlive_who_keeps_them(tmp_path: Path) -> None:
    serving = start_rotor("serve", "cli_kit:workflows", "--replicas", "1", cwd=tmp_path)
    assert serving.stderr is not None
    serving.stderr.readline()
    replica = read_pid(serving.stderr.readline())
    serving.kill()
    serving.communicate(timeout=30)
    limit = time.monotonic() + 30
    while Path(f"/proc/{replica}/stat").exists() and "Z" not in Path(f"/proc/{replica}/stat").read_text().split(")")[1]:
        assert time.monotonic() < limit, "the replica lives on"
        time.sleep(0.05)


@pytest.mark.asyncio
async def test_one_that_cannot_begin_ends_them_all_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    source = "import sys; print('no such password', file=sys.stderr); raise SystemExit(2)"
    with pytest.raises(CannotBeginError, match="replica-1"):
        await processes(source, 1).run(asyncio.Event())
    assert capfd.readouterr().err.count("ended with status 2") == 1, "it was not tried again"


@pytest.mark.asyncio
async def test_one_that_had_begun_once_is_tried_again_whatever_it_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rotor_actors.cli.processes.SHORTEST_LIFE", 0)
    begun = tmp_path / "begun"
    source = (
        f"import pathlib; p = pathlib.Path({str(begun)!r}); s = 2 if p.exists() else 7; p.touch(); raise SystemExit(s)"
    )
    with pytest.raises(MaxRestartsExceeded):
        await processes(source, 1).run(asyncio.Event())
    assert capfd.readouterr().err.count("ended with status 2") == 3


def test_a_port_that_is_taken_ends_them_all_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = rotor("serve", "cli_kit:workflows", "--replicas", "1", "--port", port, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(f"cannot listen at 127.0.0.1:{port}") == 1
    assert "rotor: gave up: replica-1 cannot begin" in done.stderr


def test_the_ports_of_all_replicas_must_be_ports(tmp_path: Path) -> None:
    done = rotor("serve", "cli_kit:workflows", "--replicas", "3", "--port", "65534", cwd=tmp_path)
    assert done.returncode == 2
    assert "--port 65534 with --replicas 3: the last one's, 65536, is no port" in done.stderr
