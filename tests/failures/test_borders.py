"""Networks, clocks, versions, cancellations."""

from __future__ import annotations

import threading
import time

import pytest
from failures.cluster import Cluster
from failures.fan_outs import SPREAD, a_fan_out, check_fan_out
from failures.proxy import Mode, Proxy


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.NO_REPLY, Mode.CUT])
def test_a_replica_that_is_cut_off_from_the_database_is_replaced_and_comes_back(
    cluster: Cluster, proxy: Proxy, size: int, mode: Mode
) -> None:
    if mode is Mode.HOLD or size > 1_000:
        cut_off = cluster.add("x", *SPREAD, "--hold", "0.02", address=f"127.0.0.1:{proxy.port}").wait_until_open()
        a, *_ = a_fan_out(cluster, size, "--hold", "0.02")
        cluster.wait_for_effects(size // 4)
        proxy.set(mode)
        time.sleep(5.0)
        proxy.set(Mode.PASS)
        check_fan_out(cluster, a, size)
        assert cut_off.do("result", run_id="root") == size * (size - 1) // 2


def test_connections_cut_between_statement_and_reply_repeat_nothing(cluster: Cluster, proxy: Proxy, size: int) -> None:
    x = cluster.add("x", *SPREAD, address=f"127.0.0.1:{proxy.port}").wait_until_open()
    cluster.count_transitions()
    x.do("start", workflow="local-fan-out", data=size, run_id="root")
    for _ in range(4):
        time.sleep(0.4)
        proxy.set(Mode.CUT)
        time.sleep(0.1)
        proxy.set(Mode.PASS)
    check_fan_out(cluster, x, size)


@pytest.mark.long
def test_clocks_an_hour_apart_change_nothing(cluster: Cluster, size: int) -> None:
    (a,) = cluster.add_all("a", *SPREAD)
    cluster.add_all("b", *SPREAD, "--skew", "3600")
    cluster.add_all("c", *SPREAD, "--skew", "-3600")
    cluster.count_transitions()
    a.do("start", workflow="fan-out", data=size, run_id="root")
    for number in range(20):
        cluster.replicas[number % 3].do("start", workflow="sleeper", data=3.0, run_id=f"sleeper-{number}")
    began = time.monotonic()
    cluster.check()
    assert time.monotonic() - began < 60.0
    took = cluster.sql(
        "SELECT max(ended_at - created_at), min(ended_at - created_at) FROM rotor_runs WHERE workflow_id = 'sleeper'"
    )
    assert 3.0 <= took[0][1] <= took[0][0] < 30.0


@pytest.mark.long
def test_without_hints_polling_does_it_all(cluster: Cluster, size: int) -> None:
    replicas = a_fan_out(cluster, size, "--no-hints")
    check_fan_out(cluster, replicas[1], size)


def test_what_is_cancelled_during_a_fan_out_is_cancelled_whole(cluster: Cluster, size: int) -> None:
    a, b, _ = cluster.add_all("abc", *SPREAD)
    cluster.count_transitions()
    times = 30 if size > 1_000 else 3
    for number in range(times):
        root = f"root-{number}"
        cancel_at = cluster.spawned() + 1 + 330 * number // times
        a.do("start", workflow="deep", data=[3, 10, 10], run_id=root)
        cluster.wait_for_spawned(cancel_at)
        (a, b)[number % 2].do("cancel", run_id=root)
        cluster.wait_until(lambda: cluster.live() == 0, 30.0, f"all of {root} to end")
    cluster.check()
    statuses = cluster.sql("SELECT DISTINCT status::text FROM rotor_runs")
    assert [row[0] for row in statuses] == ["cancelled"]


@pytest.mark.long
def test_cancelling_by_one_recursive_statement_is_found_out(cluster: Cluster) -> None:
    """A negative control: spawns that were in flight escape it."""
    (a, *_) = cluster.add_all("abc", *SPREAD)
    cluster.count_transitions()
    escaped = 0
    for number in range(30):
        root = f"root-{number}"
        cancel_at = cluster.spawned() + 4 + 40 * number
        a.do("start", workflow="deep", data=[3, 10, 40], run_id=root)
        cluster.wait_for_spawned(cancel_at)
        cluster.cancel_by_one_statement(root)
        time.sleep(0.5)
        escaped += cluster.live()
        if escaped:
            return
    raise AssertionError("one recursive statement was enough: the tests could not see what escapes")


@pytest.mark.long
def test_a_canceller_that_is_killed_between_levels_leaves_nothing_half_done(cluster: Cluster) -> None:
    a, b, _ = cluster.add_all("abc", *SPREAD)
    cluster.count_transitions()
    a.do("start", workflow="deep", data=[4, 10, 10], run_id="root")
    cluster.wait_for_effects(100)
    threading.Timer(0.02, a.kill).start()
    a.ask("cancel", run_id="root")
    a.process.wait(30.0)
    if b.ask("result", run_id="root", timeout=1.0).exception(20.0) is not None:
        b.do("cancel", run_id="root")  # it was killed before the first level was cancelled
    cluster.check()
    assert [row[0] for row in cluster.sql("SELECT DISTINCT status::text FROM rotor_runs")] == ["cancelled"]


@pytest.mark.long
def test_a_rolling_deploy_finishes_each_run_on_the_version_it_began_with(cluster: Cluster) -> None:
    (old,) = cluster.add_all("a", *SPREAD, "--version", "1")
    cluster.count_transitions()
    for number in range(20):
        old.do("start", workflow="versioned", data=4.0, run_id=f"old-{number}")
    (new,) = cluster.add_all("b", *SPREAD, "--version", "2")
    for number in range(20):
        new.do("start", workflow="versioned", data=0.5, run_id=f"new-{number}")
    old.kill()
    cluster.wait_until(lambda: cluster.live() == 20, 60.0, "the new ones to end and the old ones to wait")
    time.sleep(3.0)
    assert cluster.live() == 20, "a version that cannot run them has taken them"
    cluster.add_all("c", *SPREAD, "--version", "3", "--takes-over", "1")
    cluster.check()
    assert new.do("result", run_id="new-3") == "2"
    assert new.do("result", run_id="old-3") == "3"
