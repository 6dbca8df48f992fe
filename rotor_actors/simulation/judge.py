"""The judge of a trial: what the bodies saw against the book, and every end against what the plan allows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from rotor_actors.records import Kind, OutcomeStatus, RunFlag, RunRow, RunsCancelled, RunStatus, StepRow
from rotor_actors.simulation import trace as t
from rotor_actors.simulation.client import UniverseRuntime
from rotor_actors.simulation.ledger import Account, decoded, digest
from rotor_actors.simulation.model import Model
from rotor_actors.simulation.oracle import Oracle
from rotor_actors.simulation.plan import Size, draw_plan
from rotor_actors.simulation.trial import (
    BodyBegun,
    CleanedUp,
    Executed,
    Executing,
    Saw,
    Trial,
)
from rotor_actors.simulation.universe import Universe

# How late something may be that is due while the process is up: latencies of the store, and of what else is to do.
LATENESS = 5.0
LATENESS_WHEN_FULL = 30.0


class _Script(msgspec.Struct):
    """What one attempt of one run has seen, in its order, and the newest entry behind each of it."""

    texts: list[str] = []
    seqs: list[int] = []
    dues: list[float] = []
    place: int = 0
    body: int = 0
    is_exact: bool = True


class Judge(Oracle):
    """An `Oracle` that knows the trial."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial
        self.model = Model(trial)
        self._scripts: dict[tuple[str, int], _Script] = {}
        self._executing: dict[tuple[str, str], int] = {}
        self._results: dict[str, str] = {}
        self._cleaned: set[int] = set()
        self._let_go: dict[tuple[str, str], int] = {}
        self._opened_at = 0.0
        self._awaited: set[str] = set()

    def __call__(self, event: Any) -> None:
        match event:
            case t.Asked():
                if event.verb == "cancel":
                    self.cancels.add(event.run_id)
                else:
                    self._awaited.add(event.run_id)
            case BodyBegun() if self.is_alive(event.incarnation):
                script = self._script(event.run_id, event.attempt)
                script.place, script.body = 0, event.body
            case Saw() if self.is_alive(event.incarnation):
                self._saw(event)
            case Executing() if self.is_alive(event.incarnation):
                self._begins(event)
            case Executed() if self.is_alive(event.incarnation):
                self._ends(event)
            case CleanedUp() if self.is_alive(event.incarnation):
                self._cleans_up(event)
            case t.Opened():
                self._opened_at = event.at
            case _:
                pass
        super().__call__(event)

    def forgot(self, runs: set[str]) -> None:
        """What was seen and is not durable is unseen."""
        last_seq = self.ledger.durable_seq
        self._executing.clear()
        self._let_go.clear()
        for script in self._scripts.values():
            kept = next((place for place, seq in enumerate(script.seqs) if seq > last_seq), len(script.seqs))
            del script.texts[kept:], script.seqs[kept:], script.dues[kept:]
            script.place = 0

    def _script(self, run_id: str, attempt: int) -> _Script:
        return self._scripts.setdefault((run_id, attempt), _Script())

    # What bodies see

    def _saw(self, event: Saw) -> None:
        script = self._script(event.run_id, event.attempt)
        place, script.place = script.place, script.place + 1
        where = f"run {event.run_id}, attempt {event.attempt}"
        if place < len(script.texts):
            self.require(
                script.texts[place] == event.text, "3 a replay sees what was seen",
                f"{where} saw {script.texts[place]!r} before a crash, and now {event.text!r}",
            )  # fmt: skip
            return
        account = self.ledger.account(event.run_id)
        assert account is not None, where
        self._check_text(account, event.text, where)
        if event.due:
            self._check_time(event, where)
        self._note_withdrawals(account, event.text)
        script.texts.append(event.text)
        script.seqs.append(account.newest_seq)
        script.dues.append(event.due)

    def _check_text(self, account: Account, text: str, where: str) -> None:
        """It is what the book says."""
        name, _, rest = text.partition("=") if "=" in text else text.partition(" ")
        if "=" in text:
            self.require(
                rest in self.ledger.tokens and rest.rpartition("#")[0] == name, "3 a memo is that of its step",
                f"{where} saw {rest!r} as the result of {name}",
            )  # fmt: skip
        elif name.startswith("child"):
            ends = [self.ledger.accounts[n].row for n in account.children]
            ends = [row for row in ends if row.parent_step_id == name]
            self.require(
                any(_as_seen(row) == rest for row in ends) or (rest == "timed out" and _has_timed_out(account, name)),
                "5 a child's end is its parent's",
                f"{where} saw that {text!r}; its children there: {[(row.run_id, _as_seen(row)) for row in ends]}",
            )  # fmt: skip

    def _note_withdrawals(self, account: Account, text: str) -> None:
        """A scope is over: of what it awaited nothing may come to a good end from here on."""
        name, _, rest = text.partition(" ")
        if rest == "too late":
            for child in self.model.children_of_race(account.plan, name):
                self._let_go[account.row.run_id, child] = self.ledger.last_seq

    def _check_time(self, event: Saw, where: str) -> None:
        late = event.at - max(event.due, self._opened_at)
        self.require(
            event.at >= event.due - 1e-3, "34 a sleep is as long as asked", f"{where}: {event.text} {late} s early"
        )
        limit = LATENESS_WHEN_FULL if self._universe.disk.fired["disk_full"] else LATENESS
        self.require(late <= limit, "34 a sleep is as long as asked", f"{where}: {event.text} {late} s late")

    # What the world sees

    def _begins(self, event: Executing) -> None:
        account = self.ledger.account(event.run_id)
        where = f"{event.name} (run {event.run_id}, execution {event.execution})"
        assert account is not None, where
        key = (event.run_id, event.name)
        running = self._executing.get(key)
        self.require(running is None, "26 one incarnation", f"{where} begins while execution {running} is under way")
        self._executing[key] = event.execution
        script = self._script(event.run_id, event.attempt)
        for text in script.texts[: event.seen]:
            self.require(
                self._is_durable(account, text), "2 no effect before its past is durable",
                f"{where} begins, and its run has seen {text!r} of entry {self._seq_of(account, text)}; durable is "
                f"{self.ledger.durable_seq}",
            )  # fmt: skip
        earlier = [step for step in account.steps if step.step_id == event.step_id and step.kind is Kind.RUN]
        self.require(
            not any(_is_result_of(step, event.name) for step in earlier), "4 what is recorded is not done again",
            f"{where} begins, and has a result",
        )  # fmt: skip
        caught = self.model.is_caught(event.name)
        failed = [step for step in earlier if _is_failure_of(step, event.name)]
        self.require(
            not (caught and failed), "9 a caught failure is final",
            f"{where} begins, and has failed for good: that was caught and is recorded",
        )  # fmt: skip

    def _is_durable(self, account: Account, text: str) -> bool:
        return self._seq_of(account, text) <= self.ledger.durable_seq

    def _seq_of(self, account: Account, text: str) -> int:
        if "=" in text:
            return self.ledger.tokens.get(text.partition("=")[2], 0)
        name, _, rest = text.partition(" ")
        if name.startswith("child"):
            if rest == "timed out":
                return account.outcome_seq(name)
            ended = [self.ledger.accounts[n] for n in account.children]
            return max((each.end_seq for each in ended if each.row.parent_step_id == name), default=0)
        return 0

    def _ends(self, event: Executed) -> None:
        self._executing.pop((event.run_id, event.name), None)

    def _cleans_up(self, event: CleanedUp) -> None:
        self.require(event.body not in self._cleaned, "23 a body cleans up once", f"run {event.run_id} cleans up again")
        self._cleaned.add(event.body)
        self.require(
            event.late_step != "executed", "23 a cancelled run calls no step",
            f"run {event.run_id} was cancelled, and a step that it called then was executed",
        )  # fmt: skip

    # The journal

    def _spawned(self, row: RunRow) -> None:
        super()._spawned(row)
        self._let_go.pop((row.parent_run_id or "", row.parent_step_id or ""), None)

    def _changed(self, row: RunRow) -> None:
        super()._changed(row)
        let_go = (
            row.status is RunStatus.COMPLETED and (row.parent_run_id or "", row.parent_step_id or "") in self._let_go
        )
        self.require(
            not let_go or row.flags & RunFlag.RELEASED, "18 no orphan",
            f"run {row.run_id} completes, and the scope that awaited it was over before",
        )  # fmt: skip
        if row.status is RunStatus.COMPLETED and not self.ledger.accounts[row.n].has_ended:
            self._check_result(row)

    def _check_result(self, row: RunRow) -> None:
        script = self._script(row.run_id, row.attempt)
        seen = script.texts[: script.place]
        self.require(
            decoded(row.result) == seen, "3 a result is what the body returned",
            f"run {row.run_id} ends with {decoded(row.result)}, and its body saw {seen}",
        )  # fmt: skip

    def _cancelled(self, fact: RunsCancelled, entry: Any) -> None:
        super()._cancelled(fact, entry)
        if fact.withdrawn is not None:
            account = self.ledger.accounts[fact.withdrawn]
            self.require(
                self.model.may_be_withdrawn(account.plan), "25 cancelled for a reason",
                f"run {account.row.run_id} is withdrawn, and no scope that awaits it can be cancelled",
            )  # fmt: skip

    # The end

    def at_end(self) -> None:
        """Every run has ended as the plan allows, and every caller was told so."""
        super().at_end()
        accounts = {account.row.run_id: account for account in self.ledger.accounts.values()}
        missing = self._awaited - set(accounts)
        self.require(
            not missing, "36 acknowledged is durable", f"runs {sorted(missing)} were started, and are not there"
        )
        spoilt = {each.row.root_n for each in accounts.values() if b"StoreCorruptedError" in (each.row.error or b"")}
        self.require(
            not spoilt or self._universe.disk.fired["bit_flip"], "39 a flipped bit is noticed", "no bit was flipped"
        )
        self._check_ends({run_id: each for run_id, each in accounts.items() if each.row.root_n not in spoilt})
        for name in self._awaited:
            self.require(
                len([each for each in accounts.values() if each.plan == name]) == 1, "8 one run for an id",
                f"there are several runs of plan {name}",
            )  # fmt: skip

    def _check_ends(self, accounts: dict[str, Account]) -> None:
        """All but those whose file was damaged: that it noticed is all that is asked of them."""
        for account in accounts.values():
            said = self.model.objection(account, self.ledger)
            self.require(not said, "43 it ends as the model says", f"run {account.row.run_id}: {said}")


