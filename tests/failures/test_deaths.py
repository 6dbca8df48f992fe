"""Replicas that die, stop, and come back; the database that does."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from failures.cluster import Cluster, Replica
from failures.fan_outs import SPREAD, a_fan_out, check_fan_out, start_again
from postgres_server import PostgresServer


def test_a_fan_out_survives_kill_9_of_its_owner(cluster: Cluster, size: int) -> None:
    a, b, _ = a_fan_out(cluster, size, "--hold", "0.1")
    cluster.wait_for_effects(size // 3)
    a.kill()
    check_fan_out(cluster, b, size)
    assert len(cluster.labels_at_work()) > 1
    # At least once: only what was under way at the kill may have been executed twice.
    assert sum(cluster.effects().values()) - size <= 2 * 500


def test_a_replica_that_was_stopped_past_its_lease_records_nothing_when_it_goes_on(cluster: Cluster, size: int) -> None:
    a, b, _ = a_fan_out(cluster, size, "--hold", "0.02")
    cluster.wait_for_effects(size // 4)
    b.pause()
    time.sleep(5.0)
    b.go_on()
    check_fan_out(cluster, a, size)
    assert b.do("ping") == "b"  # it is there again, as another incarnation
    cluster.wait_until(lambda: b.says("began anew"), 10.0, "b to begin anew")


def storm(cluster: Cluster, replicas: list[Replica], seed: int) -> int:
    """Pause replicas at random, some past their lease, until all is done. Gives how many of those pauses there were."""
    chance, past_the_lease = random.Random(seed), 0
    while cluster.live():
        victim, seconds = chance.choice(replicas), chance.choice([0.2, 0.5, 3.5])
        victim.pause()
        time.sleep(seconds)
        past_the_lease += seconds > 2.0 and cluster.live() > 0
        victim.go_on()
        time.sleep(chance.uniform(0.05, 0.5))
    return past_the_lease


@pytest.mark.long
def test_a_storm_of_pauses_changes_no_result(cluster: Cluster, size: int) -> None:
    replicas = a_fan_out(cluster, size, "--hold", "0.2")
    assert storm(cluster, replicas, 7) >= 2, "it was over before there was a storm"
    check_fan_out(cluster, replicas[0], size)
    assert any(each.says("began anew") for each in replicas)


@pytest.mark.long
def test_without_the_fence_the_same_storm_is_found_out(cluster: Cluster, size: int) -> None:
    """A negative control: what the tests look for can be seen."""
    replicas = cluster.add_all("abc", *SPREAD, "--hold", "0.2", "--no-fence")
    cluster.count_transitions()
    cluster.take_the_fence_away()
    for number in range(5):
        replicas[0].do("start", workflow="fan-out", data=size, run_id=f"root-{number}")
        storm(cluster, replicas, 7 + number)
        ended, distinct = cluster.ends()
        if ended > distinct:
            return
    raise AssertionError("without a fence runs should have ended twice: the tests could not see it")


def test_the_database_may_be_killed_and_started_again(
    cluster: Cluster, durable_server: PostgresServer, size: int
) -> None:
    a, _, _ = a_fan_out(cluster, size)
    cluster.wait_for_effects(size // 3)
    os.kill(durable_server.pid, signal.SIGKILL)
    start_again(durable_server)
    check_fan_out(cluster, a, size)


@pytest.mark.long
def test_all_replicas_may_die_at_once(cluster: Cluster, size: int) -> None:
    replicas = a_fan_out(cluster, size)
    cluster.wait_for_effects(size // 3)
    for each in replicas:
        each.kill()
    (d,) = cluster.add_all("d", *SPREAD)
    check_fan_out(cluster, d, size)


@pytest.mark.long
def test_replicas_are_killed_one_after_the_other_and_replaced(cluster: Cluster, size: int) -> None:
    replicas = a_fan_out(cluster, size, "--hold", "0.05")
    for number in range(8):
        time.sleep(1.5)
        replicas.pop(0).kill()
        replicas += cluster.add_all(f"{number}", *SPREAD, "--hold", "0.05")
    check_fan_out(cluster, replicas[-1], size)


@pytest.mark.long
def test_twenty_thousand_spilled_children_survive_two_kills(cluster: Cluster) -> None:
    size = 20_000
    a, b, c = a_fan_out(cluster, size, "--hold", "0.005")
    for share, victim, label in ((4, b, "d"), (2, c, "e")):
        cluster.wait_for_effects(size // share, 300.0)
        victim.kill()
        cluster.add(label, *SPREAD, "--hold", "0.005")
    check_fan_out(cluster, a, size, 300.0)


@pytest.mark.long
def test_a_blocked_event_loop_loses_the_lease_and_its_effects_stop(cluster: Cluster, size: int) -> None:
    a, b, _ = a_fan_out(cluster, size, "--hold", "0.02")
    cluster.wait_for_effects(size // 4)
    b.ask("block", seconds=6.0)
    check_fan_out(cluster, a, size)
    cluster.wait_until(lambda: b.says("began anew"), 20.0, "b to begin anew")


@pytest.mark.long
def test_a_client_paused_in_a_transaction_blocks_nobody(cluster: Cluster, size: int) -> None:
    a, b, _ = a_fan_out(cluster, size)
    cluster.wait_for_effects(size // 4)
    with cluster.open_transaction("SELECT 1 FROM rotor_replicas FOR KEY SHARE"):
        b.kill()
        cluster.wait_until(lambda: cluster.live() == 0 or cluster.owned_by_the_dead() == 0, 30.0, "the take-over")
    check_fan_out(cluster, a, size)


def test_a_replica_that_is_told_to_end_hands_over_what_it_has(cluster: Cluster, size: int) -> None:
    a, b, _ = a_fan_out(cluster, size, "--hold", "0.02")
    cluster.wait_for_effects(size // 4)
    began = time.monotonic()
    assert a.terminate() == 0
    assert not cluster.sql("SELECT 1 FROM rotor_replicas WHERE label = 'a'"), "it waits for its lease to run out"
    check_fan_out(cluster, b, size)
    assert time.monotonic() - began < 60.0


@pytest.mark.long
def test_sleepers_are_woken_once_whoever_dies(cluster: Cluster) -> None:
    a, b, _ = cluster.add_all("abc", *SPREAD)
    cluster.count_transitions()
    for number in range(50):
        a.do("start", workflow="sleeper", data=4.0, run_id=f"sleeper-{number}")
    time.sleep(1.0)
    a.kill()
    cluster.check()
    assert {count for (_, key), count in cluster.effects().items() if key == "work"} == {2}
    assert b.do("result", run_id="sleeper-7") == 2
