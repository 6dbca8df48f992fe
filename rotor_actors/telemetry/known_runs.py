"""From facts to runs: facts name a run by its number, telemetry by its id and workflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rotor_actors.records import Fact, RunChanged, RunCreated, RunRow, RunsCancelled, RunsReleased, RunStatus


class KnownRuns:
    """The runs that have not ended, by number, as the facts tell of them."""

    def __init__(self) -> None:
        self._rows: dict[int, RunRow] = {}

    def open(self, runs: Iterable[RunRow]) -> None:
        self._rows = {row.n: row for row in runs}

    def take_in(self, runs: Iterable[RunRow]) -> None:
        """Others have begun them; they go on here."""
        self._rows.update((row.n, row) for row in runs)

    def get(self, n: int) -> RunRow | None:
        return self._rows.get(n)

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, facts: Sequence[Fact]) -> None:
        """Before a commit's facts are looked at: all runs that they name are known then."""
        for fact in facts:
            if isinstance(fact, RunCreated | RunChanged):
                self._rows[fact.run.n] = fact.run

    def ended(self, facts: Sequence[Fact]) -> Iterator[tuple[RunRow, RunStatus, float]]:
        """Runs that ended in this commit, how and when; they are known no longer once this is exhausted."""
        for fact in facts:
            if isinstance(fact, RunChanged | RunCreated):
                row = fact.run
                if row.status.is_terminal and row.ended_at is not None and self._rows.pop(row.n, None) is not None:
                    yield row, row.status, row.ended_at
            elif isinstance(fact, RunsReleased):
                for n in fact.ns:
                    self._rows.pop(n, None)
            elif isinstance(fact, RunsCancelled):
                for n in fact.ns:
                    cancelled = self._rows.pop(n, None)
                    if cancelled is not None:
                        yield cancelled, RunStatus.CANCELLED, fact.at
