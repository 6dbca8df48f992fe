"""What a power cut leaves of files: sync by sync, sector by sector."""

from __future__ import annotations

import random
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from rotor_actors.simulation.volume import SECTOR, Volume

KEEP, DROP, PREFIX, TORN, MIXED = range(5)


class Choices:
    """These choices, then chance."""

    def __init__(self, *first: int, seed: int = 0) -> None:
        self._first: list[int] = list(first)
        self._rng = random.Random(seed)

    def choose(self, n: int) -> int:
        return self._first.pop(0) if self._first else self._rng.randrange(n)


def written(pieces: Iterable[tuple[bytes, int]], *, synced: int = 0) -> Volume:
    """A file `f` with these writes, of which so many are synced, name and all."""
    volume = Volume()
    inode = volume.create("f")
    volume.sync_names()
    for number, (data, offset) in enumerate(pieces):
        if number == synced:
            inode.sync()
        inode.write(data, offset)
    return volume


def content(volume: Volume) -> bytes:
    inode = volume.find("f")
    assert inode is not None
    return bytes(inode.content)


def test_what_was_synced_stays_and_what_was_not_is_dropped() -> None:
    volume = written([(b"old", 0), (b"new", 0)], synced=1)
    assert content(volume) == b"new"
    assert volume.cut(Choices(DROP))
    assert content(volume) == b"old"


def test_a_kill_keeps_what_was_written() -> None:
    volume = written([(b"old", 0), (b"new", 0)], synced=1)
    volume.kill()
    assert content(volume) == b"new"
    assert volume.epoch == 1


def test_a_cut_may_keep_all_or_a_prefix() -> None:
    pieces = [(b"a", 0), (b"b", 1), (b"c", 2)]
    volume = written(pieces)
    assert not volume.cut(Choices(KEEP))
    assert content(volume) == b"abc"
    volume = written(pieces)
    volume.cut(Choices(PREFIX, 2))
    assert content(volume) == b"ab"


def test_a_torn_write_has_whole_sectors_of_the_new_and_the_old() -> None:
    old, new = b"o" * 4 * SECTOR, b"n" * 4 * SECTOR
    found: set[bytes] = set()
    for seed in range(150):
        volume = written([(old, 0), (new, 0)], synced=1)
        volume.cut(Choices(TORN, 0, seed=seed))
        sectors = [content(volume)[at : at + SECTOR] for at in range(0, 4 * SECTOR, SECTOR)]
        assert set(sectors) <= {old[:SECTOR], new[:SECTOR]}
        found.add(b"".join(sectors))
    assert len(found) == 16


def test_writes_may_arrive_in_any_order() -> None:
    first, second = (b"1" * SECTOR, 0), (b"2" * SECTOR, SECTOR)
    found: set[bytes] = set()
    for seed in range(60):
        volume = written([(b"0" * 2 * SECTOR, 0), first, second], synced=1)
        volume.cut(Choices(MIXED, seed))
        found.add(content(volume)[::SECTOR])
    assert found == {b"00", b"10", b"02", b"12"}  # the second without the first, too


def test_a_failed_sync_leaves_what_programs_see_and_no_later_sync_makes_it_durable() -> None:
    volume = written([(b"old", 0), (b"new", 0)], synced=1)
    inode = volume.find("f")
    assert inode is not None
    inode.lose(Choices(DROP))
    assert content(volume) == b"new"
    inode.sync()
    assert volume.cut(Choices())
    assert content(volume) == b"old"


def test_a_file_whose_directory_was_not_synced_may_not_be_there() -> None:
    volume = Volume()
    volume.create("f").write(b"x", 0)
    volume.cut(Choices(1))
    assert volume.find("f") is None


def test_a_removal_that_was_not_synced_may_be_undone() -> None:
    volume = written([(b"x", 0)], synced=1)
    inode = volume.find("f")
    assert inode is not None
    inode.sync()
    volume.remove("f")
    assert volume.find("f") is None
    volume.cut(Choices(1))
    assert content(volume) == b"x"


def test_a_flipped_bit_is_one_bit() -> None:
    volume = written([(b"\0\0", 0)])
    inode = volume.find("f")
    assert inode is not None
    inode.sync()
    inode.flip(9)
    assert content(volume) == b"\0\2"
    volume.cut(Choices())
    assert content(volume) == b"\0\2"


writes = st.tuples(st.binary(min_size=1, max_size=1_500), st.integers(0, 2_000))


@given(st.lists(writes, max_size=6), st.lists(writes, max_size=6), st.integers(0, 4), st.integers(0, 1 << 20))
def test_whatever_is_synced_survives_where_nothing_was_written_since(
    synced: list[tuple[bytes, int]], later: list[tuple[bytes, int]], mode: int, seed: int
) -> None:
    volume = written(synced)
    inode = volume.find("f")
    assert inode is not None
    inode.sync()
    before = content(volume)
    for data, offset in later:
        inode.write(data, offset)
    volume.cut(Choices(mode, seed=seed) if later else Choices())
    after = content(volume)
    touched = {place for data, offset in later for place in range(offset, offset + len(data))}
    assert len(after) >= len(before)
    assert all(after[place] == before[place] for place in range(len(before)) if place not in touched)
