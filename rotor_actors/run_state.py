"""A run's life as a state machine: what it asked for, what is recorded, what has to be done. Pure.

No clock, no I/O, no randomness, no event loop. The body's requests and the messages from outside go in; effects come
out, for the shell to perform. While a record is being replayed no effect begins: the outcomes of record are handed out
one by one, each when the body has come to rest, and what is still unanswered when the record is exhausted then begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

from rotor_actors.errors import NonDeterminismError, StepRefusedError
from rotor_actors.ids import is_map_child, map_child_key, map_index_of, patch_key, step_key
from rotor_actors.map_state import EndPages, Maps, MapState
from rotor_actors.messages import (
    Begin,
    Diverged,
    Effect,
    Fire,
    Known,
    MarkMap,
    Message,
    Pending,
    Resolve,
    StepEnded,
    TimerFired,
    Withdraw,
)
from rotor_actors.records import Kind
from rotor_actors.use_counts import MOST_COUNTED, UsedOnce


class RunState:
    """One attempt of one run.

    Args:
        where: names the run, for messages.
        memo: what earlier attempts recorded, by step key: it answers at once.
        record: what this attempt recorded before the process ended, in order: it is replayed in that order.
        recorded: kind and target of all that the record, or a child still running, holds under a key.
        inherited: keys of the children that an earlier attempt left running. They may end before this one asks.
        strict: refuse changed code instead of going on by key.
        maps: what the attempt's maps find of earlier attempts.
        pages: the rest of the record, where there are maps: the ends of their children, which are read page by page.
    """

    __slots__ = ("_answered", "_asked", "_counters", "_inherited", "_maps", "_memo", "_pages", "_patches", "_pending",
                 "_record", "_recorded", "_refusal", "_strict", "_unmarked", "_used_once", "_where",
                 "effects", "explain", "replaying", "wanted")  # fmt: skip

    def __init__(
        self,
        where: object,
        *,
        memo: dict[bytes, Known] | None = None,
        record: Iterable[Message] = (),
        recorded: dict[bytes, Known] | None = None,
        inherited: Collection[bytes] = (),
        strict: bool = False,
        replaying: bool = False,
        maps: Maps | None = None,
        pages: EndPages | None = None,
    ) -> None:
        self._where = where
        self._memo = memo or {}
        self._record: deque[Message] | None = deque(record) if replaying else None
        self._recorded = recorded or {}
        self._inherited = frozenset(inherited)
        self._strict = strict
        self.replaying = replaying
        self._asked: set[bytes] = set()
        self._answered: set[bytes] = set()
        """Keys of the memo that the body has asked for."""
        self._patches: dict[bytes, bool] = {}
        self._counters: dict[str, int] = {}
        self._used_once: UsedOnce | None = None
        self._pending: dict[bytes, Pending] = {}
        self.effects: list[Effect] = []
        """What is to be done, in its order."""
        self._refusal = ""
        self.explain: Callable[[str, Known], str] | None = None
        """Says where in the code a step is, and was when it was recorded: for errors."""
        self._maps = maps
        self._pages = pages
        self._unmarked: list[MarkMap] = []
        self.wanted: list[EndPages] = []
        """Those whose next page is needed: while one is being read, the body stands still."""

    # What the body asks

    def patched(self, name: str) -> tuple[bool, bytes | None]:
        """Does this run go the new way of a changed piece of code? With the key to be recorded, where it is new.

        It does when it is recorded that it did; else when nothing is recorded beyond this point: no outcome that has
        not been asked for, no message of record that is still to come. What was answered once is answered again.

        Raises:
            StepRefusedError: the attempt is over, or the run is cancelled.
        """
        self._check_open(name)
        key = patch_key(name)
        if key in self._patches:
            return self._patches[key], None
        is_recorded = key in self._memo or key in self._recorded
        answer = self._patches[key] = is_recorded or not self._is_something_beyond()
        return answer, key if answer and not is_recorded else None

    def _is_something_beyond(self) -> bool:
        """Of the other way, the old code's, the record holds something that comes after this point."""
        if self._record or (self._pages is not None and not self._pages.is_exhausted):
            return True
        unasked = ((self._memo, self._answered), (self._recorded, self._asked))
        return any(
            known.kind is not Kind.PATCH and key not in asked for held, asked in unasked for key, known in held.items()
        )

    def request(self, step_id: str, kind: Kind, target: str, spec: object) -> Pending | StepEnded:
        """The body calls a step: either its outcome is known already, or it is pending from now on.

        Raises:
            NonDeterminismError: another kind or target is recorded under this key.
            StepRefusedError: the attempt is over, or the run is cancelled.
        """
        if self._refusal:
            self._check_open(step_id)
        count = self._count(step_id)
        return self._ask(step_key(step_id, count), step_id, count, kind, target, spec)

    def _count(self, step_id: str) -> int:
        """Count a use of this id, and say how many there were before."""
        counters, once = self._counters, self._used_once
        count = counters.get(step_id)
        if count is None:
            count = 0 if once is None else once.uses(step_id)
        counters[step_id] = count + 1
        if len(counters) >= (MOST_COUNTED if once is None else once.next_at):
            once = self._used_once = once or UsedOnce()
            self._counters = once.put_away(counters)
        return count

    def _check_open(self, step_id: str) -> None:
        if self._refusal:
            raise StepRefusedError(f"{self._where}: step {step_id!r} refused: {self._refusal}")

    def _ask(self, key: bytes, step_id: str, count: int, kind: Kind, target: str, spec: object) -> Pending | StepEnded:
        known = self._memo.get(key) if self._memo else None
        if known is not None:
            self._check(step_id, count, kind, target, known)
            self._answered.add(key)
            if known.outcome is not None:
                return StepEnded(key, known.outcome, 0, 0.0, known.run_id, known.workflow_id)
        if self.replaying:
            if (recorded := self._recorded.get(key)) is not None:
                self._check(step_id, count, kind, target, recorded)
                known = recorded
            if not is_map_child(key):
                self._asked.add(key)
        pending = Pending(key, step_id, kind, target, spec, is_spawned=known is not None and known.outcome is None)
        self._pending[key] = pending
        if not self.replaying:
            self.effects.append(Begin(pending))
        return pending

    def open_map(self, step_id: str, target: str) -> MapState:
        """The body begins a map. Raises as `request` does."""
        self._check_open(step_id)
        count = self._count(step_id)
        key = step_key(step_id, count)
        memoized = self._memo.get(key)
        known = memoized or self._recorded.get(key)
        self._answered.add(key)
        self._asked.add(key)
        if known is not None:
            self._check(step_id, count, Kind.MAP, target, known)
        elif self.replaying:
            self._unmarked.append(MarkMap(key, step_id, target))
        else:
            self.effects.append(MarkMap(key, step_id, target))
        if self._maps is None:
            self._maps = Maps(0)
        return self._maps.open(key, step_id, target, has_memo=memoized is not None)

    def request_child(self, opened: MapState, index: int, spec: object) -> Pending | StepEnded:
        """The map asks for its next child. Raises as `request` does."""
        step_id = f"{opened.step_id}[{index}]"
        self._check_open(step_id)
        key = map_child_key(opened.key, index)
        opened.asked = index + 1
        asked = self._ask(key, step_id, index, Kind.INVOKE, opened.target, spec)
        if self._memo:
            self._memo.pop(key, None)  # it is asked for once: a memo that keeps each would grow with the items
        return asked

    def next_of_memo(self, opened: MapState) -> StepEnded | None:
        """The next end that an earlier attempt recorded of the map's children; None when there are no more.

        Raises:
            NonDeterminismError: it was a child of another workflow.
        """
        ended = opened.next_of_memo()
        if ended is not None and ended.workflow_id:
            known = Known(Kind.INVOKE, ended.workflow_id)
            index = map_index_of(ended.key)
            self._check(f"{opened.step_id}[{index}]", index, Kind.INVOKE, opened.target, known)
        return ended

    def withdraw(self, key: bytes) -> None:
        """The body's scope was cancelled while it waited for `key`. Once the attempt is over this says nothing."""
        pending = self._pending.pop(key, None)
        # In a replay nothing has begun, save for what outlived the crash, as a child did that was spawned before, and
        # a sleep that an earlier attempt began.
        if pending is None or self._refusal:
            return
        if not self.replaying or pending.kind.outlives_process or pending.kind is Kind.SLEEP:
            self.effects.append(Withdraw(pending))

    def refuse(self, why: str) -> None:
        """From now on no step may be called."""
        self._refusal = why

    def _check(self, step_id: str, count: int, kind: Kind, target: str, known: Known) -> None:
        if known.kind is not kind or known.target != target:
            raise NonDeterminismError(
                f"{self._where}: step {step_id!r} (use {count}) is {_described(kind, target)} in the code, but the "
                f"journal recorded {_described(known.kind, known.target)} under the same key. Give the changed step "
                f"another id, or let runs of the old code finish first.{self._places(step_id, known)}"
            )

    def _places(self, step_id: str, known: Known) -> str:
        return "" if self.explain is None else self.explain(step_id, known)

    # What it is told

    def apply(self, message: Message) -> None:
        """Take in one message. An outcome nobody waits for (withdrawn, or told twice) changes nothing."""
        match message:
            case StepEnded():
                pending = self._pending.pop(message.key, None)
                if pending is not None:
                    self.effects.append(Resolve(pending, message))
                else:
                    self._keep(message)
            case TimerFired():
                self.effects.append(Fire(message.number))

    def _keep(self, message: StepEnded) -> None:
        """A child that an earlier attempt spawned has ended before this one asks for it: its outcome will answer."""
        known = self._memo.get(message.key)
        if known is not None and known.outcome is None:
            if is_map_child(message.key) and self._keep_late(message):
                del self._memo[message.key]
            else:
                self._memo[message.key] = _answered(known, message)

    def _keep_late(self, message: StepEnded) -> bool:
        if self._maps is None:
            self._maps = Maps(0)
        return self._maps.keep_late(message)

    def take_effects(self) -> list[Effect]:
        """The effects, which are the caller's from now on."""
        effects, self.effects = self.effects, []
        return effects

    @property
    def pending(self) -> Iterable[Pending]:
        return self._pending.values()

    def is_pending(self, key: bytes) -> Pending | None:
        return self._pending.get(key)

    # Replay

    def next_recorded(self, timers_set: int) -> Message | None:
        """The next message of record, now that the body is at rest; None when the run has become live.

        Args:
            timers_set: how many timers the body has set so far.

        Raises:
            NonDeterminismError: the record holds what the code did not ask for, and replay is strict.
        """
        record, pages = self._record, self._pages
        while True:
            if pages is not None and pages.needs_page:
                self.wanted.append(pages)
                return None
            if pages is not None and pages.head is not None and (not record or pages.head.seq < record[0].seq):
                ended = pages.pop()
                if self._was_asked(ended, timers_set):
                    self._check_target(ended)
                    return ended
                self._answer_late(ended)
            elif not record:
                break
            elif self._was_asked(record[0], timers_set):
                return record.popleft()
            elif self._is_inherited(record[0]):
                self._remember(record.popleft())
            else:
                self._diverge(record, timers_set)
        self._go_live()
        return None

    @property
    def next_of_record(self) -> str | None:
        """What of the record is still to come first, in words; None when nothing is."""
        if not self._record:
            return None
        message = self._record[0]
        if isinstance(message, TimerFired):
            return f"its timer {message.number}"
        known = self._recorded.get(message.key)
        return "an outcome" if known is None else f"the outcome of {_named(known)}"

    def is_next_asked(self, timers_set: int) -> bool:
        """Whether the body, though not at rest, has asked for what is next in the record, or nothing is left of it."""
        return self._pages is not None or not self._record or self._was_asked(self._record[0], timers_set)

    def _was_asked(self, message: Message, timers_set: int) -> bool:
        if isinstance(message, StepEnded):
            return self._has_asked(message.key)
        return message.number < timers_set

    def _has_asked(self, key: bytes) -> bool:
        if is_map_child(key):
            return self._maps is not None and self._maps.was_asked(key)
        return key in self._asked

    def _is_inherited(self, message: Message) -> bool:
        return isinstance(message, StepEnded) and message.key in self._inherited

    def _remember(self, message: Message) -> None:
        """Let an outcome of record answer by key, when it is asked for."""
        if isinstance(message, StepEnded) and message.key not in self._memo:
            self._memo[message.key] = _answered(self._recorded[message.key], message)

    def _answer_late(self, ended: StepEnded) -> None:
        """A map's child that was not asked for: an earlier attempt spawned it, or the code has changed."""
        is_inherited = self._is_inherited(ended)
        if not is_inherited:
            self._note_divergence(ended)
        if not (is_inherited and self._keep_late(ended)):
            self._memo[ended.key] = _answered(Known(Kind.INVOKE, ended.workflow_id), ended)

    def _diverge(self, record: deque[Message], timers_set: int) -> None:
        """Keep what was asked for in its order; let the rest answer by key when it is asked for."""
        self._note_divergence(record[0])
        kept: list[Message] = []
        for message in record:
            if self._was_asked(message, timers_set):
                kept.append(message)
            else:
                self._remember(message)
        record.clear()
        record.extend(kept)

    def _note_divergence(self, message: Message) -> None:
        known = self._recorded.get(message.key) if isinstance(message, StepEnded) else None
        what = "a timer" if isinstance(message, TimerFired) else "the child of a map"
        what = what if known is None else _named(known)
        if self._strict:
            raise NonDeterminismError(
                f"{self._where}: the journal holds the outcome of {what}, which the code did not ask for at "
                f"this point. It has changed since; run the old code, or open the runtime without strict_replay."
                f"{'' if known is None else self._places(known.step_id, known)}"
            )
        self.effects.append(Diverged(what))

    def _check_target(self, ended: StepEnded) -> None:
        """Of a map's child the record is read late: whether it is what was asked for is seen only now."""
        pending = self._pending.get(ended.key)
        if pending is not None and ended.workflow_id:
            known = Known(Kind.INVOKE, ended.workflow_id)
            self._check(pending.step_id, map_index_of(ended.key), pending.kind, pending.target, known)

    def _go_live(self) -> None:
        self.replaying = False
        self._record = self._pages = None
        self.effects.extend(self._unmarked)
        for key, known in self._recorded.items():
            if known.outcome is None and not self._has_asked(key):
                self._memo.setdefault(key, known)  # a child that runs, and that the body has yet to ask for
        self._asked = set()
        self._recorded = {}
        self.effects.extend(Begin(pending) for pending in self._pending.values())


def _answered(known: Known, message: StepEnded) -> Known:
    return Known(known.kind, known.target, message.outcome, message.run_id, message.workflow_id)


def _named(known: Known) -> str:
    return f"step {known.step_id!r}" if known.step_id else _described(known.kind, known.target)


def _described(kind: Kind, target: str) -> str:
    match kind:
        case Kind.INVOKE:
            return f"an invoke of workflow {target!r}"
        case Kind.MAP:
            return f"a map over workflow {target!r}"
        case Kind.SLEEP:
            return "a sleep"
        case _:
            return f"a {kind.value} step"
