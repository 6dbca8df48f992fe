"""What every store must do, in tests. Hold your own store against it:

class TestMyStore(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: MyStore(tmp_path / "store")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from rotor_actors.errors import StoreError
from rotor_actors.ids import KEY_BYTES, map_child_key
from rotor_actors.records import (
    ChildRow,
    Entry,
    History,
    ItemDropped,
    ItemPut,
    ItemRow,
    ItemsDropped,
    ItemsExpired,
    Kind,
    OutcomeStatus,
    RunAmended,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRested,
    RunRow,
    RunsCancelled,
    RunStatus,
    StepRecorded,
    StepRow,
    Together,
)
from rotor_actors.stores.base import EndsQuery, ItemQuery, RunQuery, Store, place_of

MakeStore: TypeAlias = Callable[[], Store]

TIMES = (1_700_000_000.123456, 1_699_999_999.9999998, 0.1 + 0.2, 5e-324)


def a_run(n: int, **fields: object) -> RunRow:
    """A root run with number `n`."""
    run = RunRow(n, f"run-{n}", "flow", n, f"run-{n}", 1_700_000_000.0 + n)
    for name, value in fields.items():
        setattr(run, name, value)
    return run


def a_child(n: int, parent: RunRow, **fields: object) -> RunRow:
    """A child of `parent`, with the key `key-<n>`."""
    return a_run(
        n,
        **{
            "root_n": parent.root_n,
            "root_run_id": parent.root_run_id,
            "parent_n": parent.n,
            "parent_run_id": parent.run_id,
            "parent_key": f"key-{n}".encode(),
            "parent_step_id": "spawn",
            "depth": parent.depth + 1,
            **fields,
        },
    )


def a_step(n: int, seq: int, **fields: object) -> StepRow:
    step = StepRow(n, 1_700_000_000.5, Kind.RUN, f"step-{seq}".encode(), f"step {seq}", "module.fn", seq=seq)
    for name, value in fields.items():
        setattr(step, name, value)
    return step


def changed(run: RunRow, **fields: object) -> RunRow:
    """`run` with other values, as a snapshot of its own."""
    snapshot = copy.copy(run)
    for name, value in fields.items():
        setattr(snapshot, name, value)
    return snapshot


def ended(run: RunRow, seq: int, status: RunStatus = RunStatus.COMPLETED) -> RunChanged:
    return RunChanged(changed(run, status=status, ended_at=float(seq), end_seq=seq, result=b"result"), seq)


class StoreConformance:
    """The suite. Override the fixture `make_store`: each call gives a store on the same data."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: MakeStore) -> Iterator[Store]:
        store = make_store()
        store.open()
        yield store
        store.close()

    def reopened(self, store: Store, make_store: MakeStore) -> Store:
        """As a later process finds it."""
        store.close()
        again = make_store()
        again.open()
        return again

    def check_numbers(self, store: Store, expected: tuple[int, int]) -> None:
        """The largest numbers in use; where each opening has numbers of its own, a suite looks at something else."""
        assert store.last_numbers() == expected

    # Opening

    def test_a_new_store_is_empty(self, store: Store) -> None:
        self.check_numbers(store, (0, 0))
        assert store.live_runs() == []
        assert store.find("run-1") is None
        assert store.list_runs(RunQuery()) == []
        assert store.count_by_status(None) == {}
        assert store.steps(1) == []
        assert store.histories([1]) == {1: History([], [])}

    def test_closing_twice_is_fine(self, make_store: MakeStore) -> None:
        store = make_store()
        store.open()
        store.close()
        store.close()

    def test_what_was_committed_is_there_when_it_is_opened_again(self, store: Store, make_store: MakeStore) -> None:
        run = a_run(3, input=b"in", rest_seq=4, wake_at=7.5)
        step = a_step(3, 6, payload=b"out")
        store.commit([RunCreated(run, 5), StepRecorded(step, 6)])
        again = self.reopened(store, make_store)
        assert again.find("run-3") == run
        assert again.steps(3) == [step]
        self.check_numbers(again, (3, 6))
        again.close()

    # Rows

    def test_each_field_of_a_run_comes_back(self, store: Store) -> None:
        parent = a_run(1)
        run = a_child(
            2, parent, generation=3, depth=4, input=b"\x00\xff", headers=b"", retries=b"r", timeout=1.5,
            deadline=TIMES[0], status=RunStatus.FAILED, attempt=5, attempt_seq=6, attempt_at=TIMES[1],
            wake_at=TIMES[2], rest_seq=7, recoveries=8, ended_at=TIMES[3], end_seq=9, result=b"a" * 100_000,
            error=b"e", flags=int(RunFlag.RELEASED | RunFlag.DIVERGED),
        )  # fmt: skip
        store.commit([RunCreated(parent, 1), RunCreated(run, 2)])
        assert store.find("run-2") == run
        found = store.find("run-2")
        assert found is not None
        assert type(found.status) is RunStatus

    @pytest.mark.parametrize("kind", Kind)
    @pytest.mark.parametrize("status", OutcomeStatus)
    def test_each_field_of_a_step_comes_back(self, store: Store, kind: Kind, status: OutcomeStatus) -> None:
        step = a_step(1, 2, kind=kind, status=status, at=TIMES[0], payload=bytes(range(256)) * 40, began_at=TIMES[1],
                      attempts=3, due=TIMES[2])  # fmt: skip
        store.commit([RunCreated(a_run(1), 1), StepRecorded(step, 2)])
        [found] = store.steps(1)
        assert found == step
        assert type(found.kind) is Kind
        assert type(found.status) is OutcomeStatus

    @pytest.mark.parametrize("payload", [None, b"", b"\0", b"x" * 4_096, b"x" * 4_097, b"x" * 3_000_000])
    def test_payloads_of_every_size_come_back(self, store: Store, payload: bytes | None) -> None:
        run = a_run(1, input=payload, headers=payload, result=payload, error=payload)
        step = a_step(1, 2, payload=payload, key=payload or b"")
        store.commit([RunCreated(run, 1), StepRecorded(step, 2)])
        assert store.find("run-1") == run
        assert store.steps(1) == [step]
        [row] = store.list_runs(RunQuery())
        assert row == run

    @pytest.mark.parametrize("text", ["", "a\0b", '"', "\\", "\x7f\u2028", "é", "\U0001f600", "'); DROP TABLE runs;--"])
    def test_texts_come_back_as_they_were(self, store: Store, text: str) -> None:
        run = a_run(1, run_id=f"id{text}", workflow_id=text, root_run_id=text)
        step = a_step(1, 2, step_id=text, target=text)
        store.commit([RunCreated(run, 1), StepRecorded(step, 2)])
        assert store.find(f"id{text}") == run
        assert store.steps(1) == [step]
        assert store.list_runs(RunQuery(workflow_id=text)) == [run]

    def test_what_is_read_is_a_copy(self, store: Store) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1)])
        run.status = RunStatus.FAILED
        found = store.find("run-1")
        assert found is not None
        assert found.status is RunStatus.RUNNING
        found.status = RunStatus.FAILED
        assert store.live_runs()[0].row.status is RunStatus.RUNNING

    # Commits

    def test_a_commit_of_nothing_changes_nothing(self, store: Store) -> None:
        store.commit([RunCreated(a_run(1), 1)])
        store.commit([])
        self.check_numbers(store, (1, 1))

    def test_a_change_replaces_what_can_change(self, store: Store) -> None:
        run = a_run(1, input=b"in", wake_at=1.0, error=b"e")
        store.commit([RunCreated(run, 1)])
        later = changed(run, status=RunStatus.COMPLETED, attempt=2, attempt_seq=3, attempt_at=4.5, wake_at=None,
                        rest_seq=5, recoveries=6, ended_at=7.5, end_seq=8, result=b"r", error=None, flags=1)  # fmt: skip
        store.commit([RunChanged(later, 8)])
        assert store.find("run-1") == later
        assert store.live_runs() == []

    @pytest.mark.parametrize("is_one_commit", [True, False])
    def test_an_amended_run_has_the_new_input_headers_and_event_and_nothing_else(
        self, store: Store, *, is_one_commit: bool
    ) -> None:
        run = a_run(1, input=b"first", headers=b"h", retries=b"r", status=RunStatus.QUEUED)
        later = changed(run, input=b"second", headers=None, event=b"e", status=RunStatus.RUNNING)
        ended = changed(later, input=b"third", status=RunStatus.COMPLETED, ended_at=2.0, end_seq=3, result=b"res")
        entries: list[Entry] = [RunCreated(run, 1), RunAmended(later, 2)]
        for part in [entries] if is_one_commit else [[entry] for entry in entries]:
            store.commit(part)
        assert store.find("run-1") == changed(run, input=b"second", headers=None, event=b"e")
        store.commit([RunAmended(changed(later, input=b"third"), 3), RunChanged(ended, 4)])
        found = store.find("run-1")
        assert found is not None
        assert (found.input, found.headers, found.result) == (b"third", None, b"res")

    def test_changes_within_one_commit_collapse_to_the_last(self, store: Store) -> None:
        run, other = a_run(1), a_run(2)
        store.commit([RunCreated(other, 1)])
        last, other_last = changed(run, attempt=3), changed(other, attempt=4)
        store.commit(
            [
                RunCreated(run, 2),
                RunChanged(changed(run, attempt=2, error=b"e"), 3),
                RunChanged(changed(other, attempt=2), 4),
                RunChanged(last, 5),
                RunChanged(other_last, 6),
            ]
        )
        assert store.find("run-1") == last
        assert store.find("run-2") == other_last

    def test_a_run_that_is_created_and_ends_within_one_commit_is_not_live(self, store: Store) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1), StepRecorded(a_step(1, 2), 2), ended(run, 3)])
        assert store.live_runs() == []
        assert store.count_by_status(None) == {RunStatus.COMPLETED: 1}

    def test_entries_of_a_group_are_entries(self, store: Store) -> None:
        run, child = a_run(1), a_child(2, a_run(1))
        group: list[Entry] = [RunCreated(run), Together([RunCreated(child), StepRecorded(a_step(1, 9))])]
        store.commit([Together(group, seq=9)])
        assert [found.row for found in store.live_runs()] == [run, child]
        assert store.steps(1) == [a_step(1, 9)]
        self.check_numbers(store, (2, 9))

    def test_a_commit_that_cannot_be_made_changes_nothing_at_all(self, store: Store, make_store: MakeStore) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1)])
        entries: list[Entry] = [
            Together([RunChanged(changed(run, attempt=2)), StepRecorded(a_step(1, 2))], seq=2),
            RunCreated(a_run(2), 3),
            RunCreated(a_run(3, run_id="run-1"), 4),
        ]
        with pytest.raises(StoreError):
            store.commit(entries)
        again = self.reopened(store, make_store)
        assert again.find("run-1") == run
        assert again.find("run-2") is None
        assert again.steps(1) == []
        self.check_numbers(again, (1, 1))
        again.close()

    def test_large_commits_are_whole(self, store: Store) -> None:
        top = a_run(1)
        entries: list[Entry] = [RunCreated(top, 1)]
        for n in range(2, 7_000):
            child = a_child(n, top, input=str(n).encode())
            entries += [
                RunCreated(child, 3 * n),
                StepRecorded(a_step(n, 3 * n + 1), 3 * n + 1),
                ended(child, 3 * n + 2),
            ]
        store.commit(entries)
        assert store.count_by_status(1) == {RunStatus.RUNNING: 1, RunStatus.COMPLETED: 6_998}
        history = store.histories([1])[1]
        assert [child.n for child in history.children] == list(range(2, 7_000))
        assert [live.row.n for live in store.live_runs()] == [1]

    def test_last_numbers_never_fall(self, store: Store) -> None:
        store.commit([RunCreated(a_run(8), 5)])
        store.commit([RunRested(8, 5, None)])
        self.check_numbers(store, (8, 5))

    # Rests

    def test_a_rest_is_noted(self, store: Store) -> None:
        run = a_run(1, attempt=2)
        store.commit([RunCreated(run, 1)])
        store.commit([RunRested(1, 1, 17.25)])
        assert store.find("run-1") == changed(run, rest_seq=1, wake_at=17.25)
        store.commit([RunRested(1, 1, None)])
        assert store.find("run-1") == changed(run, rest_seq=1, wake_at=None)

    def test_a_rest_in_the_commit_that_creates_the_run_is_noted(self, store: Store) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1), RunRested(1, 1, 2.5)])
        assert store.find("run-1") == changed(run, rest_seq=1, wake_at=2.5)

    def test_the_order_of_a_rest_and_a_change_counts(self, store: Store) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1)])
        store.commit([RunChanged(changed(run, attempt=2), 2), RunRested(1, 2, 2.5)])
        assert store.find("run-1") == changed(run, attempt=2, rest_seq=2, wake_at=2.5)
        store.commit([RunRested(1, 2, 9.5), RunChanged(changed(run, attempt=3), 3)])
        assert store.find("run-1") == changed(run, attempt=3)

    # Cancellation

    def test_cancelled_runs_are_ended_together(self, store: Store) -> None:
        top = a_run(1)
        child, other = a_child(2, top, flags=int(RunFlag.ABANDON)), a_run(3)
        store.commit([RunCreated(top, 1), RunCreated(child, 2), RunCreated(other, 3)])
        store.commit([RunsCancelled([1, 2], 9.5, b"why", seq=4)])
        end = {"status": RunStatus.CANCELLED, "ended_at": 9.5, "end_seq": 4, "error": b"why"}
        assert store.find("run-1") == changed(top, **end)
        assert store.find("run-2") == changed(child, **end)
        assert [live.row for live in store.live_runs()] == [other]
        assert store.count_by_status(1) == {RunStatus.CANCELLED: 2}

    def test_runs_created_in_the_same_commit_can_be_cancelled(self, store: Store) -> None:
        run = a_run(1)
        store.commit([RunCreated(run, 1), RunChanged(changed(run, attempt=2), 2), RunsCancelled([1], 9.5, None, seq=3)])
        found = store.find("run-1")
        assert found == changed(run, attempt=2, status=RunStatus.CANCELLED, ended_at=9.5, end_seq=3)

    def test_only_the_withdrawn_run_is_marked_so(self, store: Store) -> None:
        top = a_run(1)
        child, below = a_child(2, top, flags=int(RunFlag.DIVERGED)), a_child(3, top)
        store.commit([RunCreated(top, 1), RunCreated(child, 2), RunCreated(below, 3)])
        store.commit([RunsCancelled([2, 3], 9.5, None, withdrawn=2, seq=4)])
        flags = {row.n: row.flags for row in store.list_runs(RunQuery())}
        assert flags == {1: 0, 2: RunFlag.DIVERGED | RunFlag.WITHDRAWN, 3: 0}

    def test_two_cancellations_in_one_commit(self, store: Store) -> None:
        store.commit([RunCreated(a_run(n), n) for n in (1, 2, 3)])
        store.commit([RunsCancelled([1], 4.5, b"a", seq=4), RunsCancelled([3], 5.5, b"b", seq=5)])
        ends = {row.n: (row.status, row.ended_at, row.end_seq, row.error) for row in store.list_runs(RunQuery())}
        assert ends == {
            1: (RunStatus.CANCELLED, 4.5, 4, b"a"),
            2: (RunStatus.RUNNING, None, None, None),
            3: (RunStatus.CANCELLED, 5.5, 5, b"b"),
        }

    def test_a_large_tree_is_cancelled_as_one(self, store: Store) -> None:
        top = a_run(1)
        store.commit([RunCreated(top, 1), *(RunCreated(a_child(n, top), n) for n in range(2, 6_001))])
        store.commit([RunsCancelled(list(range(1, 6_001)), 1.5, None, seq=9_000)])
        assert store.count_by_status(None) == {RunStatus.CANCELLED: 6_000}
        assert store.live_runs() == []

    # Recovery

    def test_live_runs_are_those_that_have_not_ended_by_number(self, store: Store) -> None:
        runs = [a_run(1), a_run(2, status=RunStatus.QUEUED), a_run(3), a_run(4)]
        store.commit([RunCreated(run, run.n) for run in runs])
        store.commit([ended(runs[0], 5), ended(runs[2], 6, RunStatus.FAILED)])
        assert [live.row for live in store.live_runs()] == [runs[1], runs[3]]

    def test_newest_seq_is_the_newest_step_or_end_of_a_child(self, store: Store) -> None:
        by_step, by_child, untouched = a_run(1), a_run(2), a_run(3)
        children = [a_child(n, by_child) for n in (4, 5, 6)]
        below = a_child(7, children[2])
        store.commit([RunCreated(run, run.n) for run in (by_step, by_child, untouched, *children, below)])
        store.commit(
            [StepRecorded(a_step(1, 20), 20), StepRecorded(a_step(1, 21), 21), StepRecorded(a_step(2, 22), 22)]
        )
        store.commit([ended(children[1], 24), RunsCancelled([4], 1.0, None, seq=23), ended(below, 25)])
        assert {live.row.n: live.newest_seq for live in store.live_runs()} == {1: 21, 2: 24, 3: 0, 6: 25}

    def test_a_history_holds_steps_in_order_and_children(self, store: Store) -> None:
        top = a_run(1)
        child = a_child(2, top, generation=2, flags=int(RunFlag.WITHDRAWN))
        steps = [a_step(1, seq) for seq in (3, 4, 7)]
        store.commit([RunCreated(top, 1), RunCreated(child, 2), RunCreated(a_child(8, child), 8)])
        store.commit([StepRecorded(steps[0], 3), StepRecorded(steps[1], 4), StepRecorded(a_step(2, 5), 5),
                      ended(child, 6), StepRecorded(steps[2], 7)])  # fmt: skip
        row = ChildRow(2, 1, "run-2", "flow", b"key-2", 2, RunStatus.COMPLETED, int(RunFlag.WITHDRAWN), 6.0, 6,
                       b"result", None)  # fmt: skip
        found = store.histories([1, 2, 99])
        assert found[1] == History(steps, [row])
        assert found[2].steps == [a_step(2, 5)]
        assert [each.n for each in found[2].children] == [8]
        assert found[99] == History([], [])

    def test_histories_of_any_length(self, store: Store) -> None:
        """More than any page holds, beside others."""
        top, other = a_run(1), a_run(2)
        entries: list[Entry] = [RunCreated(top, 1), RunCreated(other, 2)]
        entries += [StepRecorded(a_step(n, seq), seq) for seq in range(10, 12_010) for n in (1, 2)]
        entries += [RunCreated(a_child(n, other if n % 5 == 0 else top), n + 20_000) for n in range(3, 12_003)]
        store.commit(entries)
        found = store.histories([2, 1])
        for n in (1, 2):
            assert [step.seq for step in found[n].steps] == list(range(10, 12_010))
            assert [child.n for child in found[n].children] == [c for c in range(3, 12_003) if (c % 5 == 0) == (n == 2)]
        assert len(store.steps(2)) == 12_000
        assert [live.row.n for live in store.live_runs()] == list(range(1, 12_003))

    # Listing

    def test_a_history_is_without_the_ends_of_map_children(self, store: Store) -> None:
        parent = a_run(1)
        keys = [map_child_key(bytes(KEY_BYTES), index) for index in range(3)]
        ended = a_child(2, parent, parent_key=keys[0], status=RunStatus.COMPLETED, ended_at=1.0, end_seq=9)
        live, plain = a_child(3, parent, parent_key=keys[1]), a_child(4, parent, ended_at=1.0, end_seq=8)
        steps = [a_step(1, 5, key=bytes(KEY_BYTES)), a_step(1, 6, key=keys[2])]
        store.commit([*map(RunCreated, [parent, ended, live, plain]), *map(StepRecorded, steps)])
        history = store.histories([1])[1]
        assert ([child.n for child in history.children], [step.seq for step in history.steps]) == ([3, 4], [5])

    def test_ends_of_map_children_come_in_pages_in_the_order_of_their_entries(self, store: Store) -> None:
        parent, ends = a_run(1), {2: 30, 3: 10, 4: 20, 5: 20, 6: 50, 7: None}
        one, other = bytes(KEY_BYTES), b"o" * KEY_BYTES
        children = [
            a_child(n, parent, parent_key=map_child_key(one, n), ended_at=1.0 if seq else None, end_seq=seq)
            for n, seq in ends.items()
        ]
        stranger = a_child(8, parent, parent_key=map_child_key(other, 0), ended_at=1.0, end_seq=15)
        plain = a_child(9, parent, ended_at=1.0, end_seq=16)
        late = a_step(1, 25, key=map_child_key(one, 70), kind=Kind.INVOKE)
        store.commit([*map(RunCreated, [parent, *children, stranger, plain]), StepRecorded(late)])

        def places(prefix: bytes, upto_seq: int = 40, limit: int = 2) -> list[tuple[int, int]]:
            found: list[tuple[int, int]] = []
            while True:
                after = found[-1] if found else (0, 0)
                page = [place_of(row) for row in store.child_ends(EndsQuery(1, after, upto_seq, prefix, limit))]
                found += page
                if len(page) < limit:
                    return found

        assert places(one) == [(10, 3), (20, 4), (20, 5), (25, 0), (30, 2)]
        assert places(b"") == [(10, 3), (15, 8), (20, 4), (20, 5), (25, 0), (30, 2)]
        assert places(one, limit=100, upto_seq=20) == [(10, 3), (20, 4), (20, 5)]

    def test_runs_are_listed_newest_first_and_chosen_by_every_field(self, store: Store) -> None:
        tops = [a_run(1), a_run(2, workflow_id="other")]
        children = [a_child(n, tops[0]) for n in (3, 4)]
        below = a_child(5, children[0], workflow_id="other")
        store.commit([RunCreated(run, run.n) for run in (*tops, *children, below)])
        store.commit([ended(children[1], 6), ended(below, 7, RunStatus.FAILED)])

        def listed(**query: object) -> list[int]:
            return [row.n for row in store.list_runs(RunQuery(**query))]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

        assert listed() == [5, 4, 3, 2, 1]
        assert listed(workflow_id="other") == [5, 2]
        assert listed(parent_n=1) == [4, 3]
        assert listed(root_n=1) == [5, 4, 3, 1]
        assert listed(statuses=(RunStatus.RUNNING,)) == [3, 2, 1]
        assert listed(statuses=(RunStatus.RUNNING, RunStatus.FAILED)) == [5, 3, 2, 1]
        assert listed(statuses=(RunStatus.RUNNING, RunStatus.QUEUED), root_n=1) == [3, 1]
        assert listed(statuses=(RunStatus.CANCELLED,)) == []
        assert listed(root_n=1, workflow_id="other", statuses=(RunStatus.FAILED,)) == [5]
        assert listed(root_n=99) == []

    def test_pages_go_on_after_the_last_of_the_page_before(self, store: Store) -> None:
        store.commit([RunCreated(a_run(n), n) for n in range(1, 8)])
        pages: list[list[int]] = []
        before: int | None = None
        while page := [row.n for row in store.list_runs(RunQuery(limit=3, before_n=before))]:
            pages.append(page)
            before = page[-1]
        assert pages == [[7, 6, 5], [4, 3, 2], [1]]
        assert store.list_runs(RunQuery(limit=0)) == []

    def test_steps_are_read_no_further_than_asked(self, store: Store) -> None:
        store.commit([RunCreated(a_run(1), 1), *(StepRecorded(a_step(1, seq), seq) for seq in range(2, 7))])
        assert [step.seq for step in store.steps(1)] == [2, 3, 4, 5, 6]
        assert [step.seq for step in store.steps(1, 3)] == [2, 3, 4]
        assert [step.seq for step in store.steps(1, 50)] == [2, 3, 4, 5, 6]

    def test_lean_runs_are_the_same_but_for_input_and_result(self, store: Store) -> None:
        run = a_run(1, input=b"in", result=b"out", error=b"why", headers=b"h", parent_step_id="step")
        store.commit([RunCreated(run, 1)])
        (whole,) = store.list_runs(RunQuery(root_n=1))
        (lean,) = store.list_runs(RunQuery(root_n=1, is_lean=True))
        assert (lean.input in (None, b"in"), lean.result in (None, b"out")) == (True, True)
        lean.input, lean.result = whole.input, whole.result
        assert lean == whole

    @pytest.mark.parametrize("text", ["a\0b", "100%_", "\\"])
    def test_errors_are_found_by_any_text(self, store: Store, text: str) -> None:
        store.commit([RunCreated(a_run(1, error=f"it is {text}.".encode()), 1), RunCreated(a_run(2, error=b"else"), 2)])
        assert [row.n for row in store.list_runs(RunQuery(error=text))] == [1]

    def test_all_can_be_listed_at_once(self, store: Store) -> None:
        store.commit([RunCreated(a_run(n), n) for n in range(1, 11_001)])
        assert [row.n for row in store.list_runs(RunQuery(limit=2**70))] == list(range(11_000, 0, -1))
        assert len(store.list_runs(RunQuery(limit=7_000))) == 7_000

    def test_runs_are_counted_in_one_tree_or_in_all(self, store: Store) -> None:
        top, other = a_run(1), a_run(2, status=RunStatus.QUEUED)
        store.commit([RunCreated(top, 1), RunCreated(other, 2), RunCreated(a_child(3, top), 3)])
        store.commit([ended(top, 4)])
        counts = store.count_by_status(None)
        assert counts == {RunStatus.COMPLETED: 1, RunStatus.QUEUED: 1, RunStatus.RUNNING: 1}
        assert all(type(status) is RunStatus for status in counts)
        assert store.count_by_status(1) == {RunStatus.COMPLETED: 1, RunStatus.RUNNING: 1}
        assert store.count_by_status(99) == {}

    # Copies

    def test_an_existing_file_is_not_overwritten_by_a_backup(self, store: Store, tmp_path: Path) -> None:
        target = tmp_path / "copy"
        target.write_text("mine")
        with pytest.raises(StoreError, match="exists"):
            store.backup(target)
        assert target.read_text() == "mine"

    def test_compacting_loses_nothing(self, store: Store) -> None:
        runs = [a_run(n, input=b"x" * 10_000) for n in range(1, 50)]
        store.commit([RunCreated(run, run.n) for run in runs])
        store.compact()
        assert store.list_runs(RunQuery()) == runs[::-1]
        store.commit([RunCreated(a_run(50), 50)])
        self.check_numbers(store, (50, 50))

    # Items

    def put(self, store: Store, *items: ItemRow) -> None:
        store.commit([ItemPut(item, seq) for seq, item in enumerate(items, 1)])

    def keys(self, store: Store, space: str = "a", **fields: Any) -> list[str]:
        return [item.key for item in store.items(ItemQuery(space, **fields))]

    def test_each_field_of_an_item_comes_back(self, store: Store, make_store: MakeStore) -> None:
        items = [
            ItemRow("a", "k'1\n\u2603", b"\x00\xff" * 10_000, n=7, ord=-3, due=TIMES[0]),
            ItemRow("a", "k2"),
            ItemRow("a", "k3", b""),
        ]
        self.put(store, *items)
        again = self.reopened(store, make_store)
        assert again.items(ItemQuery("a")) == items
        assert again.item("a", items[0].key) == items[0]
        assert again.item("b", "k2") is None
        again.close()

    def test_items_come_in_order_of_ord_and_then_key_of_one_space_only(self, store: Store) -> None:
        self.put(store, *(ItemRow(space, key, ord=ord) for space, key, ord in
                          [("a", "z", 1), ("a", "y", 2), ("a", "b", 2), ("a", "c", 0), ("b", "c", 0)]))  # fmt: skip
        assert self.keys(store) == ["c", "z", "b", "y"]
        assert self.keys(store, limit=3) == ["c", "z", "b"]
        assert self.keys(store, limit=3, after=(2, "b")) == ["y"]
        assert self.keys(store, "b") == ["c"]
        assert self.keys(store, "c") == []

    def test_items_are_found_by_how_their_keys_begin(self, store: Store) -> None:
        keys = ["b", "a:2", "a", "a:", "a:\0", "a:\U0010fffe", "a;", "A:1", "aa:1", "a:%", "a:_"]
        items = [ItemRow("s", key, b"v", ord=ord_) for ord_, key in enumerate(keys)]
        store.commit([ItemPut(each) for each in (*items, ItemRow("t", "a:3", b"other"))])
        wanted = [item for item in items if item.key.startswith("a:")]
        assert store.items(ItemQuery("s", prefix="a:")) == wanted
        assert store.items(ItemQuery("s", prefix="a:", after=(wanted[0].ord, wanted[0].key), limit=2)) == wanted[1:3]
        assert store.items(ItemQuery("s", prefix="x")) == []

    def test_any_number_of_items_is_read(self, store: Store) -> None:
        self.put(store, *(ItemRow("a", f"{n:05}", ord=n // 7) for n in range(12_000)))
        assert self.keys(store) == [f"{n:05}" for n in range(12_000)]
        assert self.keys(store, limit=6_000)[-1] == "05999"

    def test_an_item_that_is_put_again_is_replaced(self, store: Store) -> None:
        self.put(store, ItemRow("a", "k", b"one", n=1, ord=1, due=1.0))
        self.put(store, ItemRow("a", "k", b"two"), ItemRow("a", "k", b"three", ord=2))
        assert store.items(ItemQuery("a")) == [ItemRow("a", "k", b"three", ord=2)]
        store.commit([ItemsDropped([1], 3)])  # no longer its owner
        assert self.keys(store) == ["k"]

    def test_an_item_is_dropped_by_key_or_with_its_owner(self, store: Store) -> None:
        self.put(store, *(ItemRow("a", key, n=n) for key, n in [("p", 1), ("q", 1), ("r", 2), ("s", None)]))
        store.commit([ItemDropped("a", "p", 5), ItemDropped("a", "unknown", 6), ItemDropped("b", "r", 7)])
        assert self.keys(store) == ["q", "r", "s"]
        store.commit([ItemsDropped([1, 3], 8)])
        assert self.keys(store) == ["r", "s"]

    def test_items_expire_by_space_and_time(self, store: Store) -> None:
        self.put(store, ItemRow("a", "p", due=1.0), ItemRow("a", "q", due=2.0), ItemRow("a", "r", due=2.5),
                 ItemRow("a", "s"), ItemRow("b", "p", due=1.0))  # fmt: skip
        store.commit([ItemsExpired("a", 2.0, 6)])
        assert self.keys(store) == ["r", "s"]
        assert self.keys(store, "b") == ["p"]

    @pytest.mark.parametrize("is_one_commit", [True, False])
    def test_what_happens_to_items_within_one_commit_is_as_if_one_after_the_other(
        self, store: Store, is_one_commit: bool
    ) -> None:
        entries: list[Entry] = [
            ItemPut(ItemRow("a", "put, dropped", n=1)),
            ItemDropped("a", "put, dropped"),
            ItemPut(ItemRow("a", "put, dropped, put", b"1")),
            ItemDropped("a", "put, dropped, put"),
            ItemPut(ItemRow("a", "put, dropped, put", b"2")),
            ItemPut(ItemRow("a", "owned", n=2)),
            ItemPut(ItemRow("a", "owned by another", n=2)),
            ItemPut(ItemRow("a", "owned by another", n=3)),
            ItemsDropped([2]),
            ItemPut(ItemRow("a", "due", due=1.0)),
            ItemPut(ItemRow("a", "due later", due=1.0)),
            ItemPut(ItemRow("a", "due later", due=3.0)),
            ItemsExpired("a", 2.0),
            ItemPut(ItemRow("a", "due after that", due=1.0)),
            Together([ItemPut(ItemRow("a", "in a group")), ItemDropped("a", "owned by another")]),
        ]
        for seq, entry in enumerate(entries, 1):
            entry.seq = seq
        for commit in [entries] if is_one_commit else [[entry] for entry in entries]:
            store.commit(commit)
        assert self.keys(store) == ["due after that", "due later", "in a group", "put, dropped, put"]
        assert store.items(ItemQuery("a"))[-1].body == b"2"

    def test_an_item_that_is_read_is_a_copy(self, store: Store) -> None:
        self.put(store, ItemRow("a", "k", b"one"))
        store.items(ItemQuery("a"))[0].body = b"two"
        found = store.item("a", "k")
        assert found is not None
        found.body = b"three"
        assert store.item("a", "k") == ItemRow("a", "k", b"one")