# Longer than what a plan holds: a run that was let go of may have retries and sleeps before it.
_AFTERMATH = 3 * 86_400.0


def judged(size: Size, judges: list[Judge]) -> Callable[[Universe], Awaitable[None]]:
    """What is run in a universe: a trial, drawn from its tape, and its judge, which is added to `judges`.

    First all goes wrong that is to go wrong; when every caller has been told, nothing fails any more, and what is left
    (runs that were let go of) has its time to end.
    """

    async def main(universe: Universe) -> None:
        trial = Trial(universe, draw_plan(universe.tapes.tape("trial"), size))
        judge = Judge(trial)
        judges.append(judge)
        judge.attach(universe)
        await trial.run(UniverseRuntime(universe))
        universe.heal()
        await asyncio.sleep(_AFTERMATH)
        judge.at_end()

    return main


def _as_seen(row: RunRow) -> str:
    match row.status:
        case RunStatus.COMPLETED:
            return f"completed {digest(decoded(row.result))}"
        case _:
            return row.status.value


def _has_timed_out(account: Account, step_id: str) -> bool:
    return any(
        step.kind is Kind.INVOKE and step.step_id == step_id and step.status is OutcomeStatus.TIMED_OUT
        for step in account.steps
    )


def _is_result_of(step: StepRow, name: str) -> bool:
    token = decoded(step.payload) if step.status is OutcomeStatus.COMPLETED else None
    return isinstance(token, str) and token.rpartition("#")[0] == name


def _is_failure_of(step: StepRow, name: str) -> bool:
    return step.status is OutcomeStatus.FAILED and name.encode() + b"#" in (step.payload or b"")
