"""The oracle's own book: all entries in their order, and what they come to. It knows nothing of the engine's tables."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from rotor_actors.records import (
    Entry,
    Fact,
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


class Account(msgspec.Struct):
    """What is known of one run."""

    row: RunRow
    created_seq: int
    is_abandoned: bool = False
    """Its parent invoked it so that it outlives it."""
    plan: str = ""
    """The name of the plan that it acts: its input."""
    steps: list[StepRow] = []
    children: list[int] = []
    end_seq: int = 0
    newest_seq: int = 0
    """Newest entry that concerns it, an end of a child included."""

    @property
    def has_ended(self) -> bool:
        return self.row.status.is_terminal

    def outcome_seq(self, step_id: str, key: bytes | None = None) -> int:
        """Of the newest recorded outcome of a step."""
        kinds = (Kind.RUN, Kind.INVOKE, Kind.SLEEP)
        found = (step for step in reversed(self.steps) if step.step_id == step_id and step.kind in kinds)
        return next((step.seq for step in found if key is None or step.key == key), 0)


class Ledger:
    """Entries and accounts.

    Attributes:
        durable_seq: the newest entry that is known to be durable.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, Entry]] = []
        self.accounts: dict[int, Account] = {}
        self.by_id: dict[str, Account] = {}
        self.tokens: dict[str, int] = {}
        """The entry that recorded the result of an execution of a step."""
        self.durable_seq = 0

    @property
    def last_seq(self) -> int:
        return self._entries[-1][0] if self._entries else 0

    def append(self, entry: Entry) -> None:
        self._entries.append((entry.seq, entry))
        for fact in flatten([entry]):
            self._apply(fact, entry.seq)

    def truncate(self, last_seq: int) -> set[str]:
        """The process has died; this is as far as the journal goes. Gives the ids of runs that have lost something."""
        kept = [(seq, entry) for seq, entry in self._entries if seq <= last_seq]
        lost = {each.row.run_id for each in self.accounts.values() if each.newest_seq > last_seq}
        self._entries.clear()
        self.accounts.clear()
        self.by_id.clear()
        self.tokens.clear()
        for _, entry in kept:
            self.append(entry)
        self.durable_seq = last_seq
        return lost

    def account(self, run_id: str) -> Account | None:
        return self.by_id.get(run_id)

    def below(self, n: int) -> Iterator[Account]:
        """All descendants, whoever has ended."""
        todo = list(self.accounts[n].children)
        for child in todo:
            account = self.accounts[child]
            yield account
            todo.extend(account.children)

    def above(self, account: Account) -> Iterator[Account]:
        """The run itself and its ancestors."""
        here: Account | None = account
        while here is not None:
            yield here
            here = None if here.row.parent_n is None else self.accounts.get(here.row.parent_n)

    def _apply(self, fact: Fact, seq: int) -> None:
        match fact:
            case RunCreated():
                self._create(fact.run, seq)
            case RunChanged():
                account = self.accounts[fact.run.n]
                was_ended = account.has_ended
                account.row = fact.run
                account.newest_seq = seq
                if account.has_ended and not was_ended:
                    self._end(account, seq)
            case StepRecorded():
                self._record(fact.step, seq)
            case RunsCancelled():
                for n in fact.ns:
                    account = self.accounts[n]
                    flags = account.row.flags | (RunFlag.WITHDRAWN if n == fact.withdrawn else 0)
                    account.row = msgspec.structs.replace(
                        account.row,
                        status=RunStatus.CANCELLED,
                        error=fact.error,
                        ended_at=fact.at,
                        end_seq=seq,
                        flags=flags,
                    )
                    self._end(account, seq)
            case _:
                pass

    def _create(self, row: RunRow, seq: int) -> None:
        plan = msgspec.msgpack.decode(row.input or b"\xc0")
        account = Account(
            row, seq, bool(row.flags & RunFlag.ABANDON), plan if isinstance(plan, str) else "", newest_seq=seq
        )
        self.accounts[row.n] = self.by_id[row.run_id] = account
        if row.parent_n is not None:
            self.accounts[row.parent_n].children.append(row.n)

    def _end(self, account: Account, seq: int) -> None:
        account.end_seq = account.newest_seq = seq
        parent = None if account.row.parent_n is None else self.accounts[account.row.parent_n]
        if parent is not None:
            parent.newest_seq = seq

    def _record(self, step: StepRow, seq: int) -> None:
        account = self.accounts[step.n]
        account.steps.append(step)
        account.newest_seq = seq
        if step.kind is Kind.RUN and step.status is OutcomeStatus.COMPLETED:
            token = decoded(step.payload)
            if isinstance(token, str):
                self.tokens[token] = seq


def decoded(payload: bytes | None) -> object:
    """What a payload holds; None where it is none of a trial's."""
    try:
        return msgspec.msgpack.decode(payload or b"\xc0")
    except msgspec.MsgspecError:
        return None


def digest(result: object) -> str:
    """A result, in short."""
    return f"{zlib.crc32(repr(result).encode()):08x}"
