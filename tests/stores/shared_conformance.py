"""What every store must do that many replicas share, in tests: `rotor_actors/stores/shared.py`, sentence by sentence.

class TestMyStore(SharedStoreConformance):
    @pytest.fixture
    def make_replica(self) -> MakeReplica:
        return lambda: MyStore(url)

    def expire(self, store: SharedStore) -> None: ...
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
from conformance import a_child, a_run, a_step, changed, ended

from rotor_actors.errors import ReplicaFencedError, StoreError
from rotor_actors.ids import KEY_BYTES, map_child_key
from rotor_actors.records import (
    COORDINATOR,
    CancelNote,
    CancelRequested,
    EndSeen,
    Entry,
    FlagsAdded,
    ItemPut,
    ItemRow,
    Kind,
    MailKind,
    MailSent,
    MailTaken,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    RunsCancelled,
    RunsDeleted,
    RunsReleased,
    RunStatus,
    RunWatched,
    StepRecorded,
    Together,
)
from rotor_actors.stores.base import EndsQuery, RunQuery
from rotor_actors.stores.shared import Claim, ClaimQuery, Declared, SharedStore, is_shared

MakeReplica: TypeAlias = Callable[[], SharedStore]

FLOW = [Declared("flow")]
NOTE = msgspec.msgpack.encode(CancelNote("not wanted"))


def number(store: SharedStore, count: int) -> int:
    """The number of a run that this replica creates."""
    return (store.replica << 32) + count


def created(store: SharedStore, *counts: int, **fields: object) -> list[RunRow]:
    """Runs that this replica has created, and owns."""
    runs = [a_run(number(store, count), **fields) for count in counts]
    store.commit([RunCreated(run, seq) for seq, run in enumerate(runs, 1)])
    return runs


def claimed(claim: Claim) -> list[int]:
    return [each.live.row.n for each in claim.runs]


def claim(store: SharedStore, limit: int = 100) -> list[int]:
    return claimed(store.claim(ClaimQuery(limit)))


def letters(store: SharedStore) -> list[tuple[int, MailKind, bytes | None]]:
    return [(each.to, each.kind, each.body) for each in store.mail(0, 1_000)]


def row_of(store: SharedStore, run: RunRow) -> RunRow:
    [row] = store.rows([run.n])
    return row


def the_end_of(run: RunRow) -> bytes:
    return msgspec.msgpack.encode(run.n)


class SharedStoreConformance:
    """The suite. Override the fixture `make_replica` and the method `expire`."""

    @pytest.fixture
    def make_replica(self, tmp_path: Path) -> MakeReplica:
        """Each call gives another store on the same database, which is empty at first. It is not open."""
        raise NotImplementedError

    def expire(self, store: SharedStore) -> None:
        """Let the lease of this replica run out, to the database's clock; no other's."""
        raise NotImplementedError

    @pytest.fixture
    def open_replica(self, make_replica: MakeReplica) -> Iterator[Callable[..., SharedStore]]:
        stores: list[SharedStore] = []

        def opened(declared: list[Declared] = FLOW) -> SharedStore:
            store = make_replica()
            store.open()
            stores.append(store)
            store.declare(f"worker {len(stores)}", declared)
            return store

        yield opened
        for store in stores:
            store.close()

    @pytest.fixture
    def a(self, open_replica: Callable[..., SharedStore]) -> SharedStore:
        return open_replica()

    @pytest.fixture
    def b(self, open_replica: Callable[..., SharedStore]) -> SharedStore:
        return open_replica()

    def fence(self, lost: SharedStore, by: SharedStore) -> None:
        """Its lease has run out, and another replica has noticed."""
        self.expire(lost)
        by.reap()

    # Replicas

    def test_it_is_one_that_may_be_shared(self, a: SharedStore) -> None:
        assert is_shared(a)
        assert a.lease > 0

    def test_each_opening_is_another_replica_whose_number_is_never_used_again(self, make_replica: MakeReplica) -> None:
        numbers: list[int] = []
        store, other = make_replica(), make_replica()
        for _ in range(3):
            for each in (store, other):
                each.open()
                numbers.append(each.replica)
            for each in (store, other):
                each.close()
        assert len(set(numbers)) == 6
        assert numbers == sorted(numbers)
        assert min(numbers) > 0

    def test_a_closed_store_is_no_replica(self, make_replica: MakeReplica) -> None:
        store = make_replica()
        with pytest.raises(StoreError):
            _ = store.replica
        store.open()
        store.close()
        store.close()
        with pytest.raises(StoreError):
            _ = store.replica

    def test_the_numbers_of_runs_are_the_replicas_own(self, a: SharedStore, b: SharedStore) -> None:
        created(a, 1, 2)
        assert a.last_numbers() == (a.replica << 32, 0)
        assert b.last_numbers() == (b.replica << 32, 0)

    def test_replicas_are_shown_with_what_they_said_of_themselves(self, a: SharedStore, b: SharedStore) -> None:
        declared = [Declared("flow", ("1", "2")), Declared("other")]
        a.declare("web", declared)
        a.claim(ClaimQuery())
        b.drain()
        created(a, 1, 2)
        first, second = b.replicas()
        assert (first.number, first.label, first.declared) == (a.replica, "web", declared)
        assert (first.is_coordinator, first.is_draining, first.owned) == (True, False, 2)
        assert (second.number, second.is_coordinator, second.is_draining, second.owned) == (b.replica, False, True, 0)
        assert first.lease_until == pytest.approx(first.began_at + a.lease, abs=5.0)

    def test_a_run_that_has_ended_is_owned_by_nobody(self, a: SharedStore) -> None:
        run, other = created(a, 1, 2)
        a.commit([ended(run, 3)])
        assert a.owners([run.n, other.n, 77]) == {run.n: None, other.n: a.replica}
        assert [each.owned for each in a.replicas()] == [1]

    # Leases

    def test_a_beat_tells_the_databases_time_and_renews_the_lease(self, a: SharedStore) -> None:
        first = a.beat()
        second = a.beat()
        assert first is not None
        assert second is not None
        assert second >= first
        assert a.replicas()[0].lease_until == pytest.approx(second + a.lease, abs=1.0)

    def test_a_beat_in_time_keeps_the_row(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        self.expire(a)
        assert a.beat() is not None  # nobody had noticed
        assert b.reap() == 0
        assert b.owners([run.n]) == {run.n: a.replica}

    def test_a_replica_whose_lease_has_run_out_is_reaped_and_its_runs_are_free(
        self, a: SharedStore, b: SharedStore
    ) -> None:
        runs = created(a, 1, 2)
        done, mine = created(a, 3)[0], created(b, 1)[0]
        a.commit([ended(done, 9)])
        self.expire(a)
        assert [row.number for row in b.replicas()] == [a.replica, b.replica]
        assert b.reap() == 2
        assert [row.number for row in b.replicas()] == [b.replica]
        assert b.owners([*(run.n for run in runs), mine.n]) == {runs[0].n: None, runs[1].n: None, mine.n: b.replica}
        assert b.reap() == 0
        assert a.beat() is None

    def test_a_run_that_had_ended_is_not_given_to_anybody_when_its_owner_goes(
        self, a: SharedStore, b: SharedStore
    ) -> None:
        """It was taken to be brought back, and its owner is gone before it said so."""
        [run] = created(a, 1)
        a.commit([ended(run, 2)])
        a.take([run.n])
        self.fence(a, b)
        assert claim(b) == []
        assert b.unowned() == []

    def test_a_reap_that_was_cut_short_is_finished_by_the_next(self, a: SharedStore, b: SharedStore) -> None:
        """Runs whose owner has no row are free, whenever that went."""
        [run] = created(a, 1)
        self.fence(a, b)
        assert b.owners([run.n]) == {run.n: None}

    # The fence

    @pytest.mark.parametrize("verb", ["commit", "try_commit", "claim", "take", "declare", "drain"])
    def test_without_its_row_a_replica_changes_nothing(self, a: SharedStore, b: SharedStore, verb: str) -> None:
        [run] = created(a, 1)
        self.fence(a, b)
        calls: dict[str, Callable[[], object]] = {
            "commit": lambda: a.commit([RunCreated(a_run(number(a, 2)), 2), ended(run, 3)]),
            "try_commit": lambda: a.try_commit([RunCreated(a_run(number(a, 2)), 2), ended(run, 3)]),
            "claim": lambda: a.claim(ClaimQuery()),
            "take": lambda: a.take([run.n]),
            "declare": lambda: a.declare("zombie", FLOW),
            "drain": a.drain,
        }
        with pytest.raises(ReplicaFencedError):
            calls[verb]()
        assert b.list_runs(RunQuery()) == [run]
        assert b.owners([run.n]) == {run.n: None}
        assert [row.label for row in b.replicas()] == ["worker 2"]

    def test_every_kind_of_entry_is_refused_from_who_has_no_row(self, a: SharedStore, b: SharedStore) -> None:
        [run], [other] = created(a, 1), created(b, 1)
        b.commit([MailSent(other.n, MailKind.EVENT, b"e")])
        self.fence(a, b)
        entries: list[Entry] = [
            MailSent(other.n, MailKind.SIGNAL), MailTaken([each.id for each in b.mail(0, 9)]),
            RunsReleased([other.n]), CancelRequested([other.n], NOTE), FlagsAdded(other.n, RunFlag.RELEASED),
            EndSeen(other.n, 4), RunWatched(other.n, -a.replica), StepRecorded(a_step(run.n, 2), 2),
            RunsCancelled([run.n], 1.0, None, seq=2), ItemPut(ItemRow("s", "k", n=run.n)),
        ]  # fmt: skip
        for entry in entries:
            with pytest.raises(ReplicaFencedError):
                a.commit([entry])
        assert letters(b) == [(other.n, MailKind.EVENT, b"e")]
        assert b.owners([other.n]) == {other.n: b.replica}
        assert row_of(b, other) == other
        assert b.steps(run.n) == []
        assert b.item("s", "k") is None

    def test_closing_gives_all_back_at_once(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.claim(ClaimQuery())
        a.close()
        assert [row.number for row in b.replicas()] == [b.replica]
        found = b.claim(ClaimQuery())
        assert (claimed(found), found.is_coordinator) == ([run.n], True)

    def test_one_that_was_fenced_may_still_read_and_close(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        self.fence(a, b)
        assert a.rows([run.n]) == [run]
        a.close()
        assert b.owners([run.n]) == {run.n: None}

    # Who owns what

    def test_whoever_creates_a_run_owns_it_until_it_is_released(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        assert a.owners([run.n]) == {run.n: a.replica}
        assert claim(b) == []
        a.commit([RunsReleased([run.n])])
        assert a.owners([run.n]) == {run.n: None}
        assert claim(b) == [run.n]
        assert a.owners([run.n]) == {run.n: b.replica}

    def test_a_run_can_be_created_for_others_in_one_act(self, a: SharedStore, b: SharedStore) -> None:
        run = a_run(number(a, 1))
        a.commit([Together([RunCreated(run), RunsReleased([run.n])], seq=1)])
        assert claim(b) == [run.n]

    def test_nobody_gets_what_another_has(self, a: SharedStore, b: SharedStore) -> None:
        runs = created(a, *range(1, 8))
        a.commit([RunsReleased([run.n for run in runs])])
        first, second, third = claim(b, 3), claim(a, 3), claim(b, 3)
        assert (len(first), len(second), len(third)) == (3, 3, 1)
        assert sorted(first + second + third) == [run.n for run in runs]
        assert claim(a) == claim(b) == []

    def test_what_is_claimed_comes_with_its_newest_entry_parents_first(self, a: SharedStore, b: SharedStore) -> None:
        """Numbers say nothing of who is whose parent."""
        top = a_run(number(b, 9))
        child = a_child(number(a, 1), top)
        below = a_child(number(a, 2), child)
        b.commit([RunCreated(top, 1), RunCreated(child, 2), RunCreated(below, 3)])
        b.commit([StepRecorded(a_step(child.n, 40), 40), RunsReleased([top.n, child.n, below.n])])
        found = a.claim(ClaimQuery()).runs
        assert [each.live.row for each in found] == [top, child, below]
        assert [each.live.newest_seq for each in found] == [0, 40, 0]
        assert [each.cancel for each in found] == [None] * 3

    def test_a_child_that_was_left_to_others_has_begun_with_the_claim(self, a: SharedStore, b: SharedStore) -> None:
        before = b.beat()
        top = a_run(number(a, 1))
        child = a_child(number(a, 2), top, status=RunStatus.QUEUED, attempt_at=None)
        a.commit([RunCreated(top), Together([RunCreated(child), RunsReleased([child.n])])])
        [found] = b.claim(ClaimQuery()).runs
        after = b.beat()
        assert before is not None
        assert after is not None
        assert (found.begins, found.is_below, found.live.newest_seq) == (True, True, 0)
        assert found.live.row == row_of(a, child)
        assert found.live.row.status is RunStatus.RUNNING
        assert before <= (found.live.row.attempt_at or 0.0) <= after
        self.fence(b, a)
        [again] = a.claim(ClaimQuery()).runs
        assert (again.begins, again.live.row) == (False, found.live.row)

    @pytest.mark.parametrize("what", ["root", "begun", "retried", "in a line", "to the coordinator", "to be cancelled"])
    def test_what_else_is_claimed_stays_as_it_was(self, a: SharedStore, b: SharedStore, what: str) -> None:
        b.claim(ClaimQuery())
        other: dict[str, dict[str, object]] = {"begun": {"status": RunStatus.RUNNING}, "retried": {"wake_at": 1.0}}
        top = a_run(number(a, 1))
        child = a_child(number(a, 2), top, **{"status": RunStatus.QUEUED, "attempt_at": None, **other.get(what, {})})
        run = a_run(number(a, 3), status=RunStatus.QUEUED, attempt_at=None) if what == "root" else child
        entries: list[Entry] = [RunCreated(top), RunCreated(run)]
        if what == "in a line":
            entries.append(ItemPut(ItemRow("tickets", "t", n=run.n)))
        entries.append(RunsReleased([run.n], to_coordinator=what == "to the coordinator"))
        if what == "to be cancelled":
            entries.append(CancelRequested([run.n], NOTE))
        a.commit(entries)
        [found] = b.claim(ClaimQuery()).runs
        assert not found.begins
        assert found.live.row == run == row_of(a, run)

    def test_a_claim_says_whether_the_parent_had_ended(self, a: SharedStore, b: SharedStore) -> None:
        tops = created(a, 1, 2)
        children = [a_child(number(a, n + 2), top) for n, top in enumerate(tops, 1)]
        a.commit([*map(RunCreated, children), RunsReleased([child.n for child in children]), ended(tops[1], 9)])
        assert [each.is_below for each in b.claim(ClaimQuery()).runs] == [True, False]

    def test_what_is_left_to_others_as_it_is_created_stands_so(self, a: SharedStore, b: SharedStore) -> None:
        b.claim(ClaimQuery())
        runs = [a_run(number(a, n)) for n in (1, 2, 3)]
        released = RunsReleased([runs[0].n]), RunsReleased([runs[1].n], True), RunsReleased([runs[2].n], False, True)
        a.commit([Together([RunCreated(run), each]) for run, each in zip(runs, released, strict=True)])
        assert a.owners([run.n for run in runs]) == dict.fromkeys([run.n for run in runs])
        assert [(each.unowned, each.parked) for each in b.unowned()] == [(3, 1)]
        assert claim(a) == [runs[0].n]
        assert claim(b) == [runs[2].n]

    @pytest.mark.parametrize(
        ("versions", "version", "fits"),
        [(None, None, True), (None, "1", True), (("2",), None, True), (("2",), "1", False), (("2", "1"), "1", True),
         ((), "1", False), ((), None, True)],
    )  # fmt: skip
    def test_only_what_it_can_run_is_claimed(
        self, a: SharedStore, b: SharedStore, versions: tuple[str, ...] | None, version: str | None, fits: bool
    ) -> None:
        [run] = created(a, 1, version=version)
        [other] = created(a, 2, workflow_id="other")
        a.commit([RunsReleased([run.n, other.n])])
        b.declare("b", [Declared("flow", versions)])
        assert claim(b) == ([run.n] if fits else [])

    def test_labels_workflows_and_versions_are_shown_as_they_were_given(self, a: SharedStore, b: SharedStore) -> None:
        workflow_id, version = "w\0'\1;--", "\0\1"
        [run] = created(a, 1, workflow_id=workflow_id, version=version)
        a.declare("l\0\1'\"", [Declared(workflow_id, (version,))])
        a.commit([RunsReleased([run.n])])
        [row] = [each for each in b.replicas() if each.number == a.replica]
        assert (row.label, row.declared) == ("l\0\1'\"", [Declared(workflow_id, (version,))])
        assert [(each.workflow_id, each.version, each.is_declared) for each in b.unowned()] == [
            (workflow_id, version, True)
        ]

    def test_a_parked_run_is_claimed_when_it_is_due(self, a: SharedStore, b: SharedStore) -> None:
        now = a.beat()
        assert now is not None
        [due], [later], [never] = created(a, 1, wake_at=now - 1), created(a, 2, wake_at=now + 3600), created(a, 3)
        a.commit([RunsReleased([due.n, later.n, never.n], is_parked=True)])
        assert claim(b) == [due.n]
        assert [(each.unowned, each.parked) for each in b.unowned()] == [(2, 2)]

    def test_a_parked_run_is_claimed_when_a_message_waits_for_it(self, a: SharedStore, b: SharedStore) -> None:
        runs = created(a, 1, 2)
        a.commit([RunsReleased([run.n for run in runs], is_parked=True)])
        assert claim(b) == []
        a.commit([MailSent(runs[1].n, MailKind.SIGNAL, b"s")])
        assert claim(b) == [runs[1].n]
        assert letters(b) == [(runs[1].n, MailKind.SIGNAL, b"s")]

    def test_what_was_parked_is_not_any_more_once_it_was_claimed(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([RunsReleased([run.n], is_parked=True), MailSent(run.n, MailKind.SIGNAL)])
        assert claim(b) == [run.n]
        b.commit([MailTaken([each.id for each in b.mail(0, 9)])])
        self.fence(b, a)
        assert claim(a) == [run.n]

    def test_a_parked_run_that_is_to_be_cancelled_is_claimed(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([RunsReleased([run.n], is_parked=True)])
        a.commit([CancelRequested([run.n], NOTE)])
        [found] = b.claim(ClaimQuery()).runs
        assert (found.live.row.n, found.cancel) == (run.n, NOTE)

    def test_one_that_nobody_can_run_is_given_to_anybody_to_be_cancelled(self, a: SharedStore, b: SharedStore) -> None:
        [run], [known] = created(a, 1, workflow_id="old"), created(a, 2, workflow_id="known")
        a.declare("a", [Declared("known")])
        a.commit([RunsReleased([run.n, known.n])])
        assert claim(b) == []
        a.commit([CancelRequested([run.n, known.n], NOTE)])
        assert claim(b) == [run.n]
        assert claim(a) == [known.n]

    def test_a_whole_tree_is_claimed_at_once_whatever_the_limit(self, a: SharedStore, b: SharedStore) -> None:
        top = a_run(number(a, 1), flags=int(RunFlag.WHOLE))
        children = [a_child(number(a, n), top, flags=int(RunFlag.WHOLE)) for n in (2, 3, 4)]
        tree = [top, *children]
        a.commit([*(RunCreated(run, 1) for run in tree), RunsReleased([run.n for run in tree])])
        assert claim(b, 1) == [run.n for run in tree]

    def test_a_whole_tree_is_claimed_with_what_is_parked_of_it(self, a: SharedStore, b: SharedStore) -> None:
        top = a_run(number(a, 1), flags=int(RunFlag.WHOLE))
        child = a_child(number(a, 2), top, flags=int(RunFlag.WHOLE))
        a.commit([RunCreated(top, 1), RunCreated(child, 2)])
        a.commit([RunsReleased([top.n], is_parked=True), RunsReleased([child.n])])
        assert claim(b) == [top.n, child.n]

    def test_one_that_drains_claims_nothing_more(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([RunsReleased([run.n])])
        b.drain()
        found = b.claim(ClaimQuery())
        assert (found.runs, found.is_coordinator) == ([], False)
        assert claim(a) == [run.n]

    def test_runs_that_have_ended_can_be_taken_back(self, a: SharedStore, b: SharedStore) -> None:
        runs = created(a, 1, 2)
        a.commit([ended(run, 9) for run in runs])
        ns = [run.n for run in runs]
        assert sorted(live.row.n for live in b.take(ns)) == ns
        assert b.owners(ns) == {n: b.replica for n in ns}
        assert a.take(ns) == []

    def test_what_is_taken_is_taken_as_a_whole(self, a: SharedStore, b: SharedStore) -> None:
        [free], [owned] = created(a, 1), created(a, 2)
        a.commit([RunsReleased([free.n])])
        assert b.take([free.n, owned.n]) == []
        assert b.take([free.n, 77]) == []
        assert b.owners([free.n, owned.n]) == {free.n: None, owned.n: a.replica}
        assert [live.row for live in b.take([free.n])] == [free]

    def test_runs_without_an_owner_are_counted_by_workflow_and_version(self, a: SharedStore, b: SharedStore) -> None:
        flow, old, more = created(a, 1), created(a, 2, 3, version="0"), created(a, 4, workflow_id="gone")
        for each in (a, b):
            each.declare("", [Declared("flow", ("1",))])
        a.commit([RunsReleased([run.n for run in (*flow, *old, *more)]), RunsReleased([old[0].n], is_parked=True)])
        counts = {(each.workflow_id, each.version): each for each in b.unowned()}
        assert {key: (each.unowned, each.parked, each.is_declared) for key, each in counts.items()} == {
            ("flow", None): (1, 0, True),
            ("flow", "0"): (2, 1, False),
            ("gone", None): (1, 0, False),
        }

    # The coordinator

    def test_one_replica_is_the_coordinator_for_as_long_as_it_lives(self, a: SharedStore, b: SharedStore) -> None:
        assert not a.claim(ClaimQuery(coordinates=False)).is_coordinator
        assert b.claim(ClaimQuery()).is_coordinator
        assert not a.claim(ClaimQuery()).is_coordinator
        assert b.claim(ClaimQuery(coordinates=False)).is_coordinator
        self.fence(b, a)
        assert a.claim(ClaimQuery()).is_coordinator

    def test_what_is_released_to_the_coordinator_is_claimed_by_it_only(self, a: SharedStore, b: SharedStore) -> None:
        a.claim(ClaimQuery())
        [run] = created(b, 1)
        b.commit([RunsReleased([run.n], to_coordinator=True)])
        assert claim(b) == []
        assert claim(a) == [run.n]

    def test_whoever_becomes_the_coordinator_claims_it_in_the_same_call(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(b, 1)
        b.commit([RunsReleased([run.n], to_coordinator=True)])
        assert claimed(a.claim(ClaimQuery(coordinates=False))) == []
        assert claim(a) == [run.n]

    def test_a_message_to_the_coordinator_waits_until_there_is_one(self, a: SharedStore, b: SharedStore) -> None:
        b.commit([MailSent(COORDINATOR, MailKind.EVENT, b"e")])
        assert letters(a) == letters(b) == []
        a.claim(ClaimQuery())
        assert (letters(a), letters(b)) == ([(COORDINATOR, MailKind.EVENT, b"e")], [])
        self.fence(a, b)
        b.claim(ClaimQuery())
        assert letters(b) == [(COORDINATOR, MailKind.EVENT, b"e")]

    # Messages

    def test_a_message_goes_to_whoever_owns_the_run(self, a: SharedStore, b: SharedStore) -> None:
        mine, theirs = created(a, 1)[0], created(b, 1)[0]
        a.commit([MailSent(theirs.n, MailKind.SIGNAL, b"1"), MailSent(mine.n, MailKind.EVENT)])
        assert letters(a) == [(mine.n, MailKind.EVENT, None)]
        assert letters(b) == [(theirs.n, MailKind.SIGNAL, b"1")]
        b.commit([RunsReleased([theirs.n])])
        assert letters(b) == []
        claim(a)
        assert (theirs.n, MailKind.SIGNAL, b"1") in letters(a)

    def test_a_message_goes_to_a_replica(self, a: SharedStore, b: SharedStore) -> None:
        a.commit([MailSent(-b.replica, MailKind.REPLY, b"r")])
        assert (letters(a), letters(b)) == ([], [(-b.replica, MailKind.REPLY, b"r")])

    def test_messages_come_by_number_and_stay_until_they_are_taken(self, a: SharedStore, b: SharedStore) -> None:
        a.commit([MailSent(-b.replica, MailKind.REPLY, str(n).encode()) for n in range(7)])
        a.commit([MailSent(-b.replica, MailKind.REPLY, b"7")])
        first = b.mail(0, 3)
        assert [each.body for each in first] == [b"0", b"1", b"2"]
        assert [each.body for each in b.mail(first[-1].id, 3)] == [b"3", b"4", b"5"]
        b.commit([MailTaken([first[0].id, first[2].id, 999_999])])
        assert [each.body for each in b.mail(0, 100)] == [b"1", b"3", b"4", b"5", b"6", b"7"]
        ids = [each.id for each in b.mail(0, 100)]
        assert ids == sorted(ids)

    def test_a_message_to_nobody_is_dropped(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([ended(run, 2)])
        lost = b.replica
        b.close()
        a.commit([MailSent(run.n, MailKind.SIGNAL), MailSent(-lost, MailKind.REPLY), MailSent(77, MailKind.EVENT)])
        a.reap()
        [again] = created(a, 2)
        a.commit([MailSent(again.n, MailKind.EVENT)])
        assert [each.to for each in a.mail(0, 9)] == [again.n]

    def test_what_was_not_taken_goes_with_the_end_of_the_run(self, a: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([MailSent(run.n, MailKind.SIGNAL)])
        a.commit([ended(run, 2)])
        assert letters(a) == []

    def test_an_entry_and_its_messages_are_there_together_or_not_at_all(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        with pytest.raises(StoreError):
            a.commit([MailSent(-b.replica, MailKind.REPLY), RunCreated(a_run(number(a, 2), run_id=run.run_id))])
        assert letters(b) == []

    # Watching

    def test_whoever_watches_a_run_is_told_of_its_end(self, a: SharedStore, b: SharedStore) -> None:
        [run], [joiner] = created(a, 1), created(b, 1)
        b.commit([RunWatched(run.n, joiner.n), RunWatched(run.n, -b.replica), RunWatched(run.n, -b.replica)])
        assert letters(b) == []
        a.commit([ended(run, 3)])
        expected = [(-b.replica, MailKind.ENDED, the_end_of(run)), (joiner.n, MailKind.ENDED, the_end_of(run))]
        assert sorted(letters(b)) == sorted(expected)

    def test_whoever_watches_a_run_is_told_of_its_cancellation(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        b.commit([RunWatched(run.n, -b.replica)])
        a.commit([RunsCancelled([run.n], 1.0, None, seq=4)])
        assert letters(b) == [(-b.replica, MailKind.ENDED, the_end_of(run))]

    def test_whoever_watches_a_run_that_has_ended_is_told_at_once(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([ended(run, 3)])
        b.commit([RunWatched(run.n, -b.replica)])
        assert letters(b) == [(-b.replica, MailKind.ENDED, the_end_of(run))]

    def test_whoever_watches_a_run_that_is_not_there_any_more_is_told_at_once(
        self, a: SharedStore, b: SharedStore
    ) -> None:
        [run] = created(a, 1)
        a.commit([ended(run, 3)])
        a.commit([RunsDeleted([run.n])])
        b.commit([RunWatched(run.n, -b.replica)])
        assert letters(b) == [(-b.replica, MailKind.ENDED, the_end_of(run))]

    def test_a_watch_and_the_end_in_one_commit(self, a: SharedStore) -> None:
        [run], [joiner] = created(a, 1), created(a, 2)
        a.commit([RunWatched(run.n, joiner.n), ended(run, 3)])
        assert letters(a) == [(joiner.n, MailKind.ENDED, the_end_of(run))]

    # Cancelling what another owns

    def test_a_cancellation_is_a_mark_and_a_message(self, a: SharedStore, b: SharedStore) -> None:
        [run], [done] = created(a, 1), created(a, 2)
        a.commit([ended(done, 3)])
        before = row_of(a, done)
        b.commit([CancelRequested([run.n, done.n], NOTE, withdrawn=done.n)])
        assert letters(a) == [(run.n, MailKind.CANCEL, NOTE)]
        assert row_of(b, done) == before
        self.fence(a, b)
        [found] = b.claim(ClaimQuery()).runs
        assert (found.live.row, found.cancel) == (run, NOTE)

    def test_a_child_that_was_left_to_others_and_cancelled_in_one_commit(self, a: SharedStore, b: SharedStore) -> None:
        [parent] = created(a, 1)
        child = a_child(number(a, 2), parent)
        a.commit([RunCreated(child), RunsReleased([child.n]), CancelRequested([child.n], NOTE), ended(parent, 9)])
        [found] = b.claim(ClaimQuery()).runs
        assert (found.live.row.n, found.cancel) == (child.n, NOTE)

    def test_the_first_cancellation_counts(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        for body in (NOTE, b"second"):
            b.commit([CancelRequested([run.n], body)])
        self.fence(a, b)
        assert [each.cancel for each in b.claim(ClaimQuery()).runs] == [NOTE]

    def test_a_cancellation_of_what_is_not_there_is_nothing(self, a: SharedStore) -> None:
        a.commit([CancelRequested([77], NOTE)])
        assert claim(a) == []

    def test_who_is_withdrawn_is_marked_so_at_once(self, a: SharedStore, b: SharedStore) -> None:
        runs = created(a, 1, 2)
        b.commit([CancelRequested([run.n for run in runs], NOTE, withdrawn=runs[1].n)])
        assert [row.flags for row in b.rows([run.n for run in runs])] == [0, RunFlag.WITHDRAWN]

    def test_who_is_withdrawn_stays_so_whatever_its_owner_writes_down(self, a: SharedStore, b: SharedStore) -> None:
        run = a_run(number(a, 1))
        a.commit([RunCreated(run)])
        b.commit([CancelRequested([run.n], NOTE, withdrawn=run.n)])
        a.commit([RunChanged(changed(run, attempt=2))])  # it has not read its mail
        assert row_of(b, run).flags == RunFlag.WITHDRAWN

    @pytest.mark.parametrize("flag", [RunFlag.RELEASED, RunFlag.WITHDRAWN])
    def test_what_the_parent_said_is_not_undone_by_an_older_snapshot(
        self, a: SharedStore, b: SharedStore, flag: RunFlag
    ) -> None:
        [run] = created(a, 1, flags=int(RunFlag.ABANDON))
        b.commit([FlagsAdded(run.n, flag)])
        a.commit([RunsReleased([run.n])])
        assert row_of(b, run).flags == RunFlag.ABANDON | flag
        a.commit([ended(changed(run, flags=int(RunFlag.DIVERGED)), 3)])
        assert row_of(b, run).flags == RunFlag.DIVERGED | flag

    def test_other_marks_are_as_the_newest_snapshot_has_them(self, a: SharedStore) -> None:
        [run] = created(a, 1)
        a.commit([FlagsAdded(run.n, RunFlag.DIVERGED)])
        a.commit([ended(run, 3)])
        assert row_of(a, run).flags == 0

    def test_whoever_brings_a_run_back_says_anew_how_it_stands(self, a: SharedStore, b: SharedStore) -> None:
        [run] = created(a, 1)
        b.commit([FlagsAdded(run.n, RunFlag.RELEASED)])
        a.commit([ended(run, 3)])
        assert row_of(b, run).flags == RunFlag.RELEASED
        assert [live.row.n for live in b.take([run.n])] == [run.n]
        assert a.take([run.n]) == []
        again = changed(run, attempt=2)
        b.commit([RunChanged(again, 4)])
        assert row_of(a, run) == again
        assert b.owners([run.n]) == {run.n: b.replica}
        b.commit([RunChanged(changed(run, attempt=3), 5)])
        assert row_of(a, run).flags == 0

    # Ends that the parent has not seen

    def unseen(self, parents: SharedStore, children: SharedStore, **fields: object) -> tuple[RunRow, RunRow]:
        """A child has ended on another replica than its parent."""
        [parent] = created(parents, 1)
        child = a_child(number(parents, 2), parent, **fields)
        parents.commit([Together([RunCreated(child), RunsReleased([child.n])], seq=5)])
        claim(children)
        children.commit([ended(changed(child, flags=int(RunFlag.UNSEEN)), 70)])
        return parent, child

    def test_a_child_whose_end_was_not_seen_can_still_be_withdrawn(self, a: SharedStore, b: SharedStore) -> None:
        parent, child = self.unseen(a, b)
        a.commit([CancelRequested([child.n], NOTE, withdrawn=child.n)])
        assert row_of(b, child).flags == RunFlag.UNSEEN | RunFlag.WITHDRAWN
        [known] = b.histories([parent.n])[parent.n].children
        assert (known.status, known.flags & RunFlag.WITHDRAWN) == (RunStatus.RUNNING, RunFlag.WITHDRAWN)

    def test_a_child_whose_end_was_not_seen_runs_to_its_parent(self, a: SharedStore, b: SharedStore) -> None:
        parent, child = self.unseen(a, b)
        [seen] = a.histories([parent.n])[parent.n].children
        assert (seen.n, seen.status, seen.end_seq, seen.ended_at, seen.result) == (
            child.n, RunStatus.RUNNING, None, None, None,
        )  # fmt: skip
        assert [(each.row.n, each.row.status, each.owner) for each in a.remote_children([parent.n])] == [
            (child.n, RunStatus.COMPLETED, None)
        ]
        assert {live.row.n: live.newest_seq for live in a.live_runs()} == {parent.n: 0}

    def test_once_it_was_seen_it_stands_where_the_parent_says(self, a: SharedStore, b: SharedStore) -> None:
        parent, child = self.unseen(a, b)
        a.commit([Together([EndSeen(child.n, 9), MailTaken([])], seq=9)])
        [seen] = a.histories([parent.n])[parent.n].children
        assert (seen.status, seen.end_seq, seen.flags, seen.result) == (RunStatus.COMPLETED, 9, 0, b"result")
        assert a.remote_children([parent.n]) == []
        assert {live.row.n: live.newest_seq for live in a.live_runs()} == {parent.n: 9}

    def test_the_end_of_a_maps_child_is_there_once_it_was_seen(self, a: SharedStore, b: SharedStore) -> None:
        parent, child = self.unseen(a, b, parent_key=map_child_key(bytes(KEY_BYTES), 3))
        query = EndsQuery(parent.n, (0, 0), 1_000)
        assert [each.n for each in a.histories([parent.n])[parent.n].children] == [child.n]
        assert a.child_ends(query) == []
        a.commit([EndSeen(child.n, 9)])
        assert a.histories([parent.n])[parent.n].children == []
        assert [each.n for each in a.child_ends(query)] == [child.n]

    def test_children_that_run_are_found_whoever_owns_them(self, a: SharedStore, b: SharedStore) -> None:
        [parent] = created(a, 1)
        children = [a_child(number(a, n), parent) for n in (2, 3, 4, 5)]
        below = a_child(number(a, 6), children[0])
        a.commit([RunCreated(run, 1) for run in (*children, below)])
        a.commit([RunsReleased([children[1].n, children[2].n]), ended(children[3], 8)])
        b.claim(ClaimQuery(1))
        found = {each.row.n: each.owner for each in a.remote_children([parent.n])}
        assert found == {children[0].n: a.replica, children[1].n: b.replica, children[2].n: None}

    # Items, ids, transactions

    def test_the_items_of_some_runs_are_read_at_once(self, a: SharedStore, b: SharedStore) -> None:
        runs = created(a, 1, 2, 3)
        items = [
            ItemRow("b", "x", b"1", n=runs[0].n),
            ItemRow("a", "z", b"2", n=runs[0].n, ord=2),
            ItemRow("a", "y", b"3", n=runs[1].n, ord=3),
            ItemRow("a", "x", b"4", n=runs[1].n, ord=2),
        ]
        others = [ItemRow("a", "other", n=runs[2].n), ItemRow("a", "nobody's")]
        a.commit([ItemPut(item) for item in items + others])
        assert b.items_of([runs[1].n, runs[0].n]) == [items[3], items[1], items[2], items[0]]
        assert b.items_of([]) == []

    def test_a_conditional_commit_is_made_unless_an_id_is_taken(self, a: SharedStore, b: SharedStore) -> None:
        run = a_run(number(a, 1), run_id="chosen")
        late = a_run(number(b, 1), run_id="chosen")
        assert a.try_commit([RunCreated(run, 1)]) is True
        assert (
            b.try_commit([RunCreated(a_run(number(b, 2)), 1), MailSent(run.n, MailKind.EVENT), RunCreated(late, 2)])
            is False
        )
        assert b.find("chosen") == run
        assert letters(a) == []
        assert [row.n for row in b.list_runs(RunQuery())] == [run.n]
        assert a.owners([run.n]) == {run.n: a.replica}

    def test_a_conditional_commit_is_made_unless_a_message_of_that_name_is_there(
        self, a: SharedStore, b: SharedStore
    ) -> None:
        a.claim(ClaimQuery())
        assert b.try_commit([MailSent(COORDINATOR, MailKind.START, b"1", once="order-7")]) is True
        assert a.try_commit([MailSent(COORDINATOR, MailKind.START, b"2", once="order-7")]) is False
        assert a.try_commit([MailSent(COORDINATOR, MailKind.START, b"3", once="order-8")]) is True
        assert letters(a) == [(COORDINATOR, MailKind.START, b"1"), (COORDINATOR, MailKind.START, b"3")]
        a.commit([MailTaken([a.mail(0, 1)[0].id])])
        assert b.try_commit([MailSent(COORDINATOR, MailKind.START, b"4", once="order-7")]) is True

    def test_a_refused_commit_does_not_end_the_store(self, a: SharedStore) -> None:
        [run] = created(a, 1)
        assert a.try_commit([RunCreated(a_run(number(a, 2), run_id=run.run_id), 2)]) is False
        a.commit([ended(run, 3)])
        assert row_of(a, run).status is RunStatus.COMPLETED

    # Lists: numbers say who created a run, and not when

    def test_runs_are_listed_by_the_time_of_their_creation(self, a: SharedStore, b: SharedStore) -> None:
        times = [(a, 1, 1.0), (b, 1, 2.0), (a, 2, 3.0), (b, 2, 4.0), (a, 3, 5.0)]
        for store, count, at in times:
            created(store, count, created_at=at)
        expected = [number(store, count) for store, count, _ in reversed(times)]
        assert [row.n for row in a.list_runs(RunQuery())] == expected
        page = b.list_runs(RunQuery(limit=2))
        last = page[-1]
        rest = b.list_runs(RunQuery(before_n=last.n, before_at=last.created_at))
        assert [row.n for row in page + rest] == expected
        assert b.list_runs(RunQuery(before_n=last.n)) == rest

    def test_a_tree_is_listed_children_before_their_parents(self, a: SharedStore, b: SharedStore) -> None:
        top = a_run(number(b, 5))
        child = a_child(number(a, 5), top)
        below = a_child(number(b, 3), child)
        b.commit([RunCreated(run, seq) for seq, run in enumerate((top, child, below), 1)])
        assert a.tree_numbers(top.n, 10) == [below.n, child.n, top.n]
        assert a.tree_numbers(top.n, 2) == [below.n, child.n]

    # Hints

    def test_hints_come_for_mail_and_for_runs_to_claim(self, a: SharedStore, make_replica: MakeReplica) -> None:
        hints: list[None] = []
        store = make_replica()
        store.listen(lambda: hints.append(None))
        store.open()
        store.declare("listens", FLOW)
        [run] = created(a, 1)
        try:
            acts: list[list[Entry]] = [[MailSent(-store.replica, MailKind.REPLY)], [RunsReleased([run.n])]]
            for entries in acts:
                hints.clear()
                a.commit(entries)
                give_up = time.monotonic() + 10.0
                while not hints and time.monotonic() < give_up:
                    time.sleep(0.01)
                assert hints
        finally:
            store.close()

    # A life of one run, over three replicas

    def test_a_run_that_changes_hands_is_recorded_by_each_in_turn(
        self, a: SharedStore, b: SharedStore, open_replica: Callable[..., SharedStore]
    ) -> None:
        c = open_replica()
        [run] = created(a, 1)
        a.commit([StepRecorded(a_step(run.n, 2), 2)])
        self.fence(a, b)
        assert claim(b) == [run.n]
        b.commit([StepRecorded(a_step(run.n, 3, kind=Kind.SLEEP), 3)])
        with pytest.raises(ReplicaFencedError):
            a.commit([StepRecorded(a_step(run.n, 4), 4), ended(run, 5)])
        self.fence(b, c)
        assert claim(c) == [run.n]
        c.commit([ended(run, 4)])
        assert [step.seq for step in c.steps(run.n)] == [2, 3]
        assert row_of(c, run).status is RunStatus.COMPLETED
        assert c.live_runs() == []
