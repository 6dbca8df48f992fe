"""A disk as a power cut knows it: what programs read and write, and beneath it what is on the platter. Pure.

Every write goes to a volatile layer. Syncing a file makes its bytes durable, syncing its directory the names in it. A
power cut leaves what is durable, and of the rest whatever the tape chooses: nothing, all, a prefix in the order of
writing, or any mixture of old and new sectors.
"""

from __future__ import annotations

import random
from typing import Protocol

SECTOR = 512
_SEEDS = 1 << 16


class Chooser(Protocol):
    """Where choices come from. 0 is the mildest one."""

    def choose(self, n: int) -> int:
        """A number from 0 to `n - 1`."""
        ...


class Inode:
    """A file's bytes, whatever it is called."""

    __slots__ = ("_pending", "content", "durable")

    def __init__(self) -> None:
        self.content = bytearray()
        """What programs see."""
        self.durable = bytearray()
        """What a power cut leaves for certain."""
        self._pending: list[tuple[int, bytes | None]] = []  # offset and bytes, or a new length and None

    def read(self, amount: int, offset: int) -> bytes:
        with memoryview(self.content) as view:
            return bytes(view[offset : offset + amount])

    def write(self, data: bytes, offset: int) -> None:
        self._pending.append((offset, data))
        _apply(self.content, offset, data)

    def truncate(self, size: int) -> None:
        self._pending.append((size, None))
        _apply(self.content, size, None)

    def sync(self) -> None:
        for offset, data in self._pending:
            _apply(self.durable, offset, data)
        self._pending.clear()

    def lose(self, tape: Chooser) -> None:
        """A sync failed: what was written since the last one is on the platter or not, and no later sync tries again.

        Programs go on seeing it, for it is still in the page cache, marked as clean.
        """
        self.durable = _torn(self.durable, self._pending, tape)
        self._pending.clear()

    def cut(self, tape: Chooser) -> bool:
        """The power fails; says whether something was lost by that."""
        self.lose(tape)
        is_lost = self.content != self.durable
        self.content = bytearray(self.durable)
        return is_lost

    def flip(self, place: int) -> None:
        """One bit of what is stored changes, and nobody is told."""
        byte, bit = divmod(place, 8)
        for layer in (self.content, self.durable):
            if byte < len(layer):
                layer[byte] ^= 1 << bit


def _apply(layer: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if offset < len(layer):
            del layer[offset:]
        else:
            layer.extend(bytes(offset - len(layer)))
        return
    if offset > len(layer):
        layer.extend(bytes(offset - len(layer)))
    layer[offset : offset + len(data)] = data


def _torn(durable: bytearray, pending: list[tuple[int, bytes | None]], tape: Chooser) -> bytearray:
    """What is left of unsynced writes. 0: all of them; 1: none; 2: a prefix; 3: a prefix, its last write torn; 4: of
    each sector any of the versions it has had."""
    if not pending:
        return durable
    match tape.choose(5):
        case 0:
            kept, torn = len(pending), 0
        case 1:
            return durable
        case 2:
            kept, torn = tape.choose(len(pending) + 1), 0
        case 3:
            kept, torn = tape.choose(len(pending)), 1
        case _:
            return _mixture(durable, pending, random.Random(tape.choose(_SEEDS)))
    left = bytearray(durable)
    for offset, data in pending[:kept]:
        _apply(left, offset, data)
    for offset, data in pending[kept : kept + torn]:
        _tear(left, offset, data, random.Random(tape.choose(_SEEDS)))
    return left


def _tear(left: bytearray, offset: int, data: bytes | None, chance: random.Random) -> None:
    """Some of the sectors of one write."""
    if data is None:
        return
    first = offset - offset % SECTOR
    for start in range(first, offset + len(data), SECTOR):
        if chance.random() < 0.5:
            begin, end = max(start, offset), min(start + SECTOR, offset + len(data))
            _apply(left, begin, data[begin - offset : end - offset])


def _mixture(durable: bytearray, pending: list[tuple[int, bytes | None]], chance: random.Random) -> bytearray:
    """Sectors reach the platter in any order: each is as it was before some write, and so is the file's length."""
    versions: dict[int, list[bytes]] = {}
    lengths = [len(durable)]
    now = bytearray(durable)
    for offset, data in pending:
        _apply(now, offset, data)
        lengths.append(len(now))
        end = max(lengths[-2:]) if data is None else offset + len(data)
        for sector in range(min(offset, lengths[-2]) // SECTOR, -(-end // SECTOR)):
            start = sector * SECTOR
            known = versions.setdefault(sector, [bytes(durable[start : start + SECTOR])])
            known.append(bytes(now[start : start + SECTOR]))
    length = chance.choice(lengths)
    left = bytearray(durable[:length])
    left.extend(bytes(length - len(left)))
    has_garbage = chance.random() < 0.25
    for sector in sorted(versions):
        start = sector * SECTOR
        if start < length:
            chosen = chance.choice(versions[sector])
            if not chosen and has_garbage:
                chosen = chance.randbytes(SECTOR)  # a block that was allocated, and never written
            left[start : start + len(chosen)] = chosen[: length - start]
    return left


class Volume:
    """Files by name, in one directory tree whose directories all exist.

    Attributes:
        epoch: how often the process died; what an earlier one has open is fenced.
    """

    def __init__(self) -> None:
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending_names: list[tuple[str, Inode | None]] = []
        self.epoch = 0

    def find(self, path: str) -> Inode | None:
        return self._names.get(path)

    def paths(self) -> list[str]:
        return sorted(self._names)

    def create(self, path: str) -> Inode:
        inode = Inode()
        self._name(path, inode)
        return inode

    def link(self, path: str, target: str) -> None:
        """Another name for the same file."""
        self._name(target, self._names[path])

    def remove(self, path: str) -> None:
        self._name(path, None)

    def _name(self, path: str, inode: Inode | None) -> None:
        self._pending_names.append((path, inode))
        _rename(self._names, path, inode)

    def sync_names(self) -> None:
        """Sync the directory."""
        for path, inode in self._pending_names:
            _rename(self._durable_names, path, inode)
        self._pending_names.clear()

    def kill(self) -> None:
        """The process dies, the machine does not: all that was written stays."""
        self.epoch += 1

    def cut(self, tape: Chooser) -> bool:
        """The power fails: creations and removals that were not synced are undone from some point on.

        Says whether anything was lost.
        """
        self.epoch += 1
        before = self._names
        if self._pending_names:
            kept = len(self._pending_names) - tape.choose(len(self._pending_names) + 1)
            for path, inode in self._pending_names[:kept]:
                _rename(self._durable_names, path, inode)
            self._pending_names.clear()
        self._names = dict(self._durable_names)
        lost = [path for path in sorted(self._names) if self._names[path].cut(tape)]
        return bool(lost) or self._names != before


def _rename(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
