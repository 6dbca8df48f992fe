"""The real store on a disk that loses power: what was acknowledged is there afterwards, whatever was not synced."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from rotor_actors.errors import StoreError, StoreFullError, StoreLockedError
from rotor_actors.records import Kind, RunChanged, RunCreated, RunRow, RunStatus, StepRecorded, StepRow
from rotor_actors.simulation.disk import PATH, SimDisk, SimStore
from rotor_actors.stores.base import RunQuery


class Faults:
    """Nothing fails, save for what is named."""

    def __init__(self, **probabilities: float) -> None:
        self.failed_fsync = probabilities.get("failed_fsync", 0.0)
        self.failed_write = probabilities.get("failed_write", 0.0)
        self.disk_full = probabilities.get("disk_full", 0.0)
        self.bit_flip = probabilities.get("bit_flip", 0.0)


class Chance:
    """A tape that is not recorded."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def choose(self, n: int) -> int:
        return self._rng.randrange(n)

    def chance(self, probability: float) -> bool:
        return self._rng.random() < probability


class Machine:
    """Commits, dies and starts again, and knows what was acknowledged."""

    def __init__(self, seed: int, *, synchronous: str = "FULL", faults: Faults | None = None) -> None:
        self.tape = Chance(seed)
        self.disk = SimDisk(self.tape, faults, synchronous=synchronous)
        self.acknowledged: dict[int, bytes] = {}
        self._next = 0

    def live(self) -> None:
        """Start, look whether all is there, commit a few times, lose power."""
        store = self.disk.new_store()
        if self.tape.chance(0.2):
            self.disk.arm_cut()  # while the store is being opened
        try:
            store.open()
            self.look(store.list_runs(RunQuery(limit=10_000)))
            commits = self.tape.choose(12)
            for number in range(commits):
                if number == commits - 1:
                    self.disk.arm_cut()
                self._commit(store.commit)
        except StoreFullError:
            raise
        except StoreError:
            pass  # it died before the end
        if self.tape.chance(0.1):
            self.disk.die()
        else:
            self.disk.power_cut()

    def _commit(self, commit: object) -> None:
        assert callable(commit)
        self._next = n = max(self._next, *self.acknowledged, 0) + 1
        payload = bytes([n % 251]) * self.tape.choose(6_000)
        commit([RunCreated(RunRow(n, f"run {n}", "w", n, f"run {n}", 1.0, input=payload), n)])
        self.acknowledged[n] = payload

    def look(self, rows: list[RunRow]) -> None:
        found = {row.n: row.input for row in rows}
        for n, payload in self.acknowledged.items():
            assert found.get(n) == payload, f"run {n} was acknowledged, and is lost"
        self.acknowledged = {n: payload or b"" for n, payload in found.items()}


def losses(synchronous: str, seeds: range, lives: int = 3) -> tuple[list[str], Counter[str]]:
    """Of so many machines: what each of those that lost something says; and what happened to all of them."""
    said: list[str] = []
    fired: Counter[str] = Counter()
    for seed in seeds:
        machine = Machine(seed, synchronous=synchronous)
        try:
            for _ in range(lives):
                machine.live()
        except AssertionError as error:
            said.append(f"seed {seed}: {error}")
        finally:
            fired += machine.disk.fired
            machine.disk.close()
    return said, fired


def test_with_full_no_power_cut_loses_what_was_acknowledged() -> None:
    said, fired = losses("FULL", range(200))
    assert not said
    assert fired["power_cut"] > 400
    assert fired["lost_write"] > 150  # that no cut lost anything would prove nothing
    assert fired["kill"]


def test_with_normal_power_cuts_lose_what_was_acknowledged() -> None:
    """That the test above can fail."""
    said, _ = losses("NORMAL", range(40))
    assert len(said) > 8


def test_with_off_they_do_too() -> None:
    said, _ = losses("OFF", range(40))
    assert len(said) > 12


def test_a_process_that_is_killed_loses_nothing_even_without_syncing() -> None:
    disk = SimDisk(Chance(1), synchronous="OFF")
    for n in range(1, 6):
        store = disk.new_store()
        store.open()
        assert store.last_numbers() == (n - 1, n - 1)
        store.commit([RunCreated(RunRow(n, f"run {n}", "w", n, f"run {n}", 1.0), n)])
        disk.die()
    disk.close()


def test_the_same_tape_leaves_the_same_disk() -> None:
    def digest(seed: int) -> str:
        machine = Machine(seed)
        for _ in range(4):
            machine.live()
        found = machine.disk.digest()
        machine.disk.close()
        return found

    assert digest(5) == digest(5)
    assert digest(5) != digest(6)


def open_disk(faults: Faults, seed: int = 0) -> SimDisk:
    return SimDisk(Chance(seed), faults)


def created(n: int) -> RunCreated:
    return RunCreated(RunRow(n, f"run {n}", "w", n, f"run {n}", 1.0, input=bytes(3_000)), n)


def commit_until_it_fails(store: SimStore) -> int:
    """Of how many commits it said that they are durable."""
    for n in range(1, 1_000):
        try:
            store.commit([created(n)])
        except StoreError:
            return n - 1
    raise AssertionError("it never failed")


