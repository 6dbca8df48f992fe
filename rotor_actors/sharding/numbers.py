"""Numbers of runs over all shards: each store numbers its own, so that one number stands for several runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from rotor_actors.records import (
    ChildRow,
    Fact,
    RunChanged,
    RunCreated,
    RunRow,
    RunsCancelled,
    RunsReleased,
    StepRecorded,
    StepRow,
)
from rotor_actors.sharding.placement import MOST_SHARDS


class Place(NamedTuple):
    """Where a run is: which shard, and its number there."""

    shard: int
    n: int


def joined(shard: int, n: int) -> int:
    """One number of both."""
    return n * MOST_SHARDS + shard


def parted(number: int) -> Place:
    """The opposite of `joined`."""
    n, shard = divmod(number, MOST_SHARDS)
    return Place(shard, n)


def last_before(number: int, shard: int) -> int:
    """The largest number within the shard that comes before or at `number` over all."""
    return (number - shard) // MOST_SHARDS


def first_from(number: int, shard: int) -> int:
    """The smallest number within the shard that does not come before `number` over all."""
    return -((shard - number) // MOST_SHARDS)


def optional(shard: int, n: int | None) -> int | None:
    """`joined`, of a number that there may be."""
    return None if n is None else joined(shard, n)


def of_run(shard: int, row: RunRow) -> RunRow:
    """The row with numbers that hold over all shards. It is changed: the store gave a copy."""
    row.n, row.root_n, row.parent_n = joined(shard, row.n), joined(shard, row.root_n), optional(shard, row.parent_n)
    return row


def of_step(shard: int, row: StepRow) -> StepRow:
    """The same of a step."""
    return msgspec.structs.replace(row, n=joined(shard, row.n))


def of_child(shard: int, row: ChildRow) -> ChildRow:
    """The same of a child."""
    return msgspec.structs.replace(row, n=joined(shard, row.n), parent_n=joined(shard, row.parent_n))


def of_facts(shard: int, facts: Sequence[Fact]) -> list[Fact]:
    """Facts as an observer of all shards sees them."""
    return [_of_fact(shard, fact) for fact in facts]


def _of_fact(shard: int, fact: Fact) -> Fact:
    match fact:
        case RunCreated() | RunChanged():
            return msgspec.structs.replace(fact, run=of_run(shard, fact.run.copy()))
        case StepRecorded():
            return msgspec.structs.replace(fact, step=of_step(shard, fact.step))
        case RunsCancelled() | RunsReleased():
            return msgspec.structs.replace(fact, ns=[joined(shard, n) for n in fact.ns])
        case _:
            return fact
