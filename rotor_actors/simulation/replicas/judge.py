"""The judge of a replicated trial: what each replica appends is held against all that is known by then, what the database
accepts against who may record it, and the end against the plan."""

from __future__ import annotations

from typing import Any

import msgspec

from rotor_actors.records import (
    STICKY_FLAGS,
    CancelRequested,
    EndSeen,
    Entry,
    Fact,
    Kind,
    OutcomeStatus,
    RunChanged,
    RunCreated,
    RunFlag,
    RunRow,
    RunsCancelled,
    RunsReleased,
    RunStatus,
    StepRecorded,
    StepRow,
    flatten,
)
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.errors import InvariantError
from rotor_actors.simulation.judge import Judge
from rotor_actors.simulation.ledger import Account
from rotor_actors.simulation.replicas.book import Books, leaves
from rotor_actors.simulation.replicas.events import Forgotten, Gone, LeaseRenewed, MailStolen, Owned, TimerStolen
from rotor_actors.simulation.trial import Executed, Executing, Saw, Trial
from rotor_actors.stores.base import RunQuery
from rotor_actors.stores.shared import LEASE_SECONDS

_LET_GO = RunFlag.RELEASED | RunFlag.ABANDON
_ALL = 2**62
# Once nothing goes wrong any more: a lease that has to run out, a process that has to be started, its first looks.
_SLACK = 20.0
_COMPARED = ("status", "result", "error", "attempt", "attempt_at", "ended_at")


class _Execution(msgspec.Struct):
    """The last one of a step. `error` is None while it is under way, or if nobody knows how it ended."""

    replica: int
    attempt: int
    error: str | None = None


