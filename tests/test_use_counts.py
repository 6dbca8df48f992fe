"""How often each step id was used: exact, whatever ids look like, and small where they are numbered through."""

from __future__ import annotations

import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.ids import step_key
from rotor_actors.records import Kind
from rotor_actors.run_state import RunState
from rotor_actors.use_counts import MOST_COUNTED, UsedOnce

IDS = st.one_of(
    st.from_regex(r"(a|b0|)[0-9]{1,3}", fullmatch=True),
    st.integers(0, 40).map("page {}".format),
    st.integers(0, 40).map("page {:03}".format),
    st.sampled_from(["", "x", "٣", "page ", "9" * 30, "0", "00", "page -1"]),
)


BATCHES = st.one_of(
    st.lists(IDS, max_size=40),
    st.tuples(st.sampled_from(["page ", "a", "b0"]), st.integers(0, 30), st.integers(0, 30)).map(
        lambda given: [f"{given[0]}{number}" for number in range(given[1], given[1] + given[2])]
    ),
)


@given(st.lists(BATCHES, max_size=6))
def test_counts_are_exact_whatever_is_put_away_in_between(batches: list[list[str]]) -> None:
    once, counts, model = UsedOnce(), dict[str, int](), Counter[str]()
    for batch in batches:
        for id in batch:
            before = counts[id] if id in counts else once.uses(id)
            assert before == model[id]
            counts[id] = before + 1
            model[id] += 1
        counts = once.put_away(counts)
    for id in {*model, *(f"{prefix}{number}" for prefix in ("page ", "a", "b0") for number in range(62))}:
        assert (counts[id] if id in counts else once.uses(id)) == model[id]


def test_ids_that_are_numbered_through_take_no_room_each() -> None:
    once, counts = UsedOnce(), dict[str, int]()
    for number in range(50_000):
        counts[f"page {number}"] = 1
        if len(counts) >= once.next_at:
            counts = once.put_away(counts)
    assert len(counts) < MOST_COUNTED
    assert sum(sys.getsizeof(each) for each in once._stretches.values()) < 1_000  # pyright: ignore[reportPrivateUsage]


def test_a_body_that_uses_many_ids_gets_the_keys_it_always_got() -> None:
    state = RunState("a run")
    for number in range(3 * MOST_COUNTED):
        assert state.request(f"page {number}", Kind.RUN, "", None).key == step_key(f"page {number}", 0)
    for use in (1, 2):
        assert state.request("page 5", Kind.RUN, "", None).key == step_key("page 5", use)
    beyond = f"page {3 * MOST_COUNTED}"
    assert state.request(beyond, Kind.RUN, "", None).key == step_key(beyond, 0)
