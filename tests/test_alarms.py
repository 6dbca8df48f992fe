"""Due times by key, held against the obvious model."""

from __future__ import annotations

import random

import pytest

from rotor_actors.alarms import Alarms

KEYS, TIMES = range(8), range(9)


class Model:
    """Each key with its due time and when it was added."""

    def __init__(self) -> None:
        self.due: dict[int, tuple[int, int]] = {}
        self.added = 0

    def add(self, key: int, due: int) -> None:
        self.due[key] = (due, self.added)
        self.added += 1

    def discard(self, key: int) -> None:
        self.due.pop(key, None)

    def pop_due(self, now: int) -> int | None:
        order = sorted((due, added, key) for key, (due, added) in self.due.items())
        if not order or order[0][0] > now:
            return None
        del self.due[order[0][2]]
        return order[0][2]


@pytest.mark.parametrize("seed", range(300))
def test_any_sequence_of_calls_gives_what_the_model_gives(seed: int) -> None:
    chance, alarms, model = random.Random(seed), Alarms[int](), Model()
    for _ in range(60):
        key, time = chance.choice(KEYS), chance.choice(TIMES)
        match chance.choice(["add", "discard", "pop"]):
            case "add":
                alarms.add(key, time)
                model.add(key, time)
            case "discard":
                alarms.discard(key)
                model.discard(key)
            case _:
                assert alarms.pop_due(time) == model.pop_due(time)
        assert len(alarms) == len(model.due)
        assert alarms.next_due() == min((due for due, _ in model.due.values()), default=None)
        assert [alarms.due_of(each) for each in KEYS] == [model.due.get(each, (None,))[0] for each in KEYS]