class ReplicaJudge(Judge):
    """A `Judge` of several replicas, whose numbers are the lives of events.

    Attributes:
        books: its books; `ledger` is the view of them in which what is pending counts.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.books = Books()
        self.ledger = self.books.view
        self._leases: dict[int, float] = {}
        self._forgotten: set[int] = set()
        self._executions: dict[tuple[str, str], _Execution] = {}
        self._cancelled_for_good: set[int] = set()
        self._claimed_to_cancel: set[int] = set()
        """They were marked, and who owns them now was told so when it claimed them."""

    def attach(self, universe: Any) -> None:
        """Replicas have entered before anything was asked of them."""
        super().attach(universe)
        for event in tuple(universe.trace):
            self(event)

    def is_alive(self, life: int) -> bool:
        return not self.books.is_over(life)

    def __call__(self, event: Any) -> None:
        match event:
            case LeaseRenewed():
                self._leases[event.incarnation] = event.until
            case Owned():
                self._owned(event)
            case Gone() | Forgotten():
                self._over(event)
            case MailStolen():
                raise InvariantError(
                    "26 one incarnation",
                    f"replica {event.incarnation} takes message {event.letter} to {event.to}, which is not for it",
                )
            case TimerStolen():
                raise InvariantError(
                    "33 a clock that is wrong wakes nobody early",
                    f"replica {event.incarnation} is given run {event.n}, which sleeps for {event.early:.3f} s more",
                )
            case Executing():
                self._check_executor(event)
                super().__call__(event)
            case t.CommitBegun() | t.CommitFailed():
                pass  # what counts is what the database does
            case _:
                super().__call__(event)
        self.ledger = self.books.view

    # Replicas

    def _owned(self, event: Owned) -> None:
        number, durable = event.incarnation, self.books.durable
        self.require(
            self._has_row(number), "26 one incarnation", f"replica {number} owns runs, and has no row any more"
        )
        for n in event.ns:
            owner = durable.owners.get(n)
            self.require(
                owner is None or owner == number, "27 one of two executes",
                f"replica {number} owns run {durable.accounts[n].row.run_id}, and replica {owner} does",
            )  # fmt: skip
        self._claimed_to_cancel.update(n for n in event.ns if n in durable.cancels)
        for books in (durable, self.books.view):
            books.own(number, event.ns)
        durable.begin(list(event.begins), event.by_database)

    def _has_row(self, number: int) -> bool:
        return number in self._universe.database.replica_rows

    def _over(self, event: Gone | Forgotten) -> None:
        number = event.incarnation
        owners = self.books.durable.owners
        # What it had to say of others' runs is no loss to those, which go on.
        theirs = {run_id for run_id, each in self.ledger.by_id.items() if owners.get(each.row.n) not in (None, number)}
        lost = self.books.over(number) - theirs
        self.ledger = self.books.view
        if isinstance(event, Gone):
            for books in (self.books.durable, self.books.view):
                books.forget_owner(number)
        else:
            self._forgotten.add(number)
        self.forgot(lost)

    def forgot(self, runs: set[str]) -> None:
        """What was seen and is not in the database is unseen."""
        for (run_id, _), script in self._scripts.items():
            if run_id not in runs:
                continue
            account = self.books.durable.account(run_id)
            newest = -1 if account is None else account.newest_seq
            kept = next((place for place, seq in enumerate(script.seqs) if seq > newest), len(script.seqs))
            del script.texts[kept:], script.seqs[kept:], script.dues[kept:]
            script.place = 0
            for key in [key for key in self._let_go if key[0] == run_id]:
                del self._let_go[key]

    # What replicas append

    def _appended(self, entry: Entry, life: int) -> None:
        if not self.is_alive(life):
            return
        self.ledger = self.books.view
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
                case CancelRequested():
                    self._requested(fact, entry)
                case _:
                    pass
        self._check_left_behind(entry)
        self.books.appended(life, entry)

    def _check_left_behind(self, entry: Entry) -> None:
        facts = list(flatten([entry]))
        cancelled = _cancelled_in(facts)
        for fact in facts:
            if isinstance(fact, RunChanged) and fact.run.status.is_terminal:
                children = [self.ledger.accounts[n] for n in self.ledger.accounts[fact.run.n].children]
                left = [
                    each.row.run_id
                    for each in children
                    if not each.has_ended
                    and not self._is_being_cancelled(each, cancelled)
                    and not self._is_let_go(each)
                ]
                self.require(not left, "18 no orphan", f"run {fact.run.run_id} ends, and leaves {', '.join(left)}")

    def _is_being_cancelled(self, account: Account, together: set[int]) -> bool:
        return account.row.n in together or account.row.n in self.books.view.cancels

    def _is_withdrawn_here(self, account: Account) -> bool:
        return bool(account.row.flags & RunFlag.WITHDRAWN) or account.row.n in self.books.view.withdrawn

    def _spawned(self, row: RunRow) -> None:
        for n in () if row.parent_n is None else self.ledger.accounts[row.parent_n].children:
            account = self.ledger.accounts[n]
            if self._is_withdrawn_here(account) and not account.row.flags & RunFlag.WITHDRAWN:
                account.row = account.row.copy()
                account.row.flags |= RunFlag.WITHDRAWN  # its scope was over, and it had ended by then
        super()._spawned(row)

    def _note_withdrawals(self, account: Account, text: str) -> None:
        """Of children elsewhere it takes a while until their owners know."""
        super()._note_withdrawals(account, text)
        owners = self.books.view.owners
        for n in account.children:
            child = self.ledger.accounts[n]
            if owners.get(n) != owners.get(account.row.n):
                self._let_go.pop((account.row.run_id, child.row.parent_step_id or ""), None)

    def _changed(self, row: RunRow) -> None:
        if row.n in self.books.view.cancels:
            # Its owner was asked: it is no other's, and was just being taken in when its scope was over.
            self._let_go.pop((row.parent_run_id or "", row.parent_step_id or ""), None)
        super()._changed(row)

    def _cancelled(self, fact: RunsCancelled, entry: Entry) -> None:
        facts = list(flatten([entry]))
        ended_now = {each.run.n for each in facts if isinstance(each, RunChanged) and each.run.status.is_terminal}
        together = _cancelled_in(facts)
        for n in fact.ns:
            account = self.ledger.accounts[n]
            self.require(
                not account.has_ended and n not in ended_now, "31 an end is final",
                f"run {account.row.run_id} is {account.row.status.value}, and is cancelled",
            )  # fmt: skip
            left = [each.row.run_id for each in self._left_below(n, together)]
            self.require(
                not left, "18 no orphan", f"run {account.row.run_id} is cancelled without {', '.join(left)} below it"
            )
            if not any(each.row.n in fact.ns for each in self.ledger.above(account) if each is not account):
                self._check_reason(account, fact, ended_now)
        if fact.withdrawn is not None:
            self._check_withdrawn(fact.withdrawn)

    def _check_withdrawn(self, n: int) -> None:
        account = self.ledger.accounts[n]
        self.require(
            self.model.may_be_withdrawn(account.plan), "25 cancelled for a reason",
            f"run {account.row.run_id} is withdrawn, and no scope that awaits it can be cancelled",
        )  # fmt: skip

    def _left_below(self, n: int, together: set[int]) -> list[Account]:
        """Those that run on: nobody above them has been told to end them. Whoever owns a child ends what is below it."""
        left: list[Account] = []
        todo = list(self.ledger.accounts[n].children)
        for child in todo:
            account = self.ledger.accounts[child]
            if self._is_being_cancelled(account, together):
                continue
            if account.has_ended:
                continue  # what it had let go of is looked at when all has come to rest
            left.append(account)
        return left

    def _check_reason(self, top: Account, fact: RunsCancelled | CancelRequested, ended_now: set[int]) -> None:
        ledger = self.books.view
        parent = None if top.row.parent_n is None else ledger.accounts[top.row.parent_n]
        is_let_go = top.row.flags & _LET_GO
        is_left = parent is not None and not is_let_go and (parent.row.n in ended_now or parent.has_ended)
        is_asked_for = any(each.row.run_id in self.cancels for each in ledger.above(top))
        is_marked = isinstance(fact, RunsCancelled) and top.row.n in ledger.cancels
        # Who cancels a run looks again for what hangs on it: what had been let go of is cancelled with it, too.
        is_above_cancelled = parent is not None and (
            parent.row.n in ended_now or parent.row.status is RunStatus.CANCELLED
        )
        self.require(
            is_left or is_asked_for or is_marked or is_above_cancelled or fact.withdrawn == top.row.n,
            "25 cancelled for a reason",
            f"run {top.row.run_id} is cancelled, though nobody asked for it, its scope did not withdraw it, and its parent "
            f"{'let go of it' if is_let_go else 'has not ended'}",
        )  # fmt: skip
        if fact.withdrawn == top.row.n:
            self.require(
                not top.row.flags & RunFlag.RELEASED, "24 a child outlives its parent's timeout",
                f"run {top.row.run_id} is withdrawn",
            )  # fmt: skip

    def _requested(self, fact: CancelRequested, entry: Entry) -> None:
        facts = list(flatten([entry]))
        ended_now = {each.run.n for each in facts if isinstance(each, RunChanged) and each.run.status.is_terminal}
        ended_now |= _cancelled_in(facts)
        for n in fact.ns:
            account = self.ledger.accounts.get(n)
            if account is not None and not account.has_ended:
                self._check_reason(account, fact, ended_now)
        if fact.withdrawn is not None:
            self._check_withdrawn(fact.withdrawn)

    # What the database accepts

    def _committed(self, event: t.Committed) -> None:
        number = event.incarnation
        self.require(
            self._has_row(number), "26 one incarnation", f"replica {number} has no row any more, and has committed"
        )
        durable = self.books.durable
        accepted = 0
        for entry in event.entries:
            for fact, _ in leaves(entry):
                accepted += self._check_fact(number, fact)
                durable.own(number, [fact.run.n] if isinstance(fact, RunCreated) else [])
        self.books.committed(number, event.entries)
        self.ledger = self.books.view

    def _check_fact(self, number: int, fact: Fact) -> int:
        match fact:
            case RunCreated():
                self._check_created(number, fact.run)
            case RunChanged():
                self._check_owner(number, fact.run.n, "changed")
                self._check_end(number, fact.run)
            case StepRecorded():
                self._check_owner(number, fact.step.n, "recorded of")
                self._check_place(fact.step.n, fact.step.seq, f"step {fact.step.step_id!r}")
            case RunsCancelled() | RunsReleased():
                for n in fact.ns:
                    self._check_owner(number, n, "cancelled" if isinstance(fact, RunsCancelled) else "released")
            case EndSeen():
                parent_n = self.books.durable.accounts[fact.n].row.parent_n
                assert parent_n is not None
                self._check_owner(number, parent_n, "told of the end of a child")
                self._check_place(parent_n, fact.end_seq, "the end of a child")
            case _:
                pass
        return 1

    def _check_created(self, number: int, row: RunRow) -> None:
        durable = self.books.durable
        self.require(durable.account(row.run_id) is None, "8 one run for an id", f"run {row.run_id} is there twice")
        durable.owners.setdefault(row.n, number)
        if row.parent_n is not None and row.parent_key is not None and row.parent_n in durable.accounts:
            self._check_owner(number, row.parent_n, "the parent of a new run")

    def _check_owner(self, number: int, n: int, what: str) -> None:
        durable = self.books.durable
        owner = durable.owners.get(n, number)
        run_id = durable.accounts[n].row.run_id if n in durable.accounts else f"{n}"
        self.require(
            owner == number, "26 one incarnation",
            f"run {run_id} is {what} by replica {number}, and its owner is {'nobody' if owner is None else owner}",
        )  # fmt: skip

    def _check_end(self, number: int, row: RunRow) -> None:
        account = self.books.durable.accounts.get(row.n)
        is_new_end = row.status.is_terminal and (account is None or not account.has_ended)
        if is_new_end and row.status is not RunStatus.CANCELLED:
            self.require(
                row.n not in self._claimed_to_cancel or row.status is RunStatus.FAILED, "21 a cancellation is finished",
                f"run {row.run_id} is {row.status.value}, and was to be cancelled when replica {number} claimed it",
            )  # fmt: skip
            above = set(self._cancelled_for_good)
            here = account
            while here is not None:
                self.require(
                    here.row.n not in above, "19 cancelled is cancelled",
                    f"run {row.run_id} is {row.status.value}, and {here.row.run_id} was said to be cancelled before",
                )  # fmt: skip
                here = self.books.durable.accounts.get(here.row.parent_n or 0)

    def _check_place(self, n: int, seq: int, what: str) -> None:
        newest = self.books.durable.positions[n]
        self.require(
            seq >= newest, "3 a history has one order",
            f"{what} has place {seq} in the history of run {n}, whose newest place is {newest}",
        )  # fmt: skip

    # What the world sees

    def _effect(self, event: t.EffectBegun) -> None:
        """A step is about to be executed; whether by somebody who may is looked at when its body begins."""
        number, durable = event.incarnation, self.books.durable
        if self.books.is_over(number):
            return
        account = durable.account(event.run_id)
        where = f"step {event.step_id!r} of run {event.run_id}, on replica {number}"
        if account is None:
            raise InvariantError("2 no effect before its past is durable", f"{where} begins, and its run is unknown")
        self.require(
            not account.has_ended, "23 a run that has ended does nothing",
            f"{where} begins, and the run is {account.row.status.value}",
        )  # fmt: skip
        done = [step for step in account.steps if step.key == event.key and step.kind is Kind.RUN]
        self.require(
            not any(step.status is OutcomeStatus.COMPLETED for step in done), "4 what is recorded is not done again",
            f"{where} begins, and its result is recorded",
        )  # fmt: skip

    def _check_executor(self, event: Executing) -> None:
        """Who is not the owner any more may begin a step only for as long as its lease has not run out."""
        number, durable = event.incarnation, self.books.durable
        where = f"{event.name} of run {event.run_id}, on replica {number},"
        account = durable.account(event.run_id)
        if account is None:
            raise InvariantError("2 no effect before its past is durable", f"{where} begins, and its run is unknown")
        self.require(
            number not in self._forgotten, "47 a dead process writes nothing", f"{where} begins, and that has ended"
        )
        now, until = self._universe.database.clock(), self._leases[number]
        self.require(
            now <= until, "30 a replica whose lease is over does nothing",
            f"{where} begins {now - until:.3f} s after the end of its lease",
        )  # fmt: skip
        owner = durable.owners.get(account.row.n)
        self.require(owner == number, "26 one incarnation", f"{where} begins, and replica {owner} owns its run")

    def _begins(self, event: Executing) -> None:
        key = event.run_id, event.name
        last = self._executions.get(key)
        if last is not None:
            self._check_reason_to_repeat(event, last)
        super()._begins(event)
        self._executions[key] = _Execution(event.incarnation, event.attempt)

    def _check_reason_to_repeat(self, event: Executing, last: _Execution) -> None:
        """At least once is no licence: it failed, it is another attempt, or what came of it may be lost."""
        is_lost = self.books.is_over(last.replica)
        if is_lost:
            self._executing.pop((event.run_id, event.name), None)  # whether or not it knows
        self.require(
            is_lost or last.error != "" or last.attempt != event.attempt, "4 what is recorded is not done again",
            f"{event.name} of run {event.run_id} is executed again, on replica {event.incarnation}, and had succeeded on "
            f"replica {last.replica}, which lives",
        )  # fmt: skip

    def _ends(self, event: Executed) -> None:
        super()._ends(event)
        last = self._executions.get((event.run_id, event.name))
        if last is not None and last.replica == event.incarnation:
            last.error = event.error

    def _is_durable(self, account: Account, text: str) -> bool:
        durable = self.books.durable
        kept = durable.account(account.row.run_id)
        if kept is None:
            return False
        if "=" in text:
            return text.partition("=")[2] in durable.tokens
        name, _, rest = text.partition(" ")
        if not name.startswith("child"):
            return True
        if rest == "timed out":
            return kept.outcome_seq(name) > 0
        ends = [n for n in kept.children if durable.accounts[n].row.parent_step_id == name]
        return any(durable.is_awaited_end(n) for n in ends)

    def _check_time(self, event: Saw, where: str) -> None:
        """Late it is whenever nobody owns the run, or the database is away; once all is well, no longer than it takes
        until somebody does."""
        self.require(
            event.at >= event.due - 0.5, "33 a clock that is wrong wakes nobody early",
            f"{where}: {event.text} {event.due - event.at} s early",
        )  # fmt: skip
        healed_at = self._universe.healed_at
        if healed_at is not None:
            late = event.at - max(event.due, healed_at)
            self.require(
                late <= LEASE_SECONDS + _SLACK, "33 no timer is lost",
                f"{where}: {event.text} {late:.1f} s late, though nothing went wrong any more",
            )  # fmt: skip

    # Answers

    def _acknowledged(self, event: t.Acknowledged) -> None:
        durable = self.books.durable
        account = durable.account(event.run_id)
        is_error = "Error: " in event.outcome
        match event.verb:
            case "start" if not is_error:
                self.require(
                    account is not None, "36 acknowledged is durable",
                    f"run {event.run_id} is said to have started, and is not durable",
                )  # fmt: skip
            case "start":
                self.require(
                    not event.outcome.startswith("Workflow"), "8 one run for an id",
                    f"who starts run {event.run_id} is told how it ended: {event.outcome[:80]}",
                )  # fmt: skip
            case "cancel" if account is not None and not is_error:
                self.require(
                    account.has_ended, "18 no orphan", f"run {event.run_id} is said to be cancelled, and has not ended"
                )
                # Who finds it cancelled already is told so at once, while other replicas may still end what is below it.
                if account.row.status is RunStatus.CANCELLED and "already_ended=[]" in event.outcome:
                    self._cancelled_for_good.add(account.row.n)
            case "result_of" if account is not None and (event.outcome.startswith("Workflow") or not is_error):
                said = _said(event.outcome)
                self.require(
                    account.row.status is said, "13 no answer before its commit",
                    f"the result of run {event.run_id} is {event.outcome[:80]}; it is {account.row.status.value}",
                )  # fmt: skip
            case _:
                pass

    # The end

    def at_end(self) -> None:
        super().at_end()
        durable = self.books.durable
        ended = [each.run_id for each in durable.transitions]
        twice = sorted({run_id for run_id in ended if ended.count(run_id) > 1})
        self.require(not twice, "31 an end is final", f"these have ended more than once: {twice}")
        self.require(
            len(ended) == len(durable.accounts), "31 an end is final",
            f"{len(ended)} ends were accepted, of {len(durable.accounts)} runs",
        )  # fmt: skip
        self._compare_with_book()
        database = self._universe.database
        letters = [f"{each.kind.value} to {each.to}" for each in database.office.letters.values()]
        self.require(not letters, "11 no message is left", f"nobody takes these messages: {', '.join(letters[:5])}")
        watches = dict(database.office.watches)
        self.require(not watches, "11 no message is left", f"nobody will ever tell these watchers: {watches}")
        unowned = database.unowned()
        self.require(not unowned, "28 nothing is stranded", f"nobody owns these: {unowned}")
        for engine in self._universe.engines():
            left = [f"{run.where} ({run.phase.name.lower()})" for run in engine.tree]
            self.require(
                not left, "28 nothing is stranded", f"in the memory of a replica are still {', '.join(left[:5])}"
            )

    def _compare_with_book(self) -> None:
        """Whatever was accepted is there at the end, and nothing else."""
        database, accounts = self._universe.database, self.books.durable.accounts
        rows = {row.n: row for row in database.list_runs(RunQuery(limit=_ALL))}
        self.require(set(rows) == set(accounts), "36 acknowledged is durable", f"runs {set(rows) ^ set(accounts)}")
        for n, row in rows.items():
            expected = accounts[n].row
            wrong = [
                f"{name}: {getattr(row, name)!r} instead of {getattr(expected, name)!r}"
                for name in _COMPARED
                if getattr(row, name) != getattr(expected, name)
            ]
            if (row.flags ^ expected.flags) & STICKY_FLAGS:
                wrong.append(f"flags: {row.flags} instead of {expected.flags}")
            self.require(not wrong, "36 acknowledged is durable", f"run {row.run_id} has {'; '.join(wrong)}")
            found, known = database.steps(n), accounts[n].steps
            self.require(
                sorted(map(_place_of, found)) == sorted(map(_place_of, known)), "36 acknowledged is durable",
                f"the journal of run {row.run_id} has {found}, and not {known}",
            )  # fmt: skip


def _place_of(step: StepRow) -> tuple[int, bytes, str, str, bytes]:
    return step.seq, step.key, step.kind.value, step.status.value, step.payload or b""


def _cancelled_in(facts: list[Fact]) -> set[int]:
    return {n for fact in facts if isinstance(fact, RunsCancelled | CancelRequested) for n in fact.ns}


def _said(outcome: str) -> RunStatus:
    if outcome.startswith("WorkflowFailedError"):
        return RunStatus.FAILED
    return RunStatus.CANCELLED if outcome.startswith("WorkflowCancelledError") else RunStatus.COMPLETED