def test_a_failed_sync_stops_the_store_and_what_was_acknowledged_before_is_there() -> None:
    outcomes: set[int] = set()
    for seed in range(40):
        disk = open_disk(Faults(failed_fsync=0.3), seed)
        store = disk.new_store()
        store.open()
        acknowledged = commit_until_it_fails(store)
        disk.power_cut()
        disk.heal()
        store = disk.new_store()
        store.open()
        last, _ = store.last_numbers()
        assert last in (acknowledged, acknowledged + 1)  # it is not known whether the last one is durable
        outcomes.add(last - acknowledged)
        assert disk.fired["failed_fsync"] == 1
        disk.close()
    assert outcomes == {0, 1}


def test_a_failed_write_loses_nothing_that_was_acknowledged() -> None:
    fired: Counter[str] = Counter()
    for seed in range(20):
        disk = open_disk(Faults(failed_write=0.3), seed)
        store = disk.new_store()
        store.open()
        acknowledged = commit_until_it_fails(store)
        disk.power_cut()
        store = disk.new_store()
        store.open()
        assert store.last_numbers()[0] in (acknowledged, acknowledged + 1)
        fired += disk.fired
        disk.close()
    assert fired["failed_write"]
    assert fired["short_write"]


def test_a_full_disk_refuses_as_a_whole_and_takes_it_when_there_is_room_again() -> None:
    refused = 0
    for seed in range(10):
        disk = open_disk(Faults(disk_full=0.2), seed)
        store = disk.new_store()
        store.open()
        for n in range(1, 60):
            while True:
                try:
                    store.commit([created(n)])
                    break
                except StoreFullError:
                    refused += 1
                    assert store.last_numbers()[0] == n - 1
        disk.power_cut()
        disk.heal()
        store = disk.new_store()
        store.open()
        assert store.last_numbers()[0] == 59
        disk.close()
    assert refused


def read_all(store: SimStore) -> None:
    store.steps(1)
    store.find("run 1")


def test_a_flipped_bit_in_a_payload_is_noticed() -> None:
    noticed = 0
    for seed in range(20):
        disk = open_disk(Faults(bit_flip=1.0), seed)
        store = disk.new_store()
        store.open()
        store.commit([created(1)])
        step = StepRow(1, 1.0, Kind.RUN, b"k" * 16, "s", payload=b"\xc4\x10a result of mine!", seq=2)
        store.commit([StepRecorded(step, 2)])
        ended = RunRow(
            1, "run 1", "w", 1, "run 1", 1.0, status=RunStatus.COMPLETED, result=b"\xc4\x09the result", end_seq=3
        )
        store.commit([RunChanged(ended, 3)])
        disk.power_cut()
        store = disk.new_store()
        store.open()
        assert disk.fired["bit_flip"] == 1
        with pytest.raises(StoreError, match="checksum"):
            read_all(store)
        noticed += 1
        disk.close()
    assert noticed == 20


def test_two_stores_cannot_have_the_same_file_until_the_first_ones_process_is_dead() -> None:
    disk = SimDisk(Chance(0))
    first, second = disk.new_store(), disk.new_store()
    first.open()
    with pytest.raises(StoreLockedError):
        second.open()
    disk.die()
    third = disk.new_store()
    third.open()
    third.close()
    disk.close()


def test_what_a_dead_process_writes_does_not_arrive() -> None:
    disk = SimDisk(Chance(0))
    dead = disk.new_store()
    dead.open()
    dead.commit([created(1)])
    disk.volume.kill()  # it has not been told yet
    with pytest.raises(StoreError):
        dead.commit([created(2)])
    disk.die()
    store = disk.new_store()
    store.open()
    assert store.last_numbers() == (1, 1)
    disk.close()


def test_a_backup_goes_to_the_same_disk() -> None:
    disk = SimDisk(Chance(0))
    store = disk.new_store()
    store.open()
    store.commit([created(1)])
    target = Path(PATH).with_name("copy.db")
    store.backup(target)
    assert disk.volume.paths().count(str(target)) == 1
    with pytest.raises(StoreError, match="exists"):
        store.backup(target)
    disk.power_cut()
    assert str(target) in disk.volume.paths()
    disk.close()


def _last_of(disk: SimDisk) -> int:
    store = disk.new_store()
    store.open()
    return store.last_numbers()[1]


@pytest.mark.parametrize("seed", range(40))
def test_what_a_failed_sync_left_is_made_durable_before_it_is_believed(seed: int) -> None:
    """The system shows what it could not sync, to the next process too: that must not build on it, or a power cut takes
    what was acknowledged after it."""
    faults = Faults(failed_fsync=1.0)
    disk = SimDisk(Chance(seed), faults)
    faults.failed_fsync = 0.0
    store = disk.new_store()
    store.open()
    store.commit([RunCreated(RunRow(1, "run 1", "w", 1, "run 1", 1.0), 1)])
    faults.failed_fsync = 1.0
    with pytest.raises(StoreError, match="sync failed"):
        store.commit([RunCreated(RunRow(2, "run 2", "w", 2, "run 2", 1.0), 2)])
    faults.failed_fsync = 0.0
    disk.die()
    believed = _last_of(disk)
    disk.power_cut()
    assert _last_of(disk) >= believed
    disk.die()
    disk.close()
