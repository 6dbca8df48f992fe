"""The judge of a crowd: what holds over all replicas at each moment, by what the database holds."""

from __future__ import annotations

from typing import Any

from rotor_actors.records import Fact, RunChanged, RunRow, RunsCancelled, RunStatus
from rotor_actors.simulation.ledger import Account
from rotor_actors.simulation.replicas.crowd import LIMIT
from rotor_actors.simulation.replicas.judge import ReplicaJudge
from rotor_actors.simulation.trial import Executing, Trial


class CrowdJudge(ReplicaJudge):
    """A `ReplicaJudge` that knows the rules of the crowd's workflows."""

    def __init__(self, universe: Any) -> None:
        super().__init__(Trial(universe, []))
        self._begun: dict[str, None] = {}
        self._ended: set[int] = set()
        """Who has ended, those too who did so earlier in the commit at hand."""

    def _begins(self, event: Executing) -> None:
        super()._begins(event)
        durable = self.books.durable
        account = durable.account(event.run_id)
        if account is not None and account.row.workflow_id == "lined":
            self._begun[event.run_id] = None
            running = [each for each in self._begun if not durable.by_id[each].has_ended]
            self._begun = dict.fromkeys(running)
            self.require(
                len(running) <= LIMIT, "a line has its limit",
                f"{len(running)} runs have begun and not ended, and the limit is {LIMIT}: {', '.join(running)}",
            )  # fmt: skip

    def _check_fact(self, number: int, fact: Fact) -> int:
        accepted = super()._check_fact(number, fact)
        match fact:
            case RunChanged() if fact.run.ended_at is not None:
                self._ended.add(fact.run.n)
            case RunsCancelled():
                self._ended.update(fact.ns)
            case _:
                pass
        return accepted

    def _check_created(self, number: int, row: RunRow) -> None:
        super()._check_created(number, row)
        if row.workflow_id == "alone":
            there = [each.row for each in self._of("alone") if not each.has_ended]
            others = [each.run_id for each in there if each.n not in self._ended]
            self.require(not others, "a singleton is alone", f"run {row.run_id} is created beside {', '.join(others)}")
        if row.workflow_id in ("once", "order"):
            same = [each.row.run_id for each in self._of(row.workflow_id) if each.row.input == row.input]
            self.require(not same, "8 one run for an id", f"run {row.run_id} is created beside {', '.join(same)}")

    def _of(self, workflow_id: str) -> list[Account]:
        return [each for each in self.books.durable.accounts.values() if each.row.workflow_id == workflow_id]

    # There is no plan to hold an end against: who asked for it looks at what came of it.

    def _check_result(self, row: RunRow) -> None: ...

    def _check_ends(self, accounts: dict[str, Account]) -> None:
        for account in accounts.values():
            self.require(
                account.row.status is not RunStatus.FAILED, "43 it ends as the model says",
                f"run {account.row.run_id} of {account.row.workflow_id!r} failed: {account.row.error!r}",
            )  # fmt: skip
