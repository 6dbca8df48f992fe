"""The store in memory, held against the suite for all stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import MakeStore, StoreConformance, a_child, a_run, a_step, ended

from rotor_actors import MemoryStore, SQLiteStore
from rotor_actors.records import RunCreated, StepRecorded
from rotor_actors.stores.base import RunQuery


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        store = MemoryStore()  # it outlives those who open it
        return lambda: store


def test_a_backup_is_a_file_of_the_sqlite_store(tmp_path: Path) -> None:
    store = MemoryStore()
    top = a_run(1)
    child = a_child(2, top, input=b"x")
    store.commit([RunCreated(top, 1), RunCreated(child, 2), StepRecorded(a_step(2, 3), 3), ended(child, 4)])
    store.backup(tmp_path / "copy.db")
    copy = SQLiteStore(tmp_path / "copy.db")
    copy.open()
    assert copy.list_runs(RunQuery()) == store.list_runs(RunQuery())
    assert copy.histories([1, 2]) == store.histories([1, 2])
    assert copy.live_runs() == store.live_runs()
    assert copy.last_numbers() == store.last_numbers()
    copy.close()
