"""One key as a pure machine: never over its limits, in order, and nobody waits without a reason."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rotor_actors.flow.line import Limits, Line
from rotor_actors.flow.queue import WaitingLine
from rotor_actors.flow.window import Window


def line_of(**limits: float) -> Line:
    line = Line("k")
    line.limits = Limits(**limits)  # type: ignore[arg-type]
    return line


def arrive(line: Line, n: int, *, priority: int = 0, is_root: bool = True, lender: int | None = None) -> None:
    line.arrive((-priority, n, n), is_root=is_root, lender=lender)


def begin_all(line: Line, now: float = 0.0, *, roots_wait: bool = False) -> list[int]:
    begun: list[int] = []
    while (n := line.take_next(now, roots_wait=roots_wait)) is not None:
        begun.append(n)
    return begun


def test_no_more_run_than_parallelism_and_the_next_in_order_takes_a_free_place() -> None:
    line = line_of(parallelism=2)
    for n in range(1, 5):
        arrive(line, n)
    assert begin_all(line) == [1, 2]
    line.leave(1)
    assert begin_all(line) == [3]
    assert (line.running, line.waiting) == (2, 1)


def test_priority_goes_before_arrival_and_arrival_decides_among_equals() -> None:
    line = line_of(parallelism=1)
    for n, priority in ((1, 0), (2, 5), (3, -1), (4, 5)):
        arrive(line, n, priority=priority)
    order: list[int] = []
    while begun := begin_all(line):
        order += begun
        line.leave(begun[0])
    assert order == [2, 4, 1, 3]


def test_rate_opens_again_when_the_oldest_begin_is_a_period_ago() -> None:
    line = line_of(rate=2, period=60.0)
    for n in range(1, 6):
        arrive(line, n)
    assert begin_all(line, 0.0) == [1, 2]
    assert line.look_again_at(10.0) == 60.0
    assert begin_all(line, 59.9) == []
    assert begin_all(line, 60.0) == [3, 4]
    assert line.look_again_at(60.0) == 120.0


def test_a_paused_key_lets_nobody_begin_and_asks_for_no_alarm() -> None:
    line = line_of(rate=1, period=10.0)
    arrive(line, 1)
    line.is_paused = True
    assert begin_all(line) == []
    assert line.look_again_at(0.0) is None
    line.is_paused = False
    assert begin_all(line) == [1]


def test_roots_that_wait_for_a_place_in_the_runtime_do_not_hold_up_children() -> None:
    line = line_of(parallelism=1)
    arrive(line, 1)
    arrive(line, 2, is_root=False)
    assert begin_all(line, roots_wait=True) == [2]
    line.leave(2)
    assert line.waiting_root(0.0) == (0, 1, 1)


def test_a_run_lends_its_place_to_one_child_at_a_time() -> None:
    line = line_of(parallelism=1)
    arrive(line, 1)
    assert begin_all(line) == [1]
    for child in (2, 3):
        arrive(line, child, is_root=False, lender=1)
    arrive(line, 4)
    assert begin_all(line) == [2]
    line.leave(2)
    assert begin_all(line) == [3]
    line.leave(3)
    assert begin_all(line) == []
    line.leave(1)
    assert begin_all(line) == [4]


def test_a_grandchild_has_the_place_of_the_nearest_one() -> None:
    line = line_of(parallelism=1)
    arrive(line, 1)
    begin_all(line)
    arrive(line, 2, is_root=False, lender=1)
    begin_all(line)
    arrive(line, 3, is_root=False, lender=2)
    assert begin_all(line) == [3]


def test_a_child_that_is_let_go_of_counts_in_full() -> None:
    line = line_of(parallelism=1)
    arrive(line, 1)
    begin_all(line)
    arrive(line, 2, is_root=False, lender=1)
    begin_all(line)
    line.let_go(2)
    assert line.used == 2
    line.leave(1)
    arrive(line, 3)
    assert begin_all(line) == []
    line.leave(2)
    assert begin_all(line) == [3]


def test_who_left_the_queue_is_not_let_in() -> None:
    line = line_of(parallelism=1)
    for n in range(1, 4):
        arrive(line, n)
    begin_all(line)
    line.leave(2)
    line.leave(1)
    assert begin_all(line) == [3]


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60), st.integers(1, 4), st.floats(0.5, 10))
def test_within_any_period_at_most_rate_begin(steps: list[tuple[float, bool]], rate: int, period: float) -> None:
    window, now, begun = Window(), 0.0, deque[float]()
    for passed, jumps in steps:
        opens = window.opens_at(now, rate, period)
        now = max(now + passed, opens) if jumps else now + passed
        if window.opens_at(now, rate, period) <= now:
            window.count(now)
            begun.append(now)
    for index in range(len(begun) - rate):
        assert begun[index + rate] >= begun[index] + period
    assert len(window) <= rate + 1


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), max_size=200))
def test_a_waiting_line_gives_its_first_whoever_has_left(steps: list[tuple[int, bool]]) -> None:
    line, model = WaitingLine(), dict[int, tuple[int, int, int]]()
    for n, (priority, leaves) in enumerate(steps):
        line.join((priority, n, n))
        model[n] = (priority, n, n)
        if leaves:
            gone = n // 2
            line.leave(gone)
            model.pop(gone, None)
        assert line.first() == min(model.values(), default=None)
    assert line.in_order() == [place[2] for place in sorted(model.values())]


class LineMachine(RuleBasedStateMachine):
    """Anything that can happen to a key, against the plain sentences of its contract."""

    @initialize(parallelism=st.integers(1, 3))
    def begin(self, parallelism: int) -> None:
        self.line = line_of(parallelism=parallelism)
        self.parallelism = parallelism
        self.next_n = 1
        self.parent_of: dict[int, int | None] = {}
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.forced = 0

    @rule(data=st.data(), priority=st.integers(0, 1))
    def arrives(self, data: st.DataObject, priority: int) -> None:
        n, self.next_n = self.next_n, self.next_n + 1
        parent = data.draw(st.sampled_from([None, *self.running]))
        self.parent_of[n] = parent
        arrive(self.line, n, priority=priority, is_root=parent is None, lender=parent)
        self.waiting.append(n)
        self._pump()

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        if not self.parent_of:
            return
        n = data.draw(st.sampled_from([*self.running, *self.waiting]))
        below = [each for each in (*self.running, *self.waiting) if self._is_below(each, n)]
        for each in [*reversed(below), n]:
            self.line.leave(each)
            self.running = [other for other in self.running if other != each]
            self.waiting = [other for other in self.waiting if other != each]
            del self.parent_of[each]
        self._pump()

    @rule(data=st.data())
    def is_let_go_of(self, data: st.DataObject) -> None:
        """A parent timed out on a child: that has a place of its own from then on, even if there is none."""
        children = [n for n, parent in self.parent_of.items() if parent is not None]
        if children:
            n = data.draw(st.sampled_from(children))
            self.forced += n in self.running
            self.parent_of[n] = None
            self.line.let_go(n)
            self._pump()

    def _is_below(self, n: int, top: int) -> bool:
        above = self.parent_of.get(n)
        while above is not None and above != top:
            above = self.parent_of.get(above)
        return above == top

    def _pump(self) -> None:
        for n in begin_all(self.line):
            self.waiting.remove(n)
            self.running.append(n)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "line"):
            return
        line = self.line
        assert (line.running, line.waiting) == (len(self.running), len(self.waiting))
        leaves = [n for n in self.running if not any(self.parent_of.get(each) == n for each in self.running)]
        assert line.used <= self.parallelism + self.forced
        assert len(leaves) <= self.parallelism + self.forced, "more run that do not await one of their own"
        if self.waiting:
            assert self.running, "they wait, and nobody runs"
        for n in self.running:
            waiting = [each for each in self.waiting if self.parent_of[each] == n]
            runs = [each for each in self.running if self.parent_of[each] == n]
            assert not waiting or runs, f"{n} waits for {waiting}, which wait for it"


TestLine = LineMachine.TestCase


@pytest.mark.parametrize("count", [10_000])
def test_a_long_queue_does_not_make_each_end_linear(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are the looks into the heap: a constant number for each that begins."""
    line = line_of(parallelism=1)
    looks = 0
    first = WaitingLine.first

    def counted(self: WaitingLine) -> object:
        nonlocal looks
        looks += 1
        return first(self)

    monkeypatch.setattr(WaitingLine, "first", counted)
    for n in range(1, count + 1):
        arrive(line, n)
    running = begin_all(line)
    for _ in range(100):
        line.leave(running.pop())
        running += begin_all(line)
    assert looks < 1_000
