"""`rotor doctor` on a store that replicas share: is it there, how far away, whose are the runs?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from rotor_actors.cli.finding import Finding
from rotor_actors.cli.stores import stores_of
from rotor_actors.errors import RotorError
from rotor_actors.runtime_view import RuntimeView
from rotor_actors.views import ReplicaInfo, UnownedRuns

SLOW_SECONDS = 0.05
_LOOKS = 5


def shared_store(store: str) -> Iterator[Finding]:
    """Look at the database, and at all replicas from there."""
    try:
        findings = asyncio.run(_look(store))
    except RotorError as error:
        yield Finding(
            "store", "problem", f"{type(error).__name__}: {error}", "see the message; then rotor doctor again"
        )
        return
    yield from findings


async def _look(store: str) -> list[Finding]:
    async with RuntimeView(stores_of(store)) as view:
        counts = await view.count()
        said = ", ".join(f"{count} {status.value}" for status, count in counts.items()) or "no runs"
        began = time.perf_counter()
        for _ in range(_LOOKS):
            await view.replicas()
        away = (time.perf_counter() - began) / _LOOKS
        found = [Finding("store", "ok", said), _distance(away)]
        return [*found, *_replicas(await view.replicas()), *_unowned(await view.unowned())]


def _distance(seconds: float) -> Finding:
    """Each commit is a way there and back."""
    fine = seconds < SLOW_SECONDS
    return Finding("distance", "ok" if fine else "warning", f"the database answers in {seconds * 1000:.1f} ms",
                   "" if fine else "run replicas near the database: each step waits for it")  # fmt: skip


def _replicas(replicas: list[ReplicaInfo]) -> Iterator[Finding]:
    if not replicas:
        yield Finding("replicas", "warning", "none has the store open", "runs stand still: rotor serve")
        return
    late = [each for each in replicas if each.lease_left <= 0]
    yield Finding("replicas", "ok", f"{len(replicas)}: {', '.join(each.label for each in replicas)}")
    if late:
        yield Finding("leases", "warning", f"run out: {', '.join(each.label for each in late)}",
                      "others take over within a second; if that is not so, none is alive")  # fmt: skip
    else:
        yield Finding("leases", "ok", f"the shortest has {min(each.lease_left for each in replicas):.1f} s left")
    if not any(each.is_coordinator for each in replicas):
        yield Finding("coordinator", "warning", "none: lines, events and schedules stand still",
                      "it is found within seconds; if not, look into the replicas' logs")  # fmt: skip


def _unowned(unowned: list[UnownedRuns]) -> Iterator[Finding]:
    for each in unowned:
        if not each.can_run:
            version = "" if each.version is None else f" in version {each.version}"
            yield Finding("stuck runs", "problem", f"{each.runs} of workflow {each.workflow_id}{version}: nobody can run them",
                          "start a replica that knows it, or let a version take it over, or cancel them")  # fmt: skip
    waiting = sum(each.runs - each.parked for each in unowned if each.can_run)
    parked = sum(each.parked for each in unowned)
    yield Finding(
        "unowned runs", "ok", f"{waiting} wait for a replica with room, {parked} are parked until they are due"
    )
