"""The coordinator dies, or stops past its lease, in the middle of starts that it decides on."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ALL_COMPLETED, Future, wait
from typing import Any

import msgspec
import pytest
from failures.cluster import Cluster, Replica

OPTIONS = ("--lease", "2", "--spill-above", "100")
PER_ROUND = 6


class Asked:
    """What was asked of whom, and the answers."""

    def __init__(self) -> None:
        self.lines: dict[str, Future[Any]] = {}
        self.once: dict[int, list[Future[Any]]] = {}
        self.edits: list[Future[Any]] = []
        self.rows: dict[int, Future[Any]] = {}

    def some_more(self, number: int, starters: list[Replica]) -> None:
        for each in range(PER_ROUND):
            for starter in starters:
                run_id = f"line-{number}-{each}-{starter.label}"
                self.lines[run_id] = starter.ask("start", workflow="in-line", data=each, run_id=run_id)
                row = len(self.rows)
                self.rows[row] = starter.ask("start", workflow="import", data=[row])
                edit = {"document": f"document-{number}", "number": each}
                self.edits.append(starter.ask("start", workflow="reindex", data=edit))
                one = number * PER_ROUND + each
                self.once.setdefault(one, []).append(starter.ask("start", workflow="once", data=one))

    def wait(self) -> None:
        """Nobody who did not die is left without an answer."""
        once = [each for two in self.once.values() for each in two]
        wait([*self.lines.values(), *once, *self.edits, *self.rows.values()], 90.0, return_when=ALL_COMPLETED)


def answer(future: Future[Any]) -> str | None:
    """None: whoever asked has lost his own lease meanwhile, and was told that what became of the start is not known."""
    try:
        return str(future.result(0.0))
    except RuntimeError as error:
        if "ReplicaFencedError" in str(error) or "StoreUnavailableError" in str(error):
            return None
        raise


def known(futures: list[Future[Any]]) -> set[str]:
    return {run_id for each in futures if (run_id := answer(each)) is not None}


def check(cluster: Cluster, asked: Asked) -> None:
    """No start lost, none made twice, nobody stuck in a line."""
    cluster.check(120.0)
    runs = cluster.sql("SELECT run_id, workflow_id, status, result FROM rotor_runs")
    assert {row["status"] for row in runs} == {"completed"}
    results: dict[str, dict[str, Any]] = {}
    for row in runs:
        results.setdefault(row["workflow_id"], {})[row["run_id"]] = msgspec.msgpack.decode(row["result"])
    assert known([*asked.lines.values()]) <= results["in-line"].keys() <= asked.lines.keys()
    by_number = Counter(results["once"].values())
    assert set(by_number.values()) == {1}
    for number, futures in asked.once.items():
        assert all(results["once"][run_id] == number for run_id in known(futures))
    assert known(asked.edits) <= results["reindex"].keys()
    if None not in map(answer, asked.edits):
        assert known(asked.edits) == results["reindex"].keys()
    imported = Counter(row for rows in results["import"].values() for row in rows)
    assert set(imported.values()) == {1}
    assert imported.keys() <= asked.rows.keys()
    for row, future in asked.rows.items():
        run_id = answer(future)
        assert run_id is None or row in results["import"][run_id]
    # What stands in lines, has places, or is forming still.
    left = cluster.sql(
        "SELECT space, count(*) FROM rotor_items WHERE space IN ('flow.run', 'flow.place', 'flow.merge', 'flow.batch', "
        "'asked') GROUP BY 1"
    )
    assert [tuple(each) for each in left] == []


@pytest.mark.parametrize("fault", ["killed", pytest.param("stopped", marks=pytest.mark.long)])
def test_no_start_is_lost_or_made_twice_when_the_coordinator_is(cluster: Cluster, size: int, fault: str) -> None:
    replicas = cluster.add_all("abc", *OPTIONS)
    cluster.count_transitions()
    asked, chance = Asked(), random.Random(5)
    for number in range(20 if size > 1_000 else 1):
        victim = cluster.coordinator()
        asked.some_more(number, [each for each in replicas if each is not victim])
        time.sleep(chance.uniform(0.0, 0.15))
        if fault == "killed":
            victim.kill()
            replicas.remove(victim)
            replicas.append(cluster.add(f"n{number}", *OPTIONS).wait_until_open())
        else:
            lives = victim.lives
            victim.pause()
            time.sleep(3.5)
            victim.go_on()
            cluster.wait_until(lambda victim=victim, lives=lives: victim.lives > lives, 30.0, "a new life")  # type: ignore[misc]
        asked.wait()
    check(cluster, asked)
