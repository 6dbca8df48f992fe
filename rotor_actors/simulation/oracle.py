"""The judge of a universe: a book of its own of all that was appended, and what must hold whatever happens.

It looks at entries, commits, effects and answers; it never asks the engine. The numbers are those of the list of
invariants in `docs/reliability.md`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from rotor_actors.errors import StoreCorruptedError
from rotor_actors.records import (
    Entry,
    History,
    Kind,
    OutcomeStatus,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    RunsCancelled,
    RunStatus,
    StepRecorded,
    StepRow,
    flatten,
)
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.ledger import Account, Ledger
from rotor_actors.stores.base import RunQuery, Store

_ALL = 2**62
# Hints, that a crash may lose or leave as they were.
_HINTS = ("rest_seq", "wake_at")


class Observed(Protocol):
    """As much of a universe as is looked at."""

    disk: Any
    lives: int

    def observe(self, observer: Any) -> None: ...


class Oracle:
    """Observes a universe and raises InvariantError at the first event by which something is broken.

    Attributes:
        ledger: its book.
        checked: how often each invariant was looked at.
        cancels: ids of the runs that callers asked to cancel.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.checked: Counter[str] = Counter()
        self.cancels: set[str] = set()
        self.damaged = 0
        self._places: dict[tuple[str, bytes, int], str] = {}
        self._in_flight: list[int] | None = None
        self._life = 0
        self._has_failed = False
        self._universe: Any = None

    def attach(self, universe: Observed) -> None:
        """Observe it, and look at its store whenever that is opened."""
        self._universe = universe
        self._life = universe.lives
        universe.disk.on_open = self.store_opened
        universe.observe(self)

    def require(self, holds: object, invariant: str, message: str) -> None:
        """Count a look at an invariant, and raise when it is broken."""
        self.checked[invariant] += 1
        if not holds:
            raise InvariantError(invariant, message)

    def __call__(self, event: t.Event) -> None:
        match event:
            case t.Asked():
                if event.verb == "cancel":
                    self.cancels.add(event.run_id)
            case t.Appended():
                self._appended(event.entry, event.incarnation)
            case t.CommitBegun():
                self.require(
                    not self._has_failed, "37 nothing is committed after a failed commit",
                    f"a commit of {len(event.entries)} entries begins, and one before it had failed",
                )  # fmt: skip
                self._in_flight = [entry.seq for entry in event.entries if entry.seq]
            case t.Committed():
                self._committed(event)
            case t.CommitFailed():
                if event.is_refused:
                    self._in_flight = None
                else:
                    self._has_failed = True
            case t.EffectBegun():
                self._effect(event)
            case t.Acknowledged():
                self._acknowledged(event)
            case _:
                pass

    # The store

    def store_opened(self, store: Store) -> None:
        """A life begins. What is there: all that was acknowledged, a prefix of what was appended, nothing else."""
        ledger = self.ledger
        _, last_seq = store.last_numbers()
        self._life = self._universe.lives
        self.require(
            last_seq >= ledger.durable_seq, "36 acknowledged is durable",
            f"entry {ledger.durable_seq} was acknowledged as durable, and the store ends at entry {last_seq}",
        )  # fmt: skip
        allowed = {ledger.durable_seq, max(self._in_flight or [0])}
        self.require(
            last_seq in allowed or not ledger.last_seq, "37 a commit is whole or not there",
            f"the store ends at entry {last_seq}, which is not the end of a commit ({sorted(allowed)})",
        )  # fmt: skip
        lost = ledger.truncate(last_seq)
        self.forgot(lost)
        self._in_flight, self._has_failed = None, False
        self._compare_runs(store.list_runs(RunQuery(limit=_ALL)))
        self._compare_steps(store)

    def forgot(self, runs: set[str]) -> None:
        """With the process these runs have lost something that was not durable; for those who keep more books."""

    def _compare_runs(self, rows: list[RunRow]) -> None:
        accounts = self.ledger.accounts
        found = {row.n for row in rows}
        self.require(found == set(accounts), "36 acknowledged is durable", f"runs {sorted(found ^ set(accounts))}")
        for row in rows:
            if row.flags & RunFlag.DAMAGED:
                self.damaged += 1
                continue
            expected = accounts[row.n].row
            wrong = [
                f"{name}: {getattr(row, name)!r} instead of {getattr(expected, name)!r}"
                for name in RunRow.__struct_fields__
                if name not in _HINTS and getattr(row, name) != getattr(expected, name)
            ]
            self.require(not wrong, "36 acknowledged is durable", f"run {row.run_id} has {'; '.join(wrong)}")

    def _compare_steps(self, store: Store) -> None:
        ns = list(self.ledger.accounts)
        try:
            self._compare_histories(store.histories(ns))
        except StoreCorruptedError:
            for n in ns:
                try:
                    self._compare_histories(store.histories([n]))
                except StoreCorruptedError:
                    fired = self._universe.disk.fired["bit_flip"]
                    self.require(fired, "39 a flipped bit is noticed", "no bit was flipped")
                    self.damaged += 1

    def _compare_histories(self, histories: dict[int, History]) -> None:
        for n, history in histories.items():
            account = self.ledger.accounts[n]
            self.require(
                history.steps == account.steps, "36 acknowledged is durable",
                f"the journal of run {account.row.run_id} has {_short(history.steps)}, and not {_short(account.steps)}",
            )  # fmt: skip

    def _committed(self, event: t.Committed) -> None:
        ledger = self.ledger
        self.require(
            event.incarnation == self._life, "47 a dead process writes nothing",
            f"life {event.incarnation} has committed, and life {self._life} is what lives",
        )  # fmt: skip
        seqs = [entry.seq for entry in event.entries if entry.seq]
        expected = list(range(ledger.durable_seq + 1, ledger.durable_seq + 1 + len(seqs)))
        self.require(
            seqs == expected, "38 commits are in the order of the journal", f"{seqs} after entry {ledger.durable_seq}"
        )
        ledger.durable_seq = max([ledger.durable_seq, *seqs])
        self._in_flight = None

    # The journal

    def is_alive(self, life: int) -> bool:
        """What it does counts."""
        return life == self._life

    def _appended(self, entry: Entry, life: int) -> None:
        if not self.is_alive(life):
            return  # of a process that has died: it is in its memory only
        for fact in flatten([entry]):
            match fact:
                case RunCreated():
                    self._spawned(fact.run)
                case RunChanged():
                    self._changed(fact.run)
                case StepRecorded():
                    self._recorded(fact.step)
                case RunsCancelled():
                    self._cancelled(fact, entry)
                case _:
                    pass
        self._check_left_behind(entry)
        self.ledger.append(entry)

    def _check_left_behind(self, entry: Entry) -> None:
        """Whoever ends takes those of its children with it that it did not let go of, in the same act."""
        facts = list(flatten([entry]))
        cancelled = {n for fact in facts if isinstance(fact, RunsCancelled) for n in fact.ns}
        for fact in facts:
            if isinstance(fact, RunChanged) and fact.run.status.is_terminal:
                children = [self.ledger.accounts[n] for n in self.ledger.accounts[fact.run.n].children]
                left = [
                    each.row.run_id
                    for each in children
                    if not each.has_ended and each.row.n not in cancelled and not self._is_let_go(each)
                ]
                self.require(not left, "18 no orphan", f"run {fact.run.run_id} ends, and leaves {', '.join(left)}")

    def _is_let_go(self, child: Account) -> bool:
        assert child.row.parent_n is not None
        parent = self.ledger.accounts[child.row.parent_n]
        has_timed_out = any(
            step.kind is Kind.INVOKE and step.key == child.row.parent_key and step.status is OutcomeStatus.TIMED_OUT
            for step in parent.steps
        )
        return has_timed_out or child.is_abandoned

    def _spawned(self, row: RunRow) -> None:
        self.require(
            self.ledger.account(row.run_id) is None, "8 one run for an id", f"run {row.run_id} is created again"
        )
        if row.parent_n is None or row.parent_key is None:
            return
        parent = self.ledger.accounts[row.parent_n]
        self.require(
            not parent.has_ended, "18 no orphan",
            f"run {row.run_id} is spawned by run {parent.row.run_id}, which is {parent.row.status.value}",
        )  # fmt: skip
        siblings = [self.ledger.accounts[n] for n in parent.children]
        others = [account for account in siblings if account.row.parent_key == row.parent_key]
        self.require(
            all(self._is_withdrawn(account) for account in others), "1 one child for a step key",
            f"run {row.run_id} is spawned for step {row.parent_step_id!r} of run {parent.row.run_id}, which has "
            f"{', '.join(account.row.run_id for account in others)} already",
        )  # fmt: skip
        place = (parent.row.run_id, row.parent_key, row.generation)
        known = self._places.setdefault(place, row.run_id)
        self.require(known == row.run_id, "1 one child for a step key", f"run {row.run_id} was {known} before a crash")

    @staticmethod
    def _is_withdrawn(account: Account) -> bool:
        return bool(account.row.flags & RunFlag.WITHDRAWN)

    def _changed(self, row: RunRow) -> None:
        account = self.ledger.accounts[row.n]
        before = account.row
        self.require(
            not account.has_ended or (before.status, before.result) == (row.status, row.result),
            "31 an end is final", f"run {row.run_id} is {before.status.value}, and becomes {row.status.value}",
        )  # fmt: skip

    def _recorded(self, step: StepRow) -> None:
        account = self.ledger.accounts[step.n]
        self.require(
            not account.has_ended, "31 an end is final",
            f"step {step.step_id!r} of run {account.row.run_id}, which is {account.row.status.value}, is recorded",
        )  # fmt: skip
        if step.kind in (Kind.RUN, Kind.INVOKE, Kind.SLEEP):
            before = [
                each
                for each in account.steps
                if each.key == step.key and each.kind in (Kind.RUN, Kind.INVOKE, Kind.SLEEP)
            ]
            self.require(
                not any(each.status is not OutcomeStatus.FAILED for each in before), "3 a memo is final",
                f"step {step.step_id!r} of run {account.row.run_id} has an outcome, and another is recorded",
            )  # fmt: skip
        if step.kind is Kind.INVOKE and step.status is OutcomeStatus.TIMED_OUT:
            children = [self.ledger.accounts[n].row for n in account.children]
            deadlines = [row.deadline for row in children if row.parent_key == step.key and row.deadline is not None]
            self.require(
                not deadlines or step.at >= min(deadlines), "24 a timeout fires at its deadline",
                f"step {step.step_id!r} of run {account.row.run_id} has timed out {min(deadlines, default=0) - step.at} s early",
            )  # fmt: skip

    def _cancelled(self, fact: RunsCancelled, entry: Entry) -> None:
        ledger = self.ledger
        ended_now = {
            each.run.n for each in flatten([entry]) if isinstance(each, RunChanged) and each.run.status.is_terminal
        }
        together = set(fact.ns)
        for n in fact.ns:
            account = ledger.accounts[n]
            self.require(
                not account.has_ended and n not in ended_now, "31 an end is final",
                f"run {account.row.run_id} is {account.row.status.value}, and is cancelled",
            )  # fmt: skip
            left = [each.row.run_id for each in ledger.below(n) if not each.has_ended and each.row.n not in together]
            self.require(
                not left, "18 no orphan", f"run {account.row.run_id} is cancelled without {', '.join(left)} below it"
            )
            if not any(each.row.n in together for each in ledger.above(account) if each is not account):
                self._check_reason(account, fact, ended_now)

    def _check_reason(self, top: Account, fact: RunsCancelled, ended_now: set[int]) -> None:
        """Why it is cancelled: a caller wants it, its scope withdrew it, or its parent has ended and owned it."""
        parent_n = top.row.parent_n
        parent = None if parent_n is None else self.ledger.accounts[parent_n]
        is_let_go = top.row.flags & (RunFlag.RELEASED | RunFlag.ABANDON)
        is_left = parent is not None and not is_let_go and (parent.row.n in ended_now or parent.has_ended)
        is_asked_for = any(each.row.run_id in self.cancels for each in self.ledger.above(top))
        self.require(
            is_left or is_asked_for or fact.withdrawn == top.row.n, "25 cancelled for a reason",
            f"run {top.row.run_id} is cancelled, though nobody asked for it, its scope did not withdraw it, and its parent "
            f"{'let go of it' if is_let_go else 'has not ended'}",
        )  # fmt: skip
        if fact.withdrawn == top.row.n:
            is_released = top.row.flags & RunFlag.RELEASED
            self.require(
                not is_released, "24 a child outlives its parent's timeout", f"run {top.row.run_id} is withdrawn"
            )

    # What the world sees

    def _effect(self, event: t.EffectBegun) -> None:
        ledger = self.ledger
        account = ledger.account(event.run_id)
        where = f"step {event.step_id!r} of run {event.run_id}"
        self.require(
            event.incarnation == self._life, "47 a dead process writes nothing", f"{where} begins in a dead life"
        )
        if account is None:
            raise InvariantError("2 no effect before its past is durable", f"{where} begins, and its run is unknown")
        self.require(
            account.created_seq <= ledger.durable_seq, "2 no effect before its past is durable",
            f"{where} begins, its run was created with entry {account.created_seq}; durable is {ledger.durable_seq}",
        )  # fmt: skip
        self.require(
            not account.has_ended, "23 a run that has ended does nothing",
            f"{where} begins, and the run is {account.row.status.value}",
        )  # fmt: skip
        done = [step for step in account.steps if step.key == event.key and step.kind is Kind.RUN]
        self.require(
            not any(step.status is OutcomeStatus.COMPLETED for step in done), "4 what is recorded is not done again",
            f"{where} begins, and its result is recorded",
        )  # fmt: skip

    def _acknowledged(self, event: t.Acknowledged) -> None:
        account = self.ledger.account(event.run_id)
        durable = self.ledger.durable_seq
        is_error = "Error: " in event.outcome
        match event.verb:
            case "start" if not is_error:
                self.require(
                    account is not None and account.created_seq <= durable, "36 acknowledged is durable",
                    f"run {event.run_id} is said to have started, and is not durable",
                )  # fmt: skip
            case "cancel" if account is not None and not is_error:
                below = self.ledger.below(account.row.n) if account.row.status is RunStatus.CANCELLED else ()
                left = [each.row.run_id for each in below if not each.has_ended]
                self.require(
                    account.has_ended and account.end_seq <= durable and not left, "18 no orphan",
                    f"run {event.run_id} is said to be cancelled; it is {account.row.status.value}, left: {left}",
                )  # fmt: skip
            case "result_of" if account is not None and (event.outcome.startswith("Workflow") or not is_error):
                self.require(
                    account.has_ended and account.end_seq <= durable, "13 no answer before its commit",
                    f"the result of run {event.run_id} is given; it is {account.row.status.value}, and ended with entry "
                    f"{account.end_seq}, durable is {durable}",
                )  # fmt: skip
                self.require(
                    account.row.status is _said(event.outcome), "13 no answer before its commit",
                    f"the result of run {event.run_id} is {event.outcome[:80]}; it is {account.row.status.value}",
                )  # fmt: skip
            case _:
                pass

    # The end

    def at_end(self) -> None:
        """All has come to rest: no run is left that has not ended."""
        left = [account.row.run_id for account in self.ledger.accounts.values() if not account.has_ended]
        self.require(not left, "11 every run ends", f"these have not ended: {', '.join(left[:10])}")
        self.require(
            self.ledger.last_seq == self.ledger.durable_seq, "36 acknowledged is durable",
            f"the last entry is {self.ledger.last_seq}, durable is {self.ledger.durable_seq}",
        )  # fmt: skip


def _said(outcome: str) -> RunStatus:
    """What a caller who was answered so thinks of a run."""
    if outcome.startswith("WorkflowFailedError"):
        return RunStatus.FAILED
    return RunStatus.CANCELLED if outcome.startswith("WorkflowCancelledError") else RunStatus.COMPLETED


def _short(steps: list[StepRow]) -> str:
    return (
        "[" + ", ".join(f"{step.kind.value} {step.step_id!r} {step.status.value} at {step.seq}" for step in steps) + "]"
    )
