"""The maps of one attempt: which children were asked for, and what is recorded of them, page by page. Pure.

The ends of a map's children are never in memory all at once. What earlier attempts recorded comes from a map's own
`EndPages`, what this attempt recorded before the process ended from those of the run; whoever needs the next page says
so, and stands still until it is there.
"""

from __future__ import annotations

from collections import deque

from rotor_actors.ids import map_index_of, map_key_of
from rotor_actors.loading import end_of
from rotor_actors.messages import StepEnded
from rotor_actors.records import ChildRow, RunFlag, StepRow

_LAST = 2**62


class EndPages:
    """The ends of map children in the order in which they were recorded, read page by page.

    Args:
        prefix: the key of one map; empty for all maps of the run.
        after_seq: the entry behind which it begins. upto_seq: the last entry that is wanted.
    """

    __slots__ = ("_page", "after", "generations", "is_exhausted", "prefix", "upto_seq")

    def __init__(self, prefix: bytes, after_seq: int, upto_seq: int) -> None:
        self.prefix = prefix
        self.after = (after_seq, _LAST)
        self.upto_seq = upto_seq
        self.is_exhausted = after_seq >= upto_seq
        self.generations: dict[bytes, int] = {}
        """The newest generation of each child that was withdrawn, of those in the newest page."""
        self._page: deque[StepEnded] = deque()

    @property
    def needs_page(self) -> bool:
        return not self._page and not self.is_exhausted

    @property
    def head(self) -> StepEnded | None:
        return self._page[0] if self._page else None

    def pop(self) -> StepEnded:
        return self._page.popleft()

    def take(self, rows: list[StepRow | ChildRow], place: tuple[int, int] | None) -> None:
        """The next page has come; `place` is where its last row stands, None when there are no more."""
        self.generations = {}
        for row in rows:
            ended = end_of(row)
            if ended is not None:
                self._page.append(ended)
            elif isinstance(row, ChildRow) and row.flags & RunFlag.WITHDRAWN:
                self.generations[row.key] = row.generation
        if place is None:
            self.is_exhausted = True
        else:
            self.after = place


class MapState:
    """One map in one attempt.

    Attributes:
        key: what the keys of its children begin with. step_id: its name. target: the workflow of its children.
        asked: children below this index have been asked for, or were answered from the memo.
        memo: what earlier attempts recorded; None where there were none, or once it is used up.
        late: ends of children that an earlier attempt spawned, and that came while the memo was being read.
    """

    __slots__ = ("asked", "key", "late", "memo", "step_id", "target")

    def __init__(self, key: bytes, step_id: str, target: str, memo: EndPages | None, late: deque[StepEnded]) -> None:
        self.key = key
        self.step_id = step_id
        self.target = target
        self.memo = memo
        self.late = late
        self.asked = 0

    def was_asked(self, key: bytes) -> bool:
        return map_index_of(key) < self.asked

    def next_of_memo(self) -> StepEnded | None:
        """The next recorded end; None when there is no more of them, or when a page is needed."""
        if self.memo is None:
            return None
        if self.memo.head is not None:
            return self.memo.pop()
        if self.memo.needs_page:
            return None
        return self.late.popleft() if self.late else None

    def leave_memo(self) -> None:
        """From here on children are asked for, and answered one by one."""
        self.memo = None


class Maps:
    """The maps of one attempt, by key.

    Args:
        memo_upto: entries up to this one were recorded by earlier attempts.
    """

    __slots__ = ("_late", "_memo_upto", "_of")

    def __init__(self, memo_upto: int) -> None:
        self._memo_upto = memo_upto
        self._of: dict[bytes, MapState] = {}
        self._late: dict[bytes, deque[StepEnded]] = {}

    def open(self, key: bytes, step_id: str, target: str, *, has_memo: bool) -> MapState:
        memo = EndPages(key, 0, self._memo_upto) if has_memo else None
        late = self._late.setdefault(key, deque()) if has_memo else deque[StepEnded]()
        self._of[key] = opened = MapState(key, step_id, target, memo, late)
        return opened

    def was_asked(self, key: bytes) -> bool:
        opened = self._of.get(map_key_of(key))
        return opened is not None and opened.was_asked(key)

    def keep_late(self, message: StepEnded) -> bool:
        """A child that an earlier attempt spawned has ended before this attempt asked for it. False where its map
        asks for its children one by one by now: then the end answers when that one is asked for."""
        key = map_key_of(message.key)
        opened = self._of.get(key)
        if opened is not None and opened.memo is None:
            return False
        self._late.setdefault(key, deque()).append(message)
        return True
