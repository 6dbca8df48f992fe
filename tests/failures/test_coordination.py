"""The coordinator dies, or stops past its lease, in the middle of starts that it decides on."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import Future
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

    def all_answered(self) -> None:
        """Nobody who did not die is left without an answer."""
        once = [each for two in self.once.values() for each in two]
        for future in (*self.lines.values(), *once, *self.edits, *self.rows.values()):
            future.result(90.0)


def check(cluster: Cluster, asked: Asked) -> None:
    """No start lost, none made twice, nobody stuck in a line."""
    cluster.check(120.0)
    runs = cluster.sql("SELECT run_id, workflow_id, status, result FROM rotor_runs")
    assert {row["status"] for row in runs} == {"completed"}
    of = {
        name: [row for row in runs if row["workflow_id"] == name] for name in ("in-line", "once", "reindex", "import")
    }
    assert sorted(row["run_id"] for row in of["in-line"]) == sorted(asked.lines)
    for futures in asked.once.values():
        assert len({each.result() for each in futures}) == 1
    assert {row["run_id"] for row in of["once"]} == {each.result() for two in asked.once.values() for each in two}
    assert len(of["once"]) == len(asked.once)
    assert {row["run_id"] for row in of["reindex"]} == {each.result() for each in asked.edits}
    imported = {row["run_id"]: msgspec.msgpack.decode(row["result"]) for row in of["import"]}
    assert Counter(row for rows in imported.values() for row in rows) == dict.fromkeys(asked.rows, 1)
    for row, future in asked.rows.items():
        assert row in imported[future.result()]
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
            victim.pause()
            time.sleep(3.5)
            victim.go_on()
        asked.all_answered()
    check(cluster, asked)
