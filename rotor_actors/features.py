"""What a feature adds to the engine: kinds of steps, items it keeps in the store, an interest in runs' ends.

A feature is one object, made by the engine. All it does is synchronous and comes in acts, as all in the engine does:
append an entry, change what is in memory, post what follows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from rotor_actors.messages import Known, Pending
from rotor_actors.records import Entry, ItemRow, ItemsDropped, Kind, RunRow
from rotor_actors.run import Run
from rotor_actors.workflows import Workflow


class Feature:
    """A part of the engine that has state of its own. Each hook may be left out.

    Attributes:
        spaces: the spaces of items that are read when the runtime is opened, and handed to `open`; with many replicas
            those of which a run's items are handed to `taken_in` with it.
        common: many replicas: the spaces of what belongs to all of them, handed to `begin_coordinating`.
    """

    spaces: tuple[str, ...] = ()
    common: tuple[str, ...] = ()

    @property
    def concerned(self) -> Sized | None:
        """What is empty while no run's end concerns it: `run_ended` is not called then. None: each end does.

        Asked for once. A fan-out has an end for each child, and most features have nothing to do with most runs.
        """
        return None

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        """The run tree is built, and nothing goes on yet: take over the items of each space, in their order."""

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        """Many replicas: these runs are ours from now on, parents before children, and in the tree; none goes on yet.

        `items`: those that they own, of each of the feature's spaces, in their order. Called again and again; `open`
        is not called there at all.
        """

    def released(self, runs: list[Run]) -> None:
        """Many replicas: these runs, which have not ended, are not ours any more: forget what is in memory of them.

        Nothing may be appended; their items stay in the store, and go to whoever takes them in.
        """

    def begin_coordinating(self, items: Mapping[str, list[ItemRow]]) -> None:
        """Many replicas: what belongs to all of them is in this one's hands from now on. Called once, if at all.

        `items`: those of the `common` spaces. All that was sent to the coordinator and is not in them comes later.
        """

    def drain(self) -> None:
        """The runtime is about to close, and accepts nothing new."""

    def close(self) -> None:
        """The runtime stops: nothing is recorded any more."""

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        """A workflow was registered; those named to the runtime are, before `open`."""

    def run_known(self, run: Run) -> None:
        """A run whose workflow is known is in the tree: created, recovered, or its workflow was registered just now."""

    def run_amended(self, run: Run) -> None:
        """A run that has not begun has another input, or another event, than it had."""

    def run_spends(self, run: Run) -> None:
        """A run that lives by a budget was created: its entry was appended."""

    def run_ends(self, run: Run) -> Iterable[Entry]:
        """The run is about to be completed, failed or cancelled; what is given goes into the same entry.

        The run's own items are dropped in it, too; that need not be given. Called once for each run.
        """
        return ()

    def run_ended(self, run: Run) -> None:
        """The entry of its end was appended: `run.row.end_seq`. Whoever it concerns may be told now.

        Of a tree that is cancelled this comes run by run, leaves first, in slices: entries may have come between.
        """

    @property
    def keeps_ended_runs(self) -> bool:
        """Something here names runs that have ended: it is asked by `runs_deleted` what of that goes with them."""
        return False

    def runs_deleted(self, run_ids: Iterable[str]) -> Iterable[Entry]:
        """These runs, which have ended, are about to be deleted; what is given goes into the same entry."""
        return ()

    def ended_elsewhere(self, watcher: Run, row: RunRow) -> None:
        """A run that another replica owned has ended, and `watcher`, which is ours, is told: it is its parent, or
        watches it (`RunWatched`). It may be told twice. Called within an act."""


class StepFeature(Feature, ABC):
    """A feature with kinds of steps. What is pending of them must be known after a restart from its items alone.

    Attributes:
        kinds: the kinds of steps it performs.
    """

    kinds: tuple[Kind, ...] = ()

    @abstractmethod
    def begin(self, run: Run, pending: Pending) -> float | None:
        """Begin the step, or go on with it after a recovery or in a later attempt. Gives when it is due, or None.

        What it begins must be durable as soon as `run.seen_seq` is: append entries with `kernel.append(run, …)`.
        Its outcome goes through `kernel.record_outcome`, here or later.
        """

    @abstractmethod
    def withdraw(self, run: Run, pending: Pending) -> None:
        """The scope that awaited the step was cancelled: undo what `begin` did, if it is there. That is no outcome."""

    def due(self, run: Run, pending: Pending, at: float) -> None:
        """The time that `begin` gave has come: record an outcome, or nothing if that is on its way."""

    @abstractmethod
    def waiting(self, run: Run) -> Mapping[bytes, Known]:
        """The steps of this run that have begun and have no outcome, by key: `Known(kind, target)`.

        They outlive the attempt that began them, as children do: the next attempt that asks goes on with them.
        """


class Features:
    """All features of one engine."""

    def __init__(self) -> None:
        self._all: list[Feature] = []
        self._by_kind: dict[Kind, StepFeature] = {}
        self._stepping: list[StepFeature] = []
        # Only those with an interest are asked at each start and end: they are on the path of every run.
        self._at_starts: list[Feature] = []
        self._at_ends: list[Feature] = []
        self._after_ends: list[tuple[Feature, Sized | None]] = []

    def add(self, feature: Feature) -> None:
        self._all.append(feature)
        if isinstance(feature, StepFeature):
            self._stepping.append(feature)
            self._by_kind.update(dict.fromkeys(feature.kinds, feature))
        if type(feature).run_known is not Feature.run_known:
            self._at_starts.append(feature)
        if type(feature).run_ends is not Feature.run_ends:
            self._at_ends.append(feature)
        if type(feature).run_ended is not Feature.run_ended:
            self._after_ends.append((feature, feature.concerned))

    @property
    def spaces(self) -> list[str]:
        return [space for feature in self._all for space in feature.spaces]

    @property
    def common(self) -> list[str]:
        return [space for feature in self._all for space in feature.common]

    def of(self, kind: Kind) -> StepFeature:
        return self._by_kind[kind]

    def open(self, items: Mapping[str, list[ItemRow]]) -> None:
        for feature in self._all:
            feature.open({space: items[space] for space in feature.spaces})

    def taken_in(self, runs: list[Run], items: Mapping[str, list[ItemRow]]) -> None:
        for feature in self._all:
            feature.taken_in(runs, {space: items.get(space, []) for space in feature.spaces})

    def released(self, runs: list[Run]) -> None:
        for feature in self._all:
            feature.released(runs)

    def begin_coordinating(self, items: Mapping[str, list[ItemRow]]) -> None:
        for feature in self._all:
            feature.begin_coordinating({space: items.get(space, []) for space in feature.common})

    def drain(self) -> None:
        for feature in self._all:
            feature.drain()

    def close(self) -> None:
        for feature in self._all:
            feature.close()

    def workflow_known(self, workflow: Workflow[Any, Any]) -> None:
        for feature in self._all:
            feature.workflow_known(workflow)

    def waiting(self, run: Run) -> dict[bytes, Known] | None:
        """Steps of this run that have begun with one of the features; None for none."""
        found: dict[bytes, Known] | None = None
        if run.owns_items:
            for feature in self._stepping:
                if waiting := feature.waiting(run):
                    found = {**(found or {}), **waiting}
        return found

    def run_spends(self, run: Run) -> None:
        for feature in self._all:
            feature.run_spends(run)

    def run_known(self, run: Run) -> None:
        for feature in self._at_starts:
            feature.run_known(run)

    def run_amended(self, run: Run) -> None:
        for feature in self._all:
            feature.run_amended(run)

    def run_ends(self, runs: Iterable[Run]) -> list[Entry]:
        """What goes into the entry of these runs' ends."""
        entries: list[Entry] = []
        owners: list[int] = []
        for run in runs:
            if run.owns_items:
                owners.append(run.row.n)
            for feature in self._at_ends:
                entries.extend(feature.run_ends(run))
        if owners:
            entries.append(ItemsDropped(owners))
        return entries

    @property
    def keep_ended_runs(self) -> bool:
        return any(feature.keeps_ended_runs for feature in self._all)

    def runs_deleted(self, run_ids: list[str]) -> list[Entry]:
        return [entry for feature in self._all for entry in feature.runs_deleted(run_ids)]

    def ended_elsewhere(self, watcher: Run, row: RunRow) -> None:
        for feature in self._all:
            feature.ended_elsewhere(watcher, row)

    def run_ended(self, run: Run) -> None:
        for feature, concerned in self._after_ends:
            if concerned is None or concerned:
                feature.run_ended(run)
