"""What only a machine of one's own can do: a network that is cut, a disk that is full. Needs to be root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from failures.cluster import Cluster
from failures.fan_outs import SPREAD, a_fan_out, check_fan_out
from failures.proxy import Proxy
from postgres_server import PostgresServer

pytestmark = pytest.mark.long

NAMESPACE, HERE, THERE = "rotor-test", "10.97.31.1", "10.97.31.2"


def do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not let us: {command}: {done.stderr.strip()}")


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace with one cable to this one."""
    subprocess.run(["ip", "netns", "delete", NAMESPACE], capture_output=True, check=False)
    do(f"ip netns add {NAMESPACE}")
    try:
        do(f"ip link add rotor0 type veth peer name rotor1 netns {NAMESPACE}")
        do(f"ip addr add {HERE}/30 dev rotor0")
        do("ip link set rotor0 up")
        do(f"ip -n {NAMESPACE} addr add {THERE}/30 dev rotor1")
        do(f"ip -n {NAMESPACE} link set rotor1 up")
        yield
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], capture_output=True, check=False)


def test_a_replica_behind_a_cut_cable_is_replaced_and_comes_back(
    cluster: Cluster, network: None, durable_server: PostgresServer, size: int
) -> None:
    proxy = Proxy(durable_server.port, HERE)
    within = ("ip", "netns", "exec", NAMESPACE)
    far = cluster.add("x", *SPREAD, "--hold", "0.02", address=f"{HERE}:{proxy.port}", within=within)
    far.wait_until_open()
    a, *_ = a_fan_out(cluster, size, "--hold", "0.02")
    cluster.wait_for_effects(size // 4)
    subprocess.run(["ip", "link", "set", "rotor0", "down"], check=True)
    time.sleep(6.0)
    subprocess.run(["ip", "link", "set", "rotor0", "up"], check=True)
    check_fan_out(cluster, a, size)
    assert far.do("result", run_id="root") == size * (size - 1) // 2
    proxy.close()


@pytest.fixture
def small_disk(tmp_path: Path, durable_server: PostgresServer) -> Iterator[Path]:
    """A disk of 80 MiB, with a database on it."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own is only root's to mount")
    place = Path(tempfile.mkdtemp(prefix="rotor-small-"))
    place.chmod(0o755)
    do(f"mount -t tmpfs -o size=80m tmpfs {place}")
    (place / "space").mkdir()
    shutil.chown(place / "space", "nobody")
    looking = Cluster(durable_server.url, "public", tmp_path)
    try:
        looking.sql(f"CREATE TABLESPACE small LOCATION '{place / 'space'}'")
        looking.sql("CREATE DATABASE small TABLESPACE small")
        yield place
        looking.sql("DROP DATABASE small WITH (FORCE)")
        looking.sql("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, durable_server: PostgresServer, size: int
) -> None:
    cluster = Cluster(durable_server.url.rpartition("/")[0] + "/small", "t1", tmp_path)
    try:
        a, *_ = a_fan_out(cluster, size, "--hold", "0.02")
        cluster.wait_for_effects(size // 10)
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            try:
                while True:
                    file.write(bytes(65_536))
                    file.flush()
            except OSError:
                pass
        cluster.wait_until(
            lambda: any("full" in each.log.read_text() for each in cluster.replicas), 60.0, "a full disk"
        )
        time.sleep(3.0)
        ballast.unlink()
        check_fan_out(cluster, a, size)
    finally:
        cluster.close()
