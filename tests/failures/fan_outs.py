"""A fan-out over three replicas, and what must have become of it; a server that comes back."""

from __future__ import annotations

import time

from failures.cluster import Cluster, Replica
from postgres_server import PostgresServer

SPREAD = ("--spill-above", "20", "--lease", "2")


def a_fan_out(cluster: Cluster, size: int, *options: str) -> list[Replica]:
    """Three replicas at work on one fan-out that the first has started."""
    replicas = cluster.add_all("abc", *SPREAD, *options)
    cluster.count_transitions()
    time.sleep(1.0)  # a replica that has not heard of others yet keeps everything to itself
    replicas[0].do("start", workflow="fan-out", data=size, run_id="root")
    return replicas


def check_fan_out(cluster: Cluster, asked: Replica, size: int, timeout: float = 90.0) -> None:
    cluster.check(timeout)
    assert asked.do("result", run_id="root") == size * (size - 1) // 2
    assert len(cluster.effects()) == size


def start_again(server: PostgresServer) -> None:
    """As soon as the processes that the killed one has left have seen that it is gone."""
    for _ in range(40):
        time.sleep(0.5)
        try:
            server.start()
        except RuntimeError:
            continue
        return
    raise AssertionError(server.log[-2_000:])
