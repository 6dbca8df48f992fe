"""The service that fetches histories: of runs to be recovered, woken, or tried again; many with one read."""

from __future__ import annotations

import logging
from functools import partial

import msgspec

from rotor_actors.engine import Engine
from rotor_actors.errors import ErrorInfo, StoreCorruptedError, StoreError
from rotor_actors.progress import reports_of
from rotor_actors.records import History, RunFlag, RunStatus
from rotor_actors.run import Phase, Run

_logger = logging.getLogger("rotor_actors")

RUNS_PER_READ = 500


class Loader:
    """Loads what the engine wants loaded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def serve(self) -> None:
        """Fetch histories for as long as the runtime is open."""
        engine = self._engine
        while True:
            await engine.load_wanted.wait()
            wanted = engine.to_load[:RUNS_PER_READ]
            del engine.to_load[:RUNS_PER_READ]
            if not engine.to_load:
                engine.load_wanted.clear()
            try:
                await self._load(wanted)
            except StoreError as error:
                engine.journal.fail(error)  # what cannot be read cannot go on; reopening tries again
            except Exception:
                engine.to_load[:0] = wanted  # for the next life of this service
                engine.load_wanted.set()
                raise
            engine.loading -= len(wanted)

    async def _load(self, runs: list[Run]) -> None:
        """What is appended after now is in the runs' mailboxes; what was appended before must be durable to be read."""
        engine = self._engine
        upto_seq = engine.journal.last_seq
        for run in runs:
            run.waiting = engine.features.waiting(run)
        await engine.journal.durable(upto_seq)
        runs = [run for run in runs if run.phase is Phase.LOADING and not run.is_doomed]
        try:
            histories = await self._histories([run.row.n for run in runs])
        except StoreCorruptedError:
            await self._load_one_by_one(runs, upto_seq)
            return
        await self._load_reports(runs)
        for run in runs:
            run.history = histories[run.row.n]
            engine.loaded(run, upto_seq)

    async def _load_reports(self, runs: list[Run]) -> None:
        """What a run has reported before it does not report again in its replay."""
        engine = self._engine
        for run in runs:
            if run.row.flags & RunFlag.REPORTS:
                find = partial(reports_of, engine.ports.store, run.row.n)
                engine.progress.recorded(run.row.n, await engine.ports.reader.call(find))

    async def _histories(self, ns: list[int]) -> dict[int, History]:
        engine = self._engine
        return await engine.ports.reader.call(lambda: engine.ports.store.histories(ns))

    async def _load_one_by_one(self, runs: list[Run], upto_seq: int) -> None:
        """One damaged memo must not stop the others: its run fails, by name, and nothing is replayed from it."""
        engine = self._engine
        for run in runs:
            try:
                histories = await self._histories([run.row.n])
            except StoreCorruptedError as error:
                _logger.error("%s: %s", run.where, error)
                if run.phase is Phase.LOADING and not run.is_doomed:
                    info = ErrorInfo(type(error).__name__, str(error))
                    engine.ending.end(run, RunStatus.FAILED, error=msgspec.msgpack.encode(info))
                    engine.journal.kick()
            else:
                await self._load_reports([run])
                run.history = histories[run.row.n]
                engine.loaded(run, upto_seq)
