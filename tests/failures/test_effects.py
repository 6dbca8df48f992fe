"""What the world sees of a replica that dies, or that loses its database: user's rows, other processes, time stamps."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest
from failures.cluster import Cluster, Replica
from failures.fan_outs import SPREAD, start_again
from failures.proxy import Mode, Proxy
from postgres_server import PostgresServer

LEASE = 3.0


# Transactions of the user's: rows and memo in one commit


def with_payments(cluster: Cluster, *replicas: Replica) -> None:
    cluster.count_transitions()
    cluster.sql("CREATE TABLE payments(run_id text, number integer)")


def rows(cluster: Cluster) -> Counter[str]:
    return Counter(row[0] for row in cluster.sql("SELECT run_id FROM payments"))


def executed(cluster: Cluster, key: str) -> int:
    return sum(count for (_, each), count in cluster.effects().items() if each == key)


@pytest.mark.long
def test_a_transaction_whose_replica_is_killed_before_its_commit_is_made_once(cluster: Cluster) -> None:
    a, b = cluster.add_all("ab", *SPREAD)
    with_payments(cluster)
    a.do("start", workflow="payer", data=[7, 2.0], run_id="pays")
    cluster.wait_for_effects(1)
    assert not rows(cluster)
    a.kill()
    assert b.do("result", run_id="pays") == 7
    cluster.check()
    assert rows(cluster) == {"pays": 1}
    assert executed(cluster, "pay") == 2


@pytest.mark.long
def test_a_transaction_whose_replica_is_killed_after_its_commit_is_not_made_again(cluster: Cluster) -> None:
    a, b = cluster.add_all("ab", *SPREAD, "--hold", "2")
    with_payments(cluster)
    a.do("start", workflow="payer", data=[7, 0.0], run_id="pays")
    cluster.wait_for_effects(2)  # it has come to the step behind
    a.kill()
    assert b.do("result", run_id="pays") == 7
    cluster.check()
    assert rows(cluster) == {"pays": 1}
    assert executed(cluster, "pay") == 1


@pytest.mark.long
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "cut off"])
def test_a_commit_whose_reply_never_comes_is_found_by_the_next_owner(
    cluster: Cluster, proxy: Proxy, is_killed: bool
) -> None:
    far = cluster.add("x", *SPREAD, address=f"127.0.0.1:{proxy.port}").wait_until_open()
    with_payments(cluster)
    proxy.hold_the_reply_to(b"COMMIT\0")  # not asyncpg's own, which has a semicolon
    far.do("start", workflow="payer", data=[7, 0.0], run_id="pays")
    cluster.wait_until(lambda: bool(rows(cluster)), 20.0, "the commit")
    assert proxy.mode is Mode.NO_REPLY
    if is_killed:
        far.kill()
    (b,) = cluster.add_all("b", *SPREAD)
    assert b.do("result", run_id="pays") == 7
    cluster.check()
    assert rows(cluster) == {"pays": 1}
    assert executed(cluster, "pay") == 1


def test_transactions_of_a_fan_out_are_made_once_each_though_their_owners_die(cluster: Cluster, size: int) -> None:
    count, deaths = (400, 5) if size > 1_000 else (60, 1)
    replicas = cluster.add_all("abc", *SPREAD)
    with_payments(cluster)
    replicas[0].do("start", workflow="payments", data=count, run_id="root")
    for number in range(deaths):
        wanted = count * (number + 1) // (deaths + 2)
        cluster.wait_until(lambda wanted=wanted: rows(cluster).total() >= wanted, 60.0, "payments")  # type: ignore[misc]
        replicas.pop(0).kill()
        replicas.append(cluster.add(f"n{number}", *SPREAD))
    cluster.check()
    assert replicas[0].do("result", run_id="root") == count * (count - 1) // 2
    assert len(rows(cluster)) == rows(cluster).total() == count


# Steps in processes of a pool


@pytest.mark.long
def test_what_a_killed_replica_had_in_other_processes_ends_with_it_and_is_done_by_others(
    cluster: Cluster, size: int
) -> None:
    count = 12 if size > 1_000 else 4
    a, b = cluster.add_all("ab", *SPREAD)
    cluster.count_transitions()
    for number in range(count):
        a.do("start", workflow="heavy", data=[number, 1.0], run_id=f"heavy-{number}")
    cluster.wait_until(lambda: _lines(cluster, "begun") != [], 60.0, "a step in a process")
    a.kill()
    begun, done = _lines(cluster, "begun"), _lines(cluster, "done")
    under_way = set(begun) - set(done)
    for _, pid in under_way:
        cluster.wait_until(lambda pid=pid: not _is_alive(int(pid)), 10.0, "the workers to end")  # type: ignore[misc]
    cluster.check()
    assert [b.do("result", run_id=f"heavy-{number}") for number in range(count)] == list(range(count))
    assert not under_way & set(_lines(cluster, "done")), "a step went on without its program"
    assert {run_id for run_id, _ in _lines(cluster, "done")} == {f"heavy-{number}" for number in range(count)}
    assert len(_lines(cluster, "begun")) <= count + 2  # the two that were under way


def _lines(cluster: Cluster, wanted: str) -> list[tuple[str, str]]:
    """Of which run, and by which process."""
    lines = (line.split() for line in cluster.ledger.read_text().splitlines())
    return [(run_id, pid) for run_id, key, pid in lines if key == wanted]


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# The database is lost: effects stop within the lease

TICKING = (*SPREAD, "--lease", str(LEASE))


def check_ticks(times: list[float], limit: float) -> None:
    """None later than that; save the first of a process which the machine had not let run at all."""
    late = [(one, next) for one, next in pairwise(times) if next > limit]
    starved = [(one, next) for one, next in late if next - one > LEASE / 20]
    assert len(late) == len(starved), f"{len(late)} effects after the lease, the last {times[-1] - limit:.3f} s"


def end_of_lease(cluster: Cluster, label: str) -> float:
    """As it stands in the database, by the clock of the ticks."""
    ((until,),) = cluster.sql("SELECT lease_until FROM rotor_replicas WHERE label = $1", label)
    return float(until) - time.time() + time.monotonic()


@pytest.mark.parametrize("workflow", ["ticker", pytest.param("ticker-elsewhere", marks=pytest.mark.long)])
def test_effects_stop_within_the_lease_when_the_network_is_cut_and_others_begin_only_then(
    cluster: Cluster, proxy: Proxy, workflow: str
) -> None:
    x = cluster.add("x", *TICKING, address=f"127.0.0.1:{proxy.port}").wait_until_open()
    cluster.count_transitions()
    for number in range(3):
        x.do("start", workflow=workflow, data=300, run_id=f"ticker-{number}")
    (b,) = cluster.add_all("b", *TICKING)
    cluster.wait_until(lambda: len(cluster.ticks().get("x", [])) > 50, 60.0, "x to be at work")
    proxy.set(Mode.HOLD)
    limit = end_of_lease(cluster, "x")
    cluster.wait_until(lambda: "b" in cluster.ticks(), 60.0, "b to take over")
    assert x.says("this replica has lost the store, all that runs here stops")
    of_x, of_b = cluster.ticks()["x"], cluster.ticks()["b"]
    check_ticks(of_x, limit)
    assert max(of_x) < min(of_b)
    proxy.set(Mode.PASS)
    cluster.wait_until(lambda: x.says("began anew as replica"), 30.0, "x to begin anew")
    assert x.do("start", workflow="leaf", data=1)
    cluster.check()
    assert [b.do("result", run_id=f"ticker-{number}") for number in range(3)] == [300] * 3


@pytest.mark.long
def test_effects_stop_within_the_lease_when_the_database_is_stopped(
    cluster: Cluster, durable_server: PostgresServer
) -> None:
    (x,) = cluster.add_all("x", *TICKING)
    cluster.count_transitions()
    for number in range(3):
        x.do("start", workflow="ticker", data=400, run_id=f"ticker-{number}")
    cluster.wait_until(lambda: len(cluster.ticks().get("x", [])) > 50, 60.0, "x to be at work")
    durable_server.stop("fast")
    stopped_at = time.monotonic()
    time.sleep(LEASE + 2.0)
    assert x.says("this replica has lost the store, all that runs here stops")
    check_ticks(cluster.ticks()["x"], stopped_at + LEASE)
    start_again(durable_server)
    cluster.check()
    assert x.says("began anew as replica")
    assert [x.do("result", run_id=f"ticker-{number}") for number in range(3)] == [400] * 3
    assert len(cluster.ticks()["x"]) >= 3 * 400
